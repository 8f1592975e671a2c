"""Frames out: a video file of RGB frames, written through PyAV (`pip install av`)."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from .files_pjvlt import replacing
from .streams_pjvlt import DEFAULT_FPS, ffmpeg_name

try:
    import av
except ImportError:
    av = None


VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv"}

# In order of preference; mpeg4 is what every FFmpeg build has. Its quantiser is bounded because it has no crf.
ENCODERS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qmin": "2", "qmax": "5"}}
TICKS = 60_000  # a second, for frames with times: whole numbers of most frame rates, and the finest that MPEG-4 takes


class VideoWriter:
    """Write RGB frames to an H.264 video (yuv420p), which appears under its name only once it is complete.

    A context manager. The frames go to a temporary file beside `path`, renamed when the block ends well. When it ends
    with an error the temporary file is deleted, and a file that stood at `path` before is left as it was. Odd heights
    and widths are padded to even ones by repeating the last row or column. Missing parent folders are made.

    Args:
        path: where the video goes; .mp4, .mov or .mkv.
        fps: frames per second, above 0; of frames that are written with their times, about so many.

    Raises:
        ValueError: the suffix or `fps` is not usable, a frame is not uint8 (height, width, 3) or differs in size from
            the first one, or the block ends well without a frame.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike, fps: float = DEFAULT_FPS):
        _require_av()
        self.path = Path(path).expanduser()
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise ValueError(f"{self.path}: a video is written as one of {', '.join(sorted(VIDEO_SUFFIXES))}")
        if not (math.isfinite(fps) and fps > 0):
            raise ValueError(f"fps must be a number above 0, got {fps}")
        # The denominator 1001 keeps 29.97 and its kin exact, and within what MPEG-4 can store.
        self.rate = Fraction(fps).limit_denominator(1001)
        self._place = ExitStack()  # holds `replacing` while the file is open
        self._container = None
        self._stream = None
        self._frame_shape = None
        self._num_frames = 0
        self._first_time, self._last_ticks = None, -1  # of frames with times

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *error) -> None:
        if error[0] is not None:
            self._discard()
            self._place.__exit__(*error)
            return
        with self._place:
            try:
                self._finish()
            finally:
                self._discard()

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Append one frame: RGB uint8, (height, width, 3), of the size of the first one.

        time: when it is shown, in seconds, counted from anywhere; of all frames or of none. By default frames are
        evenly spaced.
        """
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"expected a uint8 frame of shape (height, width, 3), got {frame.dtype} {frame.shape}")
        if self._container is None:
            self._first_time = time
            self._open(frame.shape)
        if frame.shape != self._frame_shape:
            raise ValueError(
                f"{self.path}: frame {self._num_frames} is {_size(frame.shape)}, the first one "
                f"{_size(self._frame_shape)}"
            )
        height, width = frame.shape[:2]
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        video_frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
        video_frame = video_frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        video_frame.time_base = self._stream.codec_context.time_base
        video_frame.pts = self._num_frames if time is None else self._ticks(time)
        self._encode(video_frame)
        self._num_frames += 1

    def _ticks(self, time: float) -> int:
        self._last_ticks = max(self._last_ticks + 1, round((time - self._first_time) * TICKS))
        return self._last_ticks

    def _open(self, frame_shape: tuple[int, ...]) -> None:
        codec, options = _pick_encoder()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._named_errors():
            partial = self._place.enter_context(replacing(self.path))
            self._container = av.open(ffmpeg_name(partial), "w")
        self._stream = self._container.add_stream(codec, rate=self.rate, options=options)
        self._stream.height, self._stream.width = (side + side % 2 for side in frame_shape[:2])
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = 1 / self.rate if self._first_time is None else Fraction(1, TICKS)
        # Say which YUV this is (BT.709, limited range), or players guess from the size and shift the colours.
        context = self._stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        self._frame_shape = frame_shape

    def _encode(self, video_frame) -> None:
        with self._named_errors():
            for packet in self._stream.encode(video_frame):
                self._container.mux(packet)

    def _finish(self) -> None:
        if self._container is None:
            raise ValueError(f"{self.path}: no frame was written")
        self._encode(None)
        with self._named_errors():
            self._container.close()

    def _discard(self) -> None:
        # Closing a broken file may fail again; the error that led here is the one to show.
        if self._container is not None:
            with suppress(av.error.FFmpegError):
                self._container.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise OSError(f"{self.path}: cannot be written ({error.strerror})") from error


def _pick_encoder() -> tuple[str, dict[str, str]]:
    for name, options in ENCODERS.items():
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name, options
    raise ValueError(f"this build of PyAV has none of the encoders {', '.join(ENCODERS)}")


def _require_av() -> None:
    if av is None:
        raise ImportError("video files are read and written with PyAV: pip install av")


def _size(frame_shape: tuple[int, ...]) -> str:
    return f"{frame_shape[1]}x{frame_shape[0]}"
