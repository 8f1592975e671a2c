"""Frames in: video files, folders of images, cameras, addresses, plain iterables of frames.

Every frame that this file decodes is an RGB uint8 array of shape (height, width, 3), upright as a player shows it.
Videos and live sources go through PyAV (`pip install av`); folders and iterables need Pillow and NumPy only.
"""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from urllib.request import url2pathname

import numpy as np
from PIL import Image

from .pixels_pjvlt import rgb_array, upright_image
from .streams_pjvlt import (
    ANY_ADDRESS,
    DEFAULT_FPS,
    SCHEMES,
    TIMEOUT,
    Clock,
    FrameReader,
    TimedFrame,
    camera_index,
    ffmpeg_name,
    is_address,
    main_video,
    open_address,
    open_camera,
    public_name,
    told_fps,
    upright,
)

try:
    import av
except ImportError:
    av = None


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_DECIMAL = re.compile(r"(\d+)\.(\d+)(?:\.[A-Za-z]\w*)?")  # a number with a point, and the suffix of a file
MEASURED_FRAMES = 200  # frames whose times give the frame rate of a file without a frame count
MAX_DECODING_THREADS = 16  # FFmpeg advises against more; each holds a frame


def read_frames(source: int | str | os.PathLike | Iterable | FrameReader, timeout: float = TIMEOUT) -> FrameReader:
    """Open a source of frames.

    Args:
        source: path of a video file; path of a folder of images, read in natural order (2.jpg before 10.jpg); index
            of a camera, 0 the first, or path of its device (/dev/video0, or a link to it); address of a stream (rtsp,
            rtsps, rtmp, rtmps, http, https, udp, tcp) or of a file (file://); frames that can be iterated over or
            indexed (a list, a generator, a torchcodec or decord decoder), which are returned unchanged; paths of
            images, which are read in the given order; or a `FrameReader`, which is returned.
        timeout: seconds without a frame after which a camera or a stream counts as stalled, above 0.

    Returns:
        A `FrameReader`. From a path, a camera or an address, its frames are RGB uint8 arrays of shape (height, width,
        3), turned upright where the source carries a rotation. A live source gives its newest frame and drops what
        came before it; a recording gives every frame.

    Raises:
        FileNotFoundError: nothing is at the path.
        OSError: the camera or the stream cannot be opened. While iterating: it stalls or breaks off.
        ValueError: the folder holds no images, the file or stream is no readable video, or the source is a single
            frame. While iterating: an image cannot be decoded, the video breaks off with an error, or the frames of
            a live source change in size. (A video that just ends before the frames it announces gives a warning.)
        TypeError: the source is none of these.
        ImportError: PyAV is needed and not installed.
    """
    if isinstance(source, FrameReader):
        return source
    if isinstance(source, int) and not isinstance(source, bool):
        return open_camera(source, timeout)
    if is_address(source):
        return open_address(source, timeout)
    if isinstance(source, str | os.PathLike):
        path = Path(local_path(source)).expanduser()
        if not path.exists():
            if re.match(ANY_ADDRESS, os.fspath(source)):
                raise ValueError(f"{public_name(source)}: addresses begin with {'://, '.join(SCHEMES)}:// or file://")
            raise FileNotFoundError(f"{path}: no such video file or folder of images")
        if path.is_dir():
            return _open_folder(path)
        index = camera_index(path)
        return _open_video(path) if index is None else open_camera(index, timeout)
    return _open_iterable(source)


def refuse_outputs_over(source, *outputs: str | os.PathLike) -> None:
    """Raises `ValueError` for an output that would replace a source of frames, or become one of its images.

    Args:
        source: a source as `read_frames` takes it; only a file or a folder can be hit.
        outputs: paths of files to be written.
    """
    if not isinstance(source, str | os.PathLike) or not os.path.exists(source := Path(source).expanduser()):
        return
    for output in (Path(path).expanduser() for path in outputs):
        if output.exists() and output.samefile(source):
            raise ValueError(f"{output} is the video to read; write the results elsewhere")
        is_image = output.suffix.lower() in IMAGE_SUFFIXES
        if source.is_dir() and is_image and output.parent.exists() and output.parent.samefile(source):
            raise ValueError(f"{output} would be an image of {source}, the video to read; write the results elsewhere")


def local_path(source: str | os.PathLike) -> str | os.PathLike:
    """The path that a `file://` address names; anything else as it is.

    Raises `ValueError` for an empty one, and for a file of another machine.
    """
    if not os.fspath(source):
        raise ValueError("the path of the video is empty")
    if not (isinstance(source, str) and source.lower().startswith("file://")):
        return source
    host, slash, path = source[len("file://") :].partition("/")
    if host not in ("", "localhost"):
        raise ValueError(f"{source}: a file of another machine; three slashes begin a path of this one (file:///...)")
    return url2pathname(slash + path)


def _open_iterable(frames) -> FrameReader:
    if isinstance(frames, bytes | bytearray | memoryview) or hasattr(frames, "read"):
        what = "the bytes of a file" if not hasattr(frames, "read") else f"an open file ({type(frames).__name__})"
        raise TypeError(
            f"expected a path, a camera index, an address or frames, got {what}: save it and give its path"
        )
    if isinstance(frames, Image.Image):
        raise ValueError(f"expected many frames, got one image of {frames.width} x {frames.height}; put it in a list")
    num_frames, is_indexed = _length(frames), hasattr(type(frames), "__getitem__")
    is_iterable = isinstance(frames, Iterable) and not isinstance(frames, Mapping)
    if not is_iterable and (num_frames is None or not is_indexed or isinstance(frames, Mapping)):
        raise TypeError(
            f"expected a path, a camera index, an address or an iterable of frames, got {type(frames).__name__}"
        )
    if getattr(frames, "ndim", 4) < 4:
        raise ValueError(f"expected many frames, got a single array of shape {tuple(frames.shape)}; put it in a list")
    if is_iterable:
        # Only an iterable with a length counts as repeatable; others may be used up after one pass.
        return FrameReader(
            lambda: map(_read_if_path, frames),
            num_frames=num_frames,
            is_repeatable=num_frames is not None,
            open_from=lambda start: map(_read_if_path, islice(frames, start, None)),
        )

    # Decoders (torchcodec, decord) and map-style datasets can be indexed, and that is all.
    def open_from(start: int) -> Iterator:
        return (_decoded(frames[i]) for i in range(start, num_frames))

    return FrameReader(lambda: open_from(0), _decoder_fps(frames), num_frames, open_from=open_from)


def _length(frames) -> int | None:
    """The number of frames, or None if unknown.

    `len` raises `TypeError` for a wrapper (tqdm, torch's DataLoader) of something without a length, and
    `NotImplementedError` for imageio's readers of formats whose length their plugin does not know.
    """
    try:
        return len(frames)
    except (TypeError, NotImplementedError):
        return None


def _decoded(frame):
    """A frame of a decoder: decord wraps its arrays, other decoders return arrays that sessions take."""
    return frame.asnumpy() if hasattr(frame, "asnumpy") else frame


def _decoder_fps(decoder) -> float:
    """Frames per second of a torchcodec (`metadata.average_fps`) or decord (`get_avg_fps()`) decoder."""
    if hasattr(decoder, "get_avg_fps"):
        return float(decoder.get_avg_fps()) or DEFAULT_FPS
    return float(getattr(getattr(decoder, "metadata", None), "average_fps", None) or DEFAULT_FPS)


def _read_if_path(frame):
    """A frame as it is, or the image at a path."""
    if not isinstance(frame, str | os.PathLike):
        return frame
    path = Path(local_path(frame)).expanduser()
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(
            f"{path}: a list is one video, and its items are frames or paths of images "
            f"({', '.join(sorted(IMAGE_SUFFIXES))}); give one video file as it is"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such image")
    return _read_picture(path)


def _open_folder(folder: Path) -> FrameReader:
    # Files whose names begin with a dot ("._1.jpg" of macOS) hold metadata, not images.
    names = [name for name in os.listdir(folder) if Path(name).suffix.lower() in IMAGE_SUFFIXES and name[0] != "."]
    if not names:
        raise ValueError(f"{folder}: no images in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    paths = [folder / name for name in sort_frames(names)]
    return FrameReader(
        lambda: map(_read_picture, paths),
        num_frames=len(paths),
        open_from=lambda start: map(_read_picture, paths[start:]),
    )


def natural_key(name: str) -> tuple[list, str]:
    """Sort key for names: a-2 comes before a-10, and case is ignored."""
    # Splitting on digits alternates text and number, so that two keys never compare a text with a number.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())], name


def sort_frames(names: Iterable[str]) -> list[str]:
    """File names of one video's frames in the order of the frames.

    The order is the natural one of the whole names, so that 0001_cam1 comes before 0002_cam0. Where all are numbers
    with a point and their decimals lost their final zeros, as Python writes a time (10.25, 10.5), they are sorted as
    numbers.

    >>> sort_frames(["10.jpg", "9.jpg"]), sort_frames(["10.5.jpg", "10.125.jpg", "10.04.jpg"])
    (['9.jpg', '10.jpg'], ['10.04.jpg', '10.125.jpg', '10.5.jpg'])
    """
    names = list(names)
    found = [_DECIMAL.fullmatch(name) for name in names]
    if all(found) and _are_decimals([match[2] for match in found]):
        return sorted(names, key=lambda name: (int((match := _DECIMAL.fullmatch(name))[1]), match[2], name))
    return sorted(names, key=natural_key)


def _are_decimals(fractions: list[str]) -> bool:
    """Whether the digits after a point are decimals, not a counter: a counter that reaches 10 has a final zero."""
    lengths = set(map(len, fractions))
    no_final_zero = not any(len(f) > 1 and f.endswith("0") for f in fractions)
    leading_zero = any(len(f) > 1 and f.startswith("0") for f in fractions)
    return len(lengths) > 1 and no_final_zero and (leading_zero or max(lengths) > 4)


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return rgb_array(upright_image(image))
    # Pillow reports a broken file by any of these, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded as an image ({error})") from error


def _open_video(path: Path) -> FrameReader:
    _require_av()
    if not path.is_file():
        # FFmpeg could wait or read without end, and frames are read twice, which a pipe does not allow.
        what = "a pipe or a socket" if path.is_fifo() or path.is_socket() else "a device"
        raise ValueError(
            f"{path}: this is {what}, not a video file; save the video to a file, or stream it to an address"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    with _open_container(path) as container:
        stream = _video_stream(container, path)
        num_frames = stream.frames or None
        # A file with a frame count has a reliable rate; otherwise it is only the file's claim or a guess of FFmpeg.
        fps = float(stream.average_rate or DEFAULT_FPS) if num_frames else _measured_fps(container, stream)
    return FrameReader(
        lambda: _decode(path, fps), fps=fps, num_frames=num_frames, open_from=lambda start: _decode(path, fps, start)
    )


def _measured_fps(container, stream) -> float:
    """The stream's frame rate, or that of its first frames' times if they differ. Advances the container."""
    try:
        times = [packet.pts for packet in islice(container.demux(stream), MEASURED_FRAMES) if packet.pts is not None]
    except av.error.FFmpegError:  # reported when the frames are decoded
        times = []
    if len(times) < 2 or max(times) == min(times):
        return told_fps(stream)
    measured = (len(times) - 1) / float((max(times) - min(times)) * stream.time_base)
    average = float(stream.average_rate or 0)
    return average if abs(average / measured - 1) < 0.1 else measured  # the stream knows 29.97 exactly


def available_cores() -> int:
    """Processor cores that this process may run on, which may be fewer than the machine has (`taskset`, cpusets)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode(path: Path, fps: float, start: int = 0) -> Iterator[TimedFrame]:
    """Frames from number `start` on; earlier ones are decoded, but not converted to arrays."""
    num_decoded, clock = 0, Clock(fps)
    with _open_container(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = "AUTO"
        # Leave the other cores to the network.
        stream.codec_context.thread_count = min(max(1, available_cores() // 2), MAX_DECODING_THREADS)
        try:
            for frame in container.decode(stream):
                if num_decoded < start:
                    clock.stamp(None, frame.time)
                else:
                    yield clock.stamp(upright(frame), frame.time)
                num_decoded += 1
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{path}: the video breaks off after {num_decoded} frames and cannot be decoded further "
                f"({error.strerror})"
            ) from error
        num_announced = stream.frames
    if num_decoded == 0:
        raise ValueError(f"{path}: no frame of this video can be decoded; the file may be cut off")
    # Not an error: editing programs cut a video by a list of what to show, and leave the rest in the file.
    if num_decoded < num_announced:
        warnings.warn(
            f"{path}: {num_decoded} of {num_announced} frames could be read; the file may be cut off", stacklevel=2
        )


def _open_container(path: Path):
    try:
        return av.open(ffmpeg_name(path))
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a video that can be read ({error.strerror})") from error


def _video_stream(container, path: Path):
    if not container.streams.video:
        raise ValueError(f"{path}: no video in this file")
    return main_video(container)


def _require_av() -> None:
    if av is None:
        raise ImportError("video files are read and written with PyAV: pip install av")
