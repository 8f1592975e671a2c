"""The pipeline `vision-language-tracking`: a video, a box and a sentence in; a box and a score per frame out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial

from tqdm.auto import tqdm
from transformers import Pipeline

from .detection_pjvlt import DETECTOR, OwnDetector, find_target, load_detector
from .processing_pjvlt import DEFAULT_SENTENCE
from .results_pjvlt import TargetsResults, TrackingResults, make_result
from .sentences_pjvlt import check_sentence
from .streams_pjvlt import FrameReader, public_name, read_ahead
from .tracking_pjvlt import TrackingSession
from .video_loop_pjvlt import TargetStart, target_starts, track_both_ways
from .video_pjvlt import read_frames

TASK = "vision-language-tracking"
DEFAULTS = {
    "box": None, "text": None, "boxes": None, "texts": None, "frame": 0, "direction": "forward", "redetect": "local",
    "progress": True, "detector": DETECTOR, "max_frames": None, "raw": False,
}  # fmt: skip
OPTIONS = ("video", *DEFAULTS)
ONLY = "0"  # id of a single target
NOT_LIVE = ("video", "direction", "progress")  # options that `stream` does not take
MEANT = {  # names that other libraries use -> our names
    "frames": "video", "images": "video", "video": "frames", "bbox": "box", "bboxes": "boxes", "query": "text",
    "sentence": "text", "prompt": "text", "caption": "text", "captions": "texts", "sentences": "texts",
}  # fmt: skip


def _open(video) -> FrameReader:
    """Files are decoded ahead, while the network runs; frames from a user's own iterable are read only when needed."""
    reader = read_frames(video)
    return read_ahead(reader) if isinstance(video, str | os.PathLike) else reader


def _refuse(unknown: dict, known: Sequence[str]) -> None:
    """Raises `TypeError` that names the first unknown argument, and the known one closest to it."""
    for name in unknown:
        if name not in known:
            close = [MEANT[name]] if MEANT.get(name) in known else get_close_matches(name, known, 1)
            meant = f"; did you mean `{close[0]}`?" if close else "."
            raise TypeError(f"There is no argument `{name}`{meant} The arguments are {', '.join(known)}.")


def _need_video(video, name: str) -> None:
    if video is None:
        raise TypeError(f"The tracker needs `{name}`: a path, a camera's index, an address, or frames.")


class TrackingPipeline(Pipeline):
    """Tracks one or several targets through a video.

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
        boxes=None,
        texts=None,
        frame: int | Sequence[int] | Mapping[str, int] = 0,
        direction: str = "forward",
        redetect: str | None = "local",
        progress: bool = True,
        detector: str | None = DETECTOR,
        max_frames: int | None = None,
        raw: bool = False,
        **unknown,
    ) -> TrackingResults | TargetsResults:
        """Track one or several targets through a whole video.

        Args:
            video: a video file, a folder of images, a camera's index, a stream's address (rtsp://, http://,
                rtmp://, https://, udp://, …), a torchcodec or decord decoder (`datasets` returns one for a video),
                or frames (PIL, NumPy or torch, RGB, or paths of images). A list is one video.
            box: x, y, w, h of the target in the first frame, in pixels, or a dict of `xmin`, `ymin`, `xmax`, `ymax`.
                Without a box, `detector` finds the target in the first frame from `text`.
            text: a sentence about the target. If it is empty or missing, "the target" is used, with a warning.
            boxes, texts: for several targets, instead of `box` and `text`: a list each, or a dict from target id to
                value. With `texts` alone, `detector` finds each target.
            frame: number of the frame, from 0, in which the box is given. For several targets: one number for all,
                or a list or dict like `boxes`.
            direction: track from that frame "forward", "backward" to the video's first frame, or "both".
            redetect: where a lost target is searched. None: where it was last seen. "local": there, in a region that
                grows. "frame": also in the whole frame.
            progress: show a progress bar.
            detector: checkpoint for transformers' `zero-shot-object-detection`, folder or Hub id; loaded when first
                needed, and kept. None: the tracker itself searches; this needs no download but finds fewer targets.
            max_frames: read at most this many frames.
            raw: return boxes and scores as the network gives them, neither rounded nor clipped to the frame.

        Returns a [`TrackingResults`]: a list with one dict for each tracked frame. Its `save` writes JSON, CSV or
        text. Each dict has `frame` (its number in the video, from 0; a live source may drop some), `box` (`xmin`,
        `ymin`, `xmax`, `ymax` in frame pixels, inside the frame, 2 decimals), `score` in (0, 1] (4 decimals), `time`
        (seconds since the video's first frame; 30 frames per second are assumed if the rate is unknown), `lost` and
        `redetected`. In the frame where the box was given, the result is that box with score 1. With `boxes` or
        `texts`: a [`TargetsResults`], a dict from target id to results (ids are "0", "1", … unless you give them).

        Raises `TypeError` for a missing or unknown argument, `ValueError` for a bad box, sentence, frame or file, or
        if the detector finds nothing, and `OSError` for a camera or a stream that cannot be read.
        """
        _refuse(unknown, OPTIONS)
        _need_video(video, "video")
        options = {"box": box, "text": text, "boxes": boxes, "texts": texts, "frame": frame, "direction": direction}
        options |= {"redetect": redetect, "progress": progress, "detector": detector, "raw": raw}
        reader = _open(video).first(max_frames)
        found = self.run_single(reader, *self._sanitize_parameters(**options))
        about = {
            "fps": reader.fps,
            "source": public_name(video) if isinstance(video, int | str | os.PathLike) else None,
            "model": self.model.name_or_path or None,
            "frames": reader if reader.is_repeatable else None,
            "lost_score": self.processor.tracking_settings(self.model.config)["lost_score"],
        }
        results = {
            target_id: TrackingResults(rows, text=sentence if (sentence or "").strip() else DEFAULT_SENTENCE, **about)
            for target_id, (sentence, rows) in found.items()
        }
        return results[ONLY] if boxes is None and texts is None else TargetsResults(results)

    def stream(
        self,
        frames=None,
        box=None,
        text: str | None = None,
        boxes=None,
        texts=None,
        frame: int | Sequence[int] | Mapping[str, int] = 0,
        redetect: str | None = "local",
        detector: str | None = DETECTOR,
        max_frames: int | None = None,
        raw: bool = False,
        **unknown,
    ) -> Iterator[dict]:
        """Track through live frames: yields the result of each frame as soon as the frame arrives.

        Arguments and results are those of a call; with `boxes` or `texts`, each item is a dict from target id to
        result.
        """
        _refuse(unknown, ("frames", *(name for name in OPTIONS if name not in NOT_LIVE)))
        _need_video(frames, "frames")
        starts = self._starts(box, text, boxes, texts, frame, detector)
        reader = _open(frames).first(max_frames)
        results = self._track(reader, starts, "forward", redetect, raw)
        return (found[ONLY] for found in results) if boxes is None and texts is None else results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model.name_or_path or 'PJVLTModel'}, {self.device})"

    def _sanitize_parameters(self, progress=False, **options) -> tuple[dict, dict, dict]:
        _refuse(options, OPTIONS[1:])
        return {}, {**DEFAULTS, "progress": progress, **options}, {}

    def preprocess(self, video) -> FrameReader:
        return read_frames(video)

    def _forward(
        self, reader, box, text, boxes, texts, frame, direction, redetect, progress: bool, detector, raw, max_frames
    ) -> dict[str, tuple[str | None, list[dict]]]:
        """Target id -> sentence and results."""
        starts = self._starts(box, text, boxes, texts, frame, detector)
        reader = reader.first(max_frames)
        tracked = self._track(reader, starts, direction, redetect, raw)
        found: dict[str, list[dict]] = {start.target_id: [] for start in starts}
        for results in tqdm(tracked, total=reader.num_frames, desc="tracking", unit="frame", disable=not progress):
            for target_id, result in results.items():
                found[target_id].append(result)
        return {s.target_id: (s.text, sorted(found[s.target_id], key=lambda r: r["frame"])) for s in starts}

    def postprocess(self, results: dict) -> dict:
        return results

    def _starts(self, box, text, boxes, texts, frame, detector: str | None) -> list[TargetStart]:
        """The targets. Raises `ValueError` before any frame is read."""
        if boxes is None and texts is None:
            boxes, texts = {ONLY: box}, {ONLY: text}
            if isinstance(frame, Sequence | Mapping):
                raise ValueError(f"`frame` must be one number when there is one target, got {frame!r}.")
        elif box is not None or text is not None:
            raise ValueError("Give either `box` and `text` for one target, or `boxes` and `texts` for several.")
        elif boxes is None:
            texts = [texts] if isinstance(texts, str) else texts
            boxes = dict.fromkeys(texts) if isinstance(texts, Mapping) else [None] * len(texts)
        starts = target_starts(boxes, texts, frame)
        for place, start in enumerate(starts):
            check_sentence(start.text)
            if start.box is None:
                if not (start.text or "").strip():
                    raise ValueError(
                        "The tracker needs `box=[x, y, w, h]`, where the target is in its first frame, in pixels, or "
                        "a sentence by which a detector can find it."
                    )
                starts[place] = replace(start, box=partial(self._detect, text=start.text, detector=detector))
        return starts

    def _detect(self, frame, text: str, detector: str | None) -> tuple[float, float, float, float]:
        if detector is None:
            own = OwnDetector(TrackingSession(self.model, self.processor))
            return find_target(frame, text, own)[0]
        loaded = getattr(self, "_detector", (None, None))
        if loaded[0] != detector:
            self._detector = loaded = detector, load_detector(detector, self.device)
        return find_target(frame, text, loaded[1])[0]

    def _track(self, reader: FrameReader, starts, direction: str, redetect, raw: bool) -> Iterator[dict[str, dict]]:
        """For each frame, a dict from target id to result."""

        def session() -> TrackingSession:
            return TrackingSession(self.model, self.processor, redetect=redetect)

        for frame, targets, size in track_both_ways(session, reader, starts, direction):
            size = None if raw else size
            if targets:
                yield {
                    t.target_id: make_result(frame.number, t.box, t.score, frame.time, size, t.lost, t.redetected)
                    for t in targets
                }

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save model, processor and the code of this pipeline; the folder loads with `from_pretrained`.

        `pipeline("vision-language-tracking", model=folder)` then needs `trust_remote_code=True`, because the folder
        contains its own code. Where this package is installed, `pipeline_class=TrackingPipeline` avoids that.
        """
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


__all__ = ["TASK", "TrackingPipeline"]
