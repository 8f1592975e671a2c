"""The training loss of PJVLT (Eq. 14-17 of the paper): focal on a heat map, GIoU and L1 on the box."""

import torch
from torch import Tensor


def check_labels(labels: Tensor) -> None:
    """Raise `ValueError` naming the first row of `labels` that is not a usable box.

    `labels` is (B, 4): cx, cy, w, h in fractions of the search crop. A usable box is finite, has a positive width
    and height, and its centre lies inside the crop. A row of zeros is no box: the crop does not show the target.
    """
    if labels.ndim != 2 or labels.shape[1] != 4:
        raise ValueError(f"`labels` must be (batch, 4) boxes as cx, cy, w, h, got shape {tuple(labels.shape)}.")
    finite = torch.isfinite(labels).all(dim=1)
    positive = (labels[:, 2:] > 0).all(dim=1)
    inside = ((labels[:, :2] >= 0) & (labels[:, :2] <= 1)).all(dim=1)
    good = finite & positive & inside | (labels == 0).all(dim=1)
    if not good.all():
        row = int((~good).nonzero()[0, 0])
        raise ValueError(
            f"`labels` row {row} is {labels[row].tolist()}: a box must be finite, wider and higher than 0, and its "
            "centre must lie in [0, 1] of the search crop (cx, cy, w, h in fractions of the crop, not in pixels)."
        )


def target_cells(labels: Tensor, grid: int) -> Tensor:
    """(B, 2) integer column and row of the cell that holds each box's centre."""
    return (labels[:, :2] * grid).floor().long().clamp(0, grid - 1)


def gaussian_radius(width: Tensor, height: Tensor, min_overlap: float = 0.7) -> Tensor:
    """Largest shift of a box's corners that keeps an IoU of `min_overlap` with it (CornerNet, section 3.2).

    `width`, `height` and the result are (B,) in cells. The three cases are: one corner moved in and one out, both
    moved in, both moved out.
    """
    area, total = width * height, width + height
    mixed = (total - (total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    inner = (2 * total - (4 * total**2 - 16 * (1 - min_overlap) * area).sqrt()) / 8
    outer = (
        -2 * min_overlap * total + (4 * min_overlap**2 * total**2 + 16 * min_overlap * (1 - min_overlap) * area).sqrt()
    ) / (8 * min_overlap)
    return torch.stack([mixed, inner, outer]).amin(dim=0)


def gaussian_heatmap(labels: Tensor, grid: int) -> Tensor:
    """(B, 1, grid, grid) target score map: a Gaussian around each target's cell, exactly 1 at that cell.

    sigma = (2 r + 1) / 6 cells, with r of [`gaussian_radius`]. All 0 for a row of zeros in `labels`: no target.
    """
    labels = labels.float()
    sigma = (2 * gaussian_radius(labels[:, 2] * grid, labels[:, 3] * grid) + 1) / 6
    cells = target_cells(labels, grid)
    axis = torch.arange(grid, device=labels.device)
    squared_x = (axis[None, :] - cells[:, :1]) ** 2  # (B, grid)
    squared_y = (axis[None, :] - cells[:, 1:]) ** 2
    squared = squared_y[:, :, None] + squared_x[:, None, :]  # (B, grid, grid)
    shown = (labels[:, 2:] > 0).all(dim=1)
    return (torch.exp(-squared / (2 * sigma**2)[:, None, None]) * shown[:, None, None])[:, None]


def focal_loss(score_map: Tensor, heatmap: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Gaussian-weighted focal loss, summed over cells and divided by the number of targets. Scalar.

    `score_map` and `heatmap` are (B, 1, H, W); scores lie strictly between 0 and 1.
    """
    positive = heatmap.eq(1)
    on_target = (1 - score_map) ** alpha * score_map.log()
    elsewhere = (1 - heatmap) ** beta * score_map**alpha * (1 - score_map).log()
    return -torch.where(positive, on_target, elsewhere).sum() / positive.sum().clamp_min(1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre and size to left, top, right, bottom."""
    centre, size = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def paired_giou(boxes_xyxy: Tensor, other_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Generalised IoU in [-1, 1] and IoU in [0, 1] of row i with row i. Both are (B,)."""

    def area(boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)

    inner = torch.cat(
        [
            torch.maximum(boxes_xyxy[..., :2], other_xyxy[..., :2]),
            torch.minimum(boxes_xyxy[..., 2:], other_xyxy[..., 2:]),
        ],
        dim=-1,
    )
    hull = torch.cat(
        [
            torch.minimum(boxes_xyxy[..., :2], other_xyxy[..., :2]),
            torch.maximum(boxes_xyxy[..., 2:], other_xyxy[..., 2:]),
        ],
        dim=-1,
    )
    union = area(boxes_xyxy) + area(other_xyxy) - area(inner)
    iou = area(inner) / union
    return iou - (area(hull) - union) / area(hull), iou


def cells_around(labels: Tensor, grid: int, side: int) -> tuple[Tensor, Tensor]:
    """(B, side^2, 2) columns and rows of the block of cells around each target's own, and which lie in the map.

    The second is (B, side^2) bool; cells outside are moved to the border, so that they can be looked up.
    """
    step = torch.arange(side, device=labels.device) - side // 2
    block = torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1).flatten(0, 1)  # (side^2, 2)
    cells = target_cells(labels, grid)[:, None] + block
    return cells.clamp(0, grid - 1), ((cells >= 0) & (cells < grid)).all(dim=-1)


def tracking_loss(
    score_map, offset_map, size_map, labels, focal_weight=1.0, giou_weight=2.0, l1_weight=5.0, box_cells: int = 1
):
    """Weighted sum of focal, GIoU and L1 loss (Eq. 14-17), and its parts.

    Args: the three maps of the head, (B, 1, G, G), (B, 2, G, G) and (B, 2, G, G), and `labels` (B, 4) as cx, cy, w, h
    in fractions of the search crop, zeros where it does not show the target. The box is read at the target's own cell,
    not at the highest score; with `box_cells` above 1, at each cell of a block of that side around it. GIoU and L1
    compare corners, x1, y1, x2, y2, with those of the label clamped to the crop, as OSTrack does, from which the paper
    takes its loss: what lies outside of the crop cannot be seen.

    Returns the scalar loss and a dict of detached scalars: `focal`, `giou`, `l1` (unweighted) and `iou` of that box.
    """
    if not torch.compiler.is_compiling():
        check_labels(labels)
    labels = labels.float()
    grid = score_map.shape[-1]
    cells, inside = cells_around(labels, grid, box_cells)  # (B, K, 2), (B, K)
    gather = (cells[..., 1] * grid + cells[..., 0])[:, None].expand(-1, 2, -1)
    offset = offset_map.float().flatten(2).gather(2, gather).transpose(1, 2)  # (B, K, 2)
    size = size_map.float().flatten(2).gather(2, gather).transpose(1, 2)
    boxes_xyxy = cxcywh_to_xyxy(torch.cat([(cells + offset) / grid, size], dim=-1))
    labels_xyxy = cxcywh_to_xyxy(labels).clamp(0, 1)[:, None].expand_as(boxes_xyxy)
    weights = inside * (labels[:, 2:] > 0).all(dim=1)[:, None]
    weights = weights / weights.sum().clamp_min(1)  # of each box, (B, K)

    focal = focal_loss(score_map.float(), gaussian_heatmap(labels, grid))
    giou, iou = paired_giou(boxes_xyxy, labels_xyxy)
    giou_loss = ((1 - giou) * weights).sum()
    l1 = ((boxes_xyxy - labels_xyxy).abs().mean(dim=-1) * weights).sum()
    loss = focal_weight * focal + giou_weight * giou_loss + l1_weight * l1
    iou = (iou * weights).sum()
    parts = {"focal": focal.detach(), "giou": giou_loss.detach(), "l1": l1.detach(), "iou": iou.detach()}
    return loss, parts
