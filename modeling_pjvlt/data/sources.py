"""The rows of a tracking dataset: read from a folder or the Hub, with the split chosen and the columns checked."""

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from datasets import Dataset, DatasetBuilder, IterableDataset, load_dataset, load_dataset_builder
from datasets.exceptions import DataFilesNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers.utils import logging

from ..video_pjvlt import available_cores

logger = logging.get_logger(__name__)

HTTP_ERROR = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses, whichever that is
SIDES = ("x", "y", "w", "h")
LARGE = 1 << 30  # bytes; more than this in Parquet files is copied into the cache by several processes
SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}\.parquet")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
# What others call our columns.
ALIASES = {
    "image": ("img", "picture", "frame_image", "images"),
    "box": ("bbox", "bboxes", "boxes", "bounding_box", "rect", "xywh", "groundtruth"),
    "boxes": ("bboxes", "bbox", "box", "bounding_boxes", "groundtruth"),
    "text": ("caption", "sentence", "description", "prompt", "language", "nlp", "expression"),
    "sequence": ("video_id", "seq", "sequence_id", "sequence_name", "video_name", "clip"),
}


def load_rows(
    name_or_path: str, split: str | None, revision: str | None, streaming: bool, preferred: str
) -> tuple[Dataset | IterableDataset, str, str]:
    """The table of one split, the name of the split, and for messages the place it was read from.

    Without `split`, it is the split called `preferred`, or else the only one. Raises `FileNotFoundError` or
    `ValueError` that says what is missing.
    """
    folder = Path(name_or_path).expanduser()
    shards: dict[str, list[str]] = {}
    for path in sorted(folder.glob("data/*.parquet")):
        if match := SHARD.fullmatch(path.name):
            shards.setdefault(match["split"], []).append(str(path))
    known = list(shards)
    if split in shards or (split is None and (preferred in shards or len(shards) == 1)):
        # Named one by one: where a folder's card lists its files, `datasets` would not notice that they changed.
        split = choose_split(name_or_path, split, known, preferred)
        processes = None if streaming else _processes_for(shards[split])
        files = {split: shards[split]}
        rows = load_dataset("parquet", data_files=files, split=split, streaming=streaming, num_proc=processes)
        return rows, split, _place(shards[split])
    builder = _find_builder(name_or_path, revision)
    known = known or [str(name) for name in builder.info.splits or builder.config.data_files or []]
    split = choose_split(name_or_path, split, known, preferred)
    metadata = [folder / place / name for place in (split, "") for name in METADATA]
    place = _place([str(path) for path in metadata if path.is_file()]) or name_or_path
    if streaming:
        return builder.as_streaming_dataset(split=split), split, place
    builder.download_and_prepare()
    return builder.as_dataset(split=split), split, place


def _processes_for(shards: list[str]) -> int | None:
    """How many processes copy Parquet files into the Arrow cache when a folder is loaded for the first time."""
    if sum(os.path.getsize(path) for path in shards) < LARGE:
        return None  # starting processes would take longer
    return min(available_cores(), len(shards))


def choose_split(name: str, split: str | None, known: list[str], preferred: str) -> str:
    """The requested split, or else the preferred or the only one. Raises `ValueError` if there is no such split."""
    base = None if split is None else re.split(r"[\[+]", split)[0]  # `datasets` also takes train[:10] and train+test
    if base is not None and (base in known or not known):
        return split
    if split is None and (preferred in known or not known):
        return preferred
    if split is None and len(known) == 1:
        logger.warning(f"{name}: its only split is {known[0]!r}, which is used.")
        return known[0]
    missing = f"no split {base!r}" if base is not None else f"no split {preferred!r}, and several others"
    raise ValueError(f"{name} has {missing}: choose one of {', '.join(known)}.")


def _find_builder(name: str, revision: str | None) -> DatasetBuilder:
    folder = Path(name).expanduser()
    if not folder.exists():
        near = get_close_matches(folder.name, os.listdir(folder.parent) if folder.parent.is_dir() else [], 1)
        hint = f" Did you mean {folder.parent / near[0]}?" if near else ""
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
            raise FileNotFoundError(f"{name}: there is no such folder.{hint}")
        logger.warning(f"{name} is not a folder here, so the Hub is asked for a dataset of that name.{hint}")
        _ask_hub(name)
    try:
        return load_dataset_builder(str(folder) if folder.exists() else name, revision=revision)
    except DataFilesNotFoundError as error:
        raise FileNotFoundError(
            f"{name}: found neither data/SPLIT-00000-of-00001.parquet nor images with a metadata.csv or "
            "metadata.jsonl."
        ) from error


def _ask_hub(name: str) -> None:
    """Ask the Hub once whether the dataset exists; `datasets` would ask five times if the Hub does not answer.

    Raises `FileNotFoundError` where there is none, `ConnectionError` where the Hub does not answer.
    """
    try:
        exists = HfApi().repo_exists(name, repo_type="dataset")
    except OfflineModeIsEnabled:
        return  # `datasets` then looks for a cached copy
    except HTTP_ERROR as error:
        raise ConnectionError(
            f"{name}: there is no folder of this name here, and the Hub does not answer ({error}). With "
            "HF_HUB_OFFLINE=1 a copy that was loaded before is used."
        ) from error
    if not exists:
        raise FileNotFoundError(
            f"{name}: there is neither a folder of this name here nor a dataset that you may read on the Hub (for a "
            "private one: hf auth login)."
        )


def _place(files: list[str]) -> str:
    return f"{files[0]} and {len(files) - 1} more" if len(files) > 1 else "".join(files)


def check_columns(names: Iterable[str], place: str) -> None:
    """Check for images or videos and boxes, and warn if sentences or names may be in a column with another name.

    Raises `ValueError` that names the columns, the place they were read from, and the option to use.
    """
    names = list(names)
    is_video = "video" in names
    missing = [] if is_video or "image" in names else ["image"]
    if is_video:
        missing += ["boxes"] * ("boxes" not in names)
    elif "box" not in names and not set(SIDES) <= set(names):
        missing.append("box")
    if missing:
        wanted = " and no ".join(repr(name) for name in missing)
        sides = "" if missing[-1] != "box" else " (nor x, y, w and h)"
        pairs = [f"{ours}={_alias(ours, names) or 'NAME'}" for ours in missing]
        python = ", ".join('"{}": "{}"'.format(*pair.split("=")) for pair in pairs)
        raise ValueError(
            f"{place}: there is no column {wanted}{sides}; the columns are {', '.join(names)}. Say which one it is: "
            f"--columns {' '.join(pairs)} (in Python columns={{{python}}})."
        )
    for ours in ("text", "sequence"):
        if ours not in names and (theirs := _alias(ours, names)):
            logger.warning(
                f"{place}: there is no column {ours!r}, but one called {theirs!r}; to use it: "
                f"--columns {ours}={theirs}"
            )


def _alias(ours: str, names: list[str]) -> str | None:
    return next((name for name in names if name.lower() in ALIASES[ours]), None)


def rename(rows: Dataset, columns: Mapping[str, str] | None, place: str) -> Dataset:
    """The table with our column names; a column that already had one of these names is dropped.

    Raises `ValueError` for a column that is not there.
    """
    columns = dict(columns or {})
    check_mapping(columns, rows.column_names, place)
    replaced = [ours for ours in columns if ours in rows.column_names and ours not in columns.values()]
    rows = rows.remove_columns(replaced)
    return rows.rename_columns({theirs: ours for ours, theirs in columns.items() if ours != theirs})


def check_mapping(columns: Mapping[str, str], names: list[str], place: str) -> None:
    """Raises `ValueError` for a column that is not there."""
    for ours, theirs in columns.items():
        if theirs not in names:
            near = get_close_matches(theirs, names, 1)
            hint = f" Did you mean {ours}={near[0]}?" if near else ""
            raise ValueError(
                f"{place}: `columns` maps {ours!r} to {theirs!r}, but the columns are {', '.join(names)}.{hint}"
            )
