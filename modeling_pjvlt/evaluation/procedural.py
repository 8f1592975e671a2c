"""Does the sentence matter? Success AUC on fixed procedural clips with the right, a wrong and no sentence."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.synthetic.procedural import KINDS, ProceduralClip
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import DEFAULT_SENTENCE
from ..visualization.drawing import TRUTH_COLOR, contact_sheet, draw_box
from .metrics import iou
from .tracking import track_sequence, visible_auc

FIRST_SEED = 10_000_000  # training draws its clips from seeds of 2^31 and above
SENTENCES = ("right", "wrong", "none")


@dataclass
class ProceduralScores:
    """Success AUC in [0, 1]: `auc[kind][sentence]` is (clips,), for `kind` of KINDS and `sentence` of SENTENCES."""

    auc: dict[str, dict[str, np.ndarray]]

    def mean(self, kind: str, sentence: str) -> float:
        """Mean over the clips of one kind."""
        return float(self.auc[kind][sentence].mean())

    def markdown(self) -> str:
        """A table for people: a row for each kind of clip."""
        names = {"appearance": "the first frame shows the target", "words": "only the sentence identifies it"}
        lines = ["| clips | number | right sentence | wrong sentence | no sentence |", "|---|---|---|---|---|"]
        for kind, by_sentence in self.auc.items():
            cells = " | ".join(f"{self.mean(kind, sentence):.3f}" for sentence in SENTENCES)
            lines.append(f"| {names[kind]} | {len(by_sentence['right'])} | {cells} |")
        return "\n".join(lines)


def track_clip(model, processor, clip: ProceduralClip) -> dict[str, float]:
    """Success AUC of one clip, without its first frame, for each of SENTENCES; the wrong one is a distractor's."""
    texts = {"right": clip.text, "wrong": clip.wrong_text, "none": DEFAULT_SENTENCE}
    tracks = track_sequence(model, processor, clip, texts)
    return {sentence: visible_auc(boxes, clip) for sentence, boxes in tracks.boxes.items()}


def draw_worst(
    model, processor, scores: ProceduralScores, path: str | os.PathLike, num_frames: int = 60, per_kind: int = 3
) -> None:
    """Save an image of the worst clips with the right sentence, a row for each: `per_kind` of each kind.

    A row shows the first frame and four later ones, with the ground truth (white) and, in the later ones, the
    predicted box (yellow). The captions give the sentence, and the overlap in each later frame.
    """
    rows, captions = [], []
    for offset, kind in enumerate(KINDS):
        for number in np.argsort(scores.auc[kind]["right"])[:per_kind].tolist():
            clip = _fixed_clip(number * len(KINDS) + offset, num_frames)
            boxes = track_sequence(model, processor, clip, {"right": clip.text}).boxes["right"]
            shown = np.linspace(0, num_frames - 1, min(num_frames, 5)).round().astype(int).tolist()
            overlaps = iou(boxes, clip.boxes)
            frames = [draw_box(clip.frame(index), clip.boxes[index], color=TRUTH_COLOR) for index in shown]
            rows.append([frames[0]] + [draw_box(f, boxes[i]) for f, i in zip(frames[1:], shown[1:], strict=True)])
            captions.append([clip.text] + [f"frame {i}, overlap {overlaps[i]:.2f}" for i in shown[1:]])
    contact_sheet(rows, path, captions, height=180)


def _fixed_clip(number: int, num_frames: int) -> ProceduralClip:
    """A clip of the fixed set; kinds alternate."""
    return ProceduralClip(FIRST_SEED + number, num_frames, kind=KINDS[number % len(KINDS)])


def evaluate_procedural(
    model, processor, num_clips: int = 200, num_frames: int = 60, num_proc: int = 1
) -> ProceduralScores:
    """Track `num_clips` fixed clips, half of each kind; they are the same on every machine.

    With `num_proc` above 1, that many processes share the clips, each on one thread of the CPU.
    """
    if num_proc > 1:
        context = multiprocessing.get_context("spawn")
        arguments = (model.config, model.state_dict(), processor, num_frames)
        with ProcessPoolExecutor(num_proc, context, _set_up_worker, arguments) as pool:
            results = list(tqdm(pool.map(_score_clip, range(num_clips)), total=num_clips, unit="clip", disable=None))
    else:
        _worker.update(model=model, processor=processor, num_frames=num_frames)
        results = [_score_clip(number) for number in tqdm(range(num_clips), unit="clip", disable=None)]
    auc = {
        kind: {s: np.array([r[s] for r in results[offset :: len(KINDS)]]) for s in SENTENCES}
        for offset, kind in enumerate(KINDS)
    }
    return ProceduralScores(auc)


_worker: dict = {}  # what a process evaluates with


def _set_up_worker(config, weights, processor, num_frames: int) -> None:
    torch.set_num_threads(1)
    model = PJVLTModel(config)  # built here, because transformers' hooks do not travel with a pickled model
    model.load_state_dict(weights)
    _worker.update(model=model, processor=processor, num_frames=num_frames)


def _score_clip(number: int) -> dict[str, float]:
    clip = _fixed_clip(number, _worker["num_frames"])
    return track_clip(_worker["model"], _worker["processor"], clip)
