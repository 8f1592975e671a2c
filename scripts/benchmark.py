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
python scripts/benchmark.py tracking                   milliseconds per frame by stage, path, precision and targets
python scripts/benchmark.py tracking --quick           one target, few repeats
python scripts/benchmark.py tracking --device cuda     on a GPU, with torch.compile and CUDA graphs

MACs are counted by running the model once (convolutions, linear maps and attention); a sentence is 20 tokens.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from modeling_pjvlt import PJVLTConfig, PJVLTModel

SENTENCE_TOKENS = 20
EAGER, COMPILED = ["plain", "text", "fast", "baseline"], ["compiled", "compiled-baseline"]
EXPORTED = ["onnx", "onnx-int8"]
TRACKING_CASES = """cases:
  plain               the model itself in the loop, its sentence encoded once
  text                the same, with the sentence encoded again for every frame
  fast                what sessions do: model.prepare_for_tracking()
  baseline            the fast path of the same model without language (fusion="none")
  compiled            fast through torch.compile, on a GPU with CUDA graphs
  compiled-baseline   baseline through torch.compile
  onnx                what pjvlt-export makes of the model, in onnxruntime; on a CPU, in fp32
  onnx-int8           the same, made with --int8

examples:
  benchmark.py tracking --models tiny                                 the quickest
  benchmark.py tracking --models base --targets 1 --precisions bf16
  benchmark.py tracking --models tiny --targets 1 --cases plain fast baseline onnx
  benchmark.py tracking --targets 1 --compile --output times.json     compiling takes minutes on a CPU
"""


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
    """MACs by part, once per sentence and once per frame. The model has eager attention afterwards."""
    config = model.config
    model.set_attn_implementation("eager")  # of which every product is counted; of some kernels none is
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
    model = PJVLTModel(config).eval()
    names = parts_of(model)
    per_sentence, per_frame = count_macs(model, names)
    parameters = {part: count_parameters(model, modules) for part, modules in names.items()}
    parameters["total"] = sum(p.numel() for p in model.parameters())
    print("| part | parameters | MACs per sentence | MACs per frame |\n|---|---:|---:|---:|")
    for part, number in parameters.items():
        print(f"| {part} | {number / 1e6:.2f} M | {per_sentence[part] / 1e9:.2f} G | {per_frame[part] / 1e9:.2f} G |")


def add_tracking(commands) -> None:
    """The arguments of `tracking`, which are many."""
    tracking = commands.add_parser(
        "tracking",
        help="milliseconds per frame by stage, path, precision and targets",
        description=(
            "Decode, crop, network, decoding of the box, and all of it end to end. The cases take turns in one process; "
            "medians, quartiles, MACs, the share of this machine's matmul peak, and ratios with their goals are printed. "
            "Leave the machine alone meanwhile. Most of the time goes into 16 targets."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=TRACKING_CASES,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tracking.add_argument("--device", choices=["cpu", "cuda"], default=device, help=f"default here: {device}")
    tracking.add_argument("--models", nargs="+", help="base, tiny, folders or Hub ids (default: base tiny; GPU: base)")
    tracking.add_argument(
        "--cases",
        nargs="+",
        choices=EAGER + COMPILED + EXPORTED,
        help="what runs; see below (default: the first four)",
    )
    tracking.add_argument("--compile", action="store_true", help="the compiled cases too (on a GPU they always run)")
    tracking.add_argument(
        "--precisions", nargs="+", choices=["fp32", "bf16", "fp16"], help="default: fp32 bf16; on a GPU: bf16 fp16"
    )
    tracking.add_argument("--targets", nargs="+", type=int, help="in one video (default: 1 4 16; on a GPU: 1 32)")
    tracking.add_argument("--repeats", type=int, default=9, help="visits of a case, fewer of slow ones (default: 9)")
    tracking.add_argument(
        "--compile_seconds", type=float, default=200, help="compile no more after these (default: 200)"
    )
    tracking.add_argument("--quick", action="store_true", help="one target and three repeats")
    tracking.add_argument("--output", type=Path, metavar="FILE", help="JSON of all that was measured")


def run_tracking(args: argparse.Namespace) -> None:
    """Fill in what depends on the device, and measure."""
    from benchmark_tracking import benchmark_tracking

    on_gpu = args.device == "cuda"
    cases = args.cases or [*EAGER, *(COMPILED if on_gpu else [])]
    cases += [case for case in COMPILED if args.compile and case not in cases]
    benchmark_tracking(
        args.models or (["base"] if on_gpu else ["base", "tiny"]),
        cases,
        args.precisions or (["bf16", "fp16"] if on_gpu else ["fp32", "bf16"]),
        args.targets or ([1] if args.quick else [1, 32] if on_gpu else [1, 4, 16]),
        min(args.repeats, 3) if args.quick else args.repeats,
        torch.device(args.device),
        args.compile_seconds,
        args.output,
    )


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
    add_tracking(commands)
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
    elif args.command == "tracking":
        run_tracking(args)
    elif args.command == "evaluation":
        from benchmark_evaluation import benchmark_evaluation

        benchmark_evaluation()
    else:
        from benchmark_data import benchmark_data

        benchmark_data(args.part)


if __name__ == "__main__":
    main()
