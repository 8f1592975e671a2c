"""Frames of a sequence, decoded only when they are asked for: pictures in a table's rows, or one video file.

Whatever keeps frames has one method, `open(index)`: a PIL image that may not have been decoded yet, or an RGB array.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from datasets import Dataset
from PIL import Image, ImageOps

from ..live_pjvlt import ffmpeg_name
from ..video_pjvlt import upright

ORIENTATION = 0x0112  # the EXIF tag
JPEG_METADATA = ("exif", "xmp")  # what may hold it; a JPEG with neither need not be asked, which takes a while
# What Pillow raises for a broken picture, depending on the format.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
MAX_ADVANCE = 64  # frames of a video that are decoded on the way rather than sought


class Frames(Protocol):
    """Frames of one sequence."""

    def open(self, index: int) -> Image.Image | np.ndarray:
        """Frame `index`, upright. Raises one of `DECODING_ERRORS` for one that cannot be read."""

    def only(self, index: int) -> "Frames":
        """The least that still has frame `index`, under the same number."""


def read_encoded(encoded: Mapping) -> bytes:
    """Bytes of a picture or video as `datasets` keeps it: `{"bytes": …, "path": …}`, the path a file or an address."""
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    path = encoded["path"]
    if "://" in path:  # of a streamed repository, or inside an archive
        import fsspec

        with fsspec.open(path, "rb") as file:
            return file.read()
    return Path(path).read_bytes()


def open_picture(encoded: Mapping) -> Image.Image:
    """The picture, upright; a JPEG is decoded only when its pixels are asked for."""
    picture = Image.open(io.BytesIO(read_encoded(encoded)))
    told = picture.format != "JPEG" or not picture.info.keys().isdisjoint(JPEG_METADATA)
    if told and picture.getexif().get(ORIENTATION, 1) != 1:
        return ImageOps.exif_transpose(picture)
    return picture


def decode(picture: Image.Image | np.ndarray, reduction: int = 1) -> tuple[Image.Image | np.ndarray, int]:
    """The picture, decoded, and by how much it was reduced: a JPEG by 2, 4 or 8 if told so, others never.

    Raises one of `DECODING_ERRORS`.
    """
    if isinstance(picture, np.ndarray):
        return picture, 1
    if picture.format != "JPEG" or min(picture.size) < reduction:
        reduction = 1
    if reduction > 1:
        picture.draft(None, (picture.width // reduction, picture.height // reduction))
    picture.load()
    return picture, reduction


class EncodedPictures:
    """Rows of a table's column `image`, read from its Arrow file without what `datasets` does for a row.

    Args:
        rows: the table, with encoded pictures. Where it is a choice of a larger one, `datasets` finds its rows.
    """

    def __init__(self, rows: Dataset):
        self.rows = rows
        self._column = None

    def __getitem__(self, row: int) -> dict:
        """`{"image": {"bytes": …, "path": …}}`."""
        if self.rows._indices is not None:
            return self.rows[row]
        if self._column is None:
            self._column = self.rows.with_format("arrow")[:]["image"]
        return {"image": self._column[row].as_py()}

    def __getstate__(self) -> dict:
        """Without the column, which would be copied whole; a table knows its file."""
        return {**self.__dict__, "_column": None}


class PictureRows:
    """Frames that are consecutive rows of a table with a column `image`.

    Args:
        rows: items are `{"image": {"bytes": …, "path": …}}`.
        numbers: the row that holds the picture of each frame.
    """

    def __init__(self, rows, numbers: np.ndarray | Mapping[int, int]):
        self.rows, self.numbers = rows, numbers

    def open(self, index: int) -> Image.Image:
        return open_picture(self.rows[int(self.numbers[index])]["image"])

    def only(self, index: int) -> "PictureRows":
        return PictureRows([self.rows[int(self.numbers[index])]], {index: 0})


class VideoFrames:
    """Frames of one video in any order: seeks to the key frame before a frame, or decodes on from the last one.

    Args:
        source: path or bytes of the video.
        num_boxes: how many frames the annotation speaks of. Another number of frames is a `ValueError` at the first
            frame that is asked for.
    """

    def __init__(self, source: str | Path | bytes, num_boxes: int):
        self.source, self.num_boxes = source, num_boxes
        self._times: np.ndarray | None = None  # presentation times, ascending
        self._next, self._decoder = 0, None  # the frame that the decoder gives next

    def open(self, index: int) -> np.ndarray:
        if self._times is None:
            self._times = self._read_times()
        if self._decoder is None or not self._next <= index < self._next + MAX_ADVANCE:
            self._next, self._decoder = index, self._decode_from(index)
        for frame in self._decoder:
            self._next += 1
            if self._next > index:
                return upright(frame)
        self._decoder = None
        raise ValueError(f"the video ends at frame {self._next}")

    def only(self, index: int) -> "VideoFrames":
        return self

    def _container(self):
        if isinstance(self.source, bytes):
            return av.open(io.BytesIO(self.source))
        return av.open(self.source if "://" in str(self.source) else ffmpeg_name(self.source))

    def _read_times(self) -> np.ndarray:
        """Reads the packets, which is much faster than decoding them."""
        with self._container() as container:
            if not container.streams.video:
                raise ValueError("there is no video in this file")
            times = [packet.pts for packet in container.demux(container.streams.video[0]) if packet.pts is not None]
        if len(times) != self.num_boxes:
            raise ValueError(f"the video has {len(times)} frames, but there are {self.num_boxes} boxes")
        return np.sort(times)

    def _decode_from(self, index: int):
        """Frames from `index` on."""
        with self._container() as container:
            stream = container.streams.video[0]
            first = int(self._times[index])
            container.seek(first, stream=stream)
            for frame in container.decode(stream):
                if frame.pts >= first:
                    yield frame

    def __getstate__(self) -> dict:
        """Without the open file: a copy in another process opens its own."""
        return {**self.__dict__, "_decoder": None}
