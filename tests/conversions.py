"""Conversions of the miniatures, and what their folders hold."""

from dataclasses import dataclass
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from miniatures_common import Miniature, Row, Split, Video
from PIL import Image as PILImage

from modeling_pjvlt.data.converters import convert


@dataclass(frozen=True)
class Conversion:
    """A miniature, the folder of its conversion, and the report."""

    miniature: Miniature
    output: Path
    report: dict


def convert_miniature(miniature: Miniature, output: Path, **options) -> Conversion:
    options = {"class_map": miniature.class_map, "progress": False, **options}
    return Conversion(miniature, output, convert(miniature.benchmark, miniature.root, output, **options))


def shards(output: Path, split: str) -> list[Path]:
    return sorted((output / "data").glob(f"{split}-*"))


def read_videos(output: Path, split: str) -> list[Video]:
    """What the shards of a split hold, in the order of their rows; consecutive rows of one sequence are a video."""
    rows = [row for shard in shards(output, split) for row in pq.read_table(shard).to_pylist()]
    return [
        Video(*named, tuple(map(read_row, group)))
        for named, group in groupby(rows, key=itemgetter("sequence", "text", "category"))
    ]


def read_row(row: dict) -> Row:
    image = row["image"] and row["image"]["bytes"]
    box = None if row["box"] is None else tuple(row["box"])
    return Row(row["frame"], image, box, row["visible"], row.get("cover"))


def without_images(videos) -> list[tuple]:
    """All of the videos but the images, so that a failure can be read."""
    return [
        (video.name, video.text, video.category, [(row.frame, row.box, row.visible, row.cover) for row in video.rows])
        for video in videos
    ]


def check_rows(output: Path, splits: dict[str, Split]) -> None:
    """Every row is as expected, to the last byte of its image."""
    for split, expected in splits.items():
        videos = read_videos(output, split)
        assert without_images(videos) == without_images(expected.videos)
        wrong = [
            f"{video.name}, frame {row.frame}"
            for video, right in zip(videos, expected.videos, strict=True)
            for row, right_row in zip(video.rows, right.rows, strict=True)
            if row.image != right_row.image
        ]
        assert not wrong


def numbers(report: dict) -> dict:
    """The report as plain data."""
    names = ("sequences", "frames", "absent", "without_text")
    return {split: {name: getattr(part, name) for name in names} for split, part in report.items()}


def decode(encoded: bytes) -> np.ndarray:
    return np.array(PILImage.open(BytesIO(encoded)).convert("RGB"))
