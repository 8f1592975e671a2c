import doctest

import numpy as np
import pytest

from modeling_pjvlt.evaluation import language, metrics, published
from modeling_pjvlt.evaluation.metrics import iou, success_auc


def slow_iou(a, b):
    """Overlap of two xywh boxes by counting the cells of a grid of twentieths."""
    axis = (np.arange(0, 30, 0.05) + 0.025)[None]
    inside = [
        (axis > x) & (axis < x + w) & (y < axis.T) & (y + h > axis.T) for x, y, w, h in (a, b)
    ]  # each (rows, columns)
    return (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()


@pytest.mark.parametrize("module", [metrics, language, published])
def test_examples_in_the_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("other", [(2, 3, 8, 6), (5, 5, 10, 10), (15, 1, 4, 4), (2.5, 3, 1, 1)])
def test_iou_equals_counted_cells(other):
    box = (2, 3, 8, 6)
    assert iou([box], [other])[0] == pytest.approx(slow_iou(box, other), abs=1e-3)


def test_auc_of_a_perfect_track_leaves_out_only_the_last_threshold():
    assert success_auc(np.ones(5)) == pytest.approx(20 / 21)  # 1 > 1 is false, as in the official toolkits


def test_auc_of_a_lost_track_is_zero():
    assert success_auc(np.zeros(5)) == 0
