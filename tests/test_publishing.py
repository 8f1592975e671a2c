"""Datasets on a Hub: every converted benchmark is pushed, loads back equal, streams, and yields training pairs."""

import numpy as np
import pytest
from datasets import Dataset
from miniatures import BUILDERS

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.cli.convert import main as convert_main
from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.converters import convert
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.data.pairs.sources import SequencePairs
from modeling_pjvlt.data.pairs.streamed import StreamedPairs
from modeling_pjvlt.hub.dataset_publishing import push_dataset, push_folder
from modeling_pjvlt.hub.repositories import PublishingError

CROPPER = PairCropper(PJVLTImageProcessor(template_size=32, search_size=64))


def same_sequence(a, b) -> bool:
    """Whether two sequences are equal in everything, images included."""
    same = (a.name, a.text) == (b.name, b.text) and np.array_equal(a.boxes, b.boxes)
    same = same and np.array_equal(a.visible, b.visible)
    return same and all(np.array_equal(a.frame(i), b.frame(i)) for i in range(len(a)))


@pytest.mark.parametrize("name", BUILDERS)
def test_benchmark_goes_to_the_hub_and_comes_back(name, hub, isolated_cache):
    miniature = BUILDERS[name](isolated_cache / "raw")
    output = isolated_cache / "converted"
    arguments = [miniature.benchmark, str(miniature.root), "--output", str(output), "--push_to_hub"]
    repo = f"tester/{miniature.benchmark}"
    class_map = [] if miniature.class_map is None else ["--class_map", str(miniature.class_map)]
    assert convert_main([*arguments, repo, *class_map]) == 0
    for split in miniature.splits:
        local, remote = (load_tracking_dataset(source, split=split) for source in (str(output), repo))
        streamed = list(load_tracking_dataset(repo, split=split, streaming=True))
        assert len(local) == len(remote) == len(streamed) == len(miniature.splits[split].videos)
        for a, b, c in zip(local, remote, streamed, strict=True):
            assert same_sequence(a, b) and same_sequence(a, c)
    assert f'load_tracking_dataset("{repo}"' in hub.files(repo, "dataset")["README.md"].decode()
    split = next(iter(miniature.splits))
    pairs = TrackingPairs(SequencePairs(load_tracking_dataset(repo, split=split)), CROPPER, length=8)
    stream = StreamedPairs(
        {repo: load_tracking_dataset(repo, split=split, streaming=True)},
        CROPPER,
        length=8,
        batch_size=4,
        buffer_size=8,
    )
    for sample in [*(pairs[i] for i in range(8)), *stream]:
        assert sample["pixel_values"].shape == (3, 64, 64) and sample["labels"].isfinite().all()


def test_broken_upload_can_be_repeated(hub, isolated_cache):
    miniature = BUILDERS["lasot"](isolated_cache / "raw")
    output = isolated_cache / "converted"
    convert(miniature.benchmark, miniature.root, output, progress=False)
    hub.read_only.add("tester/denied")
    hub.add_repo("tester/denied", {}, "dataset")
    with pytest.raises(PublishingError, match=r"may not write to tester/denied \(403\)"):
        push_folder(output, "tester/denied")
    hub.read_only.clear()
    push_folder(output, "tester/denied")
    assert sorted(p.name for p in (output / "data").glob("*.parquet")) == sorted(
        name.removeprefix("data/") for name in hub.files("tester/denied", "dataset") if name.startswith("data/")
    )


def test_private_dataset_goes_to_no_public_repository(hub, isolated_cache, capsys):
    from test_dataset import FEATURES, rows

    from modeling_pjvlt.data.dataset import TrackingDataset

    miniature = BUILDERS["lasot"](isolated_cache / "raw")
    output = isolated_cache / "converted"
    command = [miniature.benchmark, str(miniature.root), "--output", str(output), "--private", "--push_to_hub"]
    hub.add_repo("tester/public", {"README.md": b"mine"}, "dataset")
    before = hub.files("tester/public", "dataset")
    assert convert_main([*command, "tester/public"]) == 2
    assert "tester/public exists and is public; nothing was sent" in capsys.readouterr().err
    card = (output / "README.md").read_text()
    mine = TrackingDataset(Dataset.from_dict(rows(), features=FEATURES))
    for push, source in ((push_folder, output), (push_dataset, mine)):
        with pytest.raises(PublishingError, match="is public; nothing was sent"):
            push(source, "public", private=True)  # the token's owner is `tester`
    assert hub.files("tester/public", "dataset") == before and (output / "README.md").read_text() == card
    hub.add_repo("tester/private", {}, "dataset", private=True)
    push_dataset(mine, "tester/private", private=True)
    push_dataset(mine, "tester/new", private=True)
    assert convert_main([*command, "tester/new-folder"]) == 0
    for name in ("private", "new", "new-folder"):
        assert hub.repo(f"tester/{name}", "dataset").private
        assert any(path.endswith(".parquet") for path in hub.files(f"tester/{name}", "dataset"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--private"], "--private does nothing without --push_to_hub"),
        (["--push_to_hub", "a/b/c"], "a/b/c"),
    ],
)
def test_upload_that_cannot_work_is_refused_before_the_conversion(flags, message, hub, tmp_path, capsys):
    miniature = BUILDERS["lasot"](tmp_path / "raw")
    output = tmp_path / "converted"
    assert convert_main([miniature.benchmark, str(miniature.root), "--output", str(output), *flags]) == 2
    assert message in capsys.readouterr().err and not output.exists()


def test_own_folder_of_images_is_published_with_a_card(hub, isolated_cache):
    from test_dataset import FEATURES, rows

    from modeling_pjvlt.data.dataset import TrackingDataset

    mine = TrackingDataset(Dataset.from_dict(rows(), features=FEATURES))
    push_dataset(mine, "tester/mine", license="cc-by-4.0")
    back = load_tracking_dataset("tester/mine")
    assert all(same_sequence(a, b) for a, b in zip(mine, back, strict=True))
    card = hub.files("tester/mine", "dataset")["README.md"].decode()
    assert "license: cc-by-4.0" in card and "| train | 2 | 5 | 1 |" in card and "dataset_info:" in card
