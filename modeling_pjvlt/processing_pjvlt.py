"""PJVLTProcessor: frames, boxes and a sentence in; boxes in frame pixels out."""

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import logging

from .geometry_pjvlt import crops_to_frames
from .sentences_pjvlt import DEFAULT_SENTENCE, MAX_WORDS, clean_sentences, cut_warning
from .session_pjvlt import TRACKING_DEFAULTS, check_settings

logger = logging.get_logger(__name__)


class PJVLTProcessor(ProcessorMixin):
    """Wraps a [`PJVLTImageProcessor`] and a BERT tokenizer, and stores the tracking settings of the checkpoint.

    Sentences are cut to 40 tokens, with a warning; `token_type_ids` are dropped, because a tracker reads one sentence.

    Args:
        image_processor, tokenizer: the two that it wraps.
        window_weight, size_smoothing, lost_score: what a session with this checkpoint uses unless it is given other
            values; see [`TargetSession`]. None: the session's own defaults, which are the paper's.
    """

    # Defaults of a call, which transformers merges with the caller's arguments.
    text_kwargs = {"padding": True, "truncation": True, "max_length": MAX_WORDS, "return_tensors": "pt"}
    images_kwargs = {"return_tensors": "pt"}

    def __init__(
        self,
        image_processor,
        tokenizer,
        window_weight: float | None = None,
        size_smoothing: float | None = None,
        lost_score: float | None = None,
    ):
        super().__init__(image_processor, tokenizer)
        check_settings(window_weight, size_smoothing, lost_score)
        self.window_weight, self.size_smoothing, self.lost_score = window_weight, size_smoothing, lost_score

    def tracking_settings(self, config) -> dict[str, float]:
        """A session's default settings: the processor's, else those in the `config` of an older checkpoint, else the
        paper's."""
        return {
            name: next(v for v in (getattr(self, name), getattr(config, name, None), default) if v is not None)
            for name, default in TRACKING_DEFAULTS.items()
        }

    @property
    def model_input_names(self) -> list[str]:
        return [*self.image_processor.model_input_names, "input_ids", "attention_mask"]

    def __call__(
        self,
        images=None,
        text: str | list[str] | None = None,
        boxes=None,
        template_images=None,
        template_boxes=None,
        return_crops: bool | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Make the inputs of [`PJVLTModel`].

        Args:
            images, boxes, template_images, template_boxes, return_crops: see [`PJVLTImageProcessor.preprocess`].
            text: one sentence, or one for each image. Empty or missing sentences become "the target", with a warning.
            kwargs: options of the tokenizer and of the image processor; `return_tensors` is `"pt"` (default), `"np"`
                or None for lists.

        Returns those entries whose inputs were given: `pixel_values`, `template_pixel_values`, `input_ids` (B, T),
        `attention_mask` (B, T) and, with `return_crops`, `crops` (B, 3).
        """
        text_kwargs, image_kwargs = self._split_kwargs(kwargs)
        data = {}
        if images is not None or template_images is not None:
            data.update(
                self.image_processor(
                    images, boxes, template_images, template_boxes, return_crops=bool(return_crops), **image_kwargs
                )
            )
        if text is not None or images is not None:
            count = self._count(text, data)
            data.update(self.encode_text(clean_sentences(text, count), **text_kwargs))
        if not data:
            raise ValueError("Pass `images`, `template_images` or `text`.")
        return BatchFeature(data)

    def _split_kwargs(self, kwargs: dict) -> tuple[dict, dict]:
        """Keyword arguments for the tokenizer and for the image processor."""
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        return merged["text_kwargs"], merged["images_kwargs"]

    def _count(self, text, data: dict) -> int:
        """Rows of the batch: the number of crops or, without images, of sentences."""
        for name in ("pixel_values", "template_pixel_values"):
            if name in data:
                return len(data[name])
        return len(text) if isinstance(text, (list, tuple)) else 1

    def encode_text(self, text: str | list[str], **kwargs) -> BatchFeature:
        """Sentences to `input_ids` and `attention_mask`, both (B, T) with T at most 40 tokens."""
        kwargs = {**self.text_kwargs, **kwargs}
        sentences = [text] if isinstance(text, str) else text
        if kwargs["truncation"] and kwargs["max_length"]:
            self._warn_of_truncation(sentences, kwargs["max_length"])
        encoded = self.tokenizer(sentences, **kwargs)
        encoded.pop("token_type_ids", None)
        return BatchFeature(dict(encoded))

    def _warn_of_truncation(self, sentences: list[str], limit: int) -> None:
        # a token has at least one character, so short sentences need no second tokenisation
        lengths = [len(self.tokenizer(s, verbose=False)["input_ids"]) for s in sentences if len(s) + 2 > limit]
        if lengths and max(lengths) > limit:
            logger.warning(cut_warning(max(lengths), limit))

    def post_process_tracking(self, outputs, crops, frame_sizes) -> Tensor:
        """The predicted boxes in pixels of their frames.

        Args:
            outputs: [`PJVLTOutput`], or its `pred_boxes` (B, 4).
            crops: (B, 3) left, top, scale, from `processor(..., return_crops=True)`.
            frame_sizes: (height, width) of each frame, B of them or one for all; boxes are clipped to it.

        Returns (B, 4) float64 xywh.
        """
        boxes = outputs if isinstance(outputs, Tensor) else outputs.pred_boxes
        boxes = boxes.detach().cpu().double().numpy()  # NumPy, because each of these steps is only a few numbers
        size = self.image_processor.search_size
        return torch.tensor(crops_to_frames(boxes, crops, size, frame_sizes), dtype=torch.float64).reshape(-1, 4)


__all__ = ["DEFAULT_SENTENCE", "MAX_WORDS", "PJVLTProcessor", "clean_sentences"]
