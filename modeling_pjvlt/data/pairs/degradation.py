"""What cameras, links and weather do to a search crop: blur, low resolution, compression, light, colour and noise."""

import io

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor


def degrade(rng: np.random.Generator, crop: Tensor) -> Tensor:
    """A worse version of a crop (3, S, S) uint8: with less detail, and in other light."""
    image = Image.fromarray(crop.permute(1, 2, 0).numpy())
    loss = LOSSES[int(rng.integers(len(LOSSES)))]
    pixels = np.asarray(_light(rng, loss(rng, image)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def _light(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Another gamma, contrast and colour cast; one image in ten becomes grey."""
    levels = (np.arange(256) / 255) ** np.exp(rng.uniform(-0.4, 0.4))
    levels = (levels - levels.mean()) * np.exp(rng.uniform(-0.4, 0.2)) + levels.mean()
    table = np.clip(255 * levels * np.exp(rng.uniform(-0.15, 0.15, (3, 1))), 0, 255).astype(np.uint8)
    image = image.point(table.ravel().tolist())
    return image.convert("L").convert("RGB") if rng.random() < 0.1 else image


def _blur(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Out of focus, or blurred along one axis as by motion."""
    radii = rng.uniform(0, 3.5, 2)
    radii[int(rng.integers(2))] *= rng.random() < 0.5
    return image.filter(ImageFilter.BoxBlur(tuple(radii.tolist())))


def _shrink(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """The detail of fewer pixels, as in the crop of a small target."""
    small = max(round(image.width * rng.uniform(0.2, 0.7)), 8)
    return image.resize((small, small), Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


def _compress(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    memory = io.BytesIO()
    image.save(memory, "JPEG", quality=int(rng.integers(10, 60)))
    return Image.open(memory)


def _noise(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32) * rng.uniform(3, 14)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


LOSSES = (_blur, _shrink, _compress, _noise)

__all__ = ["degrade"]
