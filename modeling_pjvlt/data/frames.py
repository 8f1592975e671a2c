"""Frames of a sequence, decoded on demand: images in the rows of a table, or one video file.

Both have a method `open(index)` that returns a PIL image, which may not be decoded yet, or an RGB array.
"""

import io
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from datasets import Dataset
from PIL import Image
from transformers.utils import logging

from ..pixels_pjvlt import ORIENTATION, rgb_image, upright_image
from ..streams_pjvlt import ffmpeg_name, main_video, upright

logger = logging.get_logger(__name__)

# May hold the orientation. Reading it takes a while, so it is not read from a JPEG with neither.
JPEG_METADATA = ("exif", "xmp")
# What Pillow raises for a broken image, depending on the format.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
MAX_ADVANCE = 64  # frames of a video that are decoded and dropped rather than skipped by seeking


class Frames(Protocol):
    """Frames of one sequence."""

    def open(self, index: int) -> Image.Image | np.ndarray:
        """Frame `index`, upright. Raises one of `DECODING_ERRORS` for one that cannot be read."""

    def only(self, index: int) -> "Frames":
        """An object that holds at least frame `index`, under the same number."""


def read_encoded(encoded: Mapping) -> bytes:
    """Bytes of an image or video as `datasets` keeps it: a dict of `bytes` and `path`, which is a file or a URL."""
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    path = encoded["path"]
    if "://" in path:  # in a streamed repository or an archive
        import fsspec

        with fsspec.open(path, "rb") as file:
            return file.read()
    return Path(path).read_bytes()


def open_image(encoded: Mapping) -> Image.Image:
    """The image, upright; a JPEG is decoded only when its pixels are needed."""
    image = Image.open(io.BytesIO(read_encoded(encoded)))
    has_metadata = image.format != "JPEG" or not image.info.keys().isdisjoint(JPEG_METADATA)
    if has_metadata and image.getexif().get(ORIENTATION, 1) != 1:
        return upright_image(image)
    return image


def decode(image: Image.Image | np.ndarray, reduction: int = 1) -> tuple[Image.Image | np.ndarray, int]:
    """The image, decoded to RGB, and the factor it was reduced by: a JPEG by `reduction` (2, 4 or 8), others by 1.

    Raises one of `DECODING_ERRORS`.
    """
    if isinstance(image, np.ndarray):
        return image, 1
    if image.format != "JPEG" or min(image.size) < reduction:
        reduction = 1
    if reduction > 1:
        image.draft(None, (image.width // reduction, image.height // reduction))
    image.load()
    return rgb_image(image), reduction


class EncodedImages:
    """Rows of the column `image`, read from the Arrow file directly, which is faster than through `datasets`.

    Args:
        rows: the table, with encoded images. The rows of a selection from a larger table are read by `datasets`.
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
        """Leaves out the column, which would be copied whole; the copy reads it again from the table's file."""
        return {**self.__dict__, "_column": None}


class ImageRows:
    """Frames that are consecutive rows of a table with a column `image`.

    Args:
        rows: items are `{"image": {"bytes": …, "path": …}}`.
        numbers: the row that holds the image of each frame.
    """

    def __init__(self, rows, numbers: np.ndarray | Mapping[int, int]):
        self.rows, self.numbers = rows, numbers

    def open(self, index: int) -> Image.Image:
        return open_image(self.rows[int(self.numbers[index])]["image"])

    def only(self, index: int) -> "ImageRows":
        return ImageRows([self.rows[int(self.numbers[index])]], {index: 0})


@dataclass(frozen=True)
class _PacketIndex:
    """What the packets of a video say about its frames.

    times: presentation times, ascending. keys: those of the key frames. places: of each packet in the file, by time.
    """

    times: list[int]
    keys: list[int]
    places: dict[int, int]


class _NotAsIndexed(Exception):
    """The decoder returned another frame than the packets announced."""


class VideoFrames:
    """Frames of one video in any order; the same frames as `read_frames` gives.

    Seeks to the key frame before a frame, or continues from the last one. Not every file allows seeking: frame times
    or key frames can be missing, and packets can show nothing. This is detected, and such a video is decoded from its
    start.

    Args:
        source: path or bytes of the video.
        num_boxes: number of annotated frames. If the video has another number of frames, reading a frame raises
            `ValueError`.
    """

    def __init__(self, source: str | Path | bytes, num_boxes: int):
        self.source, self.num_boxes = source, num_boxes
        self._index: _PacketIndex | None = None  # None where the video is decoded from its start
        self._num_frames: int | None = None
        self._next, self._decoder = 0, None  # `_next`: number of the frame that the decoder returns next

    def open(self, index: int) -> np.ndarray:
        if self._num_frames is None:
            self._index = self._read_index()
            self._num_frames = self._count() if self._index is None else self.num_boxes
        if self._num_frames != self.num_boxes:
            raise ValueError(f"the video has {self._num_frames} frames, but there are {self.num_boxes} boxes")
        if self._index is None:
            logger.warning_once(
                "A video file does not list its frames well enough to jump to one, so it is decoded from its first "
                "frame on, which is slow. MP4 with H.264 is faster."
            )
        try:
            return self._decode(index)
        except _NotAsIndexed:
            self._index, self._decoder = None, None
            self._num_frames = self._count()
            return self.open(index)

    def only(self, index: int) -> "VideoFrames":
        return self

    def _container(self):
        if isinstance(self.source, bytes):
            return av.open(io.BytesIO(self.source))
        return av.open(self.source if "://" in str(self.source) else ffmpeg_name(self.source))

    def _decode(self, index: int) -> np.ndarray:
        reach = self._next + MAX_ADVANCE if self._index else self.num_boxes
        if self._decoder is None or not self._next <= index < reach:
            self._next = index if self._index else 0
            self._decoder = self._frames_from(self._next)
        for frame in self._decoder:
            self._next += 1
            if self._next > index:
                return upright(frame)
        self._decoder = None
        raise ValueError(f"the video ends at frame {self._next}")

    def _read_index(self) -> _PacketIndex | None:
        """Reads the packets, which is much faster than decoding. None if they do not identify the frames."""
        with self._container() as container:
            packets = [
                (packet.pts, packet.is_keyframe)
                for packet in container.demux(_video_stream(container))
                if packet.size and not packet.is_discard  # the last one is empty; an edit list discards some
            ]
        places = {time: place for place, (time, _) in enumerate(packets)}
        keys = sorted(time for time, is_key in packets if is_key and time is not None)
        if (
            None in places
            or not keys
            or len(places) != len(packets)
            or min(places) != packets[0][0]
            or not packets[0][1]
        ):
            return None
        times = sorted(places)
        return _PacketIndex(times, keys, places) if len(times) == self.num_boxes else None

    def _count(self) -> int:
        return sum(1 for _ in self._frames_from(0))

    def _frames_from(self, first: int) -> Iterator[av.VideoFrame]:
        """Frames from number `first` on. Raises `_NotAsIndexed`."""
        if self._index is None:
            with self._container() as container:
                yield from container.decode(_video_stream(container))
            return
        place = bisect_right(self._index.keys, self._index.times[first]) - 1
        back = 0
        while True:
            frames = self._frames_from_key(place, max(place - back, 0))
            try:
                frame = next(islice(frames, first - bisect_left(self._index.times, self._index.keys[place]), None))
                break
            except (_NotAsIndexed, StopIteration) as error:
                if back >= place:
                    raise _NotAsIndexed from error
                back = 2 * back + 1  # the container sought too far, or its index is wrong there
        yield frame
        yield from frames

    def _frames_from_key(self, place: int, sought: int) -> Iterator[av.VideoFrame]:
        """Frames from a key frame on, found by seeking to the same or an earlier one; 0 is the start of the file."""
        times, key = self._index.times, self._index.keys[place]
        number = bisect_left(times, key)
        with self._container() as container:
            stream = _video_stream(container)
            if sought:
                container.seek(self._index.keys[sought], stream=stream)
            for packet in self._packets_from(key, container.demux(stream)):
                for frame in packet.decode():
                    if frame.pts is not None and frame.pts < key:  # refers to frames before the key frame
                        continue
                    if number == len(times) or frame.pts != times[number]:
                        raise _NotAsIndexed
                    yield frame
                    number += 1
        if number < len(times):
            raise _NotAsIndexed

    def _packets_from(self, key: int, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """The packets from the one that is shown at the time `key` on.

        Raises `_NotAsIndexed` if a later packet comes before it.
        """
        places = self._index.places
        for packet in packets:
            if packet.pts == key:
                yield packet
                yield from packets
                return
            if places.get(packet.pts, -1) > places[key]:
                break
        raise _NotAsIndexed

    def __getstate__(self) -> dict:
        """Leaves out the open file; a copy in another process opens its own."""
        return {**self.__dict__, "_decoder": None}


def _video_stream(container):
    if not container.streams.video:
        raise ValueError("there is no video in this file")
    return main_video(container)
