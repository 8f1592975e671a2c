"""Converts images of any type to upright 8-bit RGB, without torch.

What a value means is decided by its type alone, never by the brightest pixel, so that all frames of a source are
scaled alike: uint8 and wider integers hold 0 to 255, uint16 0 to 65535, floats 0 to 1, and booleans are black and
white. Of Pillow's modes, I (32 bits, in which it reads some 16-bit files) is taken as uint16 and F as float.
"""

import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values by which width and height change places
TOLERANCE = 1 / 255  # of floats: what rounding may add to 1, or take from 0


def rgb_array(image) -> np.ndarray:
    """A PIL image of any mode or a NumPy array to (H, W, 3) uint8 RGB.

    An array is (H, W), (H, W, c) or (c, H, W) with c of 1, 3 or 4; where both fit, channels are last. Transparency is
    dropped. It may be a view. Raises `ValueError` for other shapes and types, and for values outside of their type's
    range.
    """
    if isinstance(image, Image.Image):
        return np.array(rgb_image(image))
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise ValueError(f"Expected an image (PIL, NumPy or torch), got {type(image).__name__}.")
    if array.size == 0:
        raise ValueError(f"The image is empty: shape {array.shape}.")
    array = _channels_last(array)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    scale = brightness_scale(array.dtype.name, float(array.min()), float(array.max()))
    return (array.astype(np.float32) * scale).round().clip(0, 255).astype(np.uint8)


def rgb_image(image: Image.Image) -> Image.Image:
    """A PIL image of any mode in mode RGB, itself where it is; see [`rgb_array`]."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(rgb_array(_deep_array(image)))
    return image.convert("RGB")


def brightness_scale(type_name: str, low: float, high: float) -> float:
    """The factor that brings values of a type to 0 to 255; `low` and `high` are the least and the largest of a frame.

    Raises `ValueError` where they are not finite or outside of the type's range.
    """
    if not np.isfinite([low, high]).all():
        raise ValueError("The image holds values that are not finite.")
    if "float" in type_name:
        top, mend = 1, "divide values of 0 to 255 by 255, and give frames as they were before normalisation"
        inside = low >= -TOLERANCE and high <= 1 + TOLERANCE
    elif type_name == "uint16":
        return 255 / 65535
    else:
        top, mend = 255, "an image of 16 bits must be uint16"
        inside = low >= 0 and high <= 255
    if not inside:
        raise ValueError(f"An image of {type_name} must hold 0 to {top}, got {low:g} to {high:g}: {mend}.")
    return 255 / top


def upright_image(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says."""
    return ImageOps.exif_transpose(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image as it is seen, without decoding it."""
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION, 1) in SIDEWAYS else (width, height)


def _deep_array(image: Image.Image) -> np.ndarray:
    """Of an image with more than 8 bits."""
    array = np.asarray(image)
    if image.mode != "I":
        return array
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f"An image of mode I must hold 0 to 65535, got {array.min()} to {array.max()}.")
    return array.astype(np.uint16)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) of (H, W), (H, W, c) or (c, H, W)."""
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(f"An image must be (H, W), (H, W, c) or (c, H, W) with c of 1, 3 or 4, got {array.shape}.")
    return np.broadcast_to(array, (*array.shape[:2], 3)) if array.shape[2] == 1 else array[..., :3]


__all__ = ["brightness_scale", "rgb_array", "rgb_image", "upright_image", "upright_size"]
