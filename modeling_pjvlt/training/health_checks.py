"""Early signs of a failing run: `health.jsonl`, a line every `logging_steps`, from step 0.

The main risk of the paper's equations is SAIEL, which has no residual around it: it can make all tokens nearly equal
and so erase the features of a pretrained backbone. At initialisation the mean cosine of the search tokens is 0.96
after twelve layers, 0.25 without fusion and 0.24 with `fusion_residual`. `scripts/ablations/probe.py` reads these
lines.
"""

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..files_pjvlt import write_text
from ..loss_pjvlt import target_cells
from .arguments import TrainArguments

logger = logging.getLogger(__name__)

PARTS = ("vision", "text", "fusion", "head")
ALIKE = 0.9  # mean cosine of the search tokens above which a warning is logged


def token_similarity(tokens: Tensor) -> Tensor:
    """Mean cosine of two different tokens of a sample, in [-1, 1]. (B, N, C) to a scalar."""
    directions = nn.functional.normalize(tokens.float(), dim=-1)
    number = tokens.shape[1]
    pairs = directions.sum(dim=1).square().sum(dim=-1) - number  # sum over all ordered pairs of different tokens
    return pairs.mean() / (number * (number - 1))


def target_share(score_map: Tensor, labels: Tensor) -> Tensor:
    """Share of the total score in the target's cell: 1 / G² if all cells are equal, 1 at best.

    (B, 1, G, G) and (B, 4) cx, cy, w, h in fractions of the crop to a scalar.
    """
    cells = target_cells(labels, score_map.shape[-1])
    scores = score_map.float().flatten(1)
    at_target = scores.gather(1, (cells[:, 1] * score_map.shape[-1] + cells[:, 0])[:, None])[:, 0]
    return (at_target / scores.sum(dim=1)).mean()


def gradient_norms(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Gradient norm of each of `PARTS` that the model has."""
    squares: dict[str, Tensor] = {}
    for name, parameter in named_parameters:
        if parameter.grad is not None:
            part = part_of(name)
            squares[part] = squares.get(part, 0) + parameter.grad.float().square().sum()
    return {part: squares[part].sqrt() for part in PARTS if part in squares}


def part_of(name: str) -> str:
    """Which of `PARTS` a parameter belongs to: ViT with its embeddings, BERT, SAIELs and CCPILs, or the box head."""
    if name.startswith("head."):
        return "head"
    if name.startswith("text_encoder."):
        return "text"
    return "fusion" if ".fusion." in name else "vision"


class HealthCheck:
    """Writes `health.jsonl` of a run, and warns at step 0 if the tokens are nearly equal.

    A line holds `step`, the number of steps before it; `token_similarity` of the search tokens after the last norm and
    `target_share`, both of the main process's last batch; and `gradient_vision` and so on, the norms of the whole
    step's gradients before clipping.
    """

    def __init__(self, args: TrainArguments, accelerator: Accelerator, first_step: int):
        self.args, self.accelerator = args, accelerator
        self.path = Path(args.output_dir) / "health.jsonl"
        if accelerator.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = self.path.read_text(encoding="utf-8").splitlines() if first_step and self.path.exists() else []
            kept = [line + "\n" for line in kept if json.loads(line)["step"] < first_step]
            write_text(self.path, "".join(kept))

    def due(self, step: int) -> bool:
        return self.accelerator.is_main_process and step % self.args.logging_steps == 0

    @torch.no_grad()
    def write(self, step: int, model: nn.Module, outputs, labels: Tensor, norm: Tensor) -> None:
        """Write a line after a backward pass with clipped gradients. norm: of all gradients, before clipping."""
        unwrapped = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        clipped = max(float(norm) / self.args.max_grad_norm, 1.0)
        tokens = outputs.last_hidden_state[:, -(outputs.score_map.shape[-1] ** 2) :]
        measures = {
            "token_similarity": token_similarity(tokens),
            "target_share": target_share(outputs.score_map, labels),
            **{f"gradient_{part}": clipped * n for part, n in gradient_norms(unwrapped.named_parameters()).items()},
        }
        values = {name: float(f"{float(value):.6g}") for name, value in measures.items()}
        # With fp16 the gradients of the first steps are infinite, until the scaler has found its scale.
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        if self.args.report_to:
            self.accelerator.log({f"health/{name}": value for name, value in values.items()}, step=step)
        if step == 0 and values["token_similarity"] > ALIKE:
            logger.warning(
                f"The search tokens are nearly equal at the start (mean cosine {values['token_similarity']:.2f}): the "
                "features of a pretrained backbone are lost. `scripts/ablations/probe.py` measures whether the run "
                "recovers."
            )
