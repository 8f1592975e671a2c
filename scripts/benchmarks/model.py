"""Parameters and multiply-accumulates by part: `python scripts/benchmarks model`."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from modeling_pjvlt import PJVLTConfig, PJVLTModel

SENTENCE_TOKENS = 20


def parts_of(model: PJVLTModel) -> dict[str, list[str]]:
    """Name of each part of the model -> the names of its modules."""
    fused = [f"encoder.{name}" for name, module in model.encoder.named_modules() if name.endswith(".fusion")]
    branch = {} if model.alignment is None else {"alignment branch": ["alignment"]}
    return {
        "text encoder (BERT)": ["text_encoder"],
        "patch and position embeddings": ["embeddings"],
        "vision layers (ViT)": [f"encoder.{n}" for n, _ in model.encoder.named_modules() if n.endswith(".vision")],
        "SAIEL": [f"{name}.saiel" for name in fused],
        "CCPIL": [f"{name}.ccpil" for name in fused],
        "box head": ["head"],
        **branch,
    }


def count_parameters(model: PJVLTModel, names: list[str]) -> int:
    """Parameters of the named modules; a part that is not built has none."""
    modules = dict(model.named_modules())
    return sum(p.numel() for name in names if name in modules for p in modules[name].parameters())


@torch.inference_mode()
def count_macs(model: PJVLTModel, names: dict[str, list[str]]) -> tuple[dict[str, int], dict[str, int]]:
    """MACs by part, once per sentence and once per frame. The model has eager attention afterwards."""
    config = model.config
    model.set_attn_implementation("eager")  # the counter misses the products in some kernels of other implementations
    crops = {
        "pixel_values": torch.zeros(1, 3, config.search_size, config.search_size),
        "template_pixel_values": torch.zeros(1, 3, config.template_size, config.template_size),
    }
    sentence, frame = FlopCounterMode(display=False), FlopCounterMode(display=False)
    features = None
    if config.uses_language:
        with sentence:
            features = model.encode_text(torch.ones(1, SENTENCE_TOKENS, dtype=torch.long))
    with frame:
        model(**crops, text_features=features)

    def macs(counter: FlopCounterMode, *modules: str) -> int:
        counts = counter.get_flop_counts()
        return sum(sum(counts.get(name, {}).values()) for name in modules) // 2

    root = type(model).__name__
    per_frame = {part: macs(frame, *(f"{root}.{name}" for name in modules)) for part, modules in names.items()}
    per_sentence = dict.fromkeys(names, 0)
    if (
        config.uses_language
    ):  # the counter sees BERT as a module; the rest is SAIEL's `encode_words`, and a little of the branch
        per_sentence["text encoder (BERT)"] = macs(sentence, type(model.text_encoder).__name__)
        per_sentence["SAIEL"] = macs(sentence, "Global") - per_sentence["text encoder (BERT)"]
    return (
        {**per_sentence, "total": macs(sentence, "Global")},
        {**per_frame, "total": macs(frame, "Global")},
    )


def describe_model(path: str | None) -> None:
    """Print the table of one model."""
    config = AutoConfig.from_pretrained(path) if path else PJVLTConfig()
    model = PJVLTModel(config).eval()
    names = parts_of(model)
    per_sentence, per_frame = count_macs(model, names)
    parameters = {part: count_parameters(model, modules) for part, modules in names.items()}
    parameters["total"] = sum(p.numel() for p in model.parameters())
    print("| part | parameters | MACs per sentence | MACs per frame |\n|---|---:|---:|---:|")
    for part, number in parameters.items():
        print(f"| {part} | {number / 1e6:.2f} M | {per_sentence[part] / 1e9:.2f} G | {per_frame[part] / 1e9:.2f} G |")
