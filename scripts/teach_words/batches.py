"""Draws the batches of the teacher from stored maps."""

import numpy as np
import torch
from features import StoredMaps
from parts import Parts
from teacher import PhraseBatch
from torch import Tensor

from modeling_pjvlt import PJVLTProcessor

KIN_SHARE = 0.7  # of the foreign phrases mean an object of a kind that the image shows, if there is one
CHANNEL_DROP, WORD_DROP = 0.1, 0.1  # shares of an image's channels and of a phrase's tokens that are left out
ALIKE_FIRST = 0.4  # how much more often than by chance an object is asked for that has another one of its kind


class PhraseBatches:
    """Batches by step; `seed`, `rank` and step decide a batch.

    Args:
        crops, pairs: what `store_crops` and `store_pairs` stored.
        template: the maps of the hidden template, (1, c, g, g) each.
        images: images of a batch. objects: the most of one image. asked: phrases that are asked in each image, no
            more than two. pairs_per_step: pairs of a batch.

    Raises `ValueError` if there are fewer images or pairs than in a batch.
    """

    def __init__(
        self,
        crops: StoredMaps,
        pairs: StoredMaps,
        template: tuple[Tensor, ...],
        processor: PJVLTProcessor,
        images: int,
        objects: int,
        asked: int,
        pairs_per_step: int,
        seed: int = 0,
        rank: int = 0,
        parts: Parts | None = None,
    ):
        self.crops, self.pairs, self.template, self.processor = crops, pairs, template, processor
        self.images, self.objects, self.asked, self.pairs_per_step = images, objects, asked, pairs_per_step
        self.seed, self.rank, self.parts = seed, rank, parts or Parts(1, 1)
        self.usable = np.array([i for i, row in enumerate(crops.rows) if len(row["boxes"]) > 1])
        for name, needed, there in (("images", images, len(self.usable)), ("pairs", pairs_per_step, len(pairs))):
            if needed > there:
                raise ValueError(f"a batch of {needed} {name} needs as many, but there are {there}")

    def draw(self, step: int) -> PhraseBatch:
        rng = np.random.default_rng([self.seed, self.rank, step])
        numbers = rng.choice(self.usable, self.images, replace=False).tolist()
        boxes, phrases, meanings, image_of, asked, kinds_of, corners = [], [], [], [], [], [], []
        for image, number in enumerate(numbers):
            row = self.crops.rows[number]
            corners.append(self.parts.best_corner(rng, row["boxes"], enough=2))
            within = self.parts.within(row["boxes"], corners[-1])
            shown = rng.permutation(np.flatnonzero(self.parts.shows(within)))[: self.objects].tolist()
            kinds = [row["kinds"][j] for j in shown]
            kinds_of += kinds
            order = [rng.random() - ALIKE_FIRST * (kinds.count(kind) > 1) for kind in kinds]
            asked.append((len(boxes) + np.argsort(order)[: self.asked]).tolist())
            for j in shown:
                boxes.append(within[j].tolist())
                meanings.append(row["phrases"][j])
                phrases.append(meanings[-1][int(rng.integers(len(meanings[-1])))])
                image_of.append(image)
        also = [[phrase in known and r != s for s, phrase in enumerate(phrases)] for r, known in enumerate(meanings)]
        foreign = [self._foreign(rng, image, image_of, kinds_of) for image in range(self.images)]
        drawn = rng.choice(len(self.pairs), self.pairs_per_step, replace=False).tolist()
        rows = [self.pairs.rows[i] for i in drawn]
        targets = np.array([row["labels"] for row in rows], dtype=np.float32)
        places = np.stack([self.parts.best_corner(rng, target, enough=1) for target in targets])
        whole = self.pairs.take("search", drawn)
        tokens = self.processor.encode_text(phrases + [row["text"] for row in rows])
        _drop_words(rng, tokens["attention_mask"][: len(phrases)])
        images = self.parts.cut(self.crops.take("search", numbers), np.stack(corners))
        return PhraseBatch(
            images=tuple(_drop_channels(rng, part) for part in images),
            template=self.template,
            templates=self.pairs.take("template", drawn),
            searches=self.parts.cut(whole, places),
            whole_searches=whole,
            places=torch.from_numpy(places),
            boxes=torch.tensor(boxes),
            image_of=torch.tensor(image_of),
            also=torch.tensor(also),
            asked=torch.tensor(asked),
            foreign=torch.tensor(foreign),
            labels=torch.from_numpy(self.parts.within(targets, places)),
            whole_labels=torch.from_numpy(targets),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )

    def _foreign(self, rng: np.random.Generator, image: int, image_of: list[int], kinds: list[str]) -> int:
        """The number of a phrase of another image."""
        own = {kind for kind, shown in zip(kinds, image_of, strict=True) if shown == image}
        others = [r for r, shown in enumerate(image_of) if shown != image]
        kin = [r for r in others if kinds[r] in own] if rng.random() < KIN_SHARE else []
        return int(rng.choice(kin or others))


def _drop_channels(rng: np.random.Generator, maps: Tensor) -> Tensor:
    """Maps (B, C, S, S) without some of their channels; the others grow, as in dropout."""
    kept = torch.from_numpy(rng.random((*maps.shape[:2], 1, 1)) >= CHANNEL_DROP)
    return maps * kept / (1 - CHANNEL_DROP)


def _drop_words(rng: np.random.Generator, mask: Tensor) -> None:
    """Set some tokens of each row of a mask (B, T) to 0, but neither [CLS], [SEP] nor all of the others."""
    for row in mask:
        words = int(row.sum()) - 2
        dropped = np.flatnonzero(rng.random(words) < WORD_DROP) + 1
        if len(dropped) < words:
            row[dropped] = 0
