"""Sentences for clips made of photographs: the known attributes of the target, and a made-up scene around them.

People write "white dog running on the grass" or "person in a black shirt holding a ball": most of a sentence is about
the scene. A clip made of photographs has no such scene, so the rest of its sentence is made up. A model trained on
such sentences looks for the dog and ignores the grass.
"""

import numpy as np

from ...processing_pjvlt import DEFAULT_SENTENCE

NOUNS = ("object", "thing", "shape", "target")  # for what has no name
_ACTIONS = (
    "moving",
    "running",
    "walking",
    "standing",
    "sitting",
    "flying",
    "swimming",
    "jumping",
    "turning",
    "playing",
)
_ACTIONS += (
    "driving",
    "racing",
    "drifting",
    "riding",
    "climbing",
    "falling",
    "rolling",
    "lying",
    "swinging",
    "hanging",
)
_PLACES = (
    "on the ground",
    "on the grass",
    "on the road",
    "on the street",
    "on the track",
    "on the water",
    "in the air",
)
_PLACES += ("in the water", "in the sky", "in the field", "in the yard", "on the table", "on the floor", "in the snow")
_PLACES += (
    "on the rocks",
    "along the fence",
    "along the river",
    "under a tree",
    "behind a wall",
    "through the forest",
)
_PLACES += (
    "above the sea",
    "across the picture",  # as people write; another word would change the clips of the recipes
    "near the house",
    "between the trees",
    "on the pond",
    "by the window",
)
_COMPANY = ("among others", "with another one", "in front of a man", "held by a hand", "behind another one")
_COMPANY += ("of the man on the left", "followed by a dog", "with a rider", "ridden by a person", "next to a car")
_COLOURS = ("white", "black", "red", "blue", "green", "yellow", "grey", "brown")
_CLOTHES = ("shirt", "jacket", "hat", "helmet", "coat", "dress")


def vocabulary() -> list[str]:
    """All words of the made-up parts, sorted."""
    phrases = (*NOUNS, *_ACTIONS, *_PLACES, *_COMPANY, *_COLOURS, *_CLOTHES, "with", "in", "a", "the")
    return sorted({word for phrase in phrases for word in phrase.split()})


def describe(rng: np.random.Generator, colour: str = "", noun: str = "") -> str:
    """A sentence with a colour and a noun (either may be empty) and, in two of three cases, a made-up scene.

    Without colour and noun, half of the sentences are "the target".

    >>> describe(np.random.default_rng(2), "brown", "dog")
    'brown dog rolling among others'
    """
    if not colour and not noun and rng.random() < 0.5:
        return DEFAULT_SENTENCE
    words = [str(rng.choice(["the", "a", "", ""])), colour, noun or str(rng.choice(NOUNS))]
    if rng.random() < 2 / 3:
        words += _scene(rng)
    return " ".join(word for word in words if word)


def _scene(rng: np.random.Generator) -> list[str]:
    parts = []
    if rng.random() < 0.2:
        parts.append(f"{rng.choice(['with', 'in'])} a {rng.choice(_COLOURS)} {rng.choice(_CLOTHES)}")
    if rng.random() < 0.8:
        parts.append(rng.choice(_ACTIONS))
    if rng.random() < 0.7:
        parts.append(rng.choice(_PLACES))
    if not parts or rng.random() < 0.15:
        parts.append(rng.choice(_COMPANY))
    return [str(part) for part in parts]


__all__ = ["describe", "vocabulary"]
