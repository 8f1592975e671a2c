"""The online loop: a session holds the targets of one video and steps through its frames.

Each frame runs the model's [`PJVLTInferenceModel`], which is made once per model and shared by all its sessions and
threads.
"""

import numpy as np
import torch
from torch import Tensor

from .decoding_pjvlt import decode_boxes, hann_window
from .geometry_pjvlt import Box
from .image_processing_pjvlt import crop_images, hidden_template, to_rgb
from .inference_pjvlt import PJVLTSentence
from .modeling_pjvlt import PJVLTModel, PJVLTTextFeatures
from .processing_pjvlt import PJVLTProcessor
from .sentences_pjvlt import MAX_WORDS, check_sentence, clean_sentences
from .session_pjvlt import (
    LOST_AFTER,
    Target,
    TargetSession,
    TrackedTarget,
    weighted,
)
from .threads_pjvlt import set_threads

STATE = ("text", "frame_size", "box", "seen", "low", "growth")  # saved of each target, besides its template


def stack_text_features(features: list[PJVLTTextFeatures]) -> PJVLTTextFeatures:
    """Batch the features of single sentences, padded to the longest."""
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
        alignment=None if features[0].alignment is None else torch.cat([f.alignment for f in features]),
    )


class TrackingSession(TargetSession):
    """Tracks any number of targets through one video, in one batch per frame.

    Sessions do not change the model, so many can share one. Each sentence is encoded once, when its target is added.

    Args:
        model: a [`PJVLTModel`]; it is put into eval mode.
        processor: its [`PJVLTProcessor`].
        window_weight, size_smoothing, lost_score, lost_after, redetect: see [`TargetSession`]; for None, the first
            three take the checkpoint's values, which the processor stores.

    For a small model on a CPU the session sets torch's number of threads to 1, because more threads help little and
    slow down when other programs run. It does not if you set a number yourself (`torch.set_num_threads`,
    `OMP_NUM_THREADS`).

    Attributes:
        seconds: time spent in [`TrackingSession.step`] so far, in seconds: `crop` for preparing the network's input,
            `network` for computing the boxes.

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
        lost_score: float | None = None,
        lost_after: int = LOST_AFTER,
        redetect: str | None = "local",
        fast: bool = True,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
    ):
        sizes = processor.image_processor
        for name in ("template_size", "search_size"):
            if getattr(sizes, name) != getattr(model.config, name):
                raise ValueError(
                    f"The processor's {name} is {getattr(sizes, name)}, but the model's is "
                    f"{getattr(model.config, name)}: load both from the same checkpoint."
                )
        if not fast and (dtype or compile):
            raise ValueError("`dtype` and `compile` are options of the fast path: leave `fast` True.")
        given = {"window_weight": window_weight, "size_smoothing": size_smoothing, "lost_score": lost_score}
        own = processor.tracking_settings(model.config) | {n: v for n, v in given.items() if v is not None}
        super().__init__(sizes.search_factor, sizes.search_size, **own, lost_after=lost_after, redetect=redetect)
        self.model = model.eval()
        if model.device.type == "cpu":
            set_threads(model)
        self._fast = (dtype, compile) if fast else None
        self.inference_model = self.model.inference_model(dtype, compile) if fast else None
        self.processor = processor
        self.window = weighted(hann_window(model.config.search_grid, model.device), self.window_weight)
        self._batch: tuple[Tensor, PJVLTTextFeatures | PJVLTSentence | None] | None = None  # of all the targets

    def __getstate__(self) -> dict:
        """Replaces the model by config and weights: transformers' hooks and the inference model cannot be pickled."""
        model = self.model.config, self.model.dtype, self.model.state_dict(), self.model.name_or_path
        return {**self.__dict__, "model": model, "inference_model": None, "_batch": None}

    def __setstate__(self, state: dict) -> None:
        config, dtype, weights, name = state["model"]
        model = PJVLTModel(config).to(next(iter(weights.values())).device, dtype).eval()
        model.load_state_dict(weights)
        model.name_or_path = name
        self.__dict__.update({**state, "model": model})
        if self._fast is not None:
            self.inference_model = self.model.inference_model(*self._fast)

    def _model_name(self) -> str:
        return f"{self.model.name_or_path or 'PJVLTModel'}, {self.model.device}"

    @torch.inference_mode()
    def _template(self, image: Tensor, box: Box, hide: bool) -> Tensor:
        images = self.processor.image_processor
        if hide:
            crop = hidden_template(images)
        else:
            crop, _ = images.crop(image, box, images.template_factor, images.template_size)
        return images.normalize_crops(crop[None].float()).to(self.model.device)

    @torch.inference_mode()
    def _read_text(self, text: str | None) -> dict:
        check_sentence(text)
        if not self.model.config.uses_language:
            return {"text": text, "text_features": None}
        encoded = self.processor.encode_text(clean_sentences(text, 1)).to(self.model.device)
        return {"text": text, "text_features": self.model.encode_text(**encoded)}

    def state_dict(self) -> dict[str, dict]:
        """The state of all targets, as a dict by target id: numbers, a sentence and one small tensor each.

        It does not hold the model, nor the features of the sentences, which [`TrackingSession.load_state_dict`]
        computes again. Save it with `torch.save` and read it with `torch.load(..., weights_only=True)`.
        """
        return {
            target_id: {**{name: getattr(target, name) for name in STATE}, "template": target.template.cpu().clone()}
            for target_id, target in self._targets.items()
        }

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Continue from the state of another session with the same model. Replaces the targets of this one.

        Raises `ValueError` if an entry is missing, or if a template has another size than the model takes.
        """
        size, targets = self.model.config.template_size, {}
        for target_id, saved in state.items():
            missing = {"template", *STATE} - set(saved)
            if missing:
                raise ValueError(f"The state of target {target_id!r} has no {', '.join(sorted(missing))}.")
            if saved["template"].shape != (1, 3, size, size):
                raise ValueError(
                    f"The template of target {target_id!r} is {tuple(saved['template'].shape)}, but the model takes "
                    f"(1, 3, {size}, {size}): load the state with the model it was made with."
                )
            template = saved["template"].to(self.model.device)
            values = {name: saved[name] for name in STATE}
            targets[target_id] = Target(template, **{**values, **self._read_text(saved["text"])})
        self._targets, self._batch = targets, None

    def _read(self, frame) -> tuple[Tensor, tuple[int, int]]:
        image = to_rgb(frame)
        return image, tuple(image.shape[1:])

    @torch.inference_mode()
    def _crop(self, image: Tensor, crops: list[tuple[float, float, float]]) -> Tensor:
        crops = crop_images(image.to(self.model.device), self._padded(crops), self.search_size)
        return self.processor.image_processor.normalize_crops(crops)

    @torch.inference_mode()
    def _run(self, pixel_values: Tensor, rows: list[int]) -> tuple[np.ndarray, list[float]]:
        template, words = self._rows(rows)
        if self.inference_model is not None:
            located = self.inference_model.locate(pixel_values, template, words, self.window)
        else:
            maps = self.model(pixel_values=pixel_values, template_pixel_values=template, text_features=words)
            boxes, scores = decode_boxes(maps.score_map, maps.offset_map, maps.size_map, self.window)
            located = torch.cat([boxes, scores[:, None]], dim=1)
        located = located[: len(rows)].cpu()  # the only wait for the device
        return located[:, :4].double().numpy(), located[:, 4].tolist()

    def _rows(self, rows: list[int]) -> tuple[Tensor, PJVLTTextFeatures | PJVLTSentence | None]:
        """Templates and sentences of the targets with these row numbers."""
        if rows == list(range(len(self._targets))):
            return self._batched()
        template, words = self._batched()
        places = torch.tensor(self._padded(rows), device=template.device)
        return template[places], None if words is None else words.rows(places)

    def _padded(self, targets: list) -> list:
        """With `compile`, pads the list to a power of two, because every new batch size would be compiled again."""
        if self.inference_model is None or not self.inference_model.compiled:
            return targets
        return targets + targets[-1:] * ((1 << (len(targets) - 1).bit_length()) - len(targets))

    def _batched(self) -> tuple[Tensor, PJVLTTextFeatures | PJVLTSentence | None]:
        """Templates and sentences of all targets, as the network takes them."""
        if self._batch is None:
            targets = self._padded(list(self._targets.values()))
            words = [t.text_features for t in targets]
            words = stack_text_features(words) if words[0] is not None else None
            template = torch.cat([t.template for t in targets])
            if self.inference_model is not None:
                words = self.inference_model.sentence(words, MAX_WORDS if self.inference_model.compiled else None)
                template = self.inference_model.template(template)
            self._batch = template, words
        return self._batch


__all__ = ["TrackedTarget", "TrackingSession", "hann_window"]
