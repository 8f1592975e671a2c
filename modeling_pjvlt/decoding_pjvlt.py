"""From the maps of the box head to boxes (Eq. 12-13), and the window that weights the scores during tracking."""

import math

import torch
from torch import Tensor

SCORE_EPS = 1e-4  # scores are clamped to [SCORE_EPS, 1 - SCORE_EPS] so that the focal loss stays finite


def decode_boxes(score_map: Tensor, offset_map: Tensor, size_map: Tensor, window: Tensor | None = None):
    """Read the box at the highest score (Eq. 12-13).

    Args: the maps of [`PJVLTOutput`], and optionally a `window` (G, G) that the scores are multiplied by before the
    cell is chosen. Returns boxes (B, 4) as cx, cy, w, h in fractions of the search crop, and scores (B,) before the
    window.
    """
    grid = score_map.shape[-1]
    response = score_map[:, 0] if window is None else score_map[:, 0] * window
    index = response.flatten(1).argmax(dim=1)  # (B,)
    scores = score_map.flatten(1).gather(1, index[:, None])[:, 0]
    gather = index[:, None, None].expand(-1, 2, 1)
    offset = offset_map.flatten(2).gather(2, gather)[..., 0]
    size = size_map.flatten(2).gather(2, gather)[..., 0]
    cell = torch.stack([index % grid, index // grid], dim=1)
    return torch.cat([(cell + offset) / grid, size], dim=1), scores


def hann_window(size: int, device=None) -> Tensor:
    """(size, size) window 0.5 (1 - cos(2 pi k / (size + 1))), k = 1..size: highest in the middle, never zero."""
    steps = torch.arange(1, size + 1, device=device, dtype=torch.float32)
    line = 0.5 * (1 - torch.cos(2 * math.pi * steps / (size + 1)))
    return line[:, None] * line[None, :]


__all__ = ["SCORE_EPS", "decode_boxes", "hann_window"]
