"""The online loop: a session holds the targets of one video and steps through its frames.

What runs per frame is the model's [`PJVLTFrameModel`], made once per model and shared by all its sessions and threads.
"""

import threading
import time
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from .decoding_pjvlt import decode_boxes, hann_window
from .frame_pjvlt import PJVLTFrameModel, PJVLTSentence
from .geometry_pjvlt import Box, check_first_box, crop_geometry
from .image_processing_pjvlt import crop_images, hidden_template, to_rgb
from .modeling_pjvlt import PJVLTModel, PJVLTTextFeatures
from .processing_pjvlt import PJVLTProcessor
from .sentences_pjvlt import MAX_WORDS, check_sentence, clean_sentences
from .targets_pjvlt import (
    LOST_AFTER,
    LOST_SCORE,
    Target,
    TargetSession,
    TrackedTarget,
    weighted,
)

STATE = ("text", "frame_size", "box", "seen", "low", "growth")  # of a target, beside its template
_FRAME_MODELS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # of each model, and what its weights were then
_FRAME_MODELS_LOCK = threading.Lock()


@dataclass
class _Target(Target):
    text_features: PJVLTTextFeatures | None = None  # of its sentence


def stack_text_features(features: list[PJVLTTextFeatures]) -> PJVLTTextFeatures:
    """One batch out of single sentences, padded to the longest."""
    longest = max(f.attention_mask.shape[1] for f in features)

    def pad(tensor: Tensor, axis: int) -> Tensor:
        missing = longest - tensor.shape[axis]
        return torch.cat(
            [tensor, tensor.new_zeros(*tensor.shape[:axis], missing, *tensor.shape[axis + 1 :])], dim=axis
        )

    return PJVLTTextFeatures(
        keys=torch.cat([pad(f.keys, 3) for f in features]),
        values=torch.cat([pad(f.values, 3) for f in features]),
        modulation=torch.cat([f.modulation for f in features]),
        attention_mask=torch.cat([pad(f.attention_mask, 1) for f in features]),
    )


def shared_frame_model(
    model: PJVLTModel, dtype: torch.dtype | None = None, compile: bool | str = False
) -> PJVLTFrameModel:
    """The model's frame model, made once and again only after its weights were changed, moved or cast.

    Changes through `.data`, of which torch keeps no count, are not noticed.
    """
    weights = [*model.parameters(), *model.buffers()]
    state = [(w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype, w.device) for w in weights]
    with _FRAME_MODELS_LOCK:
        made = _FRAME_MODELS.setdefault(model, {})
        if made.get("state") != state:
            made.clear()
            made["state"] = state
        key = dtype or model.dtype, compile
        if key not in made:
            with torch.inference_mode(False):  # other threads may use it outside
                made[key] = model.prepare_for_tracking(*key)
        return made[key]


class TrackingSession(TargetSession):
    """Tracks any number of targets through one video, all in one batch per frame.

    The model is only read, so many sessions can share one. Each sentence is encoded once, when its target is added.

    Args:
        model: a [`PJVLTModel`]; it is put into eval mode.
        processor: its [`PJVLTProcessor`].
        window_weight, size_smoothing, lost_score, lost_after: see [`TargetSession`]; the first two are the model's
            own where they are None.

    Attributes:
        seconds: spent in [`TrackingSession.step`] so far: `crop`, until the network's input is there, and `network`,
            until the boxes are.

    Example:
        >>> session = TrackingSession(model, processor)  # doctest: +SKIP
        >>> session.add_target(first_frame, box=[x, y, w, h], text="white dog", target_id="dog")  # doctest: +SKIP
        >>> for frame in frames:  # doctest: +SKIP
        ...     for target in session.step(frame):
        ...         print(target.target_id, target.box, target.score)
    """

    def __init__(
        self,
        model: PJVLTModel,
        processor: PJVLTProcessor,
        window_weight: float | None = None,
        size_smoothing: float | None = None,
        lost_score: float = LOST_SCORE,
        lost_after: int = LOST_AFTER,
        fast: bool = True,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
    ):
        sizes = processor.image_processor
        for name in ("template_size", "search_size"):
            if getattr(sizes, name) != getattr(model.config, name):
                raise ValueError(
                    f"The processor's {name} is {getattr(sizes, name)}, but the model's is {getattr(model.config, name)}: "
                    "load both from the same checkpoint."
                )
        if not fast and (dtype or compile):
            raise ValueError("`dtype` and `compile` are options of the fast path: leave `fast` True.")
        window_weight = model.config.window_weight if window_weight is None else window_weight
        size_smoothing = model.config.size_smoothing if size_smoothing is None else size_smoothing
        super().__init__(window_weight, size_smoothing, lost_score, lost_after)
        self.model = model.eval()
        self._fast = (dtype, compile) if fast else None
        self.frame_model = shared_frame_model(model, dtype, compile) if fast else None
        self.processor = processor
        self.window = weighted(hann_window(model.config.search_grid, model.device), window_weight)
        self._batch: tuple[Tensor, PJVLTTextFeatures | PJVLTSentence | None] | None = None  # of all the targets

    def __getstate__(self) -> dict:
        """With the model's config and weights: hooks of transformers, and the model's fast form, cannot be pickled."""
        model = self.model.config, self.model.dtype, self.model.state_dict(), self.model.name_or_path
        return {**self.__dict__, "model": model, "frame_model": None, "_batch": None}

    def __setstate__(self, state: dict) -> None:
        config, dtype, weights, name = state["model"]
        model = PJVLTModel(config).to(next(iter(weights.values())).device, dtype).eval()
        model.load_state_dict(weights)
        model.name_or_path = name
        self.__dict__.update({**state, "model": model})
        if self._fast is not None:
            self.frame_model = shared_frame_model(self.model, *self._fast)

    def _model_name(self) -> str:
        return f"{self.model.name_or_path or 'PJVLTModel'}, {self.model.device}"

    @torch.inference_mode()
    def add_target(
        self, frame, box, text: str | None = None, target_id: str | None = None, hide_template: bool = False
    ) -> str:
        """Start to track what `box` shows in `frame`.

        Args:
            frame: one picture (PIL, NumPy or torch, RGB).
            box: x, y, w, h in frame pixels, or a dict of `xmin`, `ymin`, `xmax`, `ymax`.
            text: a sentence about the target. Empty or missing: "the target", with a warning.
            target_id: a name for it; by default "0", "1", and so on.
            hide_template: `box` only says where to look first, and how large the target is; the model sees a blank
                template, and the sentence alone says what to find. For models that were trained with such pairs.

        Returns the target's id. Raises `ValueError` for a bad box, picture or sentence, or an id that is in use.
        """
        target_id = self._free_id(target_id)
        image = to_rgb(frame)
        box = check_first_box(box, tuple(image.shape[1:]))
        images = self.processor.image_processor
        crop, _ = images.crop(image, box, images.template_factor, images.template_size)
        crop = hidden_template(images) if hide_template else crop
        template = images.normalize_crops(crop[None].float()).to(self.model.device)
        self._targets[target_id] = _Target(
            template, text, tuple(image.shape[1:]), box, box, text_features=self._encode(text)
        )
        self._batch = None
        return target_id

    @torch.inference_mode()
    def set_text(self, target_id: str, text: str | None) -> None:
        """Give a target another sentence, from the next frame on.

        Raises `KeyError` for an unknown id and `ValueError` for a sentence that is not a string.
        """
        target = self._known(target_id)
        target.text, target.text_features = text, self._encode(text)
        self._batch = None

    def _encode(self, text: str | None) -> PJVLTTextFeatures | None:
        check_sentence(text)
        if not self.model.config.uses_language:
            return None
        encoded = self.processor.encode_text(clean_sentences(text, 1)).to(self.model.device)
        return self.model.encode_text(**encoded)

    def state_dict(self) -> dict[str, dict]:
        """Everything that the session knows of its targets: numbers, sentences and one small tensor each.

        Without the model and without the sentences' features, which [`TrackingSession.load_state_dict`] makes anew. It
        can be kept with `torch.save` and read with `torch.load(..., weights_only=True)`.
        """
        return {
            target_id: {**{name: getattr(target, name) for name in STATE}, "template": target.template.cpu().clone()}
            for target_id, target in self._targets.items()
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Go on where another session was, with the same model: the targets of this one are replaced.

        Raises `ValueError` for a state that is none, or whose templates have another size than the model's.
        """
        size, targets = self.model.config.template_size, {}
        for target_id, told in state.items():
            missing = {"template", *STATE} - set(told)
            if missing:
                raise ValueError(f"The state of target {target_id!r} has no {', '.join(sorted(missing))}.")
            if told["template"].shape != (1, 3, size, size):
                raise ValueError(
                    f"The template of target {target_id!r} is {tuple(told['template'].shape)}, but the model takes "
                    f"(1, 3, {size}, {size}): load the state with the model it was made with."
                )
            template = told["template"].to(self.model.device)
            values = {name: told[name] for name in STATE}
            targets[target_id] = _Target(template, text_features=self._encode(told["text"]), **values)
        self._targets, self._batch = targets, None

    @torch.inference_mode()
    def step(self, frame) -> list[TrackedTarget]:
        """Find every target in the next frame.

        Returns one [`TrackedTarget`] for each, in the order in which they were added. Raises `ValueError` for a
        picture of another size than the first; the session can go on with the next frame then.
        """
        if not self._targets:
            return []
        started = time.perf_counter()
        image = to_rgb(frame)
        return self._step(image, tuple(image.shape[1:]), started)

    def _locate(self, image: Tensor, started: float) -> tuple[list[Box], list[float]]:
        """Boxes (xywh, frame pixels) and scores of all the targets in one frame (3, H, W). started: when its step did."""
        images, size = self.processor.image_processor, self.model.config.search_size
        geometry = [crop_geometry(t.box, images.search_factor * t.growth, size) for t in self._targets.values()]
        crops = crop_images(image.to(self.model.device), self._padded(geometry), size)
        pixel_values = images.normalize_crops(crops)
        cropped = time.perf_counter()
        template, words = self._batched()
        if self.frame_model is not None:
            located = self.frame_model.locate(pixel_values, template, words, self.window)
        else:
            maps = self.model(pixel_values=pixel_values, template_pixel_values=template, text_features=words)
            boxes, scores = decode_boxes(maps.score_map, maps.offset_map, maps.size_map, self.window)
            located = torch.cat([boxes, scores[:, None]], dim=1)
        located = located[: len(geometry)].cpu()  # the one time that the device is waited for
        boxes = self.processor.post_process_tracking(located[:, :4], geometry, image.shape[1:])
        answer = [tuple(box) for box in boxes.tolist()], located[:, 4].tolist()
        self.seconds["crop"] += cropped - started
        self.seconds["network"] += time.perf_counter() - cropped
        return answer

    def _padded(self, targets: list) -> list:
        """So many targets that there are few different numbers of them, where each would be compiled anew."""
        if self.frame_model is None or not self.frame_model.compiled:
            return targets
        return targets + targets[-1:] * ((1 << (len(targets) - 1).bit_length()) - len(targets))

    def _batched(self) -> tuple[Tensor, PJVLTTextFeatures | PJVLTSentence | None]:
        """Templates and sentences of all the targets, as the network takes them."""
        if self._batch is None:
            targets = self._padded(list(self._targets.values()))
            words = [t.text_features for t in targets]
            words = stack_text_features(words) if words[0] is not None else None
            template = torch.cat([t.template for t in targets])
            if self.frame_model is not None:
                words = self.frame_model.sentence(words, MAX_WORDS if self.frame_model.compiled else None)
                template = self.frame_model.template(template)
            self._batch = template, words
        return self._batch


__all__ = ["TrackedTarget", "TrackingSession", "hann_window", "shared_frame_model"]
