"""Crops: geometry both ways, resampling, boxes, and what is refused. Kinds of images: `test_pixels.py`."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import AutoImageProcessor

from modeling_pjvlt import PJVLTImageProcessor, geometry_pjvlt
from modeling_pjvlt.image_processing_pjvlt import (
    _crop_by_matmul,
    check_box,
    clip_box,
    crop_geometry,
    crop_image,
    crop_images,
    crop_to_frame,
    frame_to_crop,
)

PLACE = st.floats(-2000, 6000)
SIDE = st.floats(math.log(0.01), math.log(5000)).map(math.exp)  # tiny and huge boxes alike
BOX = st.tuples(PLACE, PLACE, SIDE, SIDE)
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)
SETTING = st.sampled_from([(2.0, 128), (4.0, 256), (4.0, 32)])


@pytest.fixture
def processor():
    return PJVLTImageProcessor(template_size=16, search_size=32)


def random_frame(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


# Geometry


@PROPERTY
@given(BOX, BOX, SETTING)
def test_frame_to_crop_and_back_is_exact(seen, box, setting):
    crop = crop_geometry(seen, *setting)
    box = torch.tensor([box], dtype=torch.float64)
    crop = torch.tensor([crop], dtype=torch.float64)
    assert_close(crop_to_frame(frame_to_crop(box, crop), crop), box, atol=1e-3, rtol=0)
    assert_close(frame_to_crop(crop_to_frame(box, crop), crop), box, atol=1e-3, rtol=0)


@PROPERTY
@given(BOX, SETTING)
def test_the_crop_is_centred_on_the_box_and_as_large_as_the_paper_says(box, setting):
    factor, size = setting
    left, top, scale = crop_geometry(box, factor, size)
    side = max(math.ceil(math.sqrt(box[2] * box[3]) * factor), 1)
    assert size / scale == pytest.approx(side)
    x, y, w, h = frame_to_crop(box, (left, top, scale)).tolist()
    assert x + w / 2 == pytest.approx(size / 2, abs=1e-6) and y + h / 2 == pytest.approx(size / 2, abs=1e-6)
    assert w == pytest.approx(box[2] * scale) and h == pytest.approx(box[3] * scale)


def test_crops_may_differ_by_row():
    boxes = torch.tensor([[10.0, 20, 30, 40], [50, 60, 70, 80]], dtype=torch.float64)
    crops = torch.tensor([[0.0, 0, 2], [10, 20, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[20.0, 40, 60, 80], [20, 20, 35, 40]], dtype=torch.float64)
    assert_close(frame_to_crop(boxes, crops), expected)


# Resampling


def plain_crop(image: torch.Tensor, left: float, top: float, scale: float, size: int) -> torch.Tensor:
    """The crop in plain loops: each crop pixel is a triangle-weighted mean of frame pixels, outside is black."""
    support = max(1.0, 1.0 / scale)

    def weights(start: float, i: int) -> dict[int, float]:
        centre = start + (i + 0.5) / scale
        near = range(math.floor(centre - support) - 1, math.ceil(centre + support) + 1)
        found = {k: max(0.0, 1 - abs(centre - (k + 0.5)) / support) for k in near}
        total = sum(found.values())
        return {k: w / total for k, w in found.items() if w > 0}

    _, height, width = image.shape
    pixels, crop = image.double().tolist(), torch.zeros(len(image), size, size, dtype=torch.float64)
    for row in range(size):
        for column in range(size):
            for y, weight_y in weights(top, row).items():
                for x, weight_x in weights(left, column).items():
                    if 0 <= y < height and 0 <= x < width:
                        for channel in range(len(image)):
                            crop[channel, row, column] += weight_y * weight_x * pixels[channel][y][x]
    return crop.float()


PLACES = {
    "identity": (2.0, 1.0, 1.0, 8),
    "half a pixel": (2.5, 1.5, 1.0, 8),
    "upscaled": (3.2, 2.7, 3.1, 12),
    "downscaled": (-1.3, 0.4, 0.37, 6),
    "much downscaled": (-20.0, -30.0, 0.11, 6),
    "over the corner": (-4.4, -3.1, 0.8, 9),
    "over the far corner": (8.1, 6.2, 1.7, 9),
    "far outside": (500.0, -900.0, 1.3, 4),
}


@pytest.mark.parametrize("place", PLACES)
def test_crops_equal_the_loop(place):
    image = random_frame(11, 13)
    assert_close(crop_image(image, *PLACES[place]), plain_crop(image, *PLACES[place]), atol=1e-3, rtol=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.floats(-15, 20), st.floats(-15, 20), st.floats(math.log(0.2), math.log(4)).map(math.exp), st.integers(1, 5))
def test_crops_equal_the_loop_anywhere(left, top, scale, size):
    image = random_frame(7, 9)[:1]
    assert_close(
        crop_image(image, left, top, scale, size), plain_crop(image, left, top, scale, size), atol=1e-3, rtol=1e-5
    )


def test_crops_of_one_frame_are_the_same_one_by_one_and_by_matmul():
    """The matmuls are what runs on an accelerator."""
    image, places = random_frame(31, 43), [(*place[:3],) for place in PLACES.values()]
    together = crop_images(image, places, 9)
    for crop, place in zip(together, places, strict=True):
        assert torch.equal(crop, crop_image(image, *place, 9))
    assert_close(_crop_by_matmul(image, places, 9), together, atol=1e-3, rtol=1e-5)


@given(st.integers(20, 1500), st.integers(20, 1500), st.floats(-300, 1500), st.floats(-300, 1500), st.floats(0.1, 3))
@settings(max_examples=30)
def test_no_matmul_of_a_crop_is_so_large_that_blas_starts_threads(height, width, left, top, scale):
    products, matmul = [], np.matmul

    def measured(one, other, out):
        products.append(one.shape[0] * one.shape[1] * other.shape[1])
        return matmul(one, other, out=out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "matmul", measured)
        geometry_pjvlt.crop_array(np.zeros((height, width, 3), dtype=np.uint8), left, top, scale, 64)
    assert max(products, default=0) <= geometry_pjvlt.ONE_THREAD


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_order_of_a_frame_in_memory_changes_nothing(channels_last):
    image = random_frame(31, 43)
    kept = image.permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else image
    assert torch.equal(crop_image(kept, 2.3, 1.7, 0.6, 16), crop_image(image, 2.3, 1.7, 0.6, 16))


def test_a_crop_at_scale_one_is_the_frame_itself():
    image = random_frame(20, 30)
    assert torch.equal(crop_image(image, 5, 4, 1.0, 12), image[:, 4:16, 5:17].float())


@PROPERTY
@given(st.floats(0, 40), st.floats(0, 40), st.floats(math.log(0.3), math.log(5)).map(math.exp))
def test_a_constant_frame_is_constant_inside(left, top, scale):
    reach = 8 / scale + 2 * max(1.0, 1 / scale)
    assume(left >= max(1.0, 1 / scale) and top >= max(1.0, 1 / scale) and max(left, top) + reach <= 64)
    crop = crop_image(torch.full((3, 64, 64), 200, dtype=torch.uint8), left, top, scale, 8)
    assert_close(crop, torch.full((3, 8, 8), 200.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_outside_the_frame_is_black(scale):
    frame = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    crop = crop_image(frame, -40.0, -40.0, scale, int(120 * scale))
    margin = math.ceil(2 * max(1.0, scale))
    edge = int(40 * scale)
    assert not crop[:, : edge - margin].any() and not crop[:, :, : edge - margin].any()
    assert not crop[:, 2 * edge + margin :].any() and not crop[:, :, 2 * edge + margin :].any()
    inside = crop[:, edge + margin : 2 * edge - margin, edge + margin : 2 * edge - margin]
    assert inside.numel() and torch.allclose(inside, torch.tensor(255.0))


def test_fine_stripes_turn_grey_and_do_not_alias():
    stripes = torch.zeros(3, 64, 64)
    stripes[:, :, ::2] = 200
    crop = crop_image(stripes, 8.0, 8.0, 1 / 6, 8)
    assert (crop - 100).abs().max() < 10


@PROPERTY
@given(
    st.integers(5, 60),
    st.integers(5, 40),
    st.integers(4, 16),
    st.integers(4, 16),
    st.floats(-20, 20),
    st.floats(-20, 20),
)
def test_a_coloured_square_lands_where_the_geometry_says(x, y, w, h, shift_x, shift_y):
    frame = torch.zeros(3, 60, 80, dtype=torch.uint8)
    frame[:, y : y + h, x : x + w] = 255
    place = crop_geometry((x + shift_x, y + shift_y, 16, 16), 4.0, 96)
    crop = crop_image(frame, *place, 96)[0]
    left, top, width, height = frame_to_crop(
        (float(x), float(y), float(min(w, 80 - x)), float(min(h, 60 - y))), place
    ).tolist()
    assume(left > 3 and top > 3 and left + width < 93 and top + height < 93)
    axis = torch.arange(96) + 0.5
    found_x = float((crop.sum(0) * axis).sum() / crop.sum())
    found_y = float((crop.sum(1) * axis).sum() / crop.sum())
    assert found_x == pytest.approx(left + width / 2, abs=0.5)
    assert found_y == pytest.approx(top + height / 2, abs=0.5)
    assert float((crop > 127.5).sum()) == pytest.approx(width * height, rel=0.15, abs=12)


def test_a_huge_box_costs_no_more_than_the_frame(processor):
    """The filter's weights are only held for pixels that exist; a box of 1e9 pixels would else ask for terabytes."""
    frame = np.full((40, 50, 3), 255, np.uint8)
    pixels = processor(
        frame, [-5e8, -5e8, 1e9, 1e9], do_rescale=False, do_normalize=False, return_tensors="pt"
    ).pixel_values
    assert torch.isfinite(pixels).all() and pixels.max() < 1


# Boxes


BAD_BOXES = {
    "zero width": ([5, 5, 0, 8], "wider and higher"),
    "negative height": ([5, 5, 8, -8], "wider and higher"),
    "NaN": ([5, float("nan"), 8, 8], "not finite"),
    "infinite": ([5, 5, float("inf"), 8], "not finite"),
    "right of the frame": ([50, 5, 8, 8], "outside the frame of 50 x 40"),
    "below the frame": ([5, 40, 8, 8], "outside the frame"),
    "left of the frame": ([-8, 5, 8, 8], "outside the frame"),
    "above the frame": ([5, -30, 8, 8], "outside the frame"),
    "three numbers": ([5, 5, 8], "four numbers.*got 3"),
    "five numbers": ([5, 5, 8, 8, 1], "four numbers.*got 5"),
    "a number": (5, "four numbers"),
    "words": (["a", "b", "c", "d"], "four numbers"),
    "a word": ("left", "four numbers"),
    "complex": ([5j, 5, 8, 8], "four numbers"),
    "a dict": ({"xmin": 1}, "xmin, ymin, xmax, ymax, got xmin"),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_a_bad_box_is_refused_with_one_clear_error(kind, processor):
    box, message = BAD_BOXES[kind]
    with pytest.raises(ValueError, match=message):
        check_box(box, (40, 50))
    with pytest.raises(ValueError, match=f"Image 0: .*{message}"):
        processor(np.zeros((40, 50, 3), np.uint8), box)


@pytest.mark.parametrize(
    "box", [(1, 2, 3, 4), [1.0, 2.0, 3.0, 4.0], np.array([1, 2, 3, 4]), torch.tensor([1, 2, 3, 4])]
)
def test_every_kind_of_box_is_read(box, processor):
    assert check_box(box, (40, 50)) == (1.0, 2.0, 3.0, 4.0)
    crops = processor(np.zeros((40, 50, 3), np.uint8), box, return_crops=True)["crops"]
    assert crops[0].tolist() == list(crop_geometry((1, 2, 3, 4), 4.0, 32))


def test_a_box_half_outside_is_fine():
    assert check_box([-3, -3, 4, 4], (40, 50)) == (-3, -3, 4, 4)


@PROPERTY
@given(BOX, st.integers(1, 500), st.integers(1, 500))
def test_clipped_boxes_lie_in_the_frame(box, height, width):
    x, y, w, h = clip_box(box, (height, width))
    assert x >= 0 and y >= 0 and w >= 1 and h >= 1
    assert x + w <= width + 1e-9 and y + h <= height + 1e-9
    assert clip_box((x, y, w, h), (height, width)) == pytest.approx((x, y, w, h))


# The processor


def test_defaults_are_the_papers():
    sizes = PJVLTImageProcessor()
    assert (sizes.template_size, sizes.search_size, sizes.template_factor, sizes.search_factor) == (128, 256, 2.0, 4.0)
    assert list(sizes.image_mean) == [0.485, 0.456, 0.406] and list(sizes.image_std) == [0.229, 0.224, 0.225]


def test_batches_equal_their_rows(processor):
    frames = [random_frame(40, 50, seed) for seed in range(3)]
    boxes = [[10, 10, 12, 9], [30, 5, 4, 20], [-3, 30, 10, 10]]
    together = processor(frames, boxes, frames, boxes, return_crops=True, return_tensors="pt")
    assert together.pixel_values.shape == (3, 3, 32, 32) and together.template_pixel_values.shape == (3, 3, 16, 16)
    assert together.crops.shape == (3, 3) and together.crops.dtype == torch.float64
    for row in range(3):
        alone = processor(frames[row], boxes[row], frames[row], boxes[row], return_crops=True, return_tensors="pt")
        for name, value in alone.items():
            assert torch.equal(value[0], together[name][row])


def test_values_are_normalised_in_rgb_order(processor):
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[...] = (255, 128, 0)
    pixels = processor(frame, [28, 28, 8, 8], return_tensors="pt").pixel_values[0]
    for channel, (value, mean, std) in enumerate([(1, 0.485, 0.229), (128 / 255, 0.456, 0.224), (0, 0.406, 0.225)]):
        assert_close(pixels[channel], torch.full((32, 32), (value - mean) / std), atol=1e-5, rtol=1e-5)


def test_options_of_one_call_do_not_stick(processor):
    frame = random_frame(40, 50)
    raw = processor(frame, [10, 10, 12, 9], do_rescale=False, do_normalize=False, search_size=8, return_tensors="pt")
    assert raw.pixel_values.shape == (1, 3, 8, 8) and raw.pixel_values.max() > 100
    assert processor(frame, [10, 10, 12, 9], return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("tensors", ["pt", "np", None])
def test_tensors_come_as_asked_for(tensors, processor):
    data = processor(random_frame(40, 50), [10, 10, 12, 9], return_crops=True, return_tensors=tensors)
    kind = {"pt": torch.Tensor, "np": np.ndarray, None: list}[tensors]
    assert (
        isinstance(data["pixel_values"], kind) and isinstance(data["crops"], kind) and len(data["pixel_values"]) == 1
    )


@pytest.mark.parametrize("size", [(40, 50), (50, 20)])
def test_without_a_box_the_whole_picture_is_shown(size, processor):
    height, width = size
    frame = np.full((height, width, 3), 255, np.uint8)
    options = {"do_rescale": False, "do_normalize": False, "return_crops": True, "return_tensors": "pt"}
    data = processor(frame, **options)
    corners = frame_to_crop(torch.tensor([0.0, 0, width, height], dtype=torch.float64), data.crops[0]).tolist()
    x, y, w, h = corners
    assert max(w, h) == pytest.approx(32) and x >= 0 and y >= 0 and x + w <= 32 + 1e-9 and y + h <= 32 + 1e-9
    assert x + w / 2 == pytest.approx(16) and y + h / 2 == pytest.approx(16)
    # all the light of the image is in the crop, but for what its borders blur into the black
    assert float(data.pixel_values[0, 0].sum()) / 255 == pytest.approx(w * h, rel=0.03)


def test_rows_without_a_box_may_stand_among_others(processor):
    frame = random_frame(40, 50)
    for boxes in ([None, [10, 10, 12, 9]], [[10, 10, 12, 9], None]):
        rows = processor([frame, frame], boxes, return_tensors="pt").pixel_values
        for row, box in enumerate(boxes):
            assert torch.equal(rows[row], processor(frame, box, return_tensors="pt").pixel_values[0])


@pytest.mark.parametrize("bad", [[10, 10, 0, 9], [10, 10, 9], [90, 10, 5, 5], [1, 2, 3, float("nan")]], ids=str)
def test_a_bad_row_is_named(bad, processor):
    frames = [random_frame(40, 50)] * 3
    with pytest.raises(ValueError, match="Image 1: "):
        processor(frames, [[10, 10, 12, 9], bad, [10, 10, 12, 9]])
    with pytest.raises(ValueError, match=r"Image 2: .*not finite"):
        processor([*frames[:2], np.full((4, 4, 3), np.nan)], [[1, 1, 2, 2]] * 3)


def test_numbers_of_frames_and_boxes_must_agree(processor):
    with pytest.raises(ValueError, match="2 images but 1 boxes"):
        processor([random_frame(40, 50)] * 2, [[1, 2, 3, 4]])
    with pytest.raises(ValueError, match="`images`, `template_images` or both"):
        processor(None)


def test_save_and_load(processor, tmp_path):
    processor.search_factor, processor.image_mean = 5.0, [0.5, 0.5, 0.5]
    processor.save_pretrained(tmp_path)
    frame = random_frame(40, 50)
    expected = processor(frame, [10, 10, 12, 9], frame, [1, 2, 9, 9], return_tensors="pt")
    for loaded in (PJVLTImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, PJVLTImageProcessor)
        assert (loaded.template_size, loaded.search_size, loaded.search_factor) == (16, 32, 5.0)
        for name, value in loaded(frame, [10, 10, 12, 9], frame, [1, 2, 9, 9], return_tensors="pt").items():
            assert torch.equal(value, expected[name])


# And back to the frame


@PROPERTY
@given(
    st.tuples(*[st.floats(0.01, 0.99)] * 4),
    st.tuples(st.floats(5, 60), st.floats(5, 40), st.floats(2, 60), st.floats(2, 60)),
)
def test_answers_come_back_to_frame_pixels(tiny_processor, target, seen):
    """A box in the frame, seen by a crop, is what post-processing returns for it."""
    box = (target[0] * 40, target[1] * 30, 2 + target[2] * 30, 2 + target[3] * 20)  # inside 80 x 60
    size = tiny_processor.image_processor.search_size
    place = torch.tensor([crop_geometry(seen, 4.0, size)], dtype=torch.float64)
    x, y, w, h = (frame_to_crop(torch.tensor([box], dtype=torch.float64), place) / size)[0].tolist()
    answer = torch.tensor([[x + w / 2, y + h / 2, w, h]], dtype=torch.float64)
    found = tiny_processor.post_process_tracking(answer, place, (60, 80))
    assert found.dtype == torch.float64
    assert_close(found, torch.tensor([box], dtype=torch.float64), atol=1e-3, rtol=0)


def test_answers_are_clipped_each_to_its_frame(tiny_processor):
    crops = [[-10.0, -10.0, 1.0], [20.0, 20.0, 1.0], [500.0, 0.0, 1.0]]
    answers = torch.tensor([[0.5, 0.5, 1.0, 1.0]] * 3)
    found = tiny_processor.post_process_tracking(answers, crops, [(60, 80), (40, 30), (60, 80)])
    assert found.tolist() == [[0, 0, 22, 22], [20, 20, 10, 20], [79, 0, 1, 32]]
    same = tiny_processor.post_process_tracking(answers[:2], crops[:2], (60, 80))  # one size for all
    assert same.tolist() == [[0, 0, 22, 22], [20, 20, 32, 32]]


def test_crops_and_answers_must_agree_in_number(tiny_processor):
    with pytest.raises(ValueError, match="2 boxes but 1 crops"):
        tiny_processor.post_process_tracking(torch.rand(2, 4), [[0, 0, 1]], (60, 80))


@torch.no_grad()
def test_a_target_is_found_where_it_is_from_frame_to_frame_pixels(tiny_model, tiny_processor):
    """With a model that always answers the middle of the crop, the box comes back centred on the last one."""
    model = tiny_model(fusion="none")
    frame, box = random_frame(60, 80), [30.0, 20.0, 12.0, 9.0]
    data = tiny_processor(
        images=frame, boxes=box, template_images=frame, template_boxes=box, text="a dog", return_crops=True
    )
    crops = data.pop("crops")
    out = model(pixel_values=data["pixel_values"], template_pixel_values=data["template_pixel_values"])
    out.pred_boxes = torch.tensor([[0.5, 0.5, 12 / 42, 9 / 42]])  # the side is ceil(4 sqrt(12 * 9)) = 42
    found = tiny_processor.post_process_tracking(out, crops, (60, 80))
    assert_close(found, torch.tensor([box], dtype=torch.float64), atol=1e-3, rtol=0)


def test_templates_alone_can_be_cropped():
    frame = np.zeros((40, 40, 3), np.uint8)
    crops = PJVLTImageProcessor(template_size=16)(
        template_images=frame, template_boxes=[5, 5, 9, 9], return_tensors="pt"
    )
    assert list(crops) == ["template_pixel_values"] and crops["template_pixel_values"].shape == (1, 3, 16, 16)
