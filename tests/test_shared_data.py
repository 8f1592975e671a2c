"""Real videos and photographs convert too. They are not part of the project; without them these tests are skipped."""

from pathlib import Path

import numpy as np
import pytest

from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.converters import convert

DATA = Path(__file__).parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared videos and photographs are not here")


@pytest.mark.parametrize(("folder", "sequences", "frames"), [("davis", 14, 915), ("otb", 2, 545)])
def test_videos_convert(folder, sequences, frames, isolated_cache):
    output = isolated_cache / folder
    report = convert("folders", DATA / folder, output, splits=["test"], progress=False)["test"]
    assert (report.sequences, report.frames, report.without_text) == (sequences, frames, 0)
    dataset = load_tracking_dataset(str(output), split="test")
    assert [len(dataset), sum(map(len, dataset))] == [sequences, frames]
    if folder == "otb":
        david, football = dataset if dataset[0].name == "David" else reversed(list(dataset))
        assert (len(david), len(football)) == (471, 74)
        assert report.skipped == [["Football1", "81 images, but 74 boxes: those too many at the end are left out"]]


def test_photographs_with_missing_labels_convert(isolated_cache):
    reports = convert("yolo", DATA / "coco256", isolated_cache / "coco", progress=False)
    assert {split: report.sequences for split, report in reports.items()} == {"train": 929, "val": 898}
    reasons = sorted(why for _, why in reports["train"].skipped)
    assert reasons == ["an image, but no labels"] * 2 + ["labels, but no image"] * 2
    dataset = load_tracking_dataset(str(isolated_cache / "coco"), split="val")
    sequence = dataset[len(dataset) - 1]
    assert sequence.text.split()[0] == sequence.text.split()[0].lower() and sequence.visible.all()
    height, width = sequence.frame(0).shape[:2]
    x, y, w, h = sequence.boxes[0]
    assert x >= -1 and y >= -1 and x + w <= width + 1 and y + h <= height + 1 and np.prod([w, h]) > 0
