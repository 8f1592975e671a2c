"""Checks of an export: its difference from PyTorch, its speed, and its success AUC on clips."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..data.synthetic.procedural import KINDS, ProceduralClip
from ..evaluation.procedural import FIRST_SEED
from ..evaluation.tracking import track_sequence, visible_auc
from ..modeling_pjvlt import PJVLTModel
from ..session_pjvlt import TargetSession
from .tracker import MAPS, OnnxModel, OnnxTracker

CHECKED = ((1, 3), (2, 8), (3, 17))  # targets and tokens of the batches that are compared
TIMED_RUNS, WARM_RUNS = 60, 10

Runner = Callable[[dict[str, torch.Tensor]], list]  # from the inputs of a `PJVLTModel` to the three maps


def onnx_runner(model: OnnxModel) -> Runner:
    """Runs the graphs of an ONNX or OpenVINO export one after the other."""

    def run(inputs: dict[str, torch.Tensor]) -> list:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        template = model.encode_templates(arrays["template_pixel_values"])
        return model.maps({"pixel_values": arrays["pixel_values"]} | template | model.encode_tokens(arrays))

    return run


def torch_runner(folder: Path) -> Runner:
    """Runs the graphs of a `torch.export` export one after the other."""
    graphs = {path.stem: torch.export.load(path).module() for path in folder.glob("*.pt2")}
    text = graphs.get("text")

    @torch.no_grad()
    def run(inputs: dict[str, torch.Tensor]) -> list:
        sentence = () if text is None else text(inputs["input_ids"], inputs["attention_mask"])
        template = graphs["template"](inputs["template_pixel_values"])
        return list(graphs["tracker"](inputs["pixel_values"], template, *sentence))

    return run


@torch.no_grad()
def largest_difference(model: PJVLTModel, run: Runner) -> float:
    """Largest difference between the maps of model and export, over random batches of several sizes."""
    config, generator, worst = model.config, torch.Generator().manual_seed(0), 0.0
    for targets, words in CHECKED:
        sizes = {"pixel_values": config.search_size, "template_pixel_values": config.template_size}
        inputs = {n: torch.randn(targets, 3, size, size, generator=generator) for n, size in sizes.items()}
        if config.uses_language:
            lengths = torch.arange(targets)[:, None] + 3
            mask = (torch.arange(words) < lengths.clamp(max=words)).long()
            mask[0] = 1
            tokens = torch.randint(config.text_config.vocab_size, mask.shape, generator=generator)
            inputs |= {"input_ids": tokens * mask, "attention_mask": mask}
        expected = model(**inputs)
        for name, exported in zip(MAPS, run(inputs), strict=True):
            difference = (torch.as_tensor(exported) - getattr(expected, name)).abs().max()
            worst = max(worst, float(difference.nan_to_num(nan=float("inf"))))
    return worst


def milliseconds_per_frame(tracker: TargetSession) -> tuple[float, float]:
    """Median milliseconds for a frame of 640x480 with one target: from crop to box, and in the network alone."""
    clip = ProceduralClip(FIRST_SEED, 2, size=(480, 640))
    frame, times = clip.frame(1), []
    tracker.add_target(clip.frame(0), clip.boxes[0], clip.text)
    for _ in range(WARM_RUNS + TIMED_RUNS):
        started, before = time.perf_counter(), tracker.seconds["network"]
        tracker.step(frame)
        times.append((time.perf_counter() - started, tracker.seconds["network"] - before))
    total, network = 1000 * np.median(times[WARM_RUNS:], axis=0)
    return float(total), float(network)


def procedural_clips(number: int, frames: int = 60) -> list[ProceduralClip]:
    """The first clips of the fixed set that all evaluations use, of alternating kinds."""
    return [ProceduralClip(FIRST_SEED + i, frames, kind=KINDS[i % len(KINDS)]) for i in range(number)]


def success_auc(models: dict[str, OnnxModel], sequences: list, label: str) -> dict[str, float]:
    """Mean success AUC in [0, 1] of each model, with each sequence's own sentence; see [`visible_auc`]."""
    scores = {name: [] for name in models}
    for sequence in tqdm(sequences, desc=label, unit="clip", disable=None):
        for name, model in models.items():
            tracks = track_sequence(
                None, None, sequence, {"own": sequence.text}, session=OnnxTracker(model, lost_score=0)
            )
            scores[name].append(visible_auc(tracks.boxes["own"], sequence))
    return {name: float(np.mean(values)) for name, values in scores.items()}


__all__ = [
    "largest_difference",
    "milliseconds_per_frame",
    "onnx_runner",
    "procedural_clips",
    "success_auc",
    "torch_runner",
]
