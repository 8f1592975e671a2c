"""The loss (Eq. 14-17) against slow, obvious Python, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from modeling_pjvlt.loss_pjvlt import (
    check_labels,
    cxcywh_to_xyxy,
    focal_loss,
    gaussian_heatmap,
    gaussian_radius,
    paired_giou,
    target_cells,
    tracking_loss,
)
from modeling_pjvlt.modeling_pjvlt import decode_boxes

FRACTION = st.floats(0.01, 1.0)
PLACE = st.floats(0.0, 1.0)
LABEL = st.tuples(PLACE, PLACE, FRACTION, FRACTION)
FEW = settings(max_examples=60, deadline=None, derandomize=True)


def iou(a: list[float], b: list[float]) -> float:
    """Of two boxes as corners."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(wide, 0) * max(high, 0)
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def plain_radius(width: float, height: float) -> float:
    """Largest r for which both corners may move by r, in any of three ways, and the IoU stays at 0.7: by bisection."""

    def worst(r: float) -> float:
        box = [0.0, 0.0, width, height]
        return min(
            iou(box, [r, r, width + r, height + r]),  # one corner in, one out
            iou(box, [r, r, width - r, height - r]) if 2 * r < min(width, height) else 0.0,  # both in
            iou(box, [-r, -r, width + r, height + r]),  # both out
        )

    low, high = 0.0, max(width, height)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if worst(middle) >= 0.7 else (low, middle)
    return low


def plain_heatmap(label: tuple, grid: int) -> list[list[float]]:
    cx, cy, w, h = label
    column, row = min(int(cx * grid), grid - 1), min(int(cy * grid), grid - 1)
    sigma = (2 * plain_radius(w * grid, h * grid) + 1) / 6
    return [
        [math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2)) for x in range(grid)] for y in range(grid)
    ]


def plain_giou(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    inner = max(wide, 0) * max(high, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inner / union - (hull - union) / hull


def corners(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def random_maps(batch: int, grid: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.rand(batch, c, grid, grid, generator=generator).clamp(1e-3, 1 - 1e-3) for c in (1, 2, 2)]
    return tuple(m.requires_grad_() for m in maps)


def perfect_maps(labels: torch.Tensor, grid: int):
    """What the head would have to answer."""
    cells = target_cells(labels, grid)
    score = torch.where(gaussian_heatmap(labels, grid).eq(1), 1 - 1e-4, 1e-4)
    offset = (labels[:, :2] * grid - cells)[:, :, None, None].expand(-1, 2, grid, grid)
    return score, offset, labels[:, 2:, None, None].expand(-1, 2, grid, grid)


LABELS = torch.tensor([[0.3, 0.6, 0.2, 0.4], [0.93, 0.02, 0.5, 0.1], [0.5, 0.5, 0.05, 0.05]])
INSIDE = torch.tensor([[0.3, 0.6, 0.2, 0.4], [0.93, 0.06, 0.1, 0.12], [0.5, 0.5, 0.05, 0.05]])  # of the crop, wholly


@FEW
@given(st.floats(0.1, 16), st.floats(0.1, 16))
def test_radius_keeps_an_overlap_of_seven_tenths(width, height):
    ours = gaussian_radius(torch.tensor([width], dtype=torch.float64), torch.tensor([height], dtype=torch.float64))
    assert float(ours) == pytest.approx(plain_radius(width, height), rel=1e-6)


@FEW
@given(LABEL, st.sampled_from([4, 7, 16]))
def test_heat_map_equals_the_loop_and_peaks_at_the_cell(label, grid):
    label = tuple(torch.tensor(label).tolist())  # as float32 holds it
    ours = gaussian_heatmap(torch.tensor([label]), grid)[0, 0]
    assert_close(ours, torch.tensor(plain_heatmap(label, grid)), atol=1e-5, rtol=1e-4)
    column, row = min(int(label[0] * grid), grid - 1), min(int(label[1] * grid), grid - 1)
    assert ours[row, column] == 1.0 and int(ours.eq(1).sum()) == 1


def test_a_larger_box_gets_a_wider_peak():
    sizes = torch.tensor([0.1, 0.3, 0.6])
    labels = torch.stack([torch.full((3,), 0.5), torch.full((3,), 0.5), sizes, sizes], dim=1)
    mass = gaussian_heatmap(labels, 16).sum(dim=(1, 2, 3))
    assert mass[0] < mass[1] < mass[2]


@pytest.mark.parametrize("centre", [(1.0, 0.5), (0.5, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_a_centre_on_the_border_has_a_cell(centre):
    labels = torch.tensor([[*centre, 0.2, 0.2]])
    cell = target_cells(labels, 16)[0].tolist()
    assert cell == [min(int(c * 16), 15) for c in centre]
    loss, parts = tracking_loss(*perfect_maps(labels, 16), labels)
    outside = 0.1 * sum(c in (0.0, 1.0) for c in centre)  # of two sides at most, which the crop cuts off
    assert parts["l1"] == pytest.approx(outside / 4, abs=1e-6) and torch.isfinite(loss)


def test_focal_loss_equals_the_loop():
    score, _, _ = random_maps(3, 16)
    large = torch.cat([LABELS[:, :2], torch.tensor([[0.9, 0.7], [0.8, 1.0], [0.5, 0.6]])], dim=1)
    heatmap = gaussian_heatmap(large, 16)  # large targets, whose neighbours are far from 0
    assert heatmap[0].sum() > 1.5
    total = 0.0
    for b in range(3):
        for y in range(16):
            for x in range(16):
                p, t = float(score[b, 0, y, x].detach()), float(heatmap[b, 0, y, x])
                total += -((1 - p) ** 2) * math.log(p) if t == 1 else -((1 - t) ** 4) * p**2 * math.log(1 - p)
    assert float(focal_loss(score, heatmap).detach()) == pytest.approx(total / 3, rel=1e-5)


@FEW
@given(LABEL, LABEL)
def test_giou_equals_the_loop_and_behaves(first, second):
    a, b = (torch.tensor([box], dtype=torch.float64) for box in (first, second))
    giou, overlap = paired_giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b))
    assert float(giou) == pytest.approx(plain_giou(corners(*first), corners(*second)), abs=1e-9)
    assert float(overlap) == pytest.approx(iou(corners(*first), corners(*second)), abs=1e-9)
    mirrored, _ = paired_giou(cxcywh_to_xyxy(b), cxcywh_to_xyxy(a))
    assert float(mirrored) == pytest.approx(float(giou), abs=1e-12)
    assert -1 <= float(giou) <= float(overlap) + 1e-12 and float(overlap) <= 1
    same, one = paired_giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(a))
    assert float(same) == pytest.approx(1) and float(one) == pytest.approx(1)


def test_giou_still_pulls_boxes_that_do_not_touch():
    far = torch.tensor([[0.1, 0.1, 0.1, 0.1]], requires_grad=True)
    giou, overlap = paired_giou(cxcywh_to_xyxy(far), cxcywh_to_xyxy(torch.tensor([[0.8, 0.8, 0.1, 0.1]])))
    giou.sum().backward()
    assert float(overlap.detach()) == 0 and (far.grad[0, :2] > 0).all()


@pytest.mark.parametrize("weights", [(1.0, 2.0, 5.0), (0.5, 0.0, 3.0)])
def test_total_equals_the_loop(weights):
    grid = 8
    score, offset, size = random_maps(3, grid)
    loss, parts = tracking_loss(score, offset, size, LABELS, *weights)
    giou = l1 = 0.0
    for b, (cx, cy, w, h) in enumerate(LABELS.tolist()):
        x, y = min(int(cx * grid), grid - 1), min(int(cy * grid), grid - 1)
        dx, dy = offset[b, :, y, x].tolist()
        box = [(x + dx) / grid, (y + dy) / grid, *size[b, :, y, x].tolist()]
        predicted, truth = corners(*box), [min(max(v, 0), 1) for v in corners(cx, cy, w, h)]
        giou += (1 - plain_giou(predicted, truth)) / 3
        l1 += sum(abs(p - t) for p, t in zip(predicted, truth, strict=True)) / 12
    focal = float(focal_loss(score, gaussian_heatmap(LABELS, grid)).detach())
    assert float(parts["giou"]) == pytest.approx(giou, rel=1e-4)
    assert float(parts["l1"]) == pytest.approx(l1, rel=1e-4)
    assert float(parts["focal"]) == pytest.approx(focal)
    expected = weights[0] * focal + weights[1] * giou + weights[2] * l1
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    assert not any(part.requires_grad for part in parts.values())


def test_the_box_is_read_at_the_targets_cell_and_not_at_the_highest_score():
    score, offset, size = (m.detach().clone() for m in perfect_maps(LABELS, 16))
    _, before = tracking_loss(score, offset, size, LABELS)
    score[:, 0, 15, 15] = 0.9999
    _, after = tracking_loss(score, offset, size, LABELS)
    assert after["focal"] > before["focal"] and after["giou"] == before["giou"] and after["l1"] == before["l1"]


def test_a_perfect_answer_costs_almost_nothing():
    maps = perfect_maps(INSIDE, 16)
    loss, parts = tracking_loss(*maps, INSIDE)
    assert 0 <= float(loss) < 1e-4 and float(parts["iou"]) == pytest.approx(1, abs=1e-4)
    boxes, scores = decode_boxes(*maps)  # and the decoder reads the labels back
    assert_close(boxes, INSIDE, atol=1e-6, rtol=1e-5)
    assert (scores > 0.999).all()


def test_what_lies_outside_the_crop_is_not_asked_for():
    """A label that leaves the crop on the right, and one cut off at the border, cost the same whatever is answered."""
    beyond = torch.tensor([[0.9, 0.5, 0.4, 0.2]])  # 0.7 to 1.1
    score, offset, size = (m[:1].detach() for m in random_maps(3, 8))
    visible = torch.tensor([[0.85, 0.5, 0.3, 0.2]])  # 0.7 to 1.0
    box = torch.tensor([[(7 + offset[0, 0, 4, 7]) / 8, (4 + offset[0, 1, 4, 7]) / 8, *size[0, :, 4, 7]]])
    _, parts = tracking_loss(score, offset, size, beyond)
    expected = (cxcywh_to_xyxy(box) - cxcywh_to_xyxy(visible)).abs().mean()
    assert float(parts["l1"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_shift_moves_two_corners():
    """L1 on corners: a box that is right but for a shift of 0.1 costs 2 * 0.1 / 4, as in OSTrack."""
    label = torch.tensor([[0.5625, 0.5625, 0.2, 0.2]])
    score, offset, size = perfect_maps(label, 8)
    _, parts = tracking_loss(score, offset + torch.tensor([0.8, 0.0])[None, :, None, None], size, label)
    assert float(parts["l1"]) == pytest.approx(0.05, abs=1e-6)


def test_gradient_reaches_all_three_maps():
    labels = INSIDE
    score, offset, _ = random_maps(3, 8)
    # as large as the target: of two boxes one inside the other, a small shift costs nothing
    size = perfect_maps(labels, 8)[2].clone().requires_grad_()
    maps = score, offset, size
    tracking_loss(*maps, labels)[0].backward()
    score, offset, size = (m.grad for m in maps)
    assert (score != 0).all()
    here = torch.zeros(3, 8, 8, dtype=torch.bool)
    for b, (x, y) in enumerate(target_cells(labels, 8).tolist()):
        here[b, y, x] = True
    for gradient in (offset, size):
        touched = (gradient != 0).any(dim=1)
        assert torch.equal(touched, here)  # at the target's cell and nowhere else


def test_gradient_steps_lower_the_loss():
    logits = [torch.zeros(3, c, 8, 8, requires_grad=True) for c in (1, 2, 2)]
    optimizer = torch.optim.Adam(logits, lr=0.1)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss, parts = tracking_loss(*(m.sigmoid().clamp(1e-4, 1 - 1e-4) for m in logits), INSIDE)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0] and float(parts["iou"]) > 0.95


BAD_ROWS = {
    "zero width": [0.5, 0.5, 0.0, 0.2],
    "negative height": [0.5, 0.5, 0.2, -0.2],
    "NaN": [float("nan"), 0.5, 0.2, 0.2],
    "NaN size": [0.5, 0.5, 0.2, float("nan")],
    "infinite": [0.5, 0.5, float("inf"), 0.2],
    "pixels": [120.0, 80.0, 30.0, 40.0],
    "centre outside": [1.01, 0.5, 0.2, 0.2],
    "centre above": [0.5, -0.01, 0.2, 0.2],
}


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_label_is_refused_with_its_row(bad):
    labels = LABELS.clone()
    labels[1] = torch.tensor(BAD_ROWS[bad])
    with pytest.raises(ValueError, match="`labels` row 1"):
        tracking_loss(*random_maps(3, 8), labels)


@pytest.mark.parametrize("shape", [(4,), (3, 5), (3, 1, 4)])
def test_labels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="must be \\(batch, 4\\)"):
        check_labels(torch.full(shape, 0.5))


def test_half_precision_maps_give_a_float32_loss():
    maps = tuple(m.detach().half() for m in random_maps(3, 8))
    loss, _ = tracking_loss(*maps, LABELS.half())
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


def test_a_crop_without_its_target_asks_for_low_scores_and_nothing_else():
    labels = torch.cat([LABELS[:1], torch.zeros(1, 4)])
    maps = random_maps(2, 8)
    loss, parts = tracking_loss(*maps, labels)
    loss.backward()
    score, offset, size = (m.grad for m in maps)
    assert (score[1] > 0).all()  # every score there is to fall
    assert not offset[1].any() and not size[1].any()
    alone, alone_parts = tracking_loss(*(m.detach()[:1] for m in maps), LABELS[:1])
    assert_close(parts["giou"], alone_parts["giou"])
    assert_close(parts["l1"], alone_parts["l1"])
    assert parts["focal"] > alone_parts["focal"] and loss > alone


def test_a_batch_without_any_target_has_a_finite_loss():
    loss, parts = tracking_loss(*random_maps(2, 8), torch.zeros(2, 4))
    assert torch.isfinite(loss) and parts["giou"] == parts["l1"] == 0


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_block_of_cells_answers_for_the_box(side):
    labels = torch.tensor([[0.5, 0.55, 0.3, 0.2], [0.02, 0.97, 0.1, 0.2]])  # in the middle, and in a corner
    maps = random_maps(2, 8)
    loss, parts = tracking_loss(*maps, labels, box_cells=side)
    loss.backward()
    expected, touched = [], torch.zeros(2, 8, 8, dtype=torch.bool)
    for b, (cx, cy, w, h) in enumerate(labels.tolist()):
        for y in range(int(cy * 8) - side // 2, int(cy * 8) + side // 2 + 1):
            for x in range(int(cx * 8) - side // 2, int(cx * 8) + side // 2 + 1):
                if 0 <= x < 8 and 0 <= y < 8:
                    touched[b, y, x] = True
                    dx, dy = maps[1][b, :, y, x].tolist()
                    box = [(x + dx) / 8, (y + dy) / 8, *maps[2][b, :, y, x].tolist()]
                    seen = [min(max(v, 0.0), 1.0) for v in corners(cx, cy, w, h)]
                    expected.append(1 - plain_giou(corners(*box), seen))
    assert float(parts["giou"]) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert torch.equal((maps[2].grad != 0).any(dim=1), touched)
