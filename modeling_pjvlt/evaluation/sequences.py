"""Sequences to evaluate on (datasets, folders that are not converted, procedural clips) and their sentences."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.converters.folders import find_folders, read_folder
from ..data.converters.sources import ImageFile, NotFound
from ..data.dataset import TrackingSequence
from ..data.frames import open_image
from ..data.generated import PROCEDURAL
from ..data.loading import load_tracking_dataset
from ..data.synthetic.procedural import KINDS, ProceduralClip
from ..data.text import read_sentences
from ..processing_pjvlt import DEFAULT_SENTENCE
from .procedural import FIRST_SEED

DEFAULT_SPLIT = "test"
PROCEDURAL_CLIPS, PROCEDURAL_FRAMES = 200, 60
TEXTS = ("own", "shuffled", "empty", "class")


@dataclass(frozen=True)
class ImageFiles:
    """Frames that are separate files."""

    files: list[ImageFile]

    def open(self, index: int) -> Image.Image:
        return open_image({"bytes": None, "path": str(self.files[index].path)})

    def only(self, index: int) -> "ImageFiles":
        return self


def load_sequences(
    name_or_path: str,
    split: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    sentences_file: str | Path | None = None,
) -> list:
    """Sequences to evaluate on, with undecoded frames; see [`load_split`]."""
    return load_split(name_or_path, split, revision, columns, sentences_file)[0]


def load_split(
    name_or_path: str,
    split: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    sentences_file: str | Path | None = None,
) -> tuple[list, str]:
    """Sequences to evaluate on, with undecoded frames, and the name of their split.

    Args:
        name_or_path: whatever [`load_tracking_dataset`] reads; a folder of NAME/{img, groundtruth_rect.txt or
            groundtruth.txt, language.txt}, as it is; or `procedural`, 200 fixed clips of 60 frames.
        split: of a dataset; by default `test`, or the only one. revision: of one on the Hub. columns: names of a
            dataset's columns by ours. These three mean nothing for such a folder and for the clips.
        sentences_file: lines `sequence<TAB>sentence`, used instead of the dataset's own where it names a sequence.

    Raises `FileNotFoundError` or `ValueError` that says what is missing, also for a `sentences_file` that names none
    of the sequences.
    """
    if name_or_path == PROCEDURAL and sentences_file is not None:
        raise ValueError("--sentences is for datasets; the sentences of procedural clips describe their figures.")
    given = None if sentences_file is None else read_sentences(sentences_file)  # before a dataset that may be large
    sequences, split = _load(name_or_path, split, revision, columns, sentences_file)
    if given is not None:
        named = [given.get(sequence.name) for sequence in sequences]
        if not any(named):
            raise ValueError(
                f"--sentences: {sentences_file} names none of the {len(sequences)} sequences of {name_or_path}; the "
                f"first is {sequences[0].name!r}."
            )
        sequences = [s if text is None else replace(s, text=text) for s, text in zip(sequences, named, strict=True)]
    return sequences, split


def _load(name_or_path: str, split, revision, columns, sentences_file) -> tuple[list, str]:
    if name_or_path == PROCEDURAL:
        clips = [
            ProceduralClip(FIRST_SEED + i, PROCEDURAL_FRAMES, kind=KINDS[i % len(KINDS)])
            for i in range(PROCEDURAL_CLIPS)
        ]
        return clips, split or DEFAULT_SPLIT
    root = Path(name_or_path).expanduser()
    if root.is_dir() and not any((root / "data").glob("*.parquet")):
        try:
            references = find_folders(root, split or DEFAULT_SPLIT, None)
        except NotFound:
            references = []
        if references:
            return [_sequence(reference) for reference in references], split or DEFAULT_SPLIT
    dataset = load_tracking_dataset(
        name_or_path, split, revision, columns, sentences=sentences_file, preferred_split=DEFAULT_SPLIT
    )
    return list(dataset), dataset.split


def _sequence(reference) -> TrackingSequence:
    try:
        (source,) = read_folder(reference)
    except ValueError as error:
        raise ValueError(f"Sequence {reference.name!r}: {error}") from None
    boxes, images = np.nan_to_num(source.boxes).astype(np.float32), ImageFiles(source.images)
    return TrackingSequence(source.name, source.text or DEFAULT_SENTENCE, boxes, source.visible, images)


def warn_of_one_sentence(sequences: list, texts: list[str]) -> str | None:
    """A warning if all sequences have the same sentence, so that language cannot help; otherwise None."""
    if len(sequences) < 2 or len(set(texts)) > 1:
        return None
    return (
        f"All {len(sequences)} sequences have the same sentence, {texts[0]!r}, so this measures a tracker without "
        "language. Give each its own with --sentences FILE (GOT-10k's test set ships none)."
    )


def sentences(sequences: list, kind: str) -> list[str]:
    """A sentence for each sequence: its `own`, another's (`shuffled`), "the target" (`empty`), or its `class`.

    The shuffled sentence of a procedural clip is that of another figure in it. The order is always the same. Raises
    `ValueError` for a `kind` that these sequences cannot give.
    """
    own = [sequence.text for sequence in sequences]
    if kind == "own":
        return own
    if kind == "empty":
        return [DEFAULT_SENTENCE] * len(sequences)
    if kind == "class":
        classes = [getattr(sequence, "category", "") for sequence in sequences]
        if not all(classes):
            unknown = [s.name for s, category in zip(sequences, classes, strict=True) if not category]
            raise ValueError(f"{len(unknown)} sequences have no class: {unknown[:5]}.")
        return classes
    if kind != "shuffled":
        raise ValueError(f"Unknown sentences {kind!r}; known are {', '.join(TEXTS)}.")
    if all(hasattr(sequence, "wrong_text") for sequence in sequences):
        return [sequence.wrong_text for sequence in sequences]
    return _shuffled(own)


def _shuffled(own: list[str]) -> list[str]:
    """For each sentence, the next different one in a fixed random order."""
    if len(set(own)) < 2:
        raise ValueError("All sequences have the same sentence; there is nothing to shuffle.")
    order = np.random.default_rng(0).permutation(len(own))
    line = [own[i] for i in order]
    shuffled = [""] * len(own)
    for place, index in enumerate(order):
        following = (line[(place + step) % len(line)] for step in range(1, len(line)))
        shuffled[index] = next(text for text in following if text != own[index])
    return shuffled
