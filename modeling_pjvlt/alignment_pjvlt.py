"""The alignment branch: how well each search patch fits the sentence, added to the head's scores.

An option for small trackers (`alignment_size`), not part of the paper. A patch and the sentence are mapped to one
space, in which their cosine is the score, as for regions and phrases in GLIP (Li et al., 2022) and for images and
captions in CLIP (Radford et al., 2021). The branch reads the patches before the first vision layer, where no sentence
has changed them, so it is learned from many phrases of an image at once (`scripts/teach_words/align.py`). Letters in
shapes as in `modeling_pjvlt.py`, and E, the channels of the common space.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .configuration_pjvlt import PJVLTConfig

CONTEXT = 5  # patches along the side of the neighbourhood that is seen with each patch
PATCH_WIDTH, SENTENCE_WIDTH = 2, 4  # hidden channels, in multiples of E


def mean_word(words: Tensor, attention_mask: Tensor) -> Tensor:
    """The mean token of each sentence, without padding, with [CLS] and [SEP]. (B, T, c) and (B, T) to (B, c)."""
    weights = attention_mask[..., None].to(words.dtype)
    return (words * weights).sum(dim=1) / weights.sum(dim=1)


class PJVLTAlignment(nn.Module):
    """a = gain * <p, s> + bias, where p and s have length 1.

    p = W_2 (h + GELU(context(h))) with h = GELU(W_1 LN(patch)), `context` a depthwise convolution; s = W_4 GELU(W_3
    [LN(first); LN(last)]), from the mean tokens of BERT's embeddings and of its last layer. The gain starts at 1: the
    cosines of a new branch are small, so it hardly changes a score, and has a gradient from the first step.
    """

    def __init__(self, config: PJVLTConfig):
        super().__init__()
        size, words = config.alignment_size, config.text_config.hidden_size
        width = PATCH_WIDTH * size
        self.grid = config.search_grid
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.patch = nn.Linear(config.hidden_size, width)
        self.context = nn.Conv2d(width, width, CONTEXT, padding=CONTEXT // 2, groups=width)
        self.project = nn.Linear(width, size)
        self.first_norm, self.last_norm = (nn.LayerNorm(words, eps=config.layer_norm_eps) for _ in range(2))
        self.sentence = nn.Linear(2 * words, SENTENCE_WIDTH * size)
        self.project_sentence = nn.Linear(SENTENCE_WIDTH * size, size)
        self.gain, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def encode_sentence(self, first: Tensor, last: Tensor) -> Tensor:
        """The `mean_word` of the first and of the last hidden states of BERT, (B, C_text) each, to s (B, E)."""
        both = torch.cat([self.first_norm(first), self.last_norm(last)], dim=-1)
        return functional.normalize(self.project_sentence(functional.gelu(self.sentence(both))), dim=-1)

    def encode_patches(self, search: Tensor) -> Tensor:
        """Search tokens before the first vision layer, (B, G * G, C), to p (B, G * G, E)."""
        hidden = functional.gelu(self.patch(self.norm(search)))
        context = self.context(hidden.transpose(1, 2).unflatten(2, (self.grid, self.grid)))
        return functional.normalize(self.project(hidden + functional.gelu(context).flatten(2).transpose(1, 2)), dim=-1)

    def forward(self, search: Tensor, sentence: Tensor) -> Tensor:
        """Search tokens (B, G * G, C) and s (B, E) to what is added to the scores' logits, (B, 1, G, G)."""
        cosines = torch.matmul(self.encode_patches(search), sentence[:, :, None])
        return (self.gain * cosines + self.bias).transpose(1, 2).unflatten(2, (self.grid, self.grid))


__all__ = ["PJVLTAlignment", "mean_word"]
