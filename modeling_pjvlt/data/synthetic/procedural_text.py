"""Sentences about the figures of procedural clips."""

from typing import NamedTuple

import numpy as np

COLOURS = {
    "red": (218, 28, 36),
    "green": (36, 160, 52),
    "blue": (36, 76, 226),
    "yellow": (244, 222, 36),
    "orange": (250, 132, 16),
    "purple": (132, 40, 188),
    "pink": (248, 136, 190),
    "cyan": (44, 212, 222),
    "white": (242, 242, 242),
    "black": (20, 20, 22),
    "brown": (98, 58, 34),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
FORMS = ("circle", "square", "triangle", "star", "diamond", "cross", "ring", "hexagon", "heart")
_WITH = {"plain": "with no pattern", "striped": "with stripes", "dotted": "with dots", "checked": "with checks"}
_NOUNS = ("shape", "object", "figure", "thing")
_DETERMINERS = ("the", "the", "a", "")
_VERBS = ("follow", "track", "find")
# "picture": other words would change the clips that recipes and published scores name by their seeds.
_TAILS = ("moving around", "moving over the ground", "drifting across the picture", "among the other shapes")
_TAILS += ("in the group", "circling with the others")
_LINKS = ("an", "one", "that", "which", "is", "and", "in")


class Look(NamedTuple):
    """The attributes of a figure that a sentence can name."""

    colour: str
    pattern: str
    form: str


def vocabulary() -> list[str]:
    """All words that the sentences can contain, sorted."""
    phrases = (*COLOURS, *PATTERNS, *FORMS, *_WITH.values(), *_NOUNS, *_DETERMINERS, *_VERBS, *_TAILS)
    return sorted({word for phrase in (*phrases, *_LINKS) for word in phrase.split()})


def distinguishing_attributes(target: Look, others: list[Look]) -> list[tuple[str, ...]]:
    """All sets of attribute names (of "colour", "pattern", "form") whose values only the target has."""
    names = Look._fields
    subsets = [tuple(n for bit, n in enumerate(names) if mask >> bit & 1) for mask in range(1, 8)]
    return [s for s in subsets if all(any(getattr(o, n) != getattr(target, n) for n in s) for o in others)]


def describe(rng: np.random.Generator, target: Look, others: list[Look]) -> str:
    """A sentence that is true of `target` and of none of `others`: lower case, no final dot.

    Raises:
        ValueError: if one of `others` looks exactly like the target.
    """
    options = distinguishing_attributes(target, others)
    if not options:
        raise ValueError(f"no sentence distinguishes {target} from {others}")
    attributes = options[rng.integers(len(options))]
    colour = target.colour if "colour" in attributes else ""
    pattern = target.pattern if "pattern" in attributes else ""
    form = target.form if "form" in attributes else ""
    style = rng.choice(["before", "before", "with", "in", "relative"])
    noun = form or str(rng.choice(_NOUNS))
    determiner = str(rng.choice(_DETERMINERS))
    if style == "relative" and (colour or pattern):
        noun = form or str(rng.choice(["one", *_NOUNS]))
        both = f"plain {colour}" if pattern == "plain" else f"{colour} and {pattern}"
        quality = both if colour and pattern else colour or pattern
        return f"the {noun} {rng.choice(['that', 'which'])} is {quality}"
    if style == "with" and pattern:
        phrase = f"{colour} {noun} {_WITH[pattern]}"
    elif style == "in" and colour:
        phrase = f"{pattern} {noun} in {colour}"
    else:
        swap = pattern != "plain" and rng.random() < 0.5
        phrase = f"{colour} {pattern} {noun}" if swap else f"{pattern} {colour} {noun}"
    phrase = " ".join(phrase.split())
    if determiner == "a" and phrase[0] in "aeiou":
        determiner = "an"
    verb = str(rng.choice(_VERBS)) if determiner == "the" and rng.random() < 0.2 else ""
    tails = _TAILS if len(others) > 1 else _TAILS[:3]  # the later ones mention several others
    tail = str(rng.choice(tails)) if rng.random() < 0.4 else ""
    return " ".join(f"{verb} {determiner} {phrase} {tail}".split())
