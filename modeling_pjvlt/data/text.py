"""Sentences: what is said of a target where a dataset says little, and what a mirrored picture does to words."""

import re

from ..processing_pjvlt import DEFAULT_SENTENCE

_SWAPPED = {"left": "right", "right": "left"}
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def sentence_or_class(sentence: str | None, category: str | None = None) -> str:
    """The sentence without needless blanks; an empty one falls back to the class name, else to "the target".

    >>> sentence_or_class("  white dog, running ", "dog"), sentence_or_class("", "dog"), sentence_or_class(None)
    ('white dog, running', 'dog', 'the target')
    """
    for text in (sentence, category):
        cleaned = " ".join((text or "").split())
        if cleaned:
            return cleaned
    return DEFAULT_SENTENCE


def swap_left_right(sentence: str) -> str:
    """The sentence that is true of the mirrored picture: left and right change places, as whole words.

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
