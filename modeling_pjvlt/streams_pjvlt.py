"""Frames from cameras and network addresses as they come, and frames of files decoded ahead in a thread.

A live source is decoded in a thread of its own that keeps the newest frame only: a slow consumer skips frames instead
of falling behind. A recording, in a file or at an address, keeps every frame.
"""

import errno
import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

try:
    import av
    from av.format import Flags as FormatFlags
    from av.sidedata.sidedata import Type as SideData
    from av.stream import Disposition
except ImportError:
    av = None


DEFAULT_FPS = 30.0
TIMEOUT = 10.0  # seconds without a frame after which a source counts as stalled
CLOCK_RATE = 1000  # from this many "frames" per second on, the rate is that of a clock
AHEAD = 8  # frames that are decoded in advance
SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp")
ADDRESS = re.compile(rf"({'|'.join(SCHEMES)})://", re.IGNORECASE)
ANY_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]*", re.IGNORECASE)  # in a text, of any scheme
SECRET_VALUE = re.compile(r"([?&;][^=&;#]*(?:pass|pw|token|secret|key|auth|sig)[^=&;#]*=)[^&;#]*", re.IGNORECASE)

# Little analysis before the first frame; RTSP over TCP where the camera can, because lost packets tear images.
ADDRESS_OPTIONS = {"analyzeduration": "1000000"}
RTSP_OPTIONS = {"rtsp_flags": "prefer_tcp"}
PLAYLISTS = {"hls", "dash"}  # whose own length says nothing about that of the video


@dataclass
class Tally:
    """Counts of a source so far; read them through `FrameReader`."""

    dropped: int = 0


@dataclass(frozen=True)
class TimedFrame:
    """A frame with its number and time in the source.

    image: as the source gives it. number: from 0; dropped frames also count. time: seconds since the source's first
    frame.
    """

    image: Any
    number: int
    time: float


class Clock:
    """Gives each frame of one source its number and time; the times always increase.

    Args:
        fps: frames per second, for frames without a time.
        max_gap: a longer gap between two frames, in seconds, counts as a jump of the clock, as cameras have them.
        by_arrival: use the time of arrival, because the times of the source are unreliable.
    """

    def __init__(self, fps: float, max_gap: float = math.inf, by_arrival: bool = False):
        self.step, self.max_gap, self.by_arrival = 1 / fps, max_gap, by_arrival
        self._number, self._last, self._start = 0, -self.step, None

    def stamp(self, image, presentation_time: float | None) -> TimedFrame:
        """The next frame. presentation_time: in seconds, None where the source gives none."""
        source_time = time.monotonic() if self.by_arrival else presentation_time
        if self._start is None and source_time is not None:
            self._start = source_time - (self._last + self.step)
        now = self._last + self.step if source_time is None else source_time - self._start
        if source_time is not None and not self._last < now < self._last + self.max_gap:
            now = self._last + self.step
            self._start = source_time - now
        self._last, number, self._number = now, self._number, self._number + 1
        return TimedFrame(image, number, now)


@dataclass(frozen=True)
class FrameReader:
    """Frames of one source, in order; made by `read_frames`.

    Iterating gives images, `timed` gives them with their numbers and times, `first` a shorter video.

    Iterating a file or a folder again starts again from its first frame; a camera or an address is opened again.

    Attributes:
        open_frames: returns a fresh iterator over the frames: each a `TimedFrame`, or an image where they are evenly
            spaced in time.
        fps: frames per second of the source; 30 if unknown.
        num_frames: how many frames the source says it has, for a progress bar; None if unknown.
        is_live: whether frames are dropped when the consumer is too slow.
        is_repeatable: whether iterating again gives the same frames again.
        num_dropped: how many frames were dropped so far.
        open_from: like `open_frames`, from a frame number on, if that is cheaper than reading all earlier frames.
    """

    open_frames: Callable[[], Iterator]
    fps: float = DEFAULT_FPS
    num_frames: int | None = None
    is_live: bool = False
    is_repeatable: bool = True
    tally: Tally = field(default_factory=Tally, repr=False, compare=False)
    open_from: Callable[[int], Iterator] | None = None

    def __iter__(self) -> Iterator:
        for frame in self.timed():
            yield frame.image

    def timed(self, start: int = 0, stop: int | None = None) -> Iterator[TimedFrame]:
        """The frames with their numbers and times, from place `start` on up to the one before `stop`."""
        if start and self.open_from is not None:
            frames = islice(self.open_from(start), None if stop is None else stop - start)
        else:
            frames = islice(self.open_frames(), start, stop)
        for number, frame in enumerate(frames, start):
            yield frame if isinstance(frame, TimedFrame) else TimedFrame(frame, number, number / self.fps)

    def first(self, max_frames: int | None) -> "FrameReader":
        """The first frames of this source, no more than `max_frames`; all of them for None.

        Raises `ValueError` below 1.
        """
        if max_frames is None:
            return self
        if max_frames < 1:
            raise ValueError(f"`max_frames` must be 1 or more, got {max_frames}.")
        total = max_frames if self.num_frames is None else min(max_frames, self.num_frames)
        shorter = {"open_frames": lambda: islice(self.open_frames(), max_frames), "num_frames": total}
        if self.open_from is not None:
            shorter["open_from"] = lambda start: islice(self.open_from(start), max(max_frames - start, 0))
        return replace(self, **shorter)

    @property
    def num_dropped(self) -> int:
        return self.tally.dropped


def read_ahead(reader: FrameReader, size: int = AHEAD) -> FrameReader:
    """The same frames in the same order, decoded in a thread while the consumer works.

    The thread starts with the first frame asked for, and ends with the last one or when the consumer stops: by
    `break`, by an exception, or because the iterator is collected. An error is raised in the place of its frame.

    Args:
        reader: a file, a folder or any other source. A live one decodes in a thread already and is returned as it is.
        size: how many frames may wait, at least 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if reader.is_live:
        return reader
    return replace(reader, open_frames=lambda: _handed_over(reader.open_frames, Handoff(size)))


def is_address(source) -> bool:
    """Whether `source` is the address of a stream, of one of `SCHEMES`."""
    return isinstance(source, str) and ADDRESS.match(source) is not None


def ffmpeg_name(path: str | os.PathLike) -> str:
    """The absolute path, because FFmpeg takes text before a colon as a protocol, unless a slash comes first."""
    return os.path.abspath(path)


def public_name(source: int | str | os.PathLike) -> str:
    """The name of a source in messages and result files: an address without user, password and tokens."""
    return f"camera {source}" if isinstance(source, int) else hide_secrets(os.fspath(source))


def hide_secrets(text: str) -> str:
    """The text, its addresses without user and password, and with *** for passwords and tokens of a query."""
    return ANY_ADDRESS.sub(lambda found: _without_login(found[0]), text)


def _without_login(address: str) -> str:
    scheme, rest = address.split("://", 1)
    host = re.split(r"[/?#]", rest)[0]
    if "@" in host or re.search(r":(?!\d*$)(?![^\[]*\])", host):
        # A password may hold any of / ? # and @, escaped or not: everything up to the last @ may belong to it.
        before_query = re.split(r"[?#]", rest)[0]
        kept = (before_query if "@" in before_query else rest).rpartition("@")[2]
        rest = kept + (rest[len(before_query) :] if "@" in before_query else "") if "@" in rest else "***"
    return scheme + "://" + SECRET_VALUE.sub(r"\1***", rest)


def open_camera(index: int, timeout: float = TIMEOUT) -> FrameReader:
    """Open a camera of this machine.

    Args:
        index: 0 is the first camera: /dev/video0 on Linux, the first device of avfoundation on macOS and of dshow on
            Windows.
        timeout: seconds without a frame after which it counts as stalled, above 0.

    Raises:
        OSError: there is no such camera, or it cannot be opened; the message names the device. While iterating: it
            stalls or breaks off; the message says how many frames came.
        ValueError: `index` is negative, or this system's cameras cannot be read. While iterating: the size of the
            frames changes.
        ImportError: PyAV is not installed.
    """
    _require_av()
    if index < 0:
        raise ValueError(f"a camera's index is 0 or more, got {index}")
    device, options = _camera_device(index)

    def connect():
        return av.open(device, timeout=(timeout, timeout), **options)

    return _open_source(f"camera {index} ({device})", connect, timeout, is_camera=True)


def open_address(address: str, timeout: float = TIMEOUT) -> FrameReader:
    """Open a stream by its address.

    What has a known length (a video file on a web server) is a recording and keeps every frame; anything else is live.
    A live HTTP stream ends when the server closes it.

    Args:
        address: begins with rtsp://, http://, https://, udp:// or tcp://.
        timeout: seconds to wait for the connection, and for each frame; above 0.

    Raises:
        OSError: the address cannot be opened; while iterating, the stream stalls or breaks off, and the message says
            how many frames came.
        ValueError: there is no video in the stream; while iterating, the size of the frames changes.
        ImportError: PyAV is not installed.
    """
    _require_av()
    options = ADDRESS_OPTIONS | (RTSP_OPTIONS if address.lower().startswith("rtsp") else {})

    def connect():
        return av.open(address, timeout=(timeout, timeout), options=options)

    return _open_source(public_name(address), connect, timeout)


class Handoff:
    """A bounded queue between the thread that decodes and the one that consumes.

    Args:
        size: how many frames may wait.
        tally: if given, a full queue drops its oldest frame and counts it here; otherwise the decoding thread waits.

    Attributes:
        closed: the consumer wants no more frames.
    """

    def __init__(self, size: int, tally: Tally | None = None):
        self.size = size
        self.tally = tally
        self._waiting = deque()
        self._change = threading.Condition()
        self._ended = self.closed = False
        self._error = None

    def put(self, frame) -> bool:
        """Hand a frame over. Returns False if the consumer wants no more."""
        with self._change:
            if self.tally is None:
                self._change.wait_for(lambda: self.closed or len(self._waiting) < self.size)
            elif len(self._waiting) == self.size and not self.closed:
                self._waiting.popleft()
                self.tally.dropped += 1
            if not self.closed:
                self._waiting.append(frame)
            self._change.notify_all()
            return not self.closed

    def end(self, error: BaseException | None = None) -> None:
        """No frame comes after this; `error` is raised once the waiting ones are taken."""
        with self._change:
            self._ended, self._error = True, error
            self._change.notify_all()

    def close(self) -> None:
        """The consumer wants no more."""
        with self._change:
            self.closed = True
            self._waiting.clear()
            self._change.notify_all()

    def take(self, timeout: float | None = None):
        """The next frame. Raises `StopIteration` at the end, `TimeoutError` after so many seconds without a frame."""
        with self._change:
            if not self._change.wait_for(lambda: self._waiting or self._ended, timeout):
                raise TimeoutError
            if self._waiting:
                frame = self._waiting.popleft()
                self._change.notify_all()
                return frame
            error, self._error = self._error, None
        raise StopIteration if error is None else error


def _handed_over(open_frames: Callable[[], Iterator], handoff: Handoff, timeout: float | None = None) -> Iterator:
    """Yield what a thread decodes. The thread knows the queue only, so that this iterator can be collected."""
    threading.Thread(target=_decode_into, args=(handoff, open_frames), name="pjvlt-frames", daemon=True).start()
    try:
        while True:
            try:
                frame = handoff.take(timeout)
            except StopIteration:
                return
            yield frame
            del frame
    finally:
        handoff.close()


def _decode_into(handoff: Handoff, open_frames: Callable[[], Iterator]) -> None:
    frames, error = None, None
    try:
        frames = open_frames()
        for frame in frames:
            if not handoff.put(frame):
                break
    except BaseException as caught:  # whatever it is, it belongs to the consumer
        error = caught
    finally:
        if hasattr(frames, "close"):
            with suppress(Exception):
                frames.close()
        handoff.end(error)


def _open_source(name: str, connect: Callable, timeout: float, is_camera: bool = False) -> FrameReader:
    """Open a source now for its first iteration; each later iteration opens it again."""
    if not timeout > 0:
        raise ValueError(f"timeout must be a number of seconds above 0, got {timeout}")
    tally, opened = Tally(), [_connect(name, connect, timeout)]
    stream = main_video(opened[0])
    fps, num_frames = told_fps(stream), stream.frames or None
    is_playlist = opened[0].format.name.split(",")[0] in PLAYLISTS
    is_live = is_camera or opened[0].size <= 0 or (is_playlist and not opened[0].duration)

    def frames() -> Iterator[np.ndarray]:
        handoff = Handoff(1, tally) if is_live else Handoff(AHEAD)
        return _watched(name, lambda: _decode_stream(name, take(), handoff, timeout), handoff, timeout)

    def take():
        return opened.pop() if opened else _connect(name, connect, timeout)

    return FrameReader(frames, fps, None if is_live else num_frames, is_live, not is_live, tally)


def _connect(name: str, connect: Callable, timeout: float):
    # `from None`, here and below: FFmpeg's own errors hold the address as it was given, with its password.
    try:
        container = connect()
    except av.error.ExitError:
        raise OSError(f"{name}: nothing came within {timeout:g} s") from None
    except av.error.FFmpegError as error:
        raise OSError(f"{name}: cannot be opened ({error.strerror})") from None
    except ValueError as error:
        raise OSError(f"{name}: this build of PyAV cannot open it ({hide_secrets(str(error))})") from None
    if not container.streams.video:
        container.close()
        raise ValueError(f"{name}: no video in this stream")
    return container


def told_fps(stream) -> float:
    """Frames per second of the stream; `DEFAULT_FPS` if it gives none, or gives the rate of its clock."""
    fps = float(stream.average_rate or DEFAULT_FPS)
    return fps if fps < CLOCK_RATE else DEFAULT_FPS


def _watched(name: str, open_frames: Callable, handoff: Handoff, timeout: float) -> Iterator[TimedFrame]:
    """Frames of one size that come in time."""
    size, count, dropped_before = None, 0, handoff.tally.dropped if handoff.tally else 0
    frames = _handed_over(open_frames, handoff, timeout)
    try:
        for frame in frames:
            shape = frame.image.shape
            size = size or shape
            if shape != size:
                raise ValueError(
                    f"{name}: the frames changed from {size[1]} x {size[0]} to {shape[1]} x {shape[0]} pixels "
                    f"after {count} frames: all frames of a video must have one size"
                )
            count += 1
            yield frame
    except TimeoutError as error:
        came = count + (handoff.tally.dropped - dropped_before if handoff.tally else 0)
        raise _stalled(name, came, timeout) from error
    finally:
        frames.close()


def _decode_stream(name: str, container, handoff: Handoff, timeout: float) -> Iterator[TimedFrame]:
    count, has_length = 0, container.size > 0
    with container:
        stream = main_video(container)
        is_live = handoff.tally is not None
        has_times = not container.format.flags & FormatFlags.no_timestamps.value
        clock = Clock(told_fps(stream), timeout if is_live else math.inf, by_arrival=is_live and not has_times)
        try:
            for packet in _packets(container, stream, handoff):
                for frame in _decoded(packet):
                    yield clock.stamp(upright(frame), frame.time)
                    count += 1
        except av.error.ExitError:
            raise _stalled(name, count, timeout) from None
        except av.error.FFmpegError as error:
            # A server that closes a stream without a length ends it so.
            if error.errno != errno.EIO or has_length or not name.lower().startswith("http"):
                raise OSError(f"{name}: the stream breaks off after {count} frames ({error.strerror})") from None
            with suppress(av.error.FFmpegError):
                for frame in stream.decode(None):
                    yield clock.stamp(upright(frame), frame.time)


def _packets(container, stream, handoff: Handoff) -> Iterator:
    while not handoff.closed:
        try:
            for packet in container.demux(stream):
                if handoff.closed:
                    return
                yield packet
            return
        except av.error.BlockingIOError:  # avfoundation does not wait for its camera
            time.sleep(0.002)


def _decoded(packet) -> list:
    # After joining a stream in its middle, or losing a packet, a few packets cannot be decoded.
    try:
        return packet.decode()
    except (av.error.InvalidDataError, av.error.EOFError):
        return []


def _stalled(name: str, count: int, timeout: float) -> OSError:
    return OSError(f"{name}: no frame within {timeout:g} s, after {count} frames")


def _camera_device(index: int) -> tuple[str, dict]:
    if sys.platform == "darwin":
        return f"{index}:none", {"format": "avfoundation", "options": {"framerate": "30"}}
    if sys.platform == "win32":
        return f"video={_windows_camera(index)}", {"format": "dshow"}
    return f"/dev/video{index}", {"format": "v4l2"}


def camera_index(path: Path) -> int | None:
    """The index of the camera whose device is at a path, such as /dev/video0 or a link to it; None for all else."""
    found = re.fullmatch(r"/dev/video(\d+)", str(path.resolve()))
    return int(found[1]) if found and path.is_char_device() else None


def _windows_camera(index: int) -> str:
    try:
        from av.device import enumerate_input_devices
    except ImportError as error:
        raise ValueError("cameras of Windows need a newer PyAV: pip install --upgrade av") from error
    names = [device.name for device in enumerate_input_devices("dshow") if "video" in device.media_types]
    if index >= len(names):
        raise OSError(f"camera {index} (dshow): no such camera; this machine has {len(names)}: {', '.join(names)}")
    return names[index]


def main_video(container):
    """The stream of a container that a player shows: neither a cover nor a thumbnail, unless there is nothing else."""
    best = container.streams.best("video")
    moving = [s for s in container.streams.video if s.frames != 1 and not s.disposition & Disposition.attached_pic]
    return best if best in moving or not moving else moving[0]


def upright(frame) -> np.ndarray:
    """RGB uint8 (height, width, 3) of a PyAV frame, rotated and mirrored by its display matrix."""
    pixels, matrix = frame.to_ndarray(format="rgb24"), frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    # x' = a x + c y and y' = b x + d y. PyAV's `rotation` takes a mirror for half a turn.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) < abs(c):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _require_av() -> None:
    if av is None:
        raise ImportError("cameras and streams are read with PyAV: pip install av")
