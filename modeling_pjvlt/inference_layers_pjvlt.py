"""The layers of the inference model: each computes the same as a layer of the model, in fewer operations.

None of them changes that layer; `InferenceBuilder` says which weights they share with it. Between them, tokens are
rows (N B, C): the first token of every target, then the second ones, and so on. So for any B a linear layer is one
matmul of two matrices with its bias, what mixes tokens is one of (N, B C), and onnxruntime reads the heads of
attention, (N, B H, C / H), where they lie. Letters as in `inference_pjvlt.py`.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from .decoding_pjvlt import SCORE_EPS
from .onednn_pjvlt import OneDNN

REORDERED_WEIGHTS = 2**18  # smaller shared weights are copied into oneDNN's order despite the extra memory


class PJVLTInferenceLinear(nn.Module):
    """Linear layer with fixed weights, and its activation (its name, or a function) or what is added to it.

    With `fused` that is one operation of [`OneDNN`]. With `reorder` it has the weights in the order that suits the
    processor. Large weights that are shared with the model stay as they are: a second copy would cost more memory than
    the order saves time.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation=None, fused=False, reorder=False):
        super().__init__()
        self.fused, self.activation = fused, activation
        self.reordered = OneDNN.reorder_linear(weight) if reorder else None
        self.register_buffer("weight", None if reorder else weight)
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor, add: Tensor | None = None) -> Tensor:  # (rows, c) to (rows, c')
        if self.fused:
            weight = self.weight if self.reordered is None else self.reordered
            if add is not None:
                return OneDNN.linear_add(inputs, weight, self.bias, add)
            if self.activation in OneDNN.GELUS:
                return OneDNN.linear(inputs, weight, self.bias, self.activation)
            return _activate(OneDNN.linear(inputs, weight, self.bias), self.activation)
        if add is not None and self.bias is None:  # one operation, for onnxruntime, too
            return torch.addmm(add, inputs, self.weight.T)
        outputs = _activate(functional.linear(inputs, self.weight, self.bias), self.activation)
        return outputs if add is None else outputs.add_(add)


def _activate(inputs: Tensor, activation) -> Tensor:
    if activation is None:
        return inputs
    if activation in OneDNN.GELUS:
        return functional.gelu(inputs, approximate=OneDNN.GELUS[activation])
    return activation(inputs)


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
        activation = named if named in OneDNN.GELUS else layer.activation
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
            return OneDNN.linear_add(self.fc3_weight, mixed, None, add.flatten(1))
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
        self.reordered = OneDNN.reorder_convolution(weight, self.groups, build.grid) if build.fused else None
        self.register_buffer("weight", None if build.fused else weight.to(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:  # (B, C, G, G)
        if self.reordered is not None:
            return OneDNN.convolution_relu(inputs, self.reordered, self.bias, self.groups)
        return functional.conv2d(inputs, self.weight, self.bias, padding=1, groups=self.groups).relu_()


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

    def forward(self, search_map: Tensor, alignment: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, G, G) to score (B, 1, G, G), offset (B, 2, G, G), size (B, 2, G, G), in float32.

        `alignment` (B, 1, G, G) is added to the logits of the scores.
        """
        for convolution in self.convolutions:
            search_map = convolution(search_map)
        maps = self.last(search_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).float()
        score, offset, size = maps.split([1, 2, 2], dim=1)
        if alignment is not None:
            score = score + alignment.float()
        offset = offset.sigmoid() if self.bounded_offset else offset
        return score.sigmoid().clamp(SCORE_EPS, 1 - SCORE_EPS), offset, size.sigmoid()


class PJVLTInferenceAlignment(nn.Module):
    """The half of [`PJVLTAlignment`] that sees the image; the gain goes into the sentence."""

    def __init__(self, alignment: nn.Module, build: "InferenceBuilder"):
        super().__init__()
        self.grid = build.grid
        self.norm = build.norm(alignment.norm)
        self.patch = build.linear(alignment.patch.weight, alignment.patch.bias, "gelu")
        self.context = build.module(alignment.context)
        self.project = build.linear(alignment.project.weight, alignment.project.bias)
        self.register_buffer("gain", alignment.gain.detach().float())
        self.register_buffer("bias", build.share(alignment.bias))

    def forward(self, search: Tensor, sentence: Tensor) -> Tensor:
        """Search tokens (B, G * G, C) and sentence (B, E, 1) to (B, 1, G, G)."""
        hidden = self.patch(self.norm(search).flatten(0, 1)).unflatten(0, (-1, self.grid, self.grid))  # (B, G, G, c)
        context = functional.gelu(self.context(hidden.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        patches = self.project((hidden + context).flatten(0, 2)).unflatten(0, (-1, self.grid * self.grid))
        aligned = torch.matmul(functional.normalize(patches, dim=-1), sentence)
        return (aligned + self.bias).transpose(1, 2).unflatten(2, (self.grid, self.grid))


def _fold_batch_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what convolution and batch norm do in eval mode."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return convolution.weight * scale[:, None, None, None], (convolution.bias - norm.running_mean) * scale + norm.bias


class InferenceBuilder:
    """Takes over the weights of the model: shared if nothing changes, else copied in the given type."""

    def __init__(self, config, dtype: torch.dtype, fused: bool, portable: bool):
        self.dtype, self.fused, self.portable = dtype, fused, portable
        self.num_tokens, self.grid = config.num_visual_tokens, config.search_grid

    def cast(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.dtype)

    def share(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self.cast(tensor)

    def module(self, module: nn.Module) -> nn.Module:
        """A part of the model that is used unchanged: the part itself, or a copy in the given type."""
        same = all(p.dtype == self.dtype for p in module.parameters())
        return module if same else copy.deepcopy(module).to(self.dtype)

    def linear(self, weight: Tensor, bias: Tensor | None, activation=None) -> PJVLTInferenceLinear:
        taken = self.cast(weight)
        shared = isinstance(weight, nn.Parameter) and taken.dtype == weight.dtype
        reorder = self.fused and (not shared or weight.numel() < REORDERED_WEIGHTS)
        return PJVLTInferenceLinear(taken, self.share(bias), activation, self.fused, reorder)

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
