"""Smaller search crops out of stored maps of larger ones: random squares of their cells."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Parts:
    """Squares of `cells` x `cells` out of maps of `whole` x `whole` cells. A corner is (column, row) of the first."""

    whole: int
    cells: int

    def corners(self, rng: np.random.Generator) -> np.ndarray:
        """(K, 2): all corners, in random order."""
        side = self.whole - self.cells + 1
        return rng.permutation(np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2))

    def best_corner(self, rng: np.random.Generator, boxes: list, enough: int) -> np.ndarray:
        """One that shows as many of the boxes' centres as any, or at least `enough`."""
        corners = self.corners(rng)
        shown = [min(int(self.shows(self.within(boxes, corner)).sum()), enough) for corner in corners]
        return corners[int(np.argmax(shown))]

    def cut(self, maps: tuple[Tensor, ...], corners: np.ndarray) -> tuple[Tensor, ...]:
        """Maps (B, C, S, S), S a multiple of `whole`, to those of the squares at the corners (B, 2)."""
        parts = []
        for rows in maps:
            scale = rows.shape[-1] // self.whole
            side = self.cells * scale
            places = (corners * scale).tolist()
            parts.append(
                torch.stack([m[:, y : y + side, x : x + side] for m, (x, y) in zip(rows, places, strict=True)])
            )
        return tuple(parts)

    def within(self, boxes, corners: np.ndarray) -> np.ndarray:
        """Boxes (n, 4), cx, cy, w, h in fractions of the whole, to fractions of the squares at (n, 2) or (2,).

        A box of zeros stays one: no target is shown.
        """
        boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        moved = boxes * (self.whole / self.cells)
        moved[:, :2] -= corners / self.cells
        return np.where(boxes[:, 2:3] > 0, moved, 0).astype(np.float32)

    @staticmethod
    def shows(boxes: np.ndarray) -> np.ndarray:
        """(n,) bool: which centres lie inside."""
        return ((boxes[:, :2] > 0) & (boxes[:, :2] < 1)).all(axis=1)
