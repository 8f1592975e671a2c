"""The two layers that the paper adds to a ViT: SAIEL (words into patches) and CCPIL (channels and patches talk).

Letters in shapes: B batch, N visual tokens, T words, C channels, D latent channels, H heads.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_pjvlt import PJVLTConfig


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """softmax(q k^T scaling + mask) v. Query (B, H, N, d), key and value (B, H, M, d); returns (B, N, H, d)."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def instance_norm(tokens: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the tokens, per sample and channel, no affine. (B, N, D), in float32 inside."""
    wide = tokens.float()
    variance, mean = torch.var_mean(wide, dim=1, keepdim=True, correction=0)
    return ((wide - mean) * torch.rsqrt(variance + eps)).to(tokens.dtype)


class PJVLTFanInLinear(nn.Linear):
    """Starts with standard deviation 1 / sqrt(fan in), not 0.02.

    SAIEL and CCPIL stand outside any residual: with 0.02, twelve literal layers make all tokens alike. (A class of its
    own because transformers initialises code outside its own package leaf by leaf.)
    """


class PJVLTWordModulation(nn.Linear):
    """Words (B, C_text) to alpha, beta and gamma (B, 3 D); its weight starts at zero, as in DiT.

    `modulation_init="identity"`: alpha = beta = 0 and gamma = 1, so that nothing is modulated at first, and yet the words
    have a gradient from the first step. `"zero"`, as in the paper: gamma = 0, which stops their gradient in that step.
    """


class PJVLTSAIEL(nn.Module):
    """Semantic-aware instance encoder layer (Eq. 1-7): aligns patches with words.

    `encode_words` is the half that depends on the sentence alone; `forward` is the half that sees the image.
    """

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.config = config
        channels, latent, words = config.hidden_size, config.saiel_hidden_size, config.text_config.hidden_size
        self.num_heads = config.num_saiel_heads
        self.scaling = (latent // self.num_heads) ** -0.5
        self.is_causal = False
        self.query = PJVLTFanInLinear(channels, latent, bias=False)  # a bias would vanish in the instance norm
        self.key = PJVLTFanInLinear(words, latent, bias=False)  # and this one in the softmax over words
        self.value = PJVLTFanInLinear(words, latent)
        self.modulation = PJVLTWordModulation(words, 3 * latent)
        self.visual = PJVLTFanInLinear(channels, latent)
        self.output = PJVLTFanInLinear(2 * latent if config.saiel_fusion == "concat" else latent, channels)
        residual = config.fusion_residual
        self.layer_scale = nn.Parameter(torch.full((channels,), config.layer_scale_init)) if residual else None

    def select_words(self, value: Tensor, word_mask: Tensor) -> Tensor:
        """Soft word selection (Eq. 2): value times its softmax over the words, per channel. (B, T, D), mask (B, T).

        While training, Gumbel noise from the global generator is added to the logits, so that gradient
        checkpointing and a resumed run repeat it.
        """
        logits = value.float()
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
        logits = (logits / self.config.word_temperature).masked_fill(~word_mask[..., None], float("-inf"))
        return logits.softmax(dim=1).to(value.dtype) * value

    def encode_words(self, words: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words (B, T, C_text) to keys (B, H, T, D/H), selected values (B, H, T, D/H) and modulation (B, 3, D)."""
        mask = attention_mask.bool()
        keys, values = self.key(words), self.select_words(self.value(words), mask)
        keys, values = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (keys, values))
        weights = mask[..., None].to(words.dtype)
        mean = (words * weights).sum(dim=1) / weights.sum(dim=1)  # mean over the real words, [CLS] and [SEP] included
        return keys, values, self.modulation(mean).unflatten(-1, (3, -1))

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, word_mask: Tensor | None):
        """Patches (B, H, N, d) attend to words (B, H, T, d): (B, N, H, d) and the weights, if the kernel has them."""
        packing = {}
        if word_mask is not None and word_mask.ndim == 2:
            # A 2D mask is FlashAttention's contract, whose unpadding takes queries to be as long as the mask and would
            # drop patches: give it packed words and their cumulative lengths instead.
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
        """V (B, N, C) and what `encode_words` made of the sentence to A (B, N, C), and the attention weights."""
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
    """SAIEL, then CCPIL; either can be ablated away."""

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        self.saiel = PJVLTSAIEL(config) if config.use_saiel else None
        self.ccpil = PJVLTCCPIL(config)

    def forward(self, hidden_states: Tensor, words: tuple) -> Tensor:  # (B, N, C)
        if self.saiel is not None:
            hidden_states, _ = self.saiel(hidden_states, *words)
        return self.ccpil(hidden_states)


__all__ = ["PJVLTCCPIL", "PJVLTSAIEL", "PJVLTFusionLayer", "eager_attention_forward"]
