"""Tracking datasets, from the Hub or a folder: one row per frame, read as sequences with lazily decoded frames.

Columns: `sequence` (string), `frame` (integer), `image`, `box` (x, y, w, h in frame pixels; or four columns of these
names), `visible` (bool), `text`, `category`. Only `image` and the box are needed: without `sequence` every row is a
sequence of one frame, without `frame` the order of the rows counts, without `visible` a target is visible wherever its
box has an area. Rows are sorted by sequence and frame. This is what `load_dataset("imagefolder")` makes of a folder
with a `metadata.jsonl` or `metadata.csv`, so a user's own pictures need no code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, load_dataset
from transformers.utils import logging

from ..processing_pjvlt import DEFAULT_SENTENCE
from .text import sentence_or_class

logger = logging.get_logger(__name__)

SIDES = ("x", "y", "w", "h")
MAX_REPORTED = 5  # bad rows that an error lists


@dataclass(frozen=True)
class TrackingSequence:
    """One video of a [`TrackingDataset`].

    name: its `sequence`. text: its sentence. boxes: (n, 4) float32 xywh in frame pixels. visible: (n,) bool.
    """

    name: str
    text: str
    boxes: np.ndarray
    visible: np.ndarray
    rows: Dataset
    first_row: int

    def __len__(self) -> int:
        return len(self.boxes)

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of frame `index`, decoded now. Raises `ValueError` naming a picture that cannot be."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of sequence {self.name!r}, which has {len(self)}")
        try:
            return np.array(self.rows[self.first_row + index]["image"].convert("RGB"))
        except (OSError, SyntaxError) as error:  # what Pillow raises for a broken picture
            raise ValueError(
                f"Sequence {self.name!r}, frame {index}: the picture cannot be decoded ({error})."
            ) from error


class TrackingDataset:
    """Sequences of a table with a row per frame. The small columns are read once; pictures stay on disk.

    Args:
        rows: the table, with the columns of this module's docstring.
        sentences: by sequence name, instead of the table's own.

    Raises `ValueError` that lists the first bad rows: a missing column, frames that are not sorted or come twice,
    boxes of the wrong length or with values that are not finite.
    """

    def __init__(self, rows: Dataset, sentences: Mapping[str, str] | None = None):
        if "image" not in rows.column_names:
            raise ValueError(f"The dataset has no column 'image'; it has {rows.column_names}. Map it with `columns`.")
        self._rows = rows
        self._sentences = sentences or {}
        self._names, self._starts = self._find_sequences()
        self._check_frames()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[TrackingSequence]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> TrackingSequence:
        if not 0 <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        part = slice(self._starts[index], self._starts[index + 1])
        name = self._names[index]
        return TrackingSequence(
            name, self.texts[index], self._boxes[part], self._visible[part], self._rows, part.start
        )

    def _column(self, name: str) -> pa.ChunkedArray | None:
        if name not in self._rows.column_names:
            return None
        return self._rows.select_columns([name]).with_format("arrow")[:][name]

    def _find_sequences(self) -> tuple[list[str], np.ndarray]:
        """Names of the sequences, and the rows where they start, with the number of rows at the end."""
        column = self._column("sequence")
        if column is None:
            return [str(i) for i in range(len(self._rows))], np.arange(len(self._rows) + 1)
        column = pc.cast(column, pa.large_string()).combine_chunks()
        changed = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False) if len(column) > 1 else []
        starts = np.concatenate([[0], np.flatnonzero(changed) + 1]) if len(column) else np.zeros(0, np.int64)
        names = column.take(pa.array(starts)).to_pylist()
        seen: set[str] = set()
        again = [name for name in names if name in seen or seen.add(name)]
        if again:
            raise ValueError(f"Rows must be sorted by sequence; these come in several pieces: {again[:MAX_REPORTED]}.")
        return names, np.append(starts, len(column)).astype(np.int64)

    def _where(self, row: int) -> str:
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"sequence {self._names[index]!r}, row {row - int(self._starts[index])}"

    def _report(self, bad: np.ndarray, what: str) -> None:
        rows = np.flatnonzero(bad)
        if len(rows):
            shown = "; ".join(self._where(row) for row in rows[:MAX_REPORTED])
            raise ValueError(f"{len(rows)} rows {what}: {shown}{', …' if len(rows) > MAX_REPORTED else '.'}")

    def _check_frames(self) -> None:
        """Frames ascend inside a sequence."""
        column = self._column("frame")
        if column is None or len(column) < 2:
            return
        step = np.diff(column.to_numpy())
        inside = np.ones(len(step), bool)
        inside[self._starts[1:-1] - 1] = False
        self._report(np.append(False, inside & (step == 0)), "repeat the frame before them")
        self._report(np.append(False, inside & (step < 0)), "are not sorted by frame")

    @cached_property
    def _boxes(self) -> np.ndarray:
        """(rows, 4) float32."""
        column = self._column("box")
        if column is not None:
            lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
            self._report(~np.equal(lengths, 4), "have a box that is not four numbers x, y, w, h")
            boxes = pc.list_flatten(column).to_numpy().reshape(-1, 4)
        else:
            sides = [self._column(side) for side in SIDES]
            if any(side is None for side in sides):
                raise ValueError(
                    f"The dataset has no column 'box' and not all of x, y, w, h; it has {self._rows.column_names}. "
                    "Map them with `columns`."
                )
            boxes = np.stack([side.to_numpy() for side in sides], axis=1)
        boxes = boxes.astype(np.float32)
        self._report(~np.isfinite(boxes).all(axis=1), "have a box that is not finite")
        return boxes

    @cached_property
    def _visible(self) -> np.ndarray:
        """(rows,) bool: as the table says, and never without an area."""
        column = self._column("visible")
        area = (self._boxes[:, 2:] > 0).all(axis=1)
        return area if column is None else area & pc.fill_null(column, True).to_numpy().astype(bool)

    @cached_property
    def texts(self) -> list[str]:
        """A sentence for each sequence; empty ones fall back to the class, then to "the target", with one warning."""
        first = pa.array(self._starts[:-1])
        said, classes = (
            [None] * len(self) if column is None else column.take(first).to_pylist()
            for column in (self._column("text"), self._column("category"))
        )
        said = [self._sentences.get(name, text) for name, text in zip(self._names, said, strict=True)]
        texts = [sentence_or_class(text, category) for text, category in zip(said, classes, strict=True)]
        fallen = sum(not (text or "").strip() for text in said)
        if fallen:
            unknown = sum(text == DEFAULT_SENTENCE for text in texts)
            logger.warning(
                f"{fallen} of {len(texts)} sequences have no sentence: {fallen - unknown} are called by their class, "
                f"{unknown} {DEFAULT_SENTENCE!r}."
            )
        return texts


def read_sentences(path: str | Path) -> dict[str, str]:
    """Sentences from a file of lines `sequence<TAB>sentence`. Raises `ValueError` naming the first line that is not."""
    sentences = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number}: expected `sequence<TAB>sentence`, got {line!r}.")
        sentences[name.strip()] = text.strip()
    return sentences


def load_tracking_dataset(
    name_or_path: str,
    split: str = "train",
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    sentences: str | Path | None = None,
) -> TrackingDataset:
    """Sequences of a dataset on the Hub, of a folder of Parquet files, or of pictures with a metadata file.

    Args:
        name_or_path: Hub id or folder.
        split: which part, such as `"train"` or `"test"`.
        revision: of the Hub repository.
        columns: names of the dataset's columns by ours, where they differ: `{"box": "bbox"}`.
        sentences: a file of lines `sequence<TAB>sentence`, used instead of the `text` column.

    Raises `FileNotFoundError` or `ValueError` that says what is missing or which rows are bad.
    """
    rows = load_dataset(name_or_path, split=split, revision=revision)
    for ours, theirs in (columns or {}).items():
        if theirs not in rows.column_names:
            raise ValueError(f"`columns` maps {ours!r} to {theirs!r}, but the dataset has {rows.column_names}.")
    rows = rows.rename_columns({theirs: ours for ours, theirs in (columns or {}).items() if ours != theirs})
    return TrackingDataset(rows, None if sentences is None else read_sentences(sentences))
