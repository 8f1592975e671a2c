"""PJVLT in the form that one frame needs: what depends on sentence and template alone is computed beforehand.

[`PJVLTInferenceModel`] is made from a loaded model by [`PJVLTModel.prepare_for_tracking`] and gives the same maps with
fewer and larger operations; its layers come first, the model last. Letters in shapes: B batch, N = N_z + N_x visual
tokens (template first), T words, H heads of the SAIEL, C channels, D latent channels, F fused layers, G search grid.

Notable: attention is linear in its values and the weights of a head sum to one, so modulation (Eq. 5), the language
half of W_o and the bias of Eq. 7 go into the values, once per sentence, and the bias of a vision layer's values into
that of its output; the bias of its keys adds the same to all scores of a query, which is nothing to a softmax; the
keys and values of all heads lie in one block-diagonal matrix, so a SAIEL needs two plain matmuls for its attention;
the instance norm of the query is a layer norm of its transpose; query, key and value of a vision layer are one matmul,
in an export three; batch norm is folded into the convolutions, and the three branches of the head run as one.

Each layer does for a frame what the layer it is made from does, in fewer operations. None of them changes that layer;
`InferenceBuilder` says which weights they share with it. Between them, tokens are rows (N B, C): the first token of
every target, then the second ones, and so on. So for any B a linear layer is one matmul of two matrices with its bias,
what mixes tokens is one of (N, B C), and onnxruntime reads the heads of attention, (N, B H, C / H), where they lie.
"""

import copy
import threading
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .decoding_pjvlt import SCORE_EPS, decode_boxes

GELUS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}  # names of activations that can be fused, and torch's for them
PACKED_ROWS = 320  # rows of input for which oneDNN's order of weights is chosen; others work as well
PACKED_WEIGHTS = 2**18  # shared weights of fewer numbers are copied into oneDNN's order all the same
WORD_BLOCK = 8  # sentences are padded to multiples of this many words, so that there are few different shapes
MASKED = -3e4  # added to the scores of padding; float16 can hold it


class PJVLTInferenceLinear(nn.Module):
    """Linear layer with fixed weights, and its activation (its name, or a function) or what is added to it.

    Where oneDNN serves, that is one operation, for which the weights are brought into the order it likes best, unless
    they are large and shared with the model: a second copy would cost more memory than the order saves time.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation=None, fused: bool = False, pack: bool = False):
        super().__init__()
        self.fused, self.activation = fused, activation
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS) if pack else None
        self.register_buffer("weight", None if pack else weight)
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor, add: Tensor | None = None) -> Tensor:  # (rows, c) to (rows, c')
        if self.fused:
            weight = self.weight if self.packed is None else self.packed
            return fused_linear(inputs, weight, self.bias, self.activation, add)
        if add is not None and self.bias is None:  # one operation, for onnxruntime, too
            return torch.addmm(add, inputs, self.weight.T)
        outputs = _activate(functional.linear(inputs, self.weight, self.bias), self.activation)
        return outputs if add is None else outputs.add_(add)


def _activate(inputs: Tensor, activation) -> Tensor:
    if activation is None:
        return inputs
    if activation in GELUS:
        return functional.gelu(inputs, approximate=GELUS[activation])
    return activation(inputs)


def fused_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, activation=None, add: Tensor | None = None):
    """act(x W^T + b), or x W^T + b + add, in one oneDNN operation where it knows the activation."""
    if add is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, add, weight, bias, "add")
    if activation in GELUS:
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "gelu", [], GELUS[activation])
    return _activate(torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], ""), activation)


class PJVLTInferenceVision(nn.Module):
    """[`PJVLTVisionLayer`] with query, key and value in one matmul (three in an export), the scale in the query."""

    def __init__(self, layer: nn.Module, build: "InferenceBuilder"):
        super().__init__()
        attention, self.tokens = layer.attention, build.num_tokens
        self.width = attention.q_proj.out_features // attention.config.num_attention_heads
        # oneDNN's matmuls beat the fused kernel in bfloat16; an export of it is more operations than attention written
        # out.
        self.plain_attention = build.portable or (build.fused and build.dtype == torch.bfloat16)
        self.norm1, self.norm2 = build.norm(layer.norm1), build.norm(layer.norm2)
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        scaled = query.weight * attention.scaling, query.bias * attention.scaling
        if build.portable:  # one matmul for all three would have to be split, which onnxruntime does by copying
            parts = scaled, (key.weight, None), (value.weight, None)
        else:
            weight = torch.cat([scaled[0], key.weight, value.weight])
            parts = ((weight, functional.pad(scaled[1], (0, len(weight) - len(scaled[1])))),)
        self.qkv = nn.ModuleList(build.linear(*part) for part in parts)
        output = attention.o_proj
        self.output = build.linear(output.weight, output.bias + output.weight @ value.bias)
        named = attention.config.hidden_act
        activation = named if named in GELUS else layer.activation
        self.fc1 = build.linear(layer.fc1.weight, layer.fc1.bias, activation)
        self.fc2 = build.linear(layer.fc2.weight, layer.fc2.bias)

    def attend(self, rows: Tensor) -> Tensor:  # (N B, C)
        parts = [part(rows) for part in self.qkv]  # three of (N B, C), or one of (N B, 3 C)
        if len(parts) == 3:  # (B H, N, C / H)
            query, key, value = (part.reshape(self.tokens, -1, self.width).transpose(0, 1) for part in parts)
        else:  # (B, H, N, C / H)
            parts = (part.unflatten(-1, (-1, self.width)) for part in parts[0].chunk(3, dim=-1))
            query, key, value = (part.unflatten(0, (self.tokens, -1)).permute(1, 2, 0, 3) for part in parts)
        if self.plain_attention:
            attended = torch.matmul(torch.matmul(query, key.mT).softmax(dim=-1), value)
        else:
            attended = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        return attended.movedim(-2, 0).reshape(-1, rows.shape[-1])

    def forward(self, rows: Tensor) -> Tensor:  # (N B, C)
        rows = self.output(self.attend(self.norm1(rows)), add=rows)
        return self.fc2(self.fc1(self.norm2(rows)), add=rows)


class PJVLTInferenceSAIEL(nn.Module):
    """The half of [`PJVLTSAIEL`] that sees the image, and the sentence's half that no frame changes."""

    def __init__(self, saiel: nn.Module, build: "InferenceBuilder"):
        super().__init__()
        latent = saiel.visual.out_features
        self.mode, self.tokens = saiel.config.saiel_fusion, build.num_tokens
        self.query = build.linear(saiel.query.weight, None)
        self.visual = build.linear(saiel.visual.weight, saiel.visual.bias, "gelu")
        weight, bias = saiel.output.weight, saiel.output.bias
        both = self.mode == "concat"
        self.output = build.linear(weight[:, :latent] if both else weight, None)
        self.register_buffer("bias", build.share(bias))
        self.register_buffer("language", build.share(weight[:, latent:] if both else weight))
        self.register_buffer("layer_scale", build.share(saiel.layer_scale))

    def forward(self, rows: Tensor, keys: Tensor, values: Tensor, mask: Tensor, heads: int, folded: bool) -> Tensor:
        """V (N B, C) and one layer of the sentence to A (N B, C)."""
        query = self.query(rows).unflatten(0, (self.tokens, -1)).permute(1, 2, 0).contiguous()  # (B, D, N)
        query = functional.layer_norm(query, query.shape[-1:])  # the instance norm of Eq. 1, whose eps is the same
        scores = torch.matmul(query.transpose(1, 2), keys).add_(mask)  # (B, N, H T)
        weights = scores.unflatten(-1, (heads, -1)).softmax(dim=-1).flatten(2)
        language = torch.matmul(weights, values).transpose(0, 1).flatten(0, 1)  # (N B, C) or (N B, D)
        latent = self.visual(rows)  # V_o, Eq. 6
        fused = self.output(latent, add=language) if folded else self._fuse(latent, language) + self.bias
        aligned = functional.gelu(fused)  # Eq. 7
        return aligned if self.layer_scale is None else torch.addcmul(rows, aligned, self.layer_scale)

    def _fuse(self, latent: Tensor, language: Tensor) -> Tensor:
        if self.mode == "concat":
            return self.output(latent) + functional.linear(language, self.language)
        return self.output(latent + language if self.mode == "sum" else latent * language)


class PJVLTInferenceCCPIL(nn.Module):
    """[`PJVLTCCPIL`] with few passes over the tokens; the mean is a matmul, which is faster than a reduction."""

    def __init__(self, ccpil: nn.Module, build: "InferenceBuilder"):
        super().__init__()
        self.fused, self.tokens = build.fused, build.num_tokens
        self.has_ccm, self.has_pim = ccpil.ccm is not None, ccpil.pim is not None
        self.register_buffer("layer_scale", build.share(ccpil.layer_scale))
        if self.has_ccm:
            self.register_buffer("ones", build.cast(torch.ones(1, self.tokens, device=ccpil.ccm.reduce.weight.device)))
            self.reduce = build.linear(ccpil.ccm.reduce.weight / self.tokens, ccpil.ccm.reduce.bias, "gelu")
            self.expand = build.linear(ccpil.ccm.expand.weight, ccpil.ccm.expand.bias)
        if self.has_pim:
            self.fc1 = build.linear(ccpil.pim.fc1.weight, ccpil.pim.fc1.bias, "gelu")
            self.fc2 = build.linear(ccpil.pim.fc2.weight, ccpil.pim.fc2.bias, "gelu")
            self.register_buffer("fc3_weight", build.share(ccpil.pim.fc3.weight))
            bias = ccpil.pim.fc3.bias[:, None, None]  # (N, 1, 1), with a scale per channel (N, 1, C)
            self.register_buffer(
                "fc3_bias", build.share(bias if self.layer_scale is None else bias * ccpil.layer_scale)
            )

    def pim(self, tokens: Tensor, add: Tensor) -> Tensor:
        """Eq. 10 without the bias of its last map, scaled, plus `add`. Both (N, B, C)."""
        mixed = self.fc2(self.fc1(tokens.flatten(1).T))  # (B C, hidden)
        if self.layer_scale is not None:  # before the map to all tokens there is less of it
            mixed = (mixed.unflatten(0, tokens.shape[1:]) * self.layer_scale[:, None]).flatten(0, 1)
        if self.fused:  # for oneDNN the tokens play the weight
            return fused_linear(self.fc3_weight, mixed, None, add=add.flatten(1))
        return torch.addmm(add.flatten(1), self.fc3_weight, mixed.T)

    def forward(self, rows: Tensor) -> Tensor:  # (N B, C)
        tokens = rows.unflatten(0, (self.tokens, -1))  # (N, B, C)
        gate, communicated = None, tokens
        if self.has_ccm:
            mean = torch.matmul(self.ones, tokens.flatten(1)).view(tokens.shape[1:])
            gate = self.expand(self.reduce(mean)).sigmoid()  # Eq. 8
            communicated = tokens * (1 + gate)  # C, Eq. 9
        kept = communicated
        if gate is not None and self.layer_scale is not None:
            kept = tokens * (1 + gate * self.layer_scale)
        elif gate is not None and self.has_pim:
            kept = tokens * (2 + gate)  # C + A
        kept = self.pim(communicated, kept + self.fc3_bias) if self.has_pim else kept  # Eq. 11
        return kept.reshape(rows.shape)


class PJVLTInferenceStem(nn.Module):
    """A convolution of the stem, and ReLU."""

    def __init__(self, convolution: nn.Conv2d, build: "InferenceBuilder"):
        super().__init__()
        weight = build.cast(convolution.weight)
        self.register_buffer("weight", weight.to(memory_format=torch.channels_last))
        self.register_buffer("bias", build.cast(convolution.bias))

    def forward(self, inputs: Tensor) -> Tensor:  # (B, c, S, S) to (B, c', S / 2, S / 2)
        return functional.conv2d(inputs, self.weight, self.bias, stride=2, padding=1).relu_()


class PJVLTInferenceConvolution(nn.Module):
    """3x3 convolution in one or three groups, and ReLU; one operation where oneDNN serves."""

    def __init__(self, weight: Tensor, bias: Tensor, grouped: bool, build: "InferenceBuilder"):
        super().__init__()
        self.groups = 3 if grouped else 1
        self.packed = None
        if build.fused:
            shape = [1, weight.shape[1] * self.groups, build.grid, build.grid]
            settings = [1, 1], [1, 1], [1, 1], self.groups
            self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *settings, shape)
        self.register_buffer("weight", None if build.fused else weight.to(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:  # (B, C, G, G)
        if self.packed is None:
            return functional.conv2d(inputs, self.weight, self.bias, padding=1, groups=self.groups).relu_()
        settings = [1, 1], [1, 1], [1, 1], self.groups  # padding, stride, dilation
        return torch.ops.mkldnn._convolution_pointwise(inputs, self.packed, self.bias, *settings, "relu", [], "")


class PJVLTInferenceHead(nn.Module):
    """[`PJVLTBoxHead`] as one branch: the first convolutions together, the next ones in three groups."""

    def __init__(self, head: nn.Module, build: "InferenceBuilder"):
        super().__init__()
        branches, self.bounded_offset = [head.score, head.offset, head.size], head.bounded_offset
        self.convolutions = nn.ModuleList()
        for depth in range((len(head.score) - 1) // 3):  # convolution, batch norm, ReLU
            folded = [_fold_batch_norm(branch[3 * depth], branch[3 * depth + 1]) for branch in branches]
            weight, bias = (torch.cat(part) for part in zip(*folded, strict=True))
            self.convolutions.append(PJVLTInferenceConvolution(build.cast(weight), build.cast(bias), depth > 0, build))
        last = [branch[-1].weight.flatten(1) for branch in branches]
        self.last = build.linear(torch.block_diag(*last), torch.cat([branch[-1].bias for branch in branches]))

    def forward(self, search_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, G, G) to score (B, 1, G, G), offset (B, 2, G, G), size (B, 2, G, G), in float32."""
        for convolution in self.convolutions:
            search_map = convolution(search_map)
        maps = self.last(search_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).float()
        score, offset, size = maps.sigmoid().split([1, 2, 2], dim=1)
        if not self.bounded_offset:
            offset = maps[:, 1:3]
        return score.clamp(SCORE_EPS, 1 - SCORE_EPS), offset, size


def _fold_batch_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what convolution and batch norm do in eval mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return convolution.weight * scale[:, None, None, None], (convolution.bias - norm.running_mean) * scale + norm.bias


class InferenceBuilder:
    """Takes weights over: shared where nothing changes, copied in the wanted type where it does."""

    def __init__(self, config, dtype: torch.dtype, fused: bool, portable: bool):
        self.dtype, self.fused, self.portable = dtype, fused, portable
        self.num_tokens, self.grid = config.num_visual_tokens, config.search_grid

    def cast(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype)

    def share(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self.cast(tensor)

    def module(self, module: nn.Module) -> nn.Module:
        """A part of the model that frames run as it is: itself, or a copy in the wanted type."""
        same = all(p.dtype == self.dtype for p in module.parameters())
        return module if same else copy.deepcopy(module).to(self.dtype)

    def linear(self, weight: Tensor, bias: Tensor | None, activation=None) -> PJVLTInferenceLinear:
        taken = self.cast(weight)
        shared = isinstance(weight, nn.Parameter) and taken.dtype == weight.dtype
        pack = self.fused and (not shared or weight.numel() < PACKED_WEIGHTS)
        return PJVLTInferenceLinear(taken, self.share(bias), activation, self.fused, pack)

    def norm(self, norm: nn.LayerNorm) -> "PJVLTInferenceNorm":
        return PJVLTInferenceNorm(self.cast(norm.weight), self.cast(norm.bias), norm.eps)


class PJVLTInferenceNorm(nn.Module):
    """Layer norm with fixed weights."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.eps = eps

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.layer_norm(inputs, self.weight.shape, self.weight, self.bias, self.eps)


def onednn_serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this is a CPU on which oneDNN's fused operations in that type are the fastest way.

    In float32 that takes AVX-512: with AVX2 its matmul with a GELU runs at two thirds of the speed of one without, and
    torch's own is faster still. In bfloat16 it takes a processor that computes in it; all else is very slow there.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float32:
        return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class PJVLTSentence(NamedTuple):
    """All that the frames of a video need of their sentences. Made by [`PJVLTInferenceModel.sentence`].

    keys (F, B, D, H T): scaled, block-diagonal over the heads. values (F, B, H T, C), modulated and through the
    language half of W_o, or (F, B, H T, D), modulated and block-diagonal, where that is less work. mask (B, 1, H T): 0
    for words and a large negative number for padding.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor

    def rows(self, places: Tensor) -> "PJVLTSentence":
        """Those of some targets, by their numbers (n,)."""
        return PJVLTSentence(self.keys[:, places], self.values[:, places], self.mask[places])


def _block_diagonal(heads: Tensor) -> Tensor:
    """(..., H, a, b) to (..., H a, H b)."""
    count = heads.shape[-3]
    own = torch.eye(count, dtype=heads.dtype, device=heads.device)[:, None, :, None]
    return (heads[..., None, :] * own).flatten(-2).flatten(-3, -2)


class PJVLTInferenceModel(nn.Module):
    """The per-frame half of a [`PJVLTModel`], for inference. Made by [`PJVLTModel.prepare_for_tracking`].

    It is a snapshot of the model, on its device: weights that are shared follow changes in place, copied
    ones do not. Compiled, it wants few different shapes: one number of targets, and sentences padded to one length.

    Args:
        model: a [`PJVLTModel`] in eval mode.
        dtype: of weights and arithmetic; default: the model's. The maps are float32 in any case.
        compile: run through `torch.compile`; the name of one of its backends stands for itself.
        portable: use no operation that only torch on a CPU knows, and write attention out, as exports need it.

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
        fused = not (compile or portable) and onednn_serves(model.device, self.dtype)
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
        self.compiled = bool(compile)
        self._run_maps, self._run_locate = self._maps, self._locate
        if compile:
            graphs = compile is True and model.device.type == "cuda"
            options = {"backend": "inductor" if compile is True else compile, "fullgraph": True, "dynamic": False}
            options["mode"] = "reduce-overhead" if graphs else None  # CUDA graphs
            self._run_maps, self._run_locate = (torch.compile(f, **options) for f in (self._maps, self._locate))
        self.eval()

    def _folded(self, words: int) -> bool:
        """Whether the language half of W_o goes into the values: fewer multiplications unless sentences are long."""
        heads, latent, channels = self.config.num_saiel_heads, self.config.saiel_hidden_size, self.config.hidden_size
        return self.config.saiel_fusion != "product" and heads * words * (channels - latent) <= latent * channels

    @torch.no_grad()
    def sentence(self, text_features, num_words: int | None = None) -> PJVLTSentence | None:
        """What the frames need of the sentences.

        Args:
            text_features: [`PJVLTTextFeatures`] of B sentences, from [`PJVLTModel.encode_text`]; None gives None.
            num_words: pad to so many words; by default to the next multiple of eight.

        Raises `ValueError` for sentences longer than `num_words`.
        """
        if text_features is None:
            return None
        length = text_features.attention_mask.shape[1]
        num_words = num_words or -(-length // WORD_BLOCK) * WORD_BLOCK
        if length > num_words:
            raise ValueError(f"The sentences have {length} words, more than `num_words` ({num_words}).")
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
        return PJVLTSentence(keys.to(self.dtype), values.to(self.dtype), mask.to(self.dtype))

    @torch.no_grad()
    def template(self, template_pixel_values: Tensor) -> Tensor:
        """What the frames need of the templates: their tokens (B, N_z, C).

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
            raise ValueError("This model reads a sentence: make one with `inference_model.sentence(text_features)`.")

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
        """The maps of [`PJVLTOutput`].

        Args: `pixel_values` (B, 3, search_size, search_size), normalised, the `template` (B, N_z, C), from
        [`PJVLTInferenceModel.template`], and the `sentence`, where the model reads one. Returns score_map
        (B, 1, G, G), offset_map (B, 2, G, G) and size_map (B, 2, G, G), float32. Raises `ValueError` for crops of
        another size than the config's, for a template that is none, and where the sentence is missing.
        """
        self._check(pixel_values, template, sentence)
        maps = self._run_maps(pixel_values, template, sentence)
        return tuple(part.clone() for part in maps) if self.compiled else maps  # a CUDA graph overwrites its outputs

    def _maps(self, pixel_values, template, sentence) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self._tokens(pixel_values, self.search_position)
        rows = torch.cat([template.transpose(0, 1), tokens.transpose(0, 1)]).flatten(0, 1)  # (N B, C)
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
        return self.head(search.unflatten(1, (grid, grid)).permute(0, 3, 1, 2))

    def locate(
        self,
        pixel_values: Tensor,
        template: Tensor,
        sentence: PJVLTSentence | None = None,
        window: Tensor | None = None,
    ) -> Tensor:
        """The boxes, decoded on the device: (B, 5) float32 of cx, cy, w, h in fractions of the search crop, and score.

        Args: as for a call, and a `window` (G, G) that the scores are multiplied by before the cell is chosen.
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
        """One of this type; made anew after the model's weights were changed, moved or cast.

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
