"""Builders of tiny configs, models and inputs; the fixtures of `conftest.py` hand them out."""

import torch

from modeling_pjvlt import PJVLTConfig, PJVLTModel

WORDS = (
    "the a of on in and with to white black red green blue yellow small big left right dog cat car bird person ball "
    "target running moving road grass water sky man woman horse boat plane bike tree"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS.split()[1:]]
VOCABULARY = [word for i, word in enumerate(VOCABULARY) if word not in VOCABULARY[:i]][:99]


def build_tiny_config(**overrides) -> PJVLTConfig:
    """Three vision layers, two text layers, 4 + 16 patches. `text_config` overrides single fields of the tiny BERT."""
    text_config = {
        "model_type": "bert",
        "vocab_size": 99,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **overrides.pop("text_config", {}),
    }
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "drop_path_rate": 0.0,
        "patch_size": 8,
        "template_size": 16,
        "search_size": 32,
        "saiel_hidden_size": 16,
        "num_saiel_heads": 2,
        "pim_hidden_size": 24,
        "head_channels": (16, 8),
    }
    return PJVLTConfig(text_config=text_config, **{**sizes, **overrides})


def build_tiny_model(seed: int = 0, stirred: bool = False, **overrides) -> PJVLTModel:
    """A seeded model in eval mode.

    `stirred` moves every parameter away from its initial value, so that none is neutral.
    """
    torch.manual_seed(seed)
    model = PJVLTModel(build_tiny_config(**overrides))
    return (stir(model) if stirred else model).eval()


@torch.no_grad()
def stir(module: torch.nn.Module, seed: int = 1, std: float = 0.15):
    """Add noise to all parameters: biases, norms and word modulation then matter. Returns the module."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def build_tiny_inputs(config: PJVLTConfig, batch: int = 2, words: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random crops and, where the model reads language, sentences of different lengths (the first is the longest)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "pixel_values": torch.randn(batch, 3, config.search_size, config.search_size, generator=generator),
        "template_pixel_values": torch.randn(
            batch, 3, config.template_size, config.template_size, generator=generator
        ),
    }
    if config.uses_language:
        lengths = [max(words - row, 2) for row in range(batch)]
        mask = torch.tensor([[int(t < length) for t in range(words)] for length in lengths])
        ids = torch.randint(5, config.text_config.vocab_size, (batch, words), generator=generator)
        inputs |= {"input_ids": ids * mask, "attention_mask": mask}
    return inputs


def build_tiny_labels(batch: int = 2) -> torch.Tensor:
    """(B, 4) boxes in different cells."""
    rows = torch.arange(batch, dtype=torch.float32)[:, None]
    return torch.tensor([[0.3, 0.55, 0.4, 0.3]]) + rows * torch.tensor([[0.3, -0.2, 0.1, 0.05]]) / max(batch - 1, 1)
