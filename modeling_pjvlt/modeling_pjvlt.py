"""PJVLT: a one-stream vision transformer with BERT's text tokens fused into every layer.

The file reads from top to bottom as data flows: patch embeddings, attention, vision layer, SAIEL (fuses text tokens
into patches), CCPIL (mixes channels and patches), joint encoder, box head, model. It stays one file, long as it is,
because it is read beside the paper's figure 2. Letters in shapes: B batch, N = N_z + N_x visual tokens (template
first, then search), T text tokens, C channels, D latent channels, F fused layers, H heads, G search grid.

Notable: after every vision layer the patches are aligned with the text tokens of the BERT layer at the same relative
depth. The image never changes the text tokens, so everything that depends on the sentence is computed once.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, logging
from transformers.utils.output_capturing import OutputRecorder, capture_outputs, maybe_install_capturing_hooks

from .alignment_pjvlt import PJVLTAlignment, mean_word
from .backbones_pjvlt import load_backbones, load_tracker, no_weights_bar
from .configuration_pjvlt import PJVLTConfig
from .decoding_pjvlt import SCORE_EPS, decode_boxes
from .inference_pjvlt import InferenceModels, PJVLTInferenceModel
from .loss_pjvlt import tracking_loss
from .stem_pjvlt import PJVLTConvStem, PJVLTSameConv

logger = logging.get_logger(__name__)

SCORE_PRIOR = 0.01  # score of every cell before training (the prior of focal loss)


@dataclass
class PJVLTTextFeatures(ModelOutput):
    """The features of a sentence for each fused layer. Made by [`PJVLTModel.encode_text`].

    keys (B, F, H, T, D/H); values (B, F, H, T, D/H), after word selection (Eq. 2); modulation (B, F, 3, D), the alpha,
    beta and gamma of Eq. 5; attention_mask (B, T), 1 for tokens and 0 for padding; alignment (B, E), of length 1, for
    a model with [`PJVLTAlignment`].
    """

    keys: Tensor | None = None
    values: Tensor | None = None
    modulation: Tensor | None = None
    attention_mask: Tensor | None = None
    alignment: Tensor | None = None

    def rows(self, places: Tensor) -> "PJVLTTextFeatures":
        """The features of the sentences with these row numbers (n,)."""
        return PJVLTTextFeatures(**{name: value[places] for name, value in self.items()})


@dataclass
class PJVLTOutput(ModelOutput):
    """What [`PJVLTModel`] returns.

    loss: scalar, with `labels`. pred_boxes: (B, 4) cx, cy, w, h in fractions of the search crop. scores: (B,) in
    (0, 1), of the chosen cell. score_map (B, 1, G, G), offset_map (B, 2, G, G) and size_map (B, 2, G, G), float32 in
    (0, 1). last_hidden_state (B, N, C), after the final norm. loss_dict: the unweighted parts of the loss.
    hidden_states: J + 1 tensors (B, N, C); late fusion adds one for each late layer. attentions: J tensors
    (B, heads, N, N). cross_attentions: F tensors (B, H, N, T).
    """

    loss: Tensor | None = None
    pred_boxes: Tensor | None = None
    scores: Tensor | None = None
    score_map: Tensor | None = None
    offset_map: Tensor | None = None
    size_map: Tensor | None = None
    last_hidden_state: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


def sine_positions(grid: int, channels: int, longest: float = 50.0) -> Tensor:
    """Sines and cosines of column and row, (1, grid * grid, channels); wavelengths 2 pi to 2 pi `longest` cells."""
    frequency = longest ** -(torch.arange(channels // 4) / (channels // 4))
    rows, columns = torch.meshgrid(torch.arange(grid) + 0.5, torch.arange(grid) + 0.5, indexing="ij")
    angles = [axis.reshape(-1, 1) * frequency for axis in (columns, rows)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)[None]


class PJVLTStemConv(nn.Conv2d):
    """A convolution before the patches, initialised with standard deviation sqrt(2 / fan in) (He et al., 2015)."""


class PJVLTEmbeddings(nn.Module):
    """Patches of both crops, each with its own learned position table; template tokens first. No class token.

    With `stem_channels`, a few convolutions of stride 2 come first (Xiao et al., 2021, "Early Convolutions Help
    Transformers See Better"), and patches are cut from their smaller map. With `stem_stages`, the first stages of a
    published network come first ([`PJVLTConvStem`]); a finer map of it can also be cut into patches.
    """

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.config = config
        self.fine_projection = None
        if config.stem_stages:
            self.stem, inputs = PJVLTConvStem(config), config.stem_stages[-1][-1]
            if config.stem_fine_stage is not None:
                patch = config.patch_size // config.stem_fine_stride
                fine = config.stem_stages[config.stem_fine_stage][-1]
                self.fine_projection = nn.Conv2d(fine, config.hidden_size, patch, patch, bias=False)
        else:
            blocks, inputs = [], config.num_channels
            for channels in config.stem_channels:
                blocks += [PJVLTStemConv(inputs, channels, 3, stride=2, padding=1), nn.ReLU()]
                inputs = channels
            self.stem = nn.Sequential(*blocks)
        patch = config.patch_size // config.stem_stride
        self.projection = nn.Conv2d(inputs, config.hidden_size, patch, patch)
        self.template_position = nn.Parameter(torch.zeros(1, config.template_grid**2, config.hidden_size))
        self.search_position = nn.Parameter(torch.zeros(1, config.search_grid**2, config.hidden_size))

    def check_size(self, name: str, pixels: Tensor, size: int) -> None:
        expected = (self.config.num_channels, size, size)
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise ValueError(
                f"`{name}` must be (batch, {', '.join(map(str, expected))}) as the config says, got "
                f"{tuple(pixels.shape)}. PIM needs a fixed number of patches, so other crop sizes need another config."
            )

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What patches are cut from: the stem's map of crops (B, 3, S, S), and its finer map, if one is used."""
        features = self.stem(pixels.to(self.projection.weight.dtype))
        return features if self.config.stem_stages else (features, None)

    def patches(self, pixels: Tensor) -> Tensor:
        """Crops (B, 3, S, S) to tokens (B, N_z or N_x, C), without their positions."""
        return self.project(*self.features(pixels))

    def project(self, features: Tensor, fine: Tensor | None = None) -> Tensor:
        """The maps of `features` to the tokens of `patches`."""
        patches = self.projection(features)
        if fine is not None:
            patches = patches + self.fine_projection(fine)
        return patches.flatten(2).transpose(1, 2)

    def place(self, template: Tensor, search: Tensor) -> Tensor:
        """Tokens of both crops with their positions, (B, N, C)."""
        return torch.cat([template + self.template_position, search + self.search_position], dim=1)

    def forward(self, template_pixel_values: Tensor, pixel_values: Tensor) -> Tensor:  # -> (B, N, C)
        self.check_size("template_pixel_values", template_pixel_values, self.config.template_size)
        self.check_size("pixel_values", pixel_values, self.config.search_size)
        return self.place(self.patches(template_pixel_values), self.patches(pixel_values))


class PJVLTSimilarityLinear(nn.Linear):
    """Projects to queries or keys; starts as `attention_identity` times the identity, plus the usual noise.

    So similar tokens attend to each other from the first training step, as matching needs it (in the spirit of
    Trockman and Kolter, 2023, "Mimetic Initialization of Self-Attention Layers").
    """


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q k^T scaling + mask) v. Query (B, H, N, d), key and value (B, H, M, d); returns (B, N, H, d)."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class PJVLTAttention(nn.Module):
    """Multi-head self-attention over template and search tokens together."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = PJVLTSimilarityLinear(config.hidden_size, config.hidden_size)
        self.k_proj = PJVLTSimilarityLinear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor | None]:  # (B, N, C)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)  # (B, heads, N, d)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attend(self, query, key, value, None, dropout=dropout, scaling=self.scaling)
        return self.o_proj(output.flatten(2)), weights


class PJVLTDropPath(nn.Module):
    """Stochastic depth: in training, drops a residual branch for whole samples (Huang et al., 2016)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:  # (B, N, C)
        if not self.training or self.rate == 0.0:
            return branch
        keep = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return branch * keep / (1 - self.rate)


class PJVLTVisionLayer(nn.Module):
    """Pre-norm ViT layer (Dosovitskiy et al., 2021)."""

    def __init__(self, config: PJVLTConfig, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = PJVLTAttention(config)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.drop_path = PJVLTDropPath(drop_path)

    def forward(self, hidden_states: Tensor) -> Tensor:  # (B, N, C)
        hidden_states = hidden_states + self.drop_path(self.attention(self.norm1(hidden_states))[0])
        return hidden_states + self.drop_path(self.fc2(self.activation(self.fc1(self.norm2(hidden_states)))))


def instance_norm(tokens: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the tokens (B, N, D), per sample and channel, without affine; in float32."""
    wide = tokens.float()
    variance, mean = torch.var_mean(wide, dim=1, keepdim=True, correction=0)
    return ((wide - mean) * torch.rsqrt(variance + eps)).to(tokens.dtype)


class PJVLTFanInLinear(nn.Linear):
    """Linear layer initialised with standard deviation 1 / sqrt(fan in), not 0.02.

    SAIEL and CCPIL have no residual around them: with 0.02, twelve such layers make all tokens the same. (This is a
    class because transformers calls `_init_weights` for each module by its type.)
    """


class PJVLTWordModulation(nn.Linear):
    """Mean text token (B, C_text) to alpha, beta and gamma (B, 3 D); its weight starts at zero, as in DiT.

    `modulation_init="identity"`: alpha = beta = 0 and gamma = 1, so that nothing is modulated at first, but the text
    features have a gradient from the first step. `"zero"`, as in the paper: gamma = 0, so they have no gradient in the
    first step.
    """


class PJVLTSAIEL(nn.Module):
    """Semantic-aware instance encoder layer (Eq. 1-7): aligns patches with text tokens.

    `encode_words` is the half that depends on the sentence alone; `forward` is the half that sees the image.
    """

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.config = config
        channels, latent, words = config.hidden_size, config.saiel_hidden_size, config.text_config.hidden_size
        self.num_heads = config.num_saiel_heads
        self.scaling = (latent // self.num_heads) ** -0.5
        self.is_causal = False
        self.query = PJVLTFanInLinear(channels, latent, bias=False)  # the instance norm would remove a bias
        self.key = PJVLTFanInLinear(words, latent, bias=False)  # a bias would not change the softmax over tokens
        self.value = PJVLTFanInLinear(words, latent)
        self.modulation = PJVLTWordModulation(words, 3 * latent)
        self.visual = PJVLTFanInLinear(channels, latent)
        self.output = PJVLTFanInLinear(2 * latent if config.saiel_fusion == "concat" else latent, channels)
        residual = config.fusion_residual
        self.layer_scale = nn.Parameter(torch.full((channels,), config.layer_scale_init)) if residual else None

    def select_words(self, value: Tensor, word_mask: Tensor) -> Tensor:
        """Soft word selection (Eq. 2): value (B, T, D) times its softmax over the tokens, per channel; mask (B, T).

        In training, Gumbel noise is added to the logits. It comes from torch's global generator, so that gradient
        checkpointing and a resumed run draw the same noise again.
        """
        logits = value.float()
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
        logits = (logits / self.config.word_temperature).masked_fill(~word_mask[..., None], float("-inf"))
        return logits.softmax(dim=1).to(value.dtype) * value

    def encode_words(self, words: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, T, C_text) to keys (B, H, T, D/H), selected values (B, H, T, D/H) and modulation (B, 3, D)."""
        mask = attention_mask.bool()
        keys, values = self.key(words), self.select_words(self.value(words), mask)
        keys, values = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (keys, values))
        return keys, values, self.modulation(mean_word(words, mask)).unflatten(-1, (3, -1))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, word_mask: Tensor | None):
        """Patches (B, H, N, d) attend to tokens (B, H, T, d): (B, N, H, d), and weights if the kernel gives them."""
        packing = {}
        if word_mask is not None and word_mask.ndim == 2:
            # FlashAttention takes a 2D mask, but its unpadding assumes queries as long as the mask and would drop
            # patches. So it gets packed tokens and their cumulative lengths instead.
            batch, num_patches = query.shape[0], query.shape[2]
            lengths = word_mask.sum(dim=1, dtype=torch.int32)
            keys, values = (x.transpose(1, 2)[word_mask.bool()].transpose(0, 1)[None] for x in (keys, values))
            start = lengths.new_zeros(1)
            packing = {
                "cu_seq_lens_q": torch.arange(batch + 1, dtype=torch.int32, device=query.device) * num_patches,
                "cu_seq_lens_k": torch.cat([start, lengths.cumsum(0, dtype=torch.int32)]),
                "max_length_q": num_patches,
                "max_length_k": int(lengths.max()),
            }
            word_mask = None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        return attend(self, query, keys, values, word_mask, dropout=dropout, scaling=self.scaling, **packing)

    def forward(self, visual, keys, values, modulation, word_mask) -> tuple[Tensor, Tensor | None]:
        """V (B, N, C) and the outputs of `encode_words` to A (B, N, C) and the attention weights (or None)."""
        query = instance_norm(self.query(visual)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # Eq. 1
        attended, weights = self.attend(query, keys, values, word_mask)  # Eq. 3
        alpha, beta, gamma = modulation[:, :, None].unbind(dim=1)  # each (B, 1, D), Eq. 4
        language = gamma * ((1 + alpha) * attended.flatten(2) + beta)  # L_o, Eq. 5
        latent = nn.functional.gelu(self.visual(visual))  # V_o, Eq. 6
        if self.config.saiel_fusion == "concat":
            fused = torch.cat([latent, language], dim=-1)
        elif self.config.saiel_fusion == "sum":
            fused = latent + language
        else:
            fused = latent * language
        aligned = nn.functional.gelu(self.output(fused))  # Eq. 7
        if self.layer_scale is not None:
            aligned = visual + self.layer_scale * aligned
        return aligned, weights


class PJVLTCCM(nn.Module):
    """Channel communication (Eq. 8-9): a gate per channel from the mean token. (B, N, C) to (B, 1, C)."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.reduce = PJVLTFanInLinear(config.hidden_size, config.hidden_size // config.ccm_reduction)
        self.expand = PJVLTFanInLinear(config.hidden_size // config.ccm_reduction, config.hidden_size)

    def forward(self, aligned: Tensor) -> Tensor:
        mean = aligned.mean(dim=1, keepdim=True)
        return self.expand(nn.functional.gelu(self.reduce(mean))).sigmoid()


class PJVLTPIM(nn.Module):
    """Patch interaction (Eq. 10): an MLP over the token axis, so N is fixed. (B, N, C) to (B, N, C)."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        tokens, hidden = config.num_visual_tokens, config.pim_hidden_size
        self.fc1 = PJVLTFanInLinear(tokens, hidden)
        self.fc2 = PJVLTFanInLinear(hidden, hidden)
        self.fc3 = PJVLTFanInLinear(hidden, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = nn.functional.gelu(self.fc1(tokens.transpose(1, 2)))  # (B, C, hidden)
        return self.fc3(nn.functional.gelu(self.fc2(mixed))).transpose(1, 2)


class PJVLTCCPIL(nn.Module):
    """Channel-communication patch-interaction layer (Eq. 8-11): R = PIM(C) + C + A with C = gate * A + A."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.ccm = PJVLTCCM(config) if config.use_ccm else None
        self.pim = PJVLTPIM(config) if config.use_pim else None
        scaled = config.fusion_residual and (config.use_ccm or config.use_pim)
        self.layer_scale = nn.Parameter(torch.full((config.hidden_size,), config.layer_scale_init)) if scaled else None

    def forward(self, aligned: Tensor) -> Tensor:  # (B, N, C)
        gated = self.ccm(aligned) * aligned if self.ccm is not None else None
        communicated = aligned if gated is None else gated + aligned  # C, Eq. 9
        mixed = self.pim(communicated) if self.pim is not None else None  # Eq. 10
        if self.layer_scale is not None:
            return aligned + self.layer_scale * sum(part for part in (mixed, gated) if part is not None)
        if mixed is None:
            return communicated
        return mixed + aligned if gated is None else mixed + communicated + aligned  # Eq. 11


class PJVLTFusionLayer(nn.Module):
    """SAIEL, then CCPIL; ablations leave out either."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.saiel = PJVLTSAIEL(config) if config.use_saiel else None
        self.ccpil = PJVLTCCPIL(config)

    def forward(self, hidden_states: Tensor, words: tuple) -> Tensor:  # (B, N, C)
        if self.saiel is not None:
            hidden_states, _ = self.saiel(hidden_states, *words)
        return self.ccpil(hidden_states)


class PJVLTJointLayer(GradientCheckpointingLayer):
    """One step of the joint encoder: a vision layer, a fusion layer, or one after the other."""

    def __init__(self, vision: PJVLTVisionLayer | None, fusion: PJVLTFusionLayer | None):
        super().__init__()
        self.vision = vision
        self.fusion = fusion

    def forward(self, hidden_states: Tensor, *words: Tensor | None) -> Tensor:  # (B, N, C)
        # `words` are separate arguments, because reentrant gradient checkpointing ignores tensors inside a tuple
        if self.vision is not None:
            hidden_states = self.vision(hidden_states)
        return hidden_states if self.fusion is None else self.fusion(hidden_states, words)


class PJVLTJointEncoder(nn.Module):
    """J vision layers with F fusion layers between them ("progressive", "early") or after them ("late")."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        depth, fused = config.num_hidden_layers, config.num_fused
        drop = [config.drop_path_rate * j / max(depth - 1, 1) for j in range(depth)]
        between = 0 if config.fusion == "late" else fused
        self.layers = nn.ModuleList()
        for j in range(depth):
            fusion = PJVLTFusionLayer(config) if j >= depth - between else None
            self.layers.append(PJVLTJointLayer(PJVLTVisionLayer(config, drop[j]), fusion))
        behind = [PJVLTJointLayer(None, PJVLTFusionLayer(config)) for _ in range(fused - between)]
        self.late_layers = nn.ModuleList(behind)

    def all_layers(self) -> list[PJVLTJointLayer]:
        return [*self.layers, *self.late_layers]

    def saiels(self) -> list[PJVLTSAIEL]:
        """The SAIELs in the order in which they run."""
        fusions = [layer.fusion for layer in self.all_layers() if layer.fusion is not None]
        return [fusion.saiel for fusion in fusions if fusion.saiel is not None]

    def forward(self, hidden_states: Tensor, words: list[tuple] | None) -> Tensor:  # (B, N, C)
        remaining = iter(words or [])
        for layer in self.all_layers():
            hidden_states = layer(hidden_states, *(next(remaining, ()) if layer.fusion is not None else ()))
        return hidden_states


class PJVLTScoreConv(nn.Conv2d):
    """Last convolution of the score branch; its bias starts at the focal-loss prior `SCORE_PRIOR`."""


class PJVLTBoxHead(nn.Module):
    """Three convolutional branches on the search map: score (1), offset (2) and size (2), through a sigmoid.

    With `offset_activation="identity"` the offset is any number, as in OSTrack's published code.
    """

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.bounded_offset = config.offset_activation == "sigmoid"

        def branch(outputs: int, last=nn.Conv2d) -> nn.Sequential:
            blocks, inputs = [], config.hidden_size
            for channels in config.head_channels:
                blocks += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                inputs = channels
            return nn.Sequential(*blocks, last(inputs, outputs, 1))

        self.score, self.offset, self.size = branch(1, PJVLTScoreConv), branch(2), branch(2)

    def forward(self, search_map: Tensor, alignment: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C, G, G) to score (B, 1, G, G), offset (B, 2, G, G), size (B, 2, G, G), in float32.

        `alignment` (B, 1, G, G) is added to the logits of the scores.
        """
        score, offset = self.score(search_map).float(), self.offset(search_map).float()
        if alignment is not None:
            score = score + alignment.float()
        score = score.sigmoid().clamp(SCORE_EPS, 1 - SCORE_EPS)
        return score, offset.sigmoid() if self.bounded_offset else offset, self.size(search_map).float().sigmoid()


class PJVLTPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = PJVLTConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["PJVLTJointLayer", "PJVLTEmbeddings"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {
        "hidden_states": PJVLTJointLayer,
        "attentions": PJVLTAttention,
        "cross_attentions": OutputRecorder(PJVLTSAIEL, index=1),
    }

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Like `from_pretrained` of any transformers model, but reads weights from safetensors only, never pickle."""
        with no_weights_bar():
            return super().from_pretrained(*args, **{**kwargs, "use_safetensors": True})

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal weights for ViT and head; the classes above document their own initialisation."""
        super()._init_weights(module)
        if isinstance(module, PJVLTEmbeddings):
            self._init_positions(module)
        elif isinstance(module, (PJVLTStemConv, PJVLTSameConv)):
            init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
        elif isinstance(module, PJVLTSimilarityLinear) and self.config.attention_identity:
            noise = torch.randn_like(module.weight) * self.config.initializer_range
            init.copy_(module.weight, noise.fill_diagonal_(self.config.attention_identity))
        elif isinstance(module, PJVLTFanInLinear):
            init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
        elif isinstance(module, PJVLTWordModulation):
            init.zeros_(module.weight)
            gamma = 1.0 if self.config.modulation_init == "identity" else 0.0
            init.copy_(module.bias, torch.tensor([0.0, 0.0, gamma]).repeat_interleave(module.out_features // 3))
        elif isinstance(module, PJVLTScoreConv):
            init.constant_(module.bias, -math.log((1 - SCORE_PRIOR) / SCORE_PRIOR))
        elif isinstance(module, PJVLTAlignment):
            init.ones_(module.gain)
            init.zeros_(module.bias)
        elif isinstance(module, (PJVLTSAIEL, PJVLTCCPIL)) and module.layer_scale is not None:
            init.constant_(module.layer_scale, self.config.layer_scale_init)

    def _init_positions(self, module: PJVLTEmbeddings) -> None:
        """Noise, or waves of `position_scale`; the template's are rotated, so that no two positions are equal."""
        config = self.config
        if not config.position_scale:
            init.trunc_normal_(module.template_position, std=config.initializer_range)
            init.trunc_normal_(module.search_position, std=config.initializer_range)
            return
        turn = nn.init.orthogonal_(torch.empty(config.hidden_size, config.hidden_size))
        template, search = (sine_positions(g, config.hidden_size) for g in (config.template_grid, config.search_grid))
        init.copy_(module.template_position, config.position_scale * template @ turn)
        init.copy_(module.search_position, config.position_scale * search)


class PJVLTModel(PJVLTPreTrainedModel):
    """The whole tracker: joint encoder and box head. `labels` gives a loss, so `transformers.Trainer` can train it."""

    def __init__(self, config: PJVLTConfig):
        super().__init__(config)
        self.text_encoder = None
        if config.uses_language:
            self.text_encoder = AutoModel.from_config(config.text_config, add_pooling_layer=False)
        self.embeddings = PJVLTEmbeddings(config)
        self.encoder = PJVLTJointEncoder(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = PJVLTBoxHead(config)
        self.alignment = PJVLTAlignment(config) if config.alignment_size and config.uses_language else None
        self._inference_models = InferenceModels()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection if self.text_encoder is None else self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_encoder.set_input_embeddings(value)

    def text_layer_indices(self) -> list[int]:
        """The BERT layer (1 is the first) that each fused layer reads.

        Progressive: vision layer j of J reads text layer ceil(j K / J) of K. Early and late: always the last.
        """
        depth, fused, texts = (
            self.config.num_hidden_layers,
            self.config.num_fused,
            self.config.text_config.num_hidden_layers,
        )
        if self.config.fusion != "progressive":
            return [texts] * fused
        return [math.ceil(j * texts / depth) for j in range(depth - fused + 1, depth + 1)]

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> PJVLTTextFeatures:
        """Encode sentences once, so that `model(..., text_features=...)` can skip BERT in every frame.

        Args: `input_ids` (B, T) and `attention_mask` (B, T), 1 for tokens and 0 for padding (default: no padding).
        Raises `ValueError` for a model without a language stream.
        """
        if self.text_encoder is None:
            raise ValueError("This model has no language stream (`fusion='none'` or `use_saiel=False`).")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        # All hooks at once: hooks on BERT first and on the whole model later record each BERT layer twice.
        maybe_install_capturing_hooks(self)
        states = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, return_dict=True
        ).hidden_states
        # They do where a caller has used BERT alone before.
        times = (len(states) - 1) // self.config.text_config.num_hidden_layers
        layers = (states[0], *states[times::times])
        encoded = [
            saiel.encode_words(layers[index], attention_mask)
            for saiel, index in zip(self.encoder.saiels(), self.text_layer_indices(), strict=True)
        ]
        keys, values, modulation = (torch.stack(part, dim=1) for part in zip(*encoded, strict=True))
        features = PJVLTTextFeatures(keys=keys, values=values, modulation=modulation, attention_mask=attention_mask)
        if self.alignment is not None:
            means = [mean_word(words, attention_mask) for words in (layers[0], layers[-1])]
            features["alignment"] = self.alignment.encode_sentence(*means)
        return features

    def prepare_for_tracking(
        self, dtype: torch.dtype | None = None, compile: bool | str = False, portable: bool = False
    ) -> PJVLTInferenceModel:
        """A [`PJVLTInferenceModel`]: this model in a form that is faster frame by frame. The model does not change.

        Args:
            dtype: type of the weights and the arithmetic; default: the model's. Weights that need no change are
                shared with the model if the type is the same.
            compile: use `torch.compile`, which makes the first frame slow. A string names a backend.
            portable: for exports: use no CPU-only operations of torch, and write attention out as matmuls.

        Raises `ValueError` in training mode, where batch norm and word selection behave differently.
        """
        if self.training:
            raise ValueError("The model is in training mode: call `model.eval()` before `prepare_for_tracking`.")
        return PJVLTInferenceModel(self, dtype, compile, portable)

    def inference_model(self, dtype: torch.dtype | None = None, compile: bool | str = False) -> PJVLTInferenceModel:
        """The result of [`PJVLTModel.prepare_for_tracking`] that all sessions share, made on first use."""
        return self._inference_models.get(self, dtype, compile)

    def _read(self, input_ids, attention_mask, text_features) -> PJVLTTextFeatures | None:
        """The features of the sentence, or None for a model without language."""
        if self.text_encoder is None:
            if input_ids is not None or text_features is not None:
                logger.warning_once("This PJVLT has no language stream: the sentence is ignored.")
            return None
        if text_features is not None:
            return text_features
        if input_ids is None:
            raise ValueError(
                "PJVLT needs a sentence: pass `input_ids` (from the processor's `text`) or `text_features`."
            )
        return self.encode_text(input_ids, attention_mask)

    def _words(self, visual: Tensor, text_features: PJVLTTextFeatures | None) -> list[tuple] | None:
        """The arguments of each SAIEL, or None for a model without language."""
        if text_features is None:
            return None
        mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=visual,
            attention_mask=text_features.attention_mask,
            encoder_hidden_states=text_features.keys[:, 0, 0],  # only its (B, T) is read
        )
        return [
            (text_features.keys[:, f], text_features.values[:, f], text_features.modulation[:, f], mask)
            for f in range(text_features.keys.shape[1])
        ]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        template_pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_features: PJVLTTextFeatures | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PJVLTOutput:
        """Find the target, given by template and sentence, in the search crop.

        Args:
            pixel_values: (B, 3, search_size, search_size) normalised search crops.
            template_pixel_values: (B, 3, template_size, template_size) normalised template crops.
            input_ids, attention_mask: (B, T) tokenised sentences, and a mask with 1 for tokens and 0 for padding.
            text_features: from [`~PJVLTModel.encode_text`], instead of `input_ids`.
            labels: (B, 4) ground truth cx, cy, w, h in fractions of the search crop; the output then has a `loss`. A
                row of zeros means that the crop does not show the target.
            inputs_embeds: (B, N, C) tokens of both crops with their positions, instead of the crops.

        Raises `ValueError` unless either both crops or `inputs_embeds` are given, and for a missing sentence.
        """
        given = [crops is not None for crops in (pixel_values, template_pixel_values)]
        if given != [inputs_embeds is None] * 2:
            raise ValueError("PJVLT needs either `pixel_values` and `template_pixel_values`, or `inputs_embeds`.")
        # BERT captures its own hidden states, and captures must not be nested: read the sentence first.
        text_features = self._read(input_ids, attention_mask, text_features)
        if inputs_embeds is None:
            inputs_embeds = self.embeddings(template_pixel_values, pixel_values)
        return self._track(inputs_embeds, text_features, labels, **kwargs)

    @capture_outputs(tie_last_hidden_states=False)
    def _track(self, hidden_states, text_features, labels, **kwargs) -> PJVLTOutput:
        """The part of `forward` behind the embeddings."""
        words, grid = self._words(hidden_states, text_features), self.config.search_grid
        alignment = None
        if self.alignment is not None:
            alignment = self.alignment(hidden_states[:, -grid * grid :], text_features.alignment)
        hidden_states = self.norm(self.encoder(hidden_states, words))
        search_map = hidden_states[:, -grid * grid :].transpose(1, 2).unflatten(2, (grid, grid))  # (B, C, G, G)
        score_map, offset_map, size_map = self.head(search_map, alignment)
        pred_boxes, scores = decode_boxes(score_map, offset_map, size_map)
        loss = loss_dict = None
        if labels is not None:
            weights = (self.config.focal_weight, self.config.giou_weight, self.config.l1_weight)
            maps = score_map, offset_map, size_map
            loss, loss_dict = tracking_loss(*maps, labels, *weights, box_cells=self.config.box_cells)
        return PJVLTOutput(
            loss=loss,
            pred_boxes=pred_boxes,
            scores=scores,
            score_map=score_map,
            offset_map=offset_map,
            size_map=size_map,
            last_hidden_state=hidden_states,
            loss_dict=loss_dict,
        )

    @classmethod
    def from_backbones(
        cls,
        vision: str | None = None,
        text: str | None = None,
        config: PJVLTConfig | None = None,
        pretrained: bool = True,
        tracker: str | None = None,
    ):
        """Build a PJVLT with the vision stream of a timm network or a tracker, and the text stream of a BERT.

        Args:
            vision: name of a plain timm ViT, such as `"vit_base_patch16_224.mae"`.
            text: a BERT by Hub id or folder, such as `"google-bert/bert-base-uncased"`.
            config: crop sizes, fusion and head; its stream sizes must fit the backbones. Default: the backbones' own
                sizes and the paper's fusion; with `tracker` also `fusion_residual`, so that the model starts close to
                the tracker.
            pretrained: False builds the same architecture with random weights and downloads nothing.
            tracker: instead of `vision`: Hub id or folder of a PJVLT without language, such as OSTrack converted by
                `pjvlt-convert-weights`. Its vision stream and box head are used.

        Logs which weights are new. Raises `ImportError` without timm, and `ValueError` for sizes that do not fit, for
        a ViT with parts that PJVLT does not have, and unless `text` and one of `vision` and `tracker` are given.
        """
        if text is None or (vision is None) == (tracker is None):
            raise ValueError("from_backbones needs `text` and either `vision` or `tracker`.")
        if tracker is not None:
            return load_tracker(cls, tracker, text, config, pretrained)
        return load_backbones(cls, vision, text, config, pretrained)


__all__ = ["PJVLTModel", "PJVLTOutput", "PJVLTPreTrainedModel", "PJVLTTextFeatures", "decode_boxes"]
