"""PJVLTProcessor: frames, boxes and a sentence in; boxes in frame pixels out."""

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import logging

from .image_processing_pjvlt import clip_box

logger = logging.get_logger(__name__)

DEFAULT_SENTENCE = "the target"  # what an empty or missing sentence becomes
MAX_WORDS = 40  # tokens, [CLS] and [SEP] included


def clean_sentences(text: str | list[str] | None, count: int) -> list[str]:
    """`count` sentences without needless blanks; empty and missing ones become "the target", with one warning.

    One sentence serves all rows. Raises `ValueError` where the numbers do not fit and for things that are not text.
    """
    sentences = list(text) if isinstance(text, (list, tuple)) else [text] * count
    if len(sentences) != count:
        raise ValueError(f"Got {count} images but {len(sentences)} sentences.")
    for row, sentence in enumerate(sentences):
        if sentence is not None and not isinstance(sentence, str):
            raise ValueError(f"Sentence {row} must be a string, got {type(sentence).__name__}: {sentence!r}.")
    cleaned = [" ".join((sentence or "").split()) for sentence in sentences]
    empty = sum(not sentence for sentence in cleaned)
    if empty:
        logger.warning(f"{empty} of {count} sentences are empty and read as {DEFAULT_SENTENCE!r}.")
    return [sentence or DEFAULT_SENTENCE for sentence in cleaned]


class PJVLTProcessor(ProcessorMixin):
    """Wraps a [`PJVLTImageProcessor`] and a BERT tokenizer.

    Sentences are cut to 40 tokens, with a warning; `token_type_ids` are dropped, because a tracker reads one sentence.
    """

    # Defaults of a call, which transformers merges with the caller's arguments.
    text_kwargs = {"padding": True, "truncation": True, "max_length": MAX_WORDS, "return_tensors": "pt"}
    images_kwargs = {"return_tensors": "pt"}

    def __init__(self, image_processor, tokenizer):
        super().__init__(image_processor, tokenizer)

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
        """Everything `PJVLTModel` takes.

        Args:
            images, boxes, template_images, template_boxes, return_crops: see [`PJVLTImageProcessor.preprocess`].
            text: one sentence, or one for each image. Empty or missing sentences become "the target", with a warning.
            kwargs: of the tokenizer and of the image processor; `return_tensors` is `"pt"` (default), `"np"` or None
                for lists.

        Returns `pixel_values`, `template_pixel_values`, `input_ids` (B, T), `attention_mask` (B, T) and, if asked
        for, `crops` (B, 3), as far as their inputs were given.
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
        """Rows of the batch: as many as crops, or as sentences where there is no picture."""
        for name in ("pixel_values", "template_pixel_values"):
            if name in data:
                return len(data[name])
        return len(text) if isinstance(text, (list, tuple)) else 1

    def encode_text(self, text: str | list[str], **kwargs) -> BatchFeature:
        """Sentences to `input_ids` and `attention_mask`, (B, T) with T of at most 40 tokens."""
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
            logger.warning(f"A sentence of {max(lengths)} tokens was cut to its first {limit}.")

    def post_process_tracking(self, outputs, crops, frame_sizes) -> Tensor:
        """The model's boxes in pixels of their frames.

        Args:
            outputs: [`PJVLTOutput`], or its `pred_boxes` (B, 4).
            crops: (B, 3) left, top, scale, from `processor(..., return_crops=True)`.
            frame_sizes: (height, width) of each frame, B of them or one for all; boxes are clipped to it.

        Returns (B, 4) float64 xywh.
        """
        boxes = outputs if isinstance(outputs, Tensor) else outputs.pred_boxes
        boxes = boxes.detach().cpu().double().numpy()  # NumPy, because each of these steps is only a few numbers
        crops = np.asarray(crops, dtype=np.float64).reshape(-1, 3)
        if len(crops) != len(boxes):
            raise ValueError(f"Got {len(boxes)} boxes but {len(crops)} crops.")
        sizes = np.broadcast_to(np.asarray(frame_sizes, dtype=np.int64).reshape(-1, 2), (len(boxes), 2)).tolist()
        corners = boxes[:, :2] - boxes[:, 2:] / 2
        boxes_xywh = np.concatenate([corners, boxes[:, 2:]], axis=1) * self.image_processor.search_size / crops[:, 2:]
        boxes_xywh[:, :2] += crops[:, :2]
        return torch.tensor(
            [clip_box(box, size) for box, size in zip(boxes_xywh.tolist(), sizes, strict=True)], dtype=torch.float64
        )


__all__ = ["PJVLTProcessor", "clean_sentences"]
