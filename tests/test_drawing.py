import numpy as np
import pytest
from PIL import Image
from test_video import flat_frames

from modeling_pjvlt.visualization import contact_sheet, contact_strip, draw_box


def test_box_is_drawn_along_its_inner_edge_on_a_copy():
    frame = np.zeros((60, 80, 3), np.uint8)
    drawn = draw_box(frame, [10, 20, 30, 15], color=(255, 0, 0), line_width=1)
    rows, columns = np.nonzero(drawn[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 34, 10, 39)
    assert drawn[25, 20].sum() == 0 and frame.sum() == 0


@pytest.mark.parametrize("level", [0, 128, 255])
def test_box_stands_out_from_any_background(level):
    color = (255, 196, 0)
    drawn = draw_box(np.full((60, 80, 3), level, np.uint8), [10, 20, 30, 15], color=color, line_width=2)
    assert (drawn[25, 10:12] == color).all()
    assert (drawn[25, [9, 12]] == 0).all() and (drawn[25, [7, 14]] == level).all()


def test_line_and_label_grow_with_the_frame():
    small, large = (np.zeros((side, side, 3), np.uint8) for side in (200, 800))
    for text in (None, "dog"):
        painted = [np.count_nonzero(draw_box(f, [100, 100, 40, 40], text).any(axis=2)) for f in (small, large)]
        assert painted[1] > 1.5 * painted[0]


@pytest.mark.parametrize(
    "box", [[-20, -20, 30, 30], [70, 50, 30, 30], [300, 300, 5, 5], [-90, 10, 5, 5], [10, 10, 0, 0]]
)
def test_label_stays_inside_the_frame(box):
    frame = np.full((60, 120, 3), 90, np.uint8)
    drawn = draw_box(frame, box, "dog", score=0.5, color=(0, 255, 0))
    plate = (drawn == (20, 20, 20)).all(axis=2)
    rows, columns = np.nonzero(plate)
    # A plate that ran out of the frame would be cut and lose its padding.
    assert np.ptp(rows) >= 12 and np.ptp(columns) >= 35


@pytest.mark.parametrize(("settings", "most"), [({}, 0.65), ({"label_share": 0.2}, 0.25)])
def test_long_label_leaves_much_of_the_frame_free(settings, most):
    frame = np.full((240, 320, 3), 90, np.uint8)
    drawn = draw_box(frame, [100, 100, 20, 20], "a very long sentence " * 20, score=0.5, **settings)
    assert (drawn == (20, 20, 20)).all(axis=2).any(axis=0).sum() < most * 320


def test_contact_strip_puts_frames_side_by_side(tmp_path):
    contact_strip(flat_frames(3), tmp_path / "strip.png", ["a", "b", "c"], height=96)
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.size == (3 * 128 + 2 * 4, 96)
    contact_sheet([flat_frames(3), flat_frames(2)], tmp_path / "sheet.png", height=96)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 128 + 2 * 4, 2 * 96 + 4)
    with pytest.raises(ValueError, match="at least one frame"):
        contact_strip([], tmp_path / "none.png")
