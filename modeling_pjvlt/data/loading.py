"""The one way to open a tracking dataset: from the Hub or a folder, stored or streamed."""

from collections.abc import Mapping
from pathlib import Path

from .dataset import table_of
from .sources import check_columns, load_rows, rename
from .streaming import StreamingTrackingDataset
from .text import read_sentences


def load_tracking_dataset(
    name_or_path: str,
    split: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    sentences: str | Path | None = None,
    streaming: bool = False,
    preferred_split: str = "train",
):
    """Sequences of a dataset on the Hub, of a folder of Parquet files, or of images with a metadata file.

    Args:
        name_or_path: Hub id or folder.
        split: which part, such as `"train"` or `"test"`; by default `preferred_split`, or else the only split.
        revision: of the Hub repository.
        columns: our column names to those of the dataset, where they differ: `{"box": "bbox"}`.
        sentences: a file of lines `sequence<TAB>sentence`, used instead of the `text` column.
        streaming: store nothing: a [`StreamingTrackingDataset`], which can only be iterated.
        preferred_split: the split to take without `split`, if the dataset has it.

    Returns a [`TrackingDataset`] or a [`VideoTrackingDataset`]: `len`, indexing and iteration give
    [`TrackingSequence`]s. Raises `FileNotFoundError` or `ValueError` that says what is missing or which rows are bad.
    """
    texts = None if sentences is None else read_sentences(sentences)  # before a dataset that may be large
    rows, split, place = load_rows(name_or_path, split, revision, streaming, preferred_split)
    if streaming:
        dataset = StreamingTrackingDataset(rows, texts, columns, place)
    else:
        renamed = rename(rows, columns, place)
        check_columns(renamed.column_names, place)
        try:
            dataset = table_of(renamed, texts)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    dataset.name, dataset.split = name_or_path, split
    return dataset
