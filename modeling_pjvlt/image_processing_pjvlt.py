"""Crops for PJVLT: from frame pixels to the network's input, and from its boxes back to frame pixels.

One continuous coordinate convention in both directions: pixel i covers [i, i + 1), and
x_crop = (x_frame - left) * scale, y_crop = (y_frame - top) * scale. A crop is the triple (left, top, scale).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import ImagesKwargs
from transformers.utils import TensorType

from .geometry_pjvlt import axis_triangles, check_box, clip_box, crop_array, crop_geometry
from .pixels_pjvlt import brightness_scale, rgb_array

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_rgb(image) -> Tensor:
    """Any still image to a (3, H, W) uint8 RGB tensor.

    Takes PIL images of any mode, and NumPy arrays or torch tensors with 1, 3 or 4 channels first or last, or none;
    where both readings fit, NumPy is taken as channels last and torch as channels first. Transparency is dropped.
    The type alone says what a value means: uint8 and wider integers hold 0 to 255, uint16 0 to 65535, floats 0 to 1.
    Raises `ValueError` for other shapes, and for values that are not finite or outside of their type's range.
    """
    if isinstance(image, Tensor) and image.dtype not in (torch.bool, torch.uint16, torch.uint32, torch.uint64):
        return _tensor_to_rgb(image.detach())
    array = rgb_array(image.cpu().numpy() if isinstance(image, Tensor) else image)
    if not array.flags.writeable or min(array.strides) <= 0:
        array = array.copy()
    return torch.from_numpy(array).permute(2, 0, 1)


def _tensor_to_rgb(pixels: Tensor) -> Tensor:
    """Of types that torch can compute with, on their device."""
    if pixels.numel() == 0:
        raise ValueError(f"The image is empty: shape {tuple(pixels.shape)}.")
    pixels = _channels_first(pixels)
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = (float(value) for value in pixels.aminmax())
    scale = brightness_scale(str(pixels.dtype).removeprefix("torch."), low, high)
    return (pixels.float() * scale).round().clamp(0, 255).to(torch.uint8)


def _channels_first(pixels: Tensor) -> Tensor:
    """(3, H, W) of (H, W), (c, H, W) or (H, W, c) with c of 1, 3 or 4."""
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim == 3 and pixels.shape[0] not in (1, 3, 4) and pixels.shape[2] in (1, 3, 4):
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"An image must be (H, W), (H, W, c) or (c, H, W) with c of 1, 3 or 4, got {tuple(pixels.shape)}."
        )
    return pixels.expand(3, -1, -1) if pixels.shape[0] == 1 else pixels[:3]


def _exact(numbers) -> Tensor:
    """Tensors as they are, others as float64: float32 cannot hold a position to a thousandth of a crop pixel."""
    return numbers if isinstance(numbers, Tensor) else torch.as_tensor(np.asarray(numbers, dtype=np.float64))


def frame_to_crop(boxes_xywh, crop):
    """(..., 4) xywh in frame pixels to xywh in crop pixels. `crop` is (..., 3): left, top, scale."""
    boxes_xywh, crop = _exact(boxes_xywh), _exact(crop)
    return torch.cat([boxes_xywh[..., :2] - crop[..., :2], boxes_xywh[..., 2:]], dim=-1) * crop[..., 2:]


def crop_to_frame(boxes_xywh, crop):
    """(..., 4) xywh in crop pixels to xywh in frame pixels; the exact inverse of [`frame_to_crop`]."""
    boxes_xywh, crop = _exact(boxes_xywh), _exact(crop)
    boxes_xywh = boxes_xywh / crop[..., 2:]
    return torch.cat([boxes_xywh[..., :2] + crop[..., :2], boxes_xywh[..., 2:]], dim=-1)


def crop_image(image: Tensor, left: float, top: float, scale: float, size: int) -> Tensor:
    """Cut a square out of a frame and resample it with an antialiasing triangle filter.

    `image` is (3, H, W) of any number type. Returns (3, size, size) float32 in the same value range, black outside
    the frame. Crop pixel (0, 0) starts at frame position (left, top), and a frame pixel is `scale` crop pixels wide.
    """
    if image.device.type != "cpu":
        return crop_images(image, [(left, top, scale)], size)[0]
    pixels = image if image.dtype == torch.uint8 else image.float()
    return torch.from_numpy(crop_array(pixels.permute(1, 2, 0).numpy(), left, top, scale, size))


def crop_images(image: Tensor, crops: Sequence[Sequence[float]], size: int) -> Tensor:
    """[`crop_image`] for B crops (left, top, scale) of one frame: (B, 3, size, size), on the frame's device.

    On an accelerator they are cut in one go, by matmuls whose shapes depend on nothing but B, `size` and the frame.
    """
    if image.device.type == "cpu":
        return torch.stack([crop_image(image, *crop, size) for crop in crops])
    return _crop_by_matmul(image, crops, size)


def _crop_by_matmul(image: Tensor, crops: Sequence[Sequence[float]], size: int) -> Tensor:
    filters = [[axis_triangles(start, scale, size) for start in (top, left)] for left, top, scale in crops]
    table = [[(c, np.full(size, 1 / s), peak) for c, s, peak in axes] for axes in filters]
    kind = np.float32 if image.device.type == "mps" else np.float64  # MPS has no float64
    table = torch.from_numpy(np.array(table, dtype=kind)).to(image.device)  # (B, 2, 3, size), one small upload
    rows, columns = (_dense(table[:, axis], image.shape[1 + axis]) for axis in (0, 1))
    return rows[:, None] @ (image.float() @ columns[:, None].mT)


def _dense(table: Tensor, length: int) -> Tensor:
    """Centres, 1 / half widths and peaks (B, 3, size) to weights (B, size, length)."""
    centres, narrow, peak = table[..., None].unbind(1)
    pixels = torch.arange(length, device=table.device, dtype=table.dtype) + 0.5
    return ((1 - (centres - pixels).abs() * narrow).clamp_min(0) * peak).float()


def _is_one_box(boxes) -> bool:
    """Whether this is one box, and not a list of boxes, in which None stands for the whole image."""
    if not isinstance(boxes, (list, tuple)):
        return np.ndim(boxes) < 2
    return len(boxes) > 0 and boxes[0] is not None and np.ndim(boxes[0]) == 0


class PJVLTImageProcessorKwargs(ImagesKwargs, total=False):
    """The settings of `PJVLTImageProcessor`, at construction or for one call."""

    template_size: int
    search_size: int
    template_factor: float
    search_factor: float


class PJVLTImageProcessor(BaseImageProcessor):
    """Cuts template and search crops out of frames and normalises them.

    Args:
        template_size, search_size: pixels, sides of the two crops (128 and 256).
        template_factor, search_factor: side of the crop over sqrt(w h) of the box (2 and 4).
        do_rescale, rescale_factor, do_normalize, image_mean, image_std: as in every transformers image processor.
    """

    model_input_names = ["pixel_values", "template_pixel_values"]
    valid_kwargs = PJVLTImageProcessorKwargs
    template_size = 128
    search_size = 256
    template_factor = 2.0
    search_factor = 4.0
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_MEAN
    image_std = IMAGENET_STD

    def __init__(self, **kwargs):
        super().__init__(**{k: v for k, v in kwargs.items() if k not in self.valid_kwargs.__annotations__})
        self._set_attributes(**kwargs)

    def __call__(self, images=None, *args, **kwargs) -> BatchFeature:
        """See [`~PJVLTImageProcessor.preprocess`]; `images` may be left out if only templates are needed."""
        return self.preprocess(images, *args, **kwargs)

    def crop(self, image: Tensor, box_xywh: Sequence[float] | None, factor: float, size: int):
        """One float crop (3, size, size) with values 0 to 255, and its (left, top, scale).

        `image` is (3, H, W) from [`to_rgb`]. Without a box the crop shows the whole image, centred on a square.
        """
        height, width = image.shape[1:]
        if box_xywh is None:
            side = max(height, width)
            geometry = (width / 2 - side / 2, height / 2 - side / 2, size / side)
        else:
            geometry = crop_geometry(check_box(box_xywh, (height, width)), factor, size)
        return crop_image(image, *geometry, size), geometry

    def normalize_crops(self, crops: Tensor, **overrides) -> Tensor:
        """(B, 3, S, S) from 0..255 to network input: times `rescale_factor`, minus mean, over standard deviation."""
        scale, shift = (values.to(crops).view(1, 3, 1, 1) for values in self.normalization(**overrides))
        return (crops * scale).sub_(shift)

    def normalization(self, **overrides) -> tuple[Tensor, Tensor]:
        """(3,) scale and (3,) shift: a normalised pixel is value * scale - shift."""
        settings = {
            name: overrides.get(name, getattr(self, name))
            for name in ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        }
        scale = torch.full((3,), settings["rescale_factor"] if settings["do_rescale"] else 1.0)
        if not settings["do_normalize"]:
            return scale, torch.zeros(3)
        mean, std = (torch.tensor(settings[name], dtype=torch.float32) for name in ("image_mean", "image_std"))
        return scale / std, mean / std

    def preprocess(
        self,
        images=None,
        boxes=None,
        template_images=None,
        template_boxes=None,
        return_crops: bool = False,
        return_tensors: str | TensorType | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Frames and boxes to network input.

        Args:
            images: one frame or a list of B, PIL, NumPy or torch, RGB.
            boxes: one box or B of them, xywh in frame pixels: where the target was last seen. None shows the whole
                image.
            template_images, template_boxes: the first frame or frames and the target's box in them.
            return_crops: also return `crops`, (B, 3) float64: left, top, scale of each search crop. Pop them before
                the rest goes to the model.
            return_tensors: `"pt"` or `"np"`; None gives a list of tensors.

        Returns `pixel_values` (B, 3, search_size, search_size) and `template_pixel_values`
        (B, 3, template_size, template_size). Raises `ValueError` for a bad box (with its row) or image.
        """
        options = {
            name: kwargs.get(name, getattr(self, name))
            for name in PJVLTImageProcessorKwargs.__annotations__
            if hasattr(self, name)
        }
        data: dict = {}
        if images is not None:
            crops, geometry = self._crop_all(images, boxes, options["search_factor"], options["search_size"])
            data["pixel_values"] = self.normalize_crops(crops, **options)
            if return_crops:
                data["crops"] = torch.tensor(geometry, dtype=torch.float64)
        if template_images is not None:
            crops, _ = self._crop_all(
                template_images, template_boxes, options["template_factor"], options["template_size"]
            )
            data["template_pixel_values"] = self.normalize_crops(crops, **options)
        if not data:
            raise ValueError("Pass `images`, `template_images` or both.")
        if return_tensors is None:
            data = {name: list(value) for name, value in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def _crop_all(self, images, boxes, factor: float, size: int) -> tuple[Tensor, list[tuple[float, float, float]]]:
        frames = list(images) if isinstance(images, (list, tuple)) else [images]
        if len(frames) == 1 and getattr(frames[0], "ndim", 0) == 4:
            frames = list(frames[0])
        elif frames and isinstance(frames[0], (list, tuple)):
            frames = make_flat_list_of_images(images)
        if boxes is None:
            boxes = [None] * len(frames)
        elif _is_one_box(boxes):
            boxes = [boxes]
        if len(boxes) != len(frames):
            raise ValueError(f"Got {len(frames)} images but {len(boxes)} boxes.")
        crops, geometry = [], []
        for row, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
            try:
                crop, place = self.crop(to_rgb(frame), box, factor, size)
            except ValueError as error:
                raise ValueError(f"Image {row}: {error}") from error
            crops.append(crop)
            geometry.append(place)
        return torch.stack(crops), geometry


def hidden_template(images: PJVLTImageProcessor) -> Tensor:
    """A blank template, (3, S, S) uint8, in the mean colour, which is nearly zero after normalisation."""
    mean = torch.tensor(images.image_mean, dtype=torch.float32) * 255
    return mean.round().to(torch.uint8).view(3, 1, 1).expand(3, images.template_size, images.template_size)


__all__ = [
    "PJVLTImageProcessor",
    "check_box",
    "clip_box",
    "crop_geometry",
    "crop_image",
    "crop_images",
    "crop_to_frame",
    "frame_to_crop",
    "hidden_template",
    "to_rgb",
]
