"""The pipeline `vision-language-tracking`: a video, a box and a sentence in; a box and a score per frame out."""

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice

from tqdm.auto import tqdm
from transformers import Pipeline

from .detection_pjvlt import DETECTOR, find_target, load_detector
from .live_pjvlt import FrameReader, public_name, read_ahead
from .processing_pjvlt import DEFAULT_SENTENCE
from .results_pjvlt import TrackingResults, make_result
from .sentences_pjvlt import check_sentence
from .tracking_pjvlt import TrackingSession
from .video_pjvlt import read_frames

TASK = "vision-language-tracking"
DEFAULTS = {"box": None, "text": None, "progress": True, "detector": DETECTOR, "max_frames": None, "raw": False}
OPTIONS = ("video", *DEFAULTS)
MEANT = {  # by the names that other libraries use
    "frames": "video", "images": "video", "video": "frames", "bbox": "box", "boxes": "box", "query": "text",
    "sentence": "text", "prompt": "text", "caption": "text",
}  # fmt: skip


def _open(video) -> FrameReader:
    """Files are decoded while the network works; what a user makes himself is asked for only when it is needed."""
    reader = read_frames(video)
    return read_ahead(reader) if isinstance(video, str | os.PathLike) else reader


def _refuse(unknown: dict, known: Sequence[str]) -> None:
    """Raises `TypeError` that names the first argument which does not exist, and the one that was meant."""
    for name in unknown:
        if name not in known:
            close = [MEANT[name]] if MEANT.get(name) in known else get_close_matches(name, known, 1)
            meant = f"; did you mean `{close[0]}`?" if close else "."
            raise TypeError(f"There is no argument `{name}`{meant} The arguments are {', '.join(known)}.")


def _need_video(video, name: str) -> None:
    if video is None:
        raise TypeError(f"The tracker needs `{name}`: a path, a camera's index, an address, or frames.")


def _check_max_frames(max_frames: int | None) -> None:
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"`max_frames` must be 1 or more, got {max_frames}.")


class TrackingPipeline(Pipeline):
    """Follows one target through a video.

    Example:
        >>> import modeling_pjvlt  # registers the task  # doctest: +SKIP
        >>> from transformers import pipeline  # doctest: +SKIP
        >>> tracker = pipeline("vision-language-tracking")  # the bundled checkpoint  # doctest: +SKIP
        >>> tracker("clip.mp4", box=[120, 64, 90, 70], text="white dog")[0]  # doctest: +SKIP
        {'frame': 0, 'box': {'xmin': 120.0, 'ymin': 64.0, 'xmax': 210.0, 'ymax': 134.0}, 'score': 1.0, 'time': 0.0}
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __call__(
        self,
        video=None,
        box=None,
        text: str | None = None,
        progress: bool = True,
        detector: str = DETECTOR,
        max_frames: int | None = None,
        raw: bool = False,
        **unknown,
    ) -> TrackingResults:
        """Track through a whole video.

        Args:
            video: a video file, a folder of pictures, a camera's index, a stream's address (rtsp://, http://,
                rtmp://, https://, udp://, …), a decoder of torchcodec or decord (such as `datasets` gives for a video), or
                frames (PIL, NumPy or torch, RGB, or paths of images). A list is one video.
            box: x, y, w, h of the target in the first frame, in pixels, or a dict of `xmin`, `ymin`, `xmax`, `ymax`.
                Without it the sentence has to do: `detector` finds what it says in the first frame.
            text: a sentence about the target; empty or missing reads as "the target", with a warning.
            progress: show a progress bar.
            detector: checkpoint for transformers' `zero-shot-object-detection`, folder or Hub id; loaded when first
                needed, and kept.
            max_frames: stop after so many frames.
            raw: boxes and scores as the network gives them: neither rounded nor clipped to the frame.

        Returns one dict for each frame: `frame` (its number in the video, from 0; a live source may drop some), `box`
        (`xmin`, `ymin`, `xmax`, `ymax` in frame pixels, inside the frame, to 2 decimals), `score` in (0, 1], to 4, and
        `time` (seconds since the video's first frame; 30 frames a second where nobody says). The first is the given box
        with score 1. The list is a [`TrackingResults`], which saves itself as JSON, CSV or text.

        Raises `ValueError` for a bad box, sentence, frame or file, and where the detector finds nothing, and `OSError`
        for a camera or a stream that cannot be read.
        """
        _refuse(unknown, OPTIONS)
        _need_video(video, "video")
        options = {"box": box, "text": text, "progress": progress, "detector": detector}
        options |= {"max_frames": max_frames, "raw": raw}
        _check_max_frames(max_frames)
        reader = _open(video)
        results = self.run_single(reader, *self._sanitize_parameters(**options))
        return TrackingResults(
            results,
            fps=reader.fps,
            text=text if text and text.strip() else DEFAULT_SENTENCE,
            source=public_name(video) if isinstance(video, int | str | os.PathLike) else None,
            model=self.model.name_or_path or None,
            frames=reader if reader.is_repeatable else None,
        )

    def stream(
        self,
        frames=None,
        box=None,
        text: str | None = None,
        detector: str = DETECTOR,
        max_frames: int | None = None,
        raw: bool = False,
        **unknown,
    ) -> Iterator[dict]:
        """The same for live frames: yields one result as soon as its frame is in."""
        _refuse(unknown, ("frames", *(name for name in OPTIONS if name not in ("video", "progress"))))
        _need_video(frames, "frames")
        _check_max_frames(max_frames)
        return self._track(_open(frames), box, text, detector, max_frames, raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model.name_or_path or 'PJVLTModel'}, {self.device})"

    def _sanitize_parameters(self, progress=False, **options) -> tuple[dict, dict, dict]:
        _refuse(options, OPTIONS[1:])
        return {}, {**DEFAULTS, "progress": progress, **options}, {}

    def preprocess(self, video) -> FrameReader:
        return read_frames(video)

    def _forward(self, reader: FrameReader, box, text, progress: bool, detector, max_frames, raw) -> list[dict]:
        results = self._track(reader, box, text, detector, max_frames, raw)
        total = min((n for n in (reader.num_frames, max_frames) if n is not None), default=None)
        return list(tqdm(results, total=total, desc="tracking", unit="frame", disable=not progress))

    def postprocess(self, results: list[dict]) -> list[dict]:
        return results

    def _detect(self, frame, text: str, detector: str) -> tuple[float, float, float, float]:
        loaded = getattr(self, "_detector", (None, None))
        if loaded[0] != detector:
            self._detector = loaded = detector, load_detector(detector, self.device)
        return find_target(frame, text, loaded[1])[0]

    def _track(self, reader: FrameReader, box, text, detector: str, max_frames, raw: bool) -> Iterator[dict]:
        check_sentence(text)
        if box is None and not (text or "").strip():
            raise ValueError(
                "The tracker needs `box=[x, y, w, h]`, where the target is in the first frame, in pixels, or a sentence "
                "by which a detector can find it."
            )
        session = TrackingSession(self.model, self.processor)
        for frame in islice(reader.timed(), max_frames):
            if session.target_ids:
                (target,) = session.step(frame.image)
                found, score = target.box, target.score
            else:
                box = self._detect(frame.image, text, detector) if box is None else box
                target_id = session.add_target(frame.image, box, text)
                found, score = session.box_of(target_id), 1.0
            size = None if raw else session.frame_size_of(target_id)
            yield make_result(frame.number, found, score, frame.time, size)
        if not session.target_ids:
            raise ValueError("The video has no frames.")

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save model, processor and the code of this pipeline; the folder loads with `from_pretrained`.

        `pipeline("vision-language-tracking", model=folder)` then asks for `trust_remote_code=True`, because the folder
        brings its own code; with this package installed, `pipeline_class=TrackingPipeline` does without.
        """
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


__all__ = ["TASK", "TrackingPipeline"]
