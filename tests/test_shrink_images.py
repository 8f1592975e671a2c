"""Training data with smaller images: the boxes still lie on their objects."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_pjvlt.data.boxed_images import BoxedImages

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from shrink_images import main


def block(path, size=(200, 100)):
    """An image in which a red block fills 40, 20, 60, 40."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[20:60, 40:100] = (255, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def sources(tmp_path):
    for number in (1, 2):
        block(tmp_path / "videos" / "one" / "img" / f"{number}.png")
    (tmp_path / "videos" / "one" / "groundtruth_rect.txt").write_text("40,20,60,40\n0,0,0,0\n")
    (tmp_path / "videos" / "one" / "language.txt").write_text("a red block\n")
    block(tmp_path / "boxed" / "images" / "a.png")
    block(tmp_path / "boxed" / "images" / "b.png")
    rows = [
        {"file": "a.png", "objects": [{"box": [40, 20, 60, 40], "phrases": ["a red block"]}], "captions": ["it"]},
        {"file": "b.png", "objects": [{"box": [40, 20, 60, 40], "phrases": ["a block"]}], "split": "val"},
    ]
    (tmp_path / "boxed" / "boxes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [str(tmp_path / "videos"), str(tmp_path / "boxed")]


def test_images_shrink_and_boxes_with_them(sources, tmp_path, capsys):
    assert main([*sources, "--max_side", "100", "--output_dir", str(tmp_path / "small")]) == 0
    video = tmp_path / "small" / "videos" / "one"
    assert (video / "groundtruth_rect.txt").read_text().split() == ["20,10,30,20", "0,0,0,0"]
    assert (video / "language.txt").read_text() == "a red block\n"
    with Image.open(video / "img" / "2.jpg") as image:
        assert image.size == (100, 50) and image.getpixel((35, 20))[0] > 200 and image.getpixel((60, 20))[0] < 50
    images = BoxedImages([tmp_path / "small" / "boxed"])
    assert len(images) == 1 and images.objects[0][0].box.tolist() == [20, 10, 30, 20]
    assert "MB" in capsys.readouterr().out and not list(tmp_path.glob(".*partial"))


def test_nothing_is_left_of_a_copy_that_failed(sources, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([*sources, str(tmp_path / "empty"), "--output_dir", str(tmp_path / "small")]) == 2
    assert "holds neither" in capsys.readouterr().err
    assert not (tmp_path / "small").exists() and not list(tmp_path.glob(".*partial"))


def test_folder_in_use_is_left_alone(sources, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(SystemExit):
        main([*sources, "--output_dir", str(tmp_path / "mine")])
    assert "already exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
