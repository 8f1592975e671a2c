"""Tracking datasets, from the Hub or a folder, read as sequences with lazily decoded frames.

One row per frame, sorted by sequence and frame: `sequence` (string), `frame` (integer), `image`, `box` (x, y, w, h in
frame pixels; or four columns of these names), `visible` (bool), `text`, `category`, `cover`. Only `image` and the box
are required: without `sequence` every row is a sequence of one frame, without `frame` the frames are in the order of
the rows, without `visible` (true or false, yes or no, 1 or 0) a target is visible wherever its box has an area. A box
may be missing where the target is absent, or where its place is unknown (test sets with a first box only). A row
without an image uses that of the row before it, so several targets can share one photograph.
`load_dataset("imagefolder")` makes such a table from a folder with a `metadata.jsonl` or `metadata.csv`, so a user's
own images need no code.

Or one row per video: `video` and `boxes` (a list of boxes), and where known `sequence`, `visible` (a list), `text` and
`category`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image, Video
from PIL import Image as PILImage
from transformers.utils import logging

from ..processing_pjvlt import DEFAULT_SENTENCE
from .frames import DECODING_ERRORS, EncodedImages, Frames, ImageRows, VideoFrames, decode, read_encoded
from .sources import SIDES
from .text import sentence_or_class

logger = logging.get_logger(__name__)

FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": True}  # as text
MAX_REPORTED = 5  # bad rows that an error lists
ROWS_AT_ONCE = 1000  # of encoded images in memory
OPEN_VIDEOS = 4  # that a dataset of videos keeps open


@dataclass(frozen=True)
class TrackingSequence:
    """One video of a tracking dataset.

    name: its `sequence`. text: its sentence. boxes: (n, 4) float32 xywh in frame pixels, zeros where unknown.
    visible: (n,) bool. frames: where its images are. cover: (n,) visible share of the target in eighths, -1 where
    unknown, or None (GOT-10k has it). category: its class, empty where unknown.
    """

    name: str
    text: str
    boxes: np.ndarray
    visible: np.ndarray
    frames: Frames
    cover: np.ndarray | None = None
    category: str = ""

    def __len__(self) -> int:
        return len(self.boxes)

    def decode(self, index: int, reduction: int = 1) -> tuple[PILImage.Image | np.ndarray, int]:
        """Frame `index`, an image or (H, W, 3) uint8, and the factor by which it was reduced.

        A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size (rounded up), which is faster; other images keep their
        size. Raises `ValueError` naming an image that cannot be decoded, `IndexError` for one that does not exist.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"there is no frame {index} in sequence {self.name!r}, which has {len(self)}")
        try:
            return decode(self.frames.open(index), reduction)
        except DECODING_ERRORS as error:
            raise ValueError(
                f"Sequence {self.name!r}, frame {index}: the image cannot be decoded ({error})."
            ) from error

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of frame `index`. Raises what `decode` raises."""
        image, _ = self.decode(index)
        return image if isinstance(image, np.ndarray) else np.array(image)


class _Table:
    """What tables of frames and of videos share: columns, names, sentences and errors about bad rows."""

    def __init__(self, rows: Dataset, sentences: Mapping[str, str] | None, quiet: bool = False):
        self._rows, self._sentences, self._quiet = rows, sentences or {}, quiet
        self._check_every_row_is_named()

    @property
    def rows(self) -> Dataset:
        """The table itself."""
        return self._rows

    @property
    def names(self) -> list[str]:
        """The name of each sequence."""
        return self._names

    def __iter__(self) -> Iterator[TrackingSequence]:
        return (self[i] for i in range(len(self)))

    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no sequence {index} in a dataset of {len(self)}")

    def _column(self, name: str) -> pa.ChunkedArray | None:
        if name not in self._rows.column_names:
            return None
        return self._rows.select_columns([name]).with_format("arrow")[:][name]

    def _check_every_row_is_named(self) -> None:
        column = self._column("sequence")
        if column is not None and column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())
            shown = ", ".join(f"row {row}" for row in rows[:MAX_REPORTED])
            more = ", …" if len(rows) > MAX_REPORTED else "."
            raise ValueError(f"{len(rows)} rows have no name in the column 'sequence': {shown}{more}")

    def _report(self, bad: np.ndarray, problem: str) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            shown = "; ".join(self._where(row) for row in rows[:MAX_REPORTED])
            raise ValueError(f"{len(rows)} rows {problem}: {shown}{', …' if len(rows) > MAX_REPORTED else '.'}")

    def _of_first_rows(self, name: str) -> list[str | None]:
        """A column's text in the first row of each sequence; None where there is none."""
        column = self._column(name)
        if column is None:
            return [None] * len(self)
        values = column.take(pa.array(self._starts[:-1])).to_pylist()
        if any(isinstance(value, list | dict) for value in values):
            raise ValueError(f"The column {name!r} must hold text, got {_type_name(column)}.")
        return [_as_text(value) for value in values]

    @cached_property
    def categories(self) -> list[str]:
        """The class of each sequence, empty where unknown."""
        return [category or "" for category in self._of_first_rows("category")]

    @cached_property
    def texts(self) -> list[str]:
        """A sentence for each sequence; empty ones fall back to the class, then to "the target", with one warning."""
        sentences = self._of_first_rows("text")
        sentences = [self._sentences.get(name, text) for name, text in zip(self._names, sentences, strict=True)]
        texts = [sentence_or_class(*both) for both in zip(sentences, self.categories, strict=True)]
        replaced = [text for text, sentence in zip(texts, sentences, strict=True) if not (sentence or "").strip()]
        if replaced and not self._quiet:
            unknown = replaced.count(DEFAULT_SENTENCE)
            logger.warning(
                f"{len(replaced)} of {len(texts)} sequences have no sentence: {len(replaced) - unknown} are called by "
                f"their class, {unknown} {DEFAULT_SENTENCE!r}."
            )
        return texts


class TrackingDataset(_Table):
    """Sequences of a table with a row per frame. The small columns are read once; images stay on disk.

    Args:
        rows: the table, with the columns of this module's docstring.
        sentences: by sequence name, instead of the table's own.
        quiet: do not warn of sequences without a sentence.

    Raises `ValueError` for a missing column, and one that lists the first bad rows: rows without a name in `sequence`,
    frames that are not sorted or come twice, boxes that are not four finite numbers, flags that are neither true nor
    false.
    """

    def __init__(self, rows: Dataset, sentences: Mapping[str, str] | None = None, quiet: bool = False):
        super().__init__(rows, sentences, quiet)
        if "image" not in rows.column_names:
            raise ValueError(f"The dataset has no column 'image'; it has {rows.column_names}. Map it with `columns`.")
        self._images = EncodedImages(rows.select_columns(["image"]).cast_column("image", Image(decode=False)))
        self._names, self._starts = self._find_sequences()
        self._check_frames()
        # Read now, so that bad rows are reported before training or tracking begins.
        self._boxes, self._visible, self._cover, self._image_rows  # noqa: B018

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def num_frames(self) -> int:
        """Number of frames in all sequences."""
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> TrackingSequence:
        self._check_index(index)
        part = slice(self._starts[index], self._starts[index + 1])
        return TrackingSequence(
            self._names[index],
            self.texts[index],
            self._boxes[part],
            self._visible[part],
            ImageRows(self._images, self._image_rows[part]),
            None if self._cover is None else self._cover[part],
            self.categories[index],
        )

    def _find_sequences(self) -> tuple[list[str], np.ndarray]:
        """Names of the sequences, and the rows where they start, followed by the number of rows."""
        column = self._column("sequence")
        if column is None:
            return [str(i) for i in range(len(self._rows))], np.arange(len(self._rows) + 1)
        column = pc.cast(column, pa.large_string()).combine_chunks()
        changed = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False) if len(column) > 1 else []
        starts = np.concatenate([[0], np.flatnonzero(changed) + 1]) if len(column) else np.zeros(0, np.int64)
        names = column.take(pa.array(starts, pa.int64())).to_pylist()
        seen: set[str] = set()
        repeated = [name for name in names if name in seen or seen.add(name)]
        if repeated:
            raise ValueError(
                f"Rows must be sorted by sequence; these come in several pieces: {repeated[:MAX_REPORTED]}."
            )
        return names, np.append(starts, len(column)).astype(np.int64)

    def _where(self, row: int) -> str:
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        frames = self._column("frame")
        frame = row - int(self._starts[index]) if frames is None else frames[int(row)].as_py()
        return f"sequence {self._names[index]!r}, frame {frame}"

    def _check_frames(self) -> None:
        """Raises `ValueError` if frame numbers do not ascend inside a sequence."""
        column = self._column("frame")
        if column is None or not len(column):
            return
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ValueError(
                f"The column 'frame' must hold numbers, got {_type_name(column)} such as {column[0].as_py()!r}. "
                "Without this column the frames are in the order of the rows."
            )
        frames = column.to_numpy()
        self._report(~np.isfinite(frames), "have no frame number")
        if len(frames) < 2:
            return
        step = np.diff(frames)
        inside = np.ones(len(step), bool)
        inside[self._starts[1:-1] - 1] = False
        self._report(np.append(False, inside & (step == 0)), "repeat the frame before them")
        self._report(np.append(False, inside & (step < 0)), "are not sorted by frame")

    @cached_property
    def _known_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, 4) float32 with zeros where a box is missing, and (rows,) bool where it is there."""
        column = self._column("box")
        if column is not None:
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column = self._boxes_of_text(column)
            if not hasattr(column.type, "value_type") or not _is_number(column.type.value_type):
                raise ValueError(
                    f"The column 'box' must hold lists of four numbers x, y, w, h, got {_type_name(column)}."
                )
            known = column.is_valid().to_numpy()
            lengths = pc.fill_null(pc.list_value_length(column), 4).to_numpy(zero_copy_only=False)
            self._report(lengths != 4, "have a box that is not four numbers x, y, w, h")
            boxes = np.zeros((len(column), 4), np.float32)
            boxes[known] = pc.list_flatten(column.drop_null()).to_numpy().reshape(-1, 4)
        else:
            sides = [self._column(side) for side in SIDES]
            if any(side is None for side in sides):
                raise ValueError(
                    f"The dataset has no column 'box' and not all of x, y, w, h; it has {self._rows.column_names}. "
                    "Map them with `columns`."
                )
            wrong = [
                f"{name!r} {_type_name(side)}"
                for name, side in zip(SIDES, sides, strict=True)
                if not _is_number(side.type)
            ]
            if wrong:
                raise ValueError(f"The columns x, y, w, h must hold numbers, got {', '.join(wrong)}.")
            valid = np.stack([side.is_valid().to_numpy() for side in sides], axis=1)
            self._report(valid.any(axis=1) & ~valid.all(axis=1), "lack some of x, y, w, h")
            known = valid.all(axis=1)
            boxes = np.stack([pc.fill_null(side.cast(pa.float64()), 0.0).to_numpy() for side in sides], axis=1)
            boxes = boxes.astype(np.float32)
        self._report(~np.isfinite(boxes).all(axis=1), "have a box that is not finite")
        return boxes, known

    def _boxes_of_text(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Boxes that a CSV file holds as text "[1, 2, 3, 4]"; empty text means no box."""
        boxes, bad = [], np.zeros(len(column), bool)
        for row, text in enumerate(column.to_pylist()):
            try:
                boxes.append(np.array(json.loads(text), np.float32).tolist() if (text or "").strip() else None)
            except (ValueError, TypeError):
                boxes.append(None)
                bad[row] = True
            bad[row] |= boxes[-1] is not None and not isinstance(boxes[-1], list)
        self._report(bad, "have a box that is not [x, y, w, h]")
        return pa.chunked_array([pa.array(boxes, pa.list_(pa.float32()))])

    @property
    def _boxes(self) -> np.ndarray:
        return self._known_boxes[0]

    @cached_property
    def _visible(self) -> np.ndarray:
        """(rows,) bool: what the table says, but False for a box without an area."""
        column = self._column("visible")
        area = (self._boxes[:, 2:] > 0).all(axis=1)
        if column is None:
            return area
        if pa.types.is_boolean(column.type) or _is_number(column.type):
            return area & pc.fill_null(column.cast(pa.bool_()), True).to_numpy().astype(bool)
        flags = [_flag(value) for value in column.to_pylist()]
        unknown = np.array([flag is None for flag in flags], bool)
        self._report(unknown, "have a value of `visible` that is neither true nor false")
        return area & np.array(flags, bool)

    @cached_property
    def _cover(self) -> np.ndarray | None:
        """(rows,) int8: the visible share in eighths, -1 where unknown."""
        column = self._column("cover")
        if column is None:
            return None
        if not _is_number(column.type):
            raise ValueError(f"The column 'cover' must hold whole numbers, got {_type_name(column)}.")
        return pc.fill_null(column.cast(pa.float64()), -1.0).to_numpy().astype(np.int8)

    @cached_property
    def _image_rows(self) -> np.ndarray:
        """(rows,) the row whose image each row shows: its own, or the last one before it that has one."""
        valid = _has_content(self._images.rows, ROWS_AT_ONCE)
        rows = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1))
        self._report(rows < 0, "have no image, and no row before them has one")
        return rows


class VideoTrackingDataset(_Table):
    """Sequences of a table with a row per video. Arguments and errors are those of [`TrackingDataset`].

    Whether a video has as many frames as boxes is checked when its first frame is read.
    """

    def __init__(self, rows: Dataset, sentences: Mapping[str, str] | None = None, quiet: bool = False):
        super().__init__(rows, sentences, quiet)
        self._videos = rows.select_columns(["video"]).cast_column("video", Video(decode=False))
        names = self._column("sequence")
        self._names = [str(i) for i in range(len(rows))] if names is None else [_as_text(n) for n in names.to_pylist()]
        self._starts = np.arange(len(rows) + 1)
        self._opened: dict[int, VideoFrames] = {}
        self._report(~_has_content(self._videos, rows_at_once=1), "have no video")
        self._boxes, self._visible  # noqa: B018  read now, as in a table of frames

    def __len__(self) -> int:
        return len(self._names)

    @property
    def num_frames(self) -> int:
        """Number of frames in all sequences."""
        return sum(map(len, self._boxes))

    def __getitem__(self, index: int) -> TrackingSequence:
        self._check_index(index)
        boxes = self._boxes[index]
        visible = (boxes[:, 2:] > 0).all(axis=1)
        if self._visible is not None:
            visible &= self._visible[index]
        return TrackingSequence(
            self._names[index], self.texts[index], boxes, visible, self._frames(index), category=self.categories[index]
        )

    def _frames(self, index: int) -> VideoFrames:
        """The frames of a video; the `OPEN_VIDEOS` that were used last stay open."""
        frames = self._opened.pop(index, None)
        if frames is None:
            encoded = self._videos[index]["video"]
            is_file = encoded["bytes"] is None and "://" not in encoded["path"]
            source = encoded["path"] if is_file else read_encoded(encoded)
            frames = VideoFrames(source, len(self._boxes[index]))
        self._opened[index] = frames
        if len(self._opened) > OPEN_VIDEOS:
            del self._opened[next(iter(self._opened))]
        return frames

    def _where(self, row: int) -> str:
        return f"sequence {self._names[row]!r}"

    @cached_property
    def _boxes(self) -> list[np.ndarray]:
        """(n, 4) float32 for each video."""
        column = self._column("boxes")
        if column is None:
            raise ValueError(f"The dataset has no column 'boxes'; it has {self._rows.column_names}.")
        videos = column.to_pylist()
        if any(isinstance(boxes, str) for boxes in videos):
            raise ValueError(f"The column 'boxes' must hold lists of boxes [x, y, w, h], got text: {videos[0]!r:.60}.")
        if not _is_boxes(column.type):
            raise ValueError(f"The column 'boxes' must hold lists of boxes [x, y, w, h], got {_type_name(column)}.")
        bad = [f"sequence {name!r} has none" for name, v in zip(self._names, videos, strict=True) if not v]
        bad += [
            f"sequence {name!r}, frame {frame}: {box}"
            for name, boxes in zip(self._names, videos, strict=True)
            for frame, box in enumerate(boxes or [])
            if box is not None and (len(box) != 4 or not np.isfinite(np.array(box, np.float64)).all())
        ]
        if bad:
            raise ValueError(
                f"{len(bad)} boxes are not four finite numbers x, y, w, h: {'; '.join(bad[:MAX_REPORTED])}."
            )
        return [np.array([box or (0, 0, 0, 0) for box in boxes], np.float32) for boxes in videos]

    @cached_property
    def _visible(self) -> list[np.ndarray] | None:
        column = self._column("visible")
        if column is None:
            return None
        flags = [[_flag(value) for value in v] if isinstance(v, list) else [None] for v in column.to_pylist()]
        bad = np.array([None in of_video for of_video in flags], bool)
        self._report(bad, "have a value of `visible` that is not a list of true and false, one for each box")
        visible = [np.array(of_video, bool) for of_video in flags]
        lengths = np.array([len(v) == len(boxes) for v, boxes in zip(visible, self._boxes, strict=True)], bool)
        self._report(~lengths, "have `visible` and `boxes` of different length")
        return visible


def _type_name(column: pa.ChunkedArray) -> str:
    return str(column.type).removeprefix("large_")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)


def _has_content(encoded: Dataset, rows_at_once: int) -> np.ndarray:
    """(rows,) bool: where the only column of a table, of encoded images or videos, has bytes or a path."""
    (name,), parts = encoded.column_names, encoded.with_format("arrow").iter(rows_at_once)
    columns = ([pc.struct_field(part[name], key).is_valid() for key in ("bytes", "path")] for part in parts)
    return np.array([known for column in columns for known in pc.or_(*column).to_numpy()], bool)


def _is_boxes(kind: pa.DataType) -> bool:
    """Whether a type is lists of lists of numbers, as far as there are values."""
    for _ in range(2):
        if pa.types.is_null(kind):
            return True
        if not isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
            return False
        kind = kind.value_type
    return _is_number(kind)


def _flag(value) -> bool | None:
    """What a value of `visible` says: true where it is missing, and None if it is neither true nor false."""
    return FLAGS.get((_as_text(value) or "").strip().lower())


def _as_text(value) -> str | None:
    """The value as text. A 7.0 is "7": CSV files turn numbers into floats where a value of the column is missing."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None if value is None else str(value)


def table_of(rows: Dataset, sentences: Mapping[str, str] | None = None, quiet: bool = False) -> _Table:
    """The sequences of a table, whether its rows are frames or videos."""
    kind = VideoTrackingDataset if "video" in rows.column_names else TrackingDataset
    return kind(rows, sentences, quiet)
