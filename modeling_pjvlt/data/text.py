"""Sentences: the fallback for a target without one, mirrored words, and files of sentences."""

import re
from pathlib import Path

from ..processing_pjvlt import DEFAULT_SENTENCE

_SWAPPED = {"left": "right", "right": "left"}
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def sentence_or_class(sentence: str | None, category: str | None = None) -> str:
    """The sentence with single spaces; if it is empty, the class name, or else "the target".

    >>> sentence_or_class("  white dog, running ", "dog"), sentence_or_class("", "dog"), sentence_or_class(None)
    ('white dog, running', 'dog', 'the target')
    """
    for text in (sentence, category):
        cleaned = " ".join((text or "").split())
        if cleaned:
            return cleaned
    return DEFAULT_SENTENCE


def swap_left_right(sentence: str) -> str:
    """The sentence for the mirrored image: the words left and right are swapped.

    >>> swap_left_right("Left hand of the man on the right, leftmost bright")
    'Right hand of the man on the left, leftmost bright'
    """

    def swap(match: re.Match) -> str:
        word = match.group()
        swapped = _SWAPPED[word.lower()]
        if word.isupper():
            return swapped.upper()
        return swapped.capitalize() if word[0].isupper() else swapped

    return _SIDES.sub(swap, sentence)


def read_sentences(path: str | Path) -> dict[str, str]:
    """Sentences from a file of lines `sequence<TAB>sentence`.

    Raises `FileNotFoundError` without the file, and `ValueError` if it is not UTF-8 text or a line has no tab.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--sentences: no file at {path}; expected lines `sequence<TAB>sentence`.")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--sentences: {path} is not text in UTF-8 ({error}).") from error
    sentences = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"{path}, line {number}: expected `sequence<TAB>sentence`, got {line!r}.")
        sentences[name.strip()] = text.strip()
    return sentences
