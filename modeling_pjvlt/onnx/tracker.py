"""Tracking with an exported model: needs NumPy, tokenizers and onnxruntime or OpenVINO, but no torch.

[`OnnxModel`] reads a folder that `pjvlt-export` wrote, and [`OnnxTracker`] runs on it as [`TrackingSession`] runs on a
[`PJVLTModel`]: same crops, same boxes.
"""

import json
import os
from pathlib import Path

import numpy as np

from ..geometry_pjvlt import Box, crop_array, crop_geometry
from ..pixels_pjvlt import rgb_array
from ..sentences_pjvlt import MAX_WORDS, check_sentence, clean_sentences, cut_warning, logger
from ..session_pjvlt import LOST_AFTER, TRACKING_DEFAULTS, TargetSession, weighted
from . import openvino

TRACKER_FILE, TEMPLATE_FILE, TEXT_FILE = "tracker.onnx", "template.onnx", "text.onnx"
TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "pjvlt_onnx.json"
SENTENCE = ("keys", "values", "mask", "alignment")  # outputs of text.onnx; the last one only if the model has it
TARGET_AXIS = {"template": 0, "keys": 1, "values": 1, "mask": 0, "alignment": 0}  # of tracker.onnx's inputs
MAPS = ("score_map", "offset_map", "size_map")
SMALL_GRAPH = 120_000_000  # bytes; a smaller graph runs on one thread


class OnnxModel:
    """An exported model; any number of trackers and threads can share it.

    Args:
        folder: that `pjvlt-export` wrote.
        num_threads: for each operation; default: one for a small graph, else one for each core. OpenVINO has its own
            default.
        providers: onnxruntime's execution providers in order of preference; default: the CPU.

    Attributes:
        settings: content of `pjvlt_onnx.json`: sizes and factors of the crops, and normalisation as `scale` and
            `shift`, for value * scale - shift.

    Raises `ImportError` if onnxruntime or OpenVINO is missing, and `FileNotFoundError` for a folder without an export,
    or with one of an older version.
    """

    def __init__(self, folder: str | os.PathLike, num_threads: int | None = None, providers: list[str] | None = None):
        folder = Path(folder)
        self._arguments = str(folder), num_threads, providers
        if not (folder / SETTINGS_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no {SETTINGS_FILE}: make it with pjvlt-export.")
        self.settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        if not (folder / TEMPLATE_FILE).is_file() and self.settings.get("format") != "openvino":
            raise FileNotFoundError(f"{folder} holds no {TEMPLATE_FILE}: it is of an older version, export it again.")
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
        """A pickled or copied model reads its graphs from the folder again."""
        return OnnxModel, self._arguments

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
        """What each frame needs of B sentences, by the names in `SENTENCE`; empty for a model without language."""
        if self._text is None:
            return {}
        return self.encode_tokens(self.tokenize(sentences))

    def encode_tokens(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """[`OnnxModel.encode_text`] for `input_ids` and `attention_mask`, (B, T) int64."""
        if self._text is None:
            return {}
        tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        names = [output.name for output in self._text.get_outputs()]
        return dict(zip(names, self._text.run(names, tokens), strict=True))

    def encode_templates(self, template_pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """`template`: what each frame needs of B template crops (B, 3, template_size, template_size), float32."""
        (template,) = self._template.run(["template"], {"template_pixel_values": template_pixel_values})
        return {"template": template}

    def hidden_template(self) -> np.ndarray:
        """(3, template_size, template_size): `hidden_template` of `image_processing_pjvlt`, normalised."""
        size = self.settings["template_size"]
        mean = np.round(self._shift / self._scale)
        return np.broadcast_to(mean * self._scale - self._shift, (3, size, size)).astype(np.float32)

    def maps(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The maps: score (B, 1, G, G), offset (B, 2, G, G) and size (B, 2, G, G), float32.

        Args: `pixel_values` (B, 3, search_size, search_size), float32, and the outputs of
        [`OnnxModel.encode_templates`] and [`OnnxModel.encode_text`].
        """
        return self._tracker.run(list(MAPS), inputs)

    def crop(self, frame: np.ndarray, crop: tuple[float, float, float], size: int) -> np.ndarray:
        """(3, size, size) float32, normalised: the part of a frame (H, W, 3) in the crop (left, top, scale)."""
        pixels = crop_array(frame, *crop, size)
        pixels *= self._scale
        pixels -= self._shift
        return pixels


def import_onnxruntime():
    """The module onnxruntime, with the usage reports off that official builds send to Microsoft (see its Privacy.md).

    `ORT_DISABLE_TELEMETRY=0` in the environment leaves them on.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the first import
    import onnxruntime

    return onnxruntime


def _open_graph(path: Path, num_threads: int | None, providers: list[str] | None):
    if path.with_suffix(openvino.SUFFIX).is_file():
        return openvino.OpenVinoGraph(path.with_suffix(openvino.SUFFIX), num_threads)
    try:
        onnxruntime = import_onnxruntime()
    except ModuleNotFoundError as error:
        raise ImportError("Running an exported model needs onnxruntime: pip install 'pjvlt[export]'.") from error
    options = onnxruntime.SessionOptions()
    small = path.stat().st_size < SMALL_GRAPH
    options.intra_op_num_threads = num_threads or (1 if small else 0)
    # Threads that wait by spinning would take the cores from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=providers or ["CPUExecutionProvider"])


def decode_maps(score_map, offset_map, size_map, window=None) -> tuple[np.ndarray, np.ndarray]:
    """`decode_boxes` of `decoding_pjvlt` in NumPy: boxes (B, 4) cx, cy, w, h in crop fractions, scores (B,)."""
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

    It is used like [`TrackingSession`], and its boxes are the same.

    Args:
        model: an [`OnnxModel`], which many trackers can share, or its folder.
        window_weight, size_smoothing, lost_score, lost_after, redetect: see [`TargetSession`]; for the first three,
            None means the value of the export.

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
        lost_score: float | None = None,
        lost_after: int = LOST_AFTER,
        redetect: str | None = "local",
    ):
        self.model = model if isinstance(model, OnnxModel) else OnnxModel(model)
        settings = self.model.settings
        given = {"window_weight": window_weight, "size_smoothing": size_smoothing, "lost_score": lost_score}
        tracking = {name: settings.get(name, default) for name, default in TRACKING_DEFAULTS.items()}
        tracking |= {name: value for name, value in given.items() if value is not None}
        super().__init__(
            settings["search_factor"], settings["search_size"], **tracking, lost_after=lost_after, redetect=redetect
        )
        self.window = weighted(hann_array(settings["grid"]), self.window_weight)

    def _template(self, image: np.ndarray, box: Box, hide: bool) -> np.ndarray:
        settings = self.model.settings
        size = settings["template_size"]
        if hide:
            return self.model.hidden_template()[None]
        return self.model.crop(image, crop_geometry(box, settings["template_factor"], size), size)[None]

    def _model_name(self) -> str:
        return self.model._arguments[0]

    def _read_text(self, text: str | None) -> dict:
        check_sentence(text)
        return {"text": clean_sentences(text, 1)[0] if self.model.settings["uses_language"] else text}

    def _read(self, frame) -> tuple[np.ndarray, tuple[int, int]]:
        image = rgb_array(frame)
        return image, image.shape[:2]

    def _crop(self, image: np.ndarray, crops: list[tuple[float, float, float]]) -> np.ndarray:
        return np.stack([self.model.crop(image, crop, self.search_size) for crop in crops])

    def _run(self, pixel_values: np.ndarray, rows: list[int]) -> tuple[np.ndarray, list[float]]:
        if self._batch is None:
            targets = self._targets.values()
            sentences = self.model.encode_text([t.text for t in targets])
            self._batch = self.model.encode_templates(np.concatenate([t.template for t in targets])) | sentences
        inputs = self._batch
        if rows != list(range(len(self._targets))):
            inputs = {name: value.take(rows, TARGET_AXIS[name]) for name, value in inputs.items()}
        boxes, scores = decode_maps(*self.model.maps({"pixel_values": pixel_values, **inputs}), self.window)
        return boxes, scores.tolist()


__all__ = ["OnnxModel", "OnnxTracker"]
