"""Does the language matter? Success AUC on 200 fixed procedural clips with the right, a wrong and no sentence.

python scripts/evaluate_procedural.py --model modeling_pjvlt/pretrained/pjvlt-tiny --num_proc 2
python scripts/evaluate_procedural.py --clips 40 --failures worst.png
"""

import argparse

import torch

from modeling_pjvlt import DEFAULT_CHECKPOINT, PJVLTModel, PJVLTProcessor
from modeling_pjvlt.evaluation.procedural import draw_worst, evaluate_procedural
from modeling_pjvlt.run_folders import find_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint: folder or Hub id (default: bundled)")
    parser.add_argument("--clips", type=int, default=200, help="number of clips, half of each kind (default: 200)")
    parser.add_argument("--frames", type=int, default=60, help="frames in a clip (default: 60)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help=f"default here: {device}")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the model (default: float32)",
    )
    parser.add_argument(
        "--num_proc", type=int, default=1, help="processes, each on one thread of the CPU (default: 1)"
    )
    parser.add_argument(
        "--failures", metavar="IMAGE", help="also save an image (.png) of the clips with the lowest AUC"
    )
    args = parser.parse_args()
    args.model = find_checkpoint(args.model)
    model = PJVLTModel.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
    processor = PJVLTProcessor.from_pretrained(args.model)
    scores = evaluate_procedural(model, processor, args.clips, args.frames, args.num_proc)
    print(scores.markdown())
    for kind in scores.auc:
        print(f"{kind}: right minus wrong {scores.mean(kind, 'right') - scores.mean(kind, 'wrong'):+.3f}")
    if args.failures:
        draw_worst(model, processor, scores, args.failures, args.frames)
        print(f"The worst clips: {args.failures}")


if __name__ == "__main__":
    main()
