"""Small text files of benchmarks: an empty line belongs to a frame, and is not left out."""

import os
import re
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.converters import convert
from modeling_pjvlt.data.converters.sources import read_boxes, read_flags
from modeling_pjvlt.evaluation.results import read_results
from modeling_pjvlt.evaluation.sequences import load_sequences

ABSENT = {
    "an empty line": "\n",
    "blanks": "  \t\n",
    "commas, as pandas writes a missing box": ",,,\n",
    "NaN": "NaN,NaN,NaN,NaN\n",
}


def lines(absent="\n"):
    """Boxes of six frames; the target is absent in the third and the fourth."""
    return "".join(absent if frame in (2, 3) else f"{frame},10,5,6\n" for frame in range(6))


@pytest.mark.parametrize("kind", ABSENT)
def test_absent_target_keeps_the_boxes_after_it_in_their_frames(kind, tmp_path):
    (tmp_path / "clip.txt").write_text(lines(ABSENT[kind]) + "\n\n")  # empty lines at the end are no frames
    expected = [0, 1, np.nan, np.nan, 4, 5]
    for boxes in (read_boxes(tmp_path / "clip.txt"), read_results(tmp_path, ["clip"])["clip"]):
        np.testing.assert_array_equal(boxes[:, 0], expected)


@pytest.mark.parametrize("between", ["\n\n", "\r\r\n", "\r\n\r\n"])
def test_doubled_line_ends_are_no_frames(between, tmp_path):
    path = tmp_path / "groundtruth.txt"
    path.write_bytes(between.join(f"{frame},10,5,6" for frame in range(4)).encode() + b"\n")
    assert read_boxes(path)[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("line", ["1,,3,4", "1,,3,4,5", ",1,2,3,4", "1,2,3", "1,2,3,x"])
def test_line_that_is_no_box_is_named(line, tmp_path):
    path = tmp_path / "groundtruth.txt"
    path.write_text(f"1,2,3,4\n\n{line}\n")
    with pytest.raises(
        ValueError, match=rf"groundtruth.txt, line 3: expected four numbers, got {re.escape(repr(line))}"
    ):
        read_boxes(path)


@pytest.mark.parametrize(("content", "line"), [("0\n\n1\n", 2), ("0,,1", 1), ("0\n1\nno\n", 3)])
def test_flag_that_is_missing_is_named(content, line, tmp_path):
    (tmp_path / "absence.label").write_text(content)
    with pytest.raises(ValueError, match=f"absence.label, line {line}: expected whole numbers"):
        read_flags(tmp_path / "absence.label")


@pytest.mark.parametrize("content", ["0\n1\n0\n", "0,1,0", "0, 1, 0,\n", "0  1 0\n\n", "0\n\n1\n\n0\n"])
def test_flags_come_by_lines_commas_or_blanks(content, tmp_path):
    (tmp_path / "absence.label").write_text(content)
    assert read_flags(tmp_path / "absence.label").tolist() == [0, 1, 0]


def test_evaluation_and_conversion_read_an_empty_line_as_an_absent_target(isolated_cache):
    folder = isolated_cache / "in" / "clip"
    (folder / "img").mkdir(parents=True)
    for frame in range(6):
        Image.new("L", (40, 30), 40 * frame).save(folder / "img" / f"{frame}.png")
    (folder / "groundtruth.txt").write_text(lines())
    report = convert("folders", folder.parent, isolated_cache / "out", progress=False)
    assert report["train"].skipped == []
    for (sequence,) in (load_sequences(str(folder.parent)), load_tracking_dataset(str(isolated_cache / "out"))):
        assert sequence.visible.tolist() == [True, True, False, False, True, True]
        seen = [(sequence.frame(i)[0, 0, 0], sequence.boxes[i][0]) for i in np.flatnonzero(sequence.visible)]
        assert seen == [(40 * i, i) for i in (0, 1, 4, 5)]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems that take UTF-8 only")
def test_names_of_folders_and_frames_need_not_be_utf8(isolated_cache):
    folder = isolated_cache / "in" / os.fsdecode(b"caf\xe9")
    (folder / "img").mkdir(parents=True)
    for frame in range(2):
        Image.new("L", (40, 30), 40 * frame).save(folder / "img" / os.fsdecode(b"\xe9%d.png" % frame))
    (folder / "groundtruth.txt").write_text("1,10,5,6\n2,10,5,6\n")
    convert("folders", folder.parent, isolated_cache / "out", progress=False)
    for (sequence,) in (load_sequences(str(folder.parent)), load_tracking_dataset(str(isolated_cache / "out"))):
        assert sequence.name == r"caf\xe9" and [sequence.frame(i)[0, 0, 0] for i in range(2)] == [0, 40]


def test_empty_line_among_class_names_keeps_the_numbers_of_the_others(isolated_cache):
    for name in ("images", "labels"):
        (isolated_cache / "in" / name).mkdir(parents=True)
    Image.new("L", (40, 30)).save(isolated_cache / "in" / "images" / "a.png")
    (isolated_cache / "in" / "labels" / "a.txt").write_text("2 0.5 0.5 0.5 0.5\n")
    (isolated_cache / "in" / "classes.tsv").write_text("cat\n\ndog\n")
    convert("yolo", isolated_cache / "in", isolated_cache / "out", progress=False)
    (sequence,) = load_tracking_dataset(str(isolated_cache / "out"))
    assert sequence.category == "dog"
