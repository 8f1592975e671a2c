"""What a PJVLT costs.

python scripts/benchmark.py model                      parameters and multiply-accumulates of PJVLT-B, by part
python scripts/benchmark.py model --model my-checkpoint
python scripts/benchmark.py data                       how fast training data comes, and what memory it takes
python scripts/benchmark.py data pairs                 only that part: pairs, index or memory
python scripts/benchmark.py train                      steps per second, waiting for data, share of the matmul peak
python scripts/benchmark.py train --model base --batch_size 128 --workers 14 --compile     on a GPU
python scripts/benchmark.py evaluation                 how long scoring the boxes of a whole benchmark takes
python scripts/benchmark.py load                       import, --help, from_pretrained of PJVLT-B: seconds and memory
python scripts/benchmark.py soak                       memory over 20 000 frames of one session

MACs are counted by running the model once (convolutions, linear maps and attention); a sentence is 20 tokens.
"""

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from modeling_pjvlt import PJVLTConfig, PJVLTModel

SENTENCE_TOKENS = 20


def parts_of(model: PJVLTModel) -> dict[str, list[str]]:
    """Names for people, and the modules that belong to each."""
    fused = [f"encoder.{name}" for name, module in model.encoder.named_modules() if name.endswith(".fusion")]
    return {
        "text encoder (BERT)": ["text_encoder"],
        "patch and position embeddings": ["embeddings"],
        "vision layers (ViT)": [f"encoder.{n}" for n, _ in model.encoder.named_modules() if n.endswith(".vision")],
        "SAIEL": [f"{name}.saiel" for name in fused],
        "CCPIL": [f"{name}.ccpil" for name in fused],
        "box head": ["head"],
    }


def count_parameters(model: PJVLTModel, names: list[str]) -> int:
    """Parameters of the named modules; a part that is not built has none."""
    modules = dict(model.named_modules())
    return sum(p.numel() for name in names if name in modules for p in modules[name].parameters())


@torch.inference_mode()
def count_macs(model: PJVLTModel, names: dict[str, list[str]]) -> tuple[dict[str, int], dict[str, int]]:
    """MACs by part, once per sentence and once per frame."""
    config = model.config
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
    if config.uses_language:  # BERT is the only module that is called as one here; the rest is SAIEL's `encode_words`
        per_sentence["text encoder (BERT)"] = macs(sentence, type(model.text_encoder).__name__)
        per_sentence["SAIEL"] = macs(sentence, "Global") - per_sentence["text encoder (BERT)"]
    return (
        {**per_sentence, "total": macs(sentence, "Global")},
        {**per_frame, "total": macs(frame, "Global")},
    )


def describe_model(path: str | None) -> None:
    """Print the table of one model."""
    config = AutoConfig.from_pretrained(path) if path else PJVLTConfig()
    model = PJVLTModel._from_config(config, attn_implementation="eager").eval()
    names = parts_of(model)
    per_sentence, per_frame = count_macs(model, names)
    parameters = {part: count_parameters(model, modules) for part, modules in names.items()}
    parameters["total"] = sum(p.numel() for p in model.parameters())
    print("| part | parameters | MACs per sentence | MACs per frame |\n|---|---:|---:|---:|")
    for part, number in parameters.items():
        print(f"| {part} | {number / 1e6:.2f} M | {per_sentence[part] / 1e9:.2f} G | {per_frame[part] / 1e9:.2f} G |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model", help="parameters and MACs by part")
    model.add_argument("--model", help="checkpoint whose config is used: folder or Hub id (default: PJVLT-B)")
    data = commands.add_parser("data", help="pairs per second, time to the first pair, memory")
    data.add_argument("part", nargs="?", choices=["pairs", "index", "memory"], help="default: all three")
    train = commands.add_parser("train", help="steps per second, waiting for data, share of the matmul peak")
    train.add_argument("--model", choices=["tiny", "base"], default="tiny", help="default: tiny")
    train.add_argument("--batch_size", type=int, default=32, help="default: 32")
    train.add_argument("--steps", type=int, default=10, help="measured, after a few to warm up (default: 10)")
    train.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="bf16", help="default: bf16")
    train.add_argument("--workers", type=int, default=0, help="processes that prepare pairs (default: 0)")
    train.add_argument("--compile", action="store_true", help="with torch.compile")
    commands.add_parser("evaluation", help="seconds to score 280 sequences with 685 000 frames, by protocol")
    load = commands.add_parser("load", help="seconds to import and to load PJVLT-B, and memory")
    load.add_argument(
        "--runs", type=int, default=5, help="each in a process of its own; the median counts (default: 5)"
    )
    soak = commands.add_parser("soak", help="memory of the process over many frames of one session")
    soak.add_argument("--frames", type=int, default=20_000, help="default: 20000")
    args = parser.parse_args()
    if args.command == "model":
        describe_model(args.model)
    elif args.command == "train":
        from benchmark_train import benchmark_train

        benchmark_train(args.model, args.batch_size, args.steps, args.mixed_precision, args.workers, args.compile)
    elif args.command == "soak":
        from benchmark_soak import benchmark_soak

        benchmark_soak(args.frames)
    elif args.command == "load":
        from benchmark_load import benchmark_load

        benchmark_load(args.runs)
    elif args.command == "evaluation":
        from benchmark_evaluation import benchmark_evaluation

        benchmark_evaluation()
    else:
        from benchmark_data import benchmark_data

        benchmark_data(args.part)


if __name__ == "__main__":
    main()
