"""Tracking with an exported model: NumPy, onnxruntime and tokenizers, and no torch.

[`OnnxModel`] is a folder that `pjvlt-export` wrote, [`OnnxTracker`] a session that runs on it as
[`TrackingSession`] runs on a [`PJVLTModel`]: same crops, same boxes. torch is not needed.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..geometry_pjvlt import Box, axis_taps, check_first_box, crop_geometry, crops_to_frames
from ..pixels_pjvlt import rgb_array
from ..sentences_pjvlt import MAX_WORDS, check_sentence, clean_sentences, cut_warning, logger
from ..session_pjvlt import (
    LOST_AFTER,
    LOST_SCORE,
    Target,
    TargetSession,
    TrackedTarget,
    weighted,
)

TRACKER_FILE, TEMPLATE_FILE, TEXT_FILE = "tracker.onnx", "template.onnx", "text.onnx"
TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "pjvlt_onnx.json"
SENTENCE = ("keys", "values", "mask")  # what text.onnx makes of a sentence and tracker.onnx takes
MAPS = ("score_map", "offset_map", "size_map")
BAND = 8  # rows or columns of a crop that are filtered by one matmul, too small for BLAS to wake its threads for


class OnnxModel:
    """An exported model; any number of trackers and threads can share it.

    Args:
        folder: what `pjvlt-export` wrote.
        num_threads: for each operation; default: onnxruntime's, one for each core.
        providers: onnxruntime's execution providers in order of preference; default: the CPU.

    Attributes:
        settings: what `pjvlt_onnx.json` says: sizes and factors of the crops, and normalisation as `scale` and `shift`, for
            value * scale - shift.

    Raises `ImportError` without onnxruntime and `FileNotFoundError` for a folder without an export, or with one of an
    older version.
    """

    def __init__(self, folder: str | os.PathLike, num_threads: int | None = None, providers: list[str] | None = None):
        folder = Path(folder)
        self._made_of = str(folder), num_threads, providers
        if not (folder / SETTINGS_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no {SETTINGS_FILE}: make it with pjvlt-export.")
        if not (folder / TEMPLATE_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no {TEMPLATE_FILE}: it is of an older version, export it again.")
        self.settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        self._tracker = _open_graph(folder / TRACKER_FILE, num_threads, providers)
        self._template = _open_graph(folder / TEMPLATE_FILE, num_threads, providers)
        self._text = self._tokenizer = None
        if self.settings["uses_language"]:
            from tokenizers import Tokenizer

            self._text = _open_graph(folder / TEXT_FILE, num_threads, providers)
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
        self._scale, self._shift = (
            np.array(self.settings[name], dtype=np.float32)[:, None, None] for name in ("scale", "shift")
        )

    def __reduce__(self):
        """Graphs are not pickled or copied: they are read from the folder again."""
        return OnnxModel, self._made_of

    def tokenize(self, sentences: list[str]) -> dict[str, np.ndarray]:
        """`input_ids` and `attention_mask`, (B, T) int64; sentences of more than 40 tokens are cut, with a warning."""
        rows = [self._tokenizer.encode(sentence).ids for sentence in sentences]
        for number, row in enumerate(rows):
            if len(row) > MAX_WORDS:
                logger.warning(cut_warning(len(row)))
                rows[number] = row[: MAX_WORDS - 1] + row[-1:]  # [SEP] stays
        shape = len(rows), max(map(len, rows))
        ids, mask = np.full(shape, self.settings["pad_token_id"], dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode_text(self, sentences: list[str]) -> dict[str, np.ndarray]:
        """What the frames need of B sentences: `keys`, `values` and `mask`; empty for a model without language."""
        if self._text is None:
            return {}
        return self.encode_tokens(self.tokenize(sentences))

    def encode_tokens(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """[`OnnxModel.encode_text`] of `input_ids` and `attention_mask`, (B, T) int64."""
        if self._text is None:
            return {}
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        return dict(zip(SENTENCE, self._text.run(list(SENTENCE), tokens), strict=True))

    def encode_templates(self, template_pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """`template`: what the frames need of B template crops (B, 3, template_size, template_size), float32."""
        (template,) = self._template.run(["template"], {"template_pixel_values": template_pixel_values})
        return {"template": template}

    def maps(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """score (B, 1, G, G), offset (B, 2, G, G) and size (B, 2, G, G), float32.

        Args: `pixel_values` (B, 3, search_size, search_size), float32, and what [`OnnxModel.encode_templates`] and
        [`OnnxModel.encode_text`] gave.
        """
        return self._tracker.run(list(MAPS), inputs)

    def crop(self, frame: np.ndarray, crop: tuple[float, float, float], size: int) -> np.ndarray:
        """(3, size, size) float32, normalised: what the crop (left, top, scale) shows of a frame (H, W, 3)."""
        pixels = crop_array(frame, *crop, size)
        pixels *= self._scale
        pixels -= self._shift
        return pixels


def import_onnxruntime():
    """onnxruntime with its usage reports off, which its official builds otherwise send to Microsoft (its Privacy.md).

    `ORT_DISABLE_TELEMETRY=0` in the environment leaves them on.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is first imported
    import onnxruntime

    return onnxruntime


def _open_graph(path: Path, num_threads: int | None, providers: list[str] | None):
    try:
        onnxruntime = import_onnxruntime()
    except ModuleNotFoundError as error:
        raise ImportError("Running an exported model needs onnxruntime: pip install 'pjvlt[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or 0
    # Threads that wait by spinning would take the cores from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=providers or ["CPUExecutionProvider"])


def crop_array(frame: np.ndarray, left: float, top: float, scale: float, size: int) -> np.ndarray:
    """`crop_image` of `image_processing_pjvlt` in NumPy: (H, W, 3) uint8 to (3, size, size) float32, 0 to 255."""
    y0, y1, *rows = axis_taps(top, scale, size, frame.shape[0])
    x0, x1, *columns = axis_taps(left, scale, size, frame.shape[1])
    if y1 <= y0 or x1 <= x0:
        return np.zeros((3, size, size), dtype=np.float32)
    height, width = y1 - y0, x1 - x0
    pixels = frame[y0:y1, x0:x1].reshape(height, -1)
    low = np.empty((size, width * 3), dtype=np.float32)
    for part, seen, weights in _bands(*rows, height):
        np.matmul(weights, pixels[seen].astype(np.float32), out=low[part])
    low = np.ascontiguousarray(low.reshape(size, width, 3).transpose(2, 0, 1)).reshape(3 * size, width)
    crop = np.empty((3 * size, size), dtype=np.float32)
    for part, seen, weights in _bands(*columns, width):
        np.matmul(low[:, seen], weights.T, out=crop[:, part])
    return crop.reshape(3, size, size)


def _bands(places: np.ndarray, weights: np.ndarray, length: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """A filter of `length` pixels, with `weights` (size, K) at `places` (size, K) that never fall, a few outputs at a time:
    which outputs, which pixels they read, and the weights between them as a matrix."""
    size = len(places)
    dense = np.zeros((size, length), dtype=np.float32)
    dense[np.arange(size)[:, None], places] = weights
    for start in range(0, size, BAND):
        stop = min(start + BAND, size)
        part, seen = slice(start, stop), slice(places[start, 0], places[stop - 1, -1] + 1)
        yield part, seen, dense[part, seen]


def decode_maps(score_map, offset_map, size_map, window=None) -> tuple[np.ndarray, np.ndarray]:
    """`decode_boxes` of `decoding_pjvlt` in NumPy: boxes (B, 4) cx, cy, w, h in fractions of the crop, and scores (B,)."""
    grid, rows = score_map.shape[-1], np.arange(len(score_map))
    response = score_map[:, 0] if window is None else score_map[:, 0] * window
    cell = response.reshape(len(rows), -1).argmax(axis=1)
    y, x = np.divmod(cell, grid)
    centre = (np.stack([x, y], axis=1) + offset_map[rows, :, y, x]) / grid
    return np.concatenate([centre, size_map[rows, :, y, x]], axis=1), score_map[rows, 0, y, x]


def hann_array(size: int) -> np.ndarray:
    """`hann_window` of `decoding_pjvlt` in NumPy: (size, size) float32."""
    line = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1)))
    return (line[:, None] * line).astype(np.float32)


class OnnxTracker(TargetSession):
    """Tracks any number of targets through one video with an exported model, all in one batch per frame.

    Used as [`TrackingSession`] is, and gives the same boxes.

    Args:
        model: an [`OnnxModel`], which many trackers can share, or its folder.
        window_weight, size_smoothing, lost_score, lost_after: see [`TargetSession`]; the first two are the model's
            own where they are None.

    Example:
        >>> tracker = OnnxTracker("pjvlt-onnx")  # doctest: +SKIP
        >>> tracker.add_target(first_frame, box=[x, y, w, h], text="white dog")  # doctest: +SKIP
        >>> for frame in frames:  # doctest: +SKIP
        ...     (target,) = tracker.step(frame)
    """

    def __init__(
        self,
        model: OnnxModel | str | os.PathLike,
        window_weight: float | None = None,
        size_smoothing: float | None = None,
        lost_score: float = LOST_SCORE,
        lost_after: int = LOST_AFTER,
    ):
        self.model = model if isinstance(model, OnnxModel) else OnnxModel(model)
        settings = self.model.settings
        window_weight = settings.get("window_weight", 1.0) if window_weight is None else window_weight
        size_smoothing = settings.get("size_smoothing", 0.0) if size_smoothing is None else size_smoothing
        super().__init__(window_weight, size_smoothing, lost_score, lost_after)
        self.window = weighted(hann_array(settings["grid"]), window_weight)

    def add_target(self, frame, box, text: str | None = None, target_id: str | None = None) -> str:
        """Start to track what `box` (x, y, w, h in frame pixels, or a dict of corners) shows in `frame`; see [`TrackingSession.add_target`].

        `frame` is an image of Pillow or an array; see [`rgb_array`].
        """
        target_id, settings = self._free_id(target_id), self.model.settings
        image = rgb_array(frame)
        size = image.shape[:2]
        box = check_first_box(box, size)
        crop = crop_geometry(box, settings["template_factor"], settings["template_size"])
        template = self.model.crop(image, crop, settings["template_size"])[None]
        self._targets[target_id] = Target(template, self._sentence(text), size, box, box)
        self._batch = None
        return target_id

    def _model_name(self) -> str:
        return self.model._made_of[0]

    def set_text(self, target_id: str, text: str | None) -> None:
        """Give a target another sentence, from the next frame on.

        Raises `KeyError` for an unknown id and `ValueError` for a sentence that is not a string.
        """
        self._known(target_id).text = self._sentence(text)
        self._batch = None

    def _sentence(self, text: str | None) -> str | None:
        check_sentence(text)
        return clean_sentences(text, 1)[0] if self.model.settings["uses_language"] else text

    def step(self, frame) -> list[TrackedTarget]:
        """Find every target in the next frame; see [`TrackingSession.step`]."""
        if not self._targets:
            return []
        started = time.perf_counter()
        image = rgb_array(frame)
        return self._step(image, image.shape[:2], started)

    def _locate(self, image: np.ndarray, started: float) -> tuple[list[Box], list[float]]:
        settings, targets = self.model.settings, self._targets.values()
        size = settings["search_size"]
        geometry = [crop_geometry(t.box, settings["search_factor"] * t.growth, size) for t in targets]
        pixel_values = np.stack([self.model.crop(image, crop, size) for crop in geometry])
        cropped = time.perf_counter()
        if self._batch is None:
            sentence = self.model.encode_text([t.text for t in targets])
            self._batch = self.model.encode_templates(np.concatenate([t.template for t in targets])) | sentence
        maps = self.model.maps({"pixel_values": pixel_values, **self._batch})
        boxes, scores = decode_maps(*maps, self.window)
        boxes = crops_to_frames(boxes, geometry, size, image.shape[:2])
        self.seconds["crop"] += cropped - started
        self.seconds["network"] += time.perf_counter() - cropped
        return boxes, scores.tolist()


__all__ = ["OnnxModel", "OnnxTracker"]
