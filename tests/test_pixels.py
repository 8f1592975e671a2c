"""Every kind of image is read as RGB, and what is none is refused."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.image_processing_pjvlt import to_rgb
from modeling_pjvlt.pixels_pjvlt import rgb_array


@pytest.fixture
def processor():
    return PJVLTImageProcessor(template_size=16, search_size=32)


def example_image() -> np.ndarray:
    """(6, 7, 3): every pixel another colour, with red, green and blue apart."""
    y, x = np.mgrid[:6, :7]
    return np.stack([200 + y, 20 * x, 10 * y + x], axis=-1).astype(np.uint8)


RGB = torch.from_numpy(example_image()).permute(2, 0, 1)
GREY = example_image()[..., 1]
IMAGES = {
    "PIL": lambda: Image.fromarray(example_image()),
    "NumPy": example_image,
    "NumPy channels first": lambda: example_image().transpose(2, 0, 1),
    "NumPy float": lambda: example_image() / 255,
    "NumPy half": lambda: (example_image() / 255).astype(np.float16),
    "NumPy int64": lambda: example_image().astype(np.int64),
    "NumPy uint16": lambda: example_image().astype(np.uint16) * 257,
    "NumPy big-endian": lambda: (example_image().astype(np.uint16) * 257).astype(">u2"),
    "NumPy uint32": lambda: example_image().astype(np.uint32),
    "NumPy strided": lambda: np.repeat(example_image(), 2, axis=1)[:, ::2],
    "NumPy flipped twice": lambda: example_image()[::-1].copy()[::-1],
    "NumPy read-only": lambda: np.frombuffer(example_image().tobytes(), np.uint8).reshape(6, 7, 3),
    "torch": lambda: RGB.clone(),
    "torch channels last": lambda: RGB.permute(1, 2, 0),
    "torch float": lambda: RGB / 255,
    "torch half": lambda: (RGB / 255).half(),
    "torch int32": lambda: RGB.int(),
    "torch uint16": lambda: torch.from_numpy(example_image().astype(np.uint16) * 257).permute(2, 0, 1),
    "torch with gradient": lambda: (RGB / 255).requires_grad_(),
    "RGBA": lambda: Image.merge("RGBA", [*Image.fromarray(example_image()).split(), Image.new("L", (7, 6), 99)]),
    "RGBA NumPy": lambda: np.concatenate([example_image(), np.full((6, 7, 1), 99, np.uint8)], axis=2),
    "RGBA torch": lambda: torch.cat([RGB, torch.full((1, 6, 7), 99, dtype=torch.uint8)]),
    "palette": lambda: Image.fromarray(example_image()).quantize(64),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_of_picture_is_read_as_rgb(kind):
    found = to_rgb(IMAGES[kind]())
    assert found.dtype == torch.uint8 and found.shape == (3, 6, 7)
    tolerance = 8 if kind == "palette" else 0
    assert (found.int() - RGB.int()).abs().max() <= tolerance


@pytest.mark.parametrize("kind", [kind for kind in IMAGES if "torch" not in kind])
def test_every_kind_of_picture_is_the_same_without_torch(kind):
    image = IMAGES[kind]()
    found = rgb_array(image)
    assert found.dtype == np.uint8 and found.shape == (6, 7, 3)
    np.testing.assert_array_equal(found, to_rgb(image).permute(1, 2, 0).numpy())


GREYS = {
    "PIL L": lambda: Image.fromarray(GREY),
    "PIL LA": lambda: Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (7, 6), 50)]),
    "PIL I;16": lambda: Image.fromarray(GREY.astype(np.uint16) * 257),
    "PIL I": lambda: Image.fromarray(GREY.astype(np.int32) * 257),
    "PIL F": lambda: Image.fromarray((GREY / 255).astype(np.float32)),
    "NumPy": lambda: GREY,
    "NumPy (H, W, 1)": lambda: GREY[..., None],
    "NumPy uint16": lambda: GREY.astype(np.uint16) * 257,
    "torch (1, H, W)": lambda: torch.from_numpy(GREY)[None],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", GREYS)
def test_grey_pictures_become_three_equal_channels(kind):
    found = to_rgb(GREYS[kind]())
    assert found.shape == (3, 6, 7) and torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert torch.equal(found[0], torch.from_numpy(GREY))


RANGES = {  # what black, half and white are in each type
    "uint8": (0, 128, 255),
    "int16": (0, 128, 255),
    "int64": (0, 128, 255),
    "uint16": (0, 32896, 65535),
    "float16": (0, 0.5, 1),
    "float32": (0, 0.5, 1),
    "float64": (0, 0.5, 1),
}


@pytest.mark.parametrize("read", ["NumPy", "torch", "without torch"])
@pytest.mark.parametrize("dtype", RANGES)
def test_a_fade_to_black_does_not_flicker(dtype, read):
    """The type says what a value means, not the brightest pixel of a frame."""
    black, half, white = RANGES[dtype]
    levels = []
    for value in (white, half, (black + half) / 4, black):
        frame = np.full((4, 5), value).astype(dtype)
        found = (
            rgb_array(frame)
            if read == "without torch"
            else to_rgb(torch.from_numpy(frame) if read == "torch" else frame)
        )
        levels.append(int(found.max()))
    assert levels == pytest.approx([255, 128, 32, 0], abs=1)


OUT_OF_RANGE = {
    "floats to 255": (
        np.linspace(0, 255, 20, dtype=np.float32).reshape(4, 5),
        r"float32 must hold 0 to 1, got 0 to 255",
    ),
    "floats a little too large": (np.full((4, 5), 1.05), r"float64 must hold 0 to 1, got 1.05 to 1.05"),
    "normalised floats": (np.full((4, 5), -2.1, np.float32), r"got -2.1 to -2.1: .*before normalisation"),
    "16 bits in another type": (
        np.full((4, 5), 4000, np.int32),
        r"int32 must hold 0 to 255, got 4000.*must be uint16",
    ),
    "negative integers": (np.full((4, 5), -3, np.int16), r"int16 must hold 0 to 255, got -3"),
}


@pytest.mark.parametrize("kind", OUT_OF_RANGE)
def test_values_outside_of_their_types_range_are_refused(kind):
    image, message = OUT_OF_RANGE[kind]
    for read in (to_rgb, rgb_array, lambda image: to_rgb(torch.from_numpy(image))):
        with pytest.raises(ValueError, match=message):
            read(image)
    if image.dtype in (np.float32, np.int32) and "16 bits" not in kind:
        with pytest.raises(ValueError, match=message):
            to_rgb(Image.fromarray(image))


def test_an_image_of_32_bits_that_no_16_bits_hold_is_refused():
    with pytest.raises(ValueError, match="mode I must hold 0 to 65535, got 70000 to 70000"):
        to_rgb(Image.fromarray(np.full((4, 5), 70000, np.int32)))


def test_a_dark_16_bit_picture_stays_dark():
    dark = np.full((4, 5), 300, np.uint16)  # a value that 8 bits cannot hold, yet nearly black
    for image in (dark, Image.fromarray(dark), torch.from_numpy(dark)):
        assert to_rgb(image).unique().tolist() == [1]


@pytest.mark.parametrize("kind", ["NumPy", "torch", "PIL"])
def test_a_mask_is_black_and_white(kind):
    mask = GREY > 50
    image = {"NumPy": mask, "torch": torch.from_numpy(mask), "PIL": Image.fromarray(mask)}[kind]
    assert torch.equal(to_rgb(image)[0], torch.from_numpy(mask).to(torch.uint8) * 255)


def test_cmyk_is_converted():
    red = Image.new("CMYK", (2, 3), (0, 255, 255, 0))
    assert to_rgb(red)[:, 0, 0].tolist() == [255, 0, 0] and to_rgb(red).shape == (3, 3, 2)


def test_a_picture_of_one_pixel(processor):
    pixel = np.array([[[255, 0, 128]]], np.uint8)
    assert to_rgb(pixel)[:, 0, 0].tolist() == [255, 0, 128]
    assert to_rgb(Image.fromarray(pixel)).shape == (3, 1, 1)
    assert processor(pixel, [0, 0, 1, 1], return_tensors="pt").pixel_values.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("shape", [(3, 5, 3), (4, 5, 3), (3, 5, 4), (1, 4, 3)])
def test_where_both_readings_fit_numpy_is_channels_last_and_torch_channels_first(shape):
    values = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    last = torch.from_numpy(values)[..., :3].permute(2, 0, 1)
    first = torch.from_numpy(values)[:3] if shape[0] > 1 else torch.from_numpy(values).expand(3, -1, -1)
    assert torch.equal(to_rgb(values), last)
    assert torch.equal(to_rgb(torch.from_numpy(values)), first)


BAD_PICTURES = {
    "NaN": (np.full((4, 5, 3), np.nan), "not finite"),
    "infinite": (torch.full((3, 4, 5), torch.inf), "not finite"),
    "one NaN": (np.where(np.arange(60).reshape(4, 5, 3) == 7, np.nan, 0.5), "not finite"),
    "empty": (np.zeros((0, 5, 3), np.uint8), "empty"),
    "two channels": (np.zeros((5, 6, 2), np.uint8), r"\(H, W, c\)"),
    "five channels": (torch.zeros(5, 6, 7), r"\(H, W, c\)"),
    "a batch": (np.zeros((2, 5, 6, 3), np.uint8), r"\(H, W, c\)"),
    "a line": (np.zeros(5, np.uint8), r"\(H, W, c\)"),
    "a file name": ("frame.jpg", "got str"),
    "nothing": (None, "got NoneType"),
    "complex": (np.zeros((4, 5, 3), complex), "got ndarray"),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_what_is_no_picture_is_refused(kind):
    image, message = BAD_PICTURES[kind]
    for read in (to_rgb,) if isinstance(image, torch.Tensor) else (to_rgb, rgb_array):
        with pytest.raises(ValueError, match=message):
            read(image)


def test_float_picture_that_overshoots_one_a_little_keeps_its_brightness():
    example_image = np.full((4, 4, 3), 0.5, np.float32)
    example_image[0, 0] = 1.003
    assert to_rgb(example_image)[:, 2, 2].tolist() == [128, 128, 128]
