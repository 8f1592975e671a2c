"""Training pairs from images with boxes and phrases."""

from collections import defaultdict

import numpy as np

from ...processing_pjvlt import DEFAULT_SENTENCE
from ..boxed_images import BoxedImages, BoxedObject
from .cropping import FramePair
from .sources import spoil_text

MAX_OVERLAP = 0.5  # IoU above which two boxes may show the same object


class BoxedImagePairs:
    """Pairs from images with boxes: one object twice, two of one kind, or one that only its phrase identifies.

    Args:
        images: what the pairs are drawn from.
        words_share: share of pairs whose search image shows two objects with different phrases, and whose template, in
            85 % of them, does not show which one is meant: it is hidden, or shows a third object of the same name.
        absent_share: share of the other pairs whose search image is another one, without the target.
        kind_share: share of those left whose template is another object of the same name, from another image, which
            teaches the extent of this kind of object.
        wrong_text_share, no_text_share: share of those left with the phrase of an object drawn at random, and with
            "the target".
        alike_share: share of the pairs of `words_share` in which both objects are of one category, which is harder.
        surrounded_share: share of pairs whose search image is continued by another one outside its frame, because
            objects fill most of a photograph.
    """

    def __init__(
        self,
        images: BoxedImages,
        words_share: float = 0.35,
        kind_share: float = 0.2,
        absent_share: float = 0.15,
        wrong_text_share: float = 0.15,
        no_text_share: float = 0.15,
        alike_share: float = 0.4,
        surrounded_share: float = 0.8,
    ):
        self.images = images
        self.words_share, self.kind_share, self.absent_share = words_share, kind_share, absent_share
        self.wrong_text_share, self.no_text_share = wrong_text_share, no_text_share
        self.alike_share, self.surrounded_share = alike_share, surrounded_share
        self.of_name: dict[str, list[tuple[int, int]]] = defaultdict(list)  # image and object, by name
        self.distinct: list[tuple[int, int, int]] = []  # image and two of its objects with distinct phrases
        self.alike: list[tuple[int, int, int]] = []  # those of one category
        for i, objects in enumerate(images.objects):
            for j, one in enumerate(objects):
                self.of_name[one.name].append((i, j))
                for k, other in enumerate(objects[:j]):
                    if have_distinct_phrases(one, other):
                        self.distinct.append((i, k, j))
                        if one.category == other.category:
                            self.alike.append((i, k, j))

    def draw(self, rng: np.random.Generator) -> FramePair:
        """One pair. Raises `ValueError` for an image that cannot be decoded."""
        if self.distinct and rng.random() < self.words_share:
            return self._draw_words(rng)[0]
        return self._draw_appearance(rng)

    def draw_twins(self, rng: np.random.Generator) -> tuple[FramePair, FramePair]:
        """Two pairs; those of `words_share` have the same search image, and differ in phrase and box."""
        if self.distinct and rng.random() < self.words_share:
            return self._draw_words(rng)
        return self._draw_appearance(rng), self._draw_appearance(rng)

    def _draw_words(self, rng: np.random.Generator) -> tuple[FramePair, FramePair]:
        """Two objects of an image as targets. The template is hidden, of a third object of the same name, or clear."""
        candidates = self.alike if self.alike and rng.random() < self.alike_share else self.distinct
        i, *numbers = candidates[int(rng.integers(len(candidates)))]
        objects = [self.images.objects[i][j] for j in numbers]
        if rng.random() < 0.5:
            objects.reverse()
        search, surroundings = self.images.pixels(i), self._surroundings(rng)
        template, box = None, objects[0].box
        if objects[0].name == objects[1].name and rng.random() < 0.4:
            template, box = self._same_name(rng, i, objects[0].name)
        is_clear = rng.random() < 0.15  # a clear template and its phrase agree
        pairs = []
        for target in objects:
            first = (search, target.box) if is_clear else (template, box)
            pairs.append(FramePair(*first, search, target.box, _phrase(rng, target), surroundings=surroundings))
        return tuple(pairs)

    def _draw_appearance(self, rng: np.random.Generator) -> FramePair:
        i, target = self._draw_object(rng)
        template, box, text = self.images.pixels(i), target.box, _phrase(rng, target)
        surroundings = self._surroundings(rng)
        if rng.random() < self.absent_share:
            k, other = self._draw_object(rng)
            if k != i and other.name != target.name:
                search = self.images.pixels(k)
                return FramePair(template, box, search, other.box, text, present=False, surroundings=surroundings)
        search = template
        if rng.random() < self.kind_share:
            template, box = self._same_name(rng, i, target.name)
            if template is None:
                template, box = search, target.box
        text = spoil_text(
            rng, text, lambda: _phrase(rng, self._draw_object(rng)[1]), self.wrong_text_share, self.no_text_share
        )
        return FramePair(template, box, search, target.box, text, surroundings=surroundings)

    def _draw_object(self, rng: np.random.Generator) -> tuple[int, BoxedObject]:
        i = int(rng.integers(len(self.images)))
        return i, self.images.objects[i][int(rng.integers(len(self.images.objects[i])))]

    def _same_name(self, rng: np.random.Generator, image: int, name: str) -> tuple[np.ndarray | None, np.ndarray]:
        """Another image with an object of that name, and its box; None if four attempts find none."""
        places = self.of_name[name]
        for _ in range(4):
            i, j = places[int(rng.integers(len(places)))]
            if i != image:
                return self.images.pixels(i), self.images.objects[i][j].box
        return None, np.array([0, 0, 1, 1], np.float32)

    def _surroundings(self, rng: np.random.Generator) -> np.ndarray | None:
        if rng.random() >= self.surrounded_share:
            return None
        return self.images.pixels(int(rng.integers(len(self.images))))


def have_distinct_phrases(one: BoxedObject, other: BoxedObject) -> bool:
    """Whether two objects of an image have different phrases and different places."""
    if not one.phrases or not other.phrases or set(one.phrases) & set(other.phrases):
        return False
    return _iou(one.box, other.box) < MAX_OVERLAP


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    inner = float(np.clip(high - low, 0, None).prod())
    return inner / float(one[2:].prod() + other[2:].prod() - inner)


def _phrase(rng: np.random.Generator, target: BoxedObject) -> str:
    return str(rng.choice(target.phrases)) if target.phrases else DEFAULT_SENTENCE


__all__ = ["BoxedImagePairs", "have_distinct_phrases"]
