"""PJVLT for inference, frame by frame: everything that depends on sentence and template alone is computed once.

[`PJVLTInferenceModel`] is made from a loaded model by [`PJVLTModel.prepare_for_tracking`] and gives the same maps with
fewer and larger operations; its layers are in `inference_layers_pjvlt.py`. Letters in shapes: B batch, N = N_z + N_x
visual tokens (template first), T words, H heads of the SAIEL, C channels, D latent channels, F fused layers, G search
grid.

Notable: attention is linear in its values and the weights of a head sum to one, so modulation (Eq. 5), the language
half of W_o and the bias of Eq. 7 go into the values, once per sentence, and the bias of a vision layer's values into
that of its output; the bias of its keys adds the same to all scores of a query, which is nothing to a softmax; the
keys and values of all heads lie in one block-diagonal matrix, so a SAIEL needs two plain matmuls for its attention;
the instance norm of the query is a layer norm of its transpose; query, key and value of a vision layer are one matmul,
in an export three; batch norm is folded into the convolutions, and the three branches of the head run as one.
"""

import threading
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .decoding_pjvlt import decode_boxes
from .inference_layers_pjvlt import (
    InferenceBuilder,
    PJVLTInferenceAlignment,
    PJVLTInferenceCCPIL,
    PJVLTInferenceHead,
    PJVLTInferenceSAIEL,
    PJVLTInferenceStem,
    PJVLTInferenceVision,
)
from .onednn_pjvlt import OneDNN

WORD_BLOCK = 8  # sentences are padded to multiples of this many tokens, so that there are few different shapes
MASKED = -3e4  # added to the scores of padding; float16 can hold it


class PJVLTSentence(NamedTuple):
    """The constants of the sentences that every frame uses. Made by [`PJVLTInferenceModel.sentence`].

    keys (F, B, D, H T): scaled, block-diagonal over the heads. values (F, B, H T, C), modulated and through the
    language half of W_o, or (F, B, H T, D), modulated and block-diagonal, where that is less work. mask (B, 1, H T): 0
    for words and a large negative number for padding. alignment (B, E, 1): what the patches of [`PJVLTAlignment`] are
    multiplied with, its gain included; None for a model without it.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    alignment: Tensor | None = None

    def rows(self, places: Tensor) -> "PJVLTSentence":
        """The constants of the targets with these row numbers (n,)."""
        alignment = None if self.alignment is None else self.alignment[places]
        return PJVLTSentence(self.keys[:, places], self.values[:, places], self.mask[places], alignment)


def _block_diagonal(heads: Tensor) -> Tensor:
    """(..., H, a, b) to (..., H a, H b)."""
    count = heads.shape[-3]
    own = torch.eye(count, dtype=heads.dtype, device=heads.device)[:, None, :, None]
    return (heads[..., None, :] * own).flatten(-2).flatten(-3, -2)


class PJVLTInferenceModel(nn.Module):
    """The per-frame half of a [`PJVLTModel`], for inference. Made by [`PJVLTModel.prepare_for_tracking`].

    It is a snapshot of the model, on its device: shared weights follow in-place changes of the model, copied ones do
    not. Compiled, it is fast only with few different shapes: one number of targets, sentences padded to one length.

    Args:
        model: a [`PJVLTModel`] in eval mode.
        dtype: type of the weights and the arithmetic; default: the model's. The maps are always float32.
        compile: use `torch.compile`; a string names a backend.
        portable: for exports: use no CPU-only operations of torch, and write attention out as matmuls.

    Example:
        >>> inference_model = model.prepare_for_tracking()  # doctest: +SKIP
        >>> sentence = inference_model.sentence(model.encode_text(input_ids, attention_mask))  # doctest: +SKIP
        >>> template = inference_model.template(template_pixels)  # doctest: +SKIP
        >>> score_map, offset_map, size_map = inference_model(pixels, template, sentence)  # doctest: +SKIP
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype | None = None,
        compile: bool | str = False,
        portable: bool = False,
    ):
        super().__init__()
        self.config = model.config
        self.dtype = dtype or model.dtype
        fused = not (compile or portable) and OneDNN.serves(model.device, self.dtype)
        build = InferenceBuilder(model.config, self.dtype, fused, portable)
        embeddings, encoder = model.embeddings, model.encoder
        if self.config.stem_stages:
            self.stem = build.module(embeddings.stem)
        else:
            self.stem = nn.ModuleList(
                PJVLTInferenceStem(m, build) for m in embeddings.stem if isinstance(m, nn.Conv2d)
            )
        self.register_buffer("projection", build.cast(embeddings.projection.weight))
        fine = embeddings.fine_projection
        self.register_buffer("fine_projection", None if fine is None else build.cast(fine.weight))
        for name in ("template_position", "search_position"):
            self.register_buffer(name, build.cast(getattr(embeddings, name) + embeddings.projection.bias))
        self.layers = nn.ModuleList()
        for layer in encoder.all_layers():
            if layer.vision is not None:
                self.layers.append(PJVLTInferenceVision(layer.vision, build))
            if layer.fusion is not None and layer.fusion.saiel is not None:
                self.layers.append(PJVLTInferenceSAIEL(layer.fusion.saiel, build))
            if layer.fusion is not None and (self.config.use_ccm or self.config.use_pim):
                self.layers.append(PJVLTInferenceCCPIL(layer.fusion.ccpil, build))
        self.norm = build.norm(model.norm)
        self.head = PJVLTInferenceHead(model.head, build)
        self.alignment = None if model.alignment is None else PJVLTInferenceAlignment(model.alignment, build)
        self.compiled = bool(compile)
        self._run_maps, self._run_locate = self._maps, self._locate
        if compile:
            graphs = compile is True and model.device.type == "cuda"
            options = {"backend": "inductor" if compile is True else compile, "fullgraph": True, "dynamic": False}
            options["mode"] = "reduce-overhead" if graphs else None  # CUDA graphs
            self._run_maps, self._run_locate = (torch.compile(f, **options) for f in (self._maps, self._locate))
        self.eval()

    def _folded(self, words: int) -> bool:
        """Whether the values include the language half of W_o: fewer multiplications unless sentences are long."""
        heads, latent, channels = self.config.num_saiel_heads, self.config.saiel_hidden_size, self.config.hidden_size
        return self.config.saiel_fusion != "product" and heads * words * (channels - latent) <= latent * channels

    @torch.no_grad()
    def sentence(self, text_features, num_words: int | None = None) -> PJVLTSentence | None:
        """Compute the constants of the sentences for all frames.

        Args:
            text_features: [`PJVLTTextFeatures`] of B sentences, from [`PJVLTModel.encode_text`]; None gives None.
            num_words: pad to this many tokens; by default to the next multiple of eight.

        Raises `ValueError` for sentences longer than `num_words`.
        """
        if text_features is None:
            return None
        length = text_features.attention_mask.shape[1]
        num_words = num_words or -(-length // WORD_BLOCK) * WORD_BLOCK
        if length > num_words:
            raise ValueError(f"The sentences have {length} tokens, more than `num_words` ({num_words}).")
        padding = num_words - length
        keys, values = (x.float().transpose(0, 1) for x in (text_features.keys, text_features.values))
        keys, values = (functional.pad(x, (0, 0, 0, padding)) for x in (keys, values))  # (F, B, H, T, D / H)
        heads, dim = keys.shape[2], keys.shape[4]
        modulation = text_features.modulation.float().permute(1, 2, 0, 3).unflatten(-1, (heads, 1, dim))
        alpha, beta, gamma = modulation.unbind(dim=1)  # each (F, B, H, 1, D / H)
        values = gamma * ((1 + alpha) * values + beta)  # Eq. 5
        if self._folded(num_words):
            saiels = [layer for layer in self.layers if isinstance(layer, PJVLTInferenceSAIEL)]
            language = torch.stack([s.language.float() for s in saiels])
            language = language.transpose(1, 2).unflatten(1, (heads, dim))  # (F, H, D / H, C)
            values = torch.matmul(values, language[:, None]).flatten(2, 3)  # (F, B, H T, C)
            values = values + torch.stack([s.bias.float() for s in saiels])[:, None, None] / heads
        else:
            values = _block_diagonal(values)
        keys = _block_diagonal(keys.transpose(3, 4) * dim**-0.5)
        mask = functional.pad(text_features.attention_mask, (0, padding))
        mask = ((1 - mask.float()) * MASKED)[:, None].repeat(1, 1, heads)
        alignment = None
        if self.alignment is not None:
            alignment = (text_features.alignment.float() * self.alignment.gain)[:, :, None].to(self.dtype)
        return PJVLTSentence(keys.to(self.dtype), values.to(self.dtype), mask.to(self.dtype), alignment)

    @torch.no_grad()
    def template(self, template_pixel_values: Tensor) -> Tensor:
        """Compute the tokens of the templates for all frames, (B, N_z, C).

        Args: `template_pixel_values` (B, 3, template_size, template_size), normalised. Raises `ValueError` for another
        size.
        """
        self._check_crops(template_pixel_values, self.config.template_size)
        return self._tokens(template_pixel_values, self.template_position)

    def _check_crops(self, pixels: Tensor, size: int) -> None:
        if tuple(pixels.shape[1:]) != (self.config.num_channels, size, size):
            raise ValueError(f"Expected crops of {size} x {size} pixels, got {tuple(pixels.shape)}.")

    def _check(self, pixel_values: Tensor, template: Tensor, sentence: PJVLTSentence | None) -> None:
        self._check_crops(pixel_values, self.config.search_size)
        if template.shape[1:] != self.template_position.shape[1:]:
            raise ValueError(
                f"Expected the tokens of a template, {tuple(self.template_position.shape[1:])} for each target, got "
                f"{tuple(template.shape)}: make them with `inference_model.template(template_pixel_values)`."
            )
        if self.config.uses_language and sentence is None:
            raise ValueError("This model needs a sentence: make it with `inference_model.sentence(text_features)`.")

    def _tokens(self, pixels: Tensor, position: Tensor) -> Tensor:
        """Crops to tokens (B, N_z or N_x, C)."""
        pixels = pixels.to(self.dtype)
        fine = None
        if self.config.stem_stages:
            pixels, fine = self.stem(pixels)
        else:
            for convolution in self.stem:
                pixels = convolution(pixels)
        patches = functional.conv2d(pixels, self.projection, stride=self.projection.shape[-1])
        if fine is not None:
            patches = patches + functional.conv2d(fine, self.fine_projection, stride=self.fine_projection.shape[-1])
        return patches.flatten(2).transpose(1, 2) + position

    def forward(
        self, pixel_values: Tensor, template: Tensor, sentence: PJVLTSentence | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the maps of [`PJVLTOutput`] for search crops.

        Args: `pixel_values` (B, 3, search_size, search_size), normalised, the `template` (B, N_z, C), from
        [`PJVLTInferenceModel.template`], and the `sentence`, where the model reads one. Returns score_map
        (B, 1, G, G), offset_map (B, 2, G, G) and size_map (B, 2, G, G), float32. Raises `ValueError` for crops of
        another size than the config's, for anything but the tokens of a template, and for a missing sentence.
        """
        self._check(pixel_values, template, sentence)
        maps = self._run_maps(pixel_values, template, sentence)
        return tuple(part.clone() for part in maps) if self.compiled else maps  # a CUDA graph overwrites its outputs

    def _maps(self, pixel_values, template, sentence) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self._tokens(pixel_values, self.search_position)
        rows = torch.cat([template.transpose(0, 1), tokens.transpose(0, 1)]).flatten(0, 1)  # (N B, C)
        alignment = None if self.alignment is None else self.alignment(tokens, sentence.alignment)
        words = iter(())
        if sentence is not None:
            heads = self.config.num_saiel_heads
            folded = self._folded(sentence.keys.shape[-1] // heads)
            words = zip(sentence.keys.unbind(0), sentence.values.unbind(0), strict=True)
        for layer in self.layers:
            if isinstance(layer, PJVLTInferenceSAIEL):
                rows = layer(rows, *next(words), sentence.mask, heads, folded)
            else:
                rows = layer(rows)
        grid = self.config.search_grid
        search = self.norm(rows.unflatten(0, (self.config.num_visual_tokens, -1))[-grid * grid :].transpose(0, 1))
        return self.head(search.unflatten(1, (grid, grid)).permute(0, 3, 1, 2), alignment)

    def locate(
        self,
        pixel_values: Tensor,
        template: Tensor,
        sentence: PJVLTSentence | None = None,
        window: Tensor | None = None,
    ) -> Tensor:
        """The boxes, decoded on the device: (B, 5) float32 of cx, cy, w, h in fractions of the search crop, and score.

        Args: those of a call, and a `window` (G, G) that the scores are multiplied by before the cell is chosen.
        """
        self._check(pixel_values, template, sentence)
        found = self._run_locate(pixel_values, template, sentence, window)
        return found.clone() if self.compiled else found

    def _locate(self, pixel_values, template, sentence, window) -> Tensor:
        boxes, scores = decode_boxes(*self._maps(pixel_values, template, sentence), window)
        return torch.cat([boxes, scores[:, None]], dim=1)


class InferenceModels:
    """The inference models of one [`PJVLTModel`], which owns this: made once, shared by sessions and threads.

    Copies of the model begin without any.
    """

    def __init__(self):
        self._lock, self._weights, self._made = threading.Lock(), None, {}

    def get(self, model: nn.Module, dtype: torch.dtype | None, compile: bool | str) -> PJVLTInferenceModel:
        """The inference model of this type; made again after the model's weights were changed, moved or cast.

        Changes through `.data`, of which torch keeps no count, are not noticed.
        """
        tensors = [*model.parameters(), *model.buffers()]
        weights = [(w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype, w.device) for w in tensors]
        with self._lock:
            if weights != self._weights:
                self._weights, self._made = weights, {}
            key = dtype or model.dtype, compile
            if key not in self._made:
                with torch.inference_mode(False):  # other threads may use it outside
                    self._made[key] = model.prepare_for_tracking(*key)
            return self._made[key]

    def __reduce__(self):
        return InferenceModels, ()


__all__ = ["InferenceModels", "PJVLTInferenceModel", "PJVLTSentence"]
