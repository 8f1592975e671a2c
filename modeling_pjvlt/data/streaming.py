"""Streamed tracking datasets: nothing is stored, and one sequence or a piece of one is in memory at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, IterableDataset
from transformers.utils import logging

from ..processing_pjvlt import DEFAULT_SENTENCE
from .dataset import TrackingSequence, table_of
from .sources import check_columns, check_mapping

logger = logging.get_logger(__name__)

# `datasets` reads a folder of images row by row, with another column type where a value is missing, and cannot join
# such rows itself.
ROWS_AT_ONCE = 1


class StreamingTrackingDataset:
    """Sequences of a streamed table, in its order. See [`load_tracking_dataset`].

    Iterating gives whole [`TrackingSequence`]s, whose encoded images are held in memory. Bad rows raise the errors of
    a [`TrackingDataset`] when they are reached. A sequence whose rows come in several places is not noticed: it
    becomes several sequences of one name.
    """

    def __init__(
        self,
        rows: IterableDataset,
        sentences: Mapping[str, str] | None = None,
        columns: Mapping[str, str] | None = None,
        place: str = "The stream",
    ):
        names = rows.column_names
        if names is None:  # the files do not say; their first row does
            names = next(iter(rows.with_format("arrow").iter(1))).column_names
        check_mapping(columns or {}, names, place)
        mapped = {theirs: ours for ours, theirs in (columns or {}).items()}
        self._replaced = {name for name in mapped.values() if name in names and name not in mapped}
        check_columns([mapped.get(name, name) for name in names if name not in self._replaced], place)
        self._rows, self._sentences = rows.with_format("arrow"), sentences  # Arrow tables: nothing is decoded
        self._names = mapped
        self._warned = False

    def __iter__(self) -> Iterator[TrackingSequence]:
        return self.pieces()

    def pieces(self, max_frames: int | None = None, shuffle_seed: int | None = None) -> Iterator[TrackingSequence]:
        """Sequences, long ones cut into pieces of at most `max_frames` frames.

        With `shuffle_seed` the files come in an order that depends on it. A sequence that spans two files may then
        come in two pieces.
        """
        tables = (self._renamed(table) for rows in self._files(shuffle_seed) for table in rows.iter(ROWS_AT_ONCE))
        for number, table in enumerate(_fill_images(_group(tables, max_frames))):
            features = self._features(table)
            # Without a fingerprint, `datasets` would hash all the images to make one.
            rows = Dataset(table, DatasetInfo(features=features), fingerprint="streamed")
            sequence = table_of(rows, self._sentences, quiet=True)[0]
            if sequence.text == DEFAULT_SENTENCE and not self._warned:
                self._warned = True
                logger.warning(
                    f"Sequence {sequence.name!r} has no sentence and is called {DEFAULT_SENTENCE!r}. Later ones are "
                    "not reported."
                )
            yield sequence if "sequence" in table.column_names else replace(sequence, name=str(number))

    def _files(self, shuffle_seed: int | None) -> Iterator[IterableDataset]:
        """The stream file by file, in order or shuffled. (`shuffle` of `datasets` would also mix their rows.)"""
        count = self._rows.num_shards
        order = range(count) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(count)
        return (self._rows.shard(count, int(file)) for file in order)

    def _renamed(self, table: pa.Table) -> pa.Table:
        table = table.drop_columns([name for name in table.column_names if name in self._replaced])
        return table.rename_columns([self._names.get(name, name) for name in table.column_names])

    def _features(self, table: pa.Table) -> Features:
        known = self._rows.features or Features.from_arrow_schema(table.schema)
        kept = {name: feature for name, feature in known.items() if name not in self._replaced}
        return Features({self._names.get(name, name): feature for name, feature in kept.items()})


def _group(tables: Iterator[pa.Table], max_frames: int | None) -> Iterator[pa.Table]:
    """Tables of one sequence each, or of a piece of one."""
    parts: list[pa.Table] = []
    name, count = None, 0
    for table in tables:
        for start, end, next_name in _runs(table):
            while start < end:
                if parts and (next_name != name or next_name is None or count == max_frames):
                    yield _joined(parts)
                    parts, count = [], 0
                stop = end if max_frames is None else min(end, start + max_frames - count)
                parts.append(table.slice(start, stop - start))
                name, count, start = next_name, count + stop - start, stop
    if parts:
        yield _joined(parts)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table; the type of each column can hold all of its values."""
    return pa.concat_tables(tables, promote_options="permissive")


def _fill_images(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Rows without an image get that of the row before them, which may be of another sequence."""
    last: pa.Table | None = None
    for table in tables:
        if "image" not in table.column_names:
            yield table
            continue
        images = table.select(["image"])
        if table["image"].null_count:
            known = images if last is None else _joined([last, images])
            valid = known["image"].is_valid().to_numpy()
            source = np.maximum.accumulate(np.where(valid, np.arange(len(known)), 0))
            images = known.take(pa.array(source[-len(table) :]))
            table = table.set_column(table.column_names.index("image"), table.field("image"), images["image"])
        last = images.slice(len(images) - 1)
        yield table


def _runs(table: pa.Table) -> Iterator[tuple[int, int, str | None]]:
    """(first row, row after the last, name) of each sequence in a table; without names, every row is a sequence."""
    if "sequence" not in table.column_names:
        yield from ((row, row + 1, None) for row in range(len(table)))
        return
    names = table["sequence"].to_pylist()
    start = 0
    for row in range(1, len(names) + 1):
        if row == len(names) or names[row] != names[start]:
            yield start, row, names[start]
            start = row
