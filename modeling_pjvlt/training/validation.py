"""Validation by tracking: success AUC with the right and with another sentence, and accuracy on phrase pairs."""

import numpy as np
import torch
from accelerate import Accelerator

from ..data.loading import load_tracking_dataset
from ..data.synthetic.procedural import KINDS, ProceduralClip
from ..evaluation.phrase_pairs import choices, read_phrase_pairs
from ..evaluation.procedural import FIRST_SEED
from ..evaluation.tracking import track_sequence, visible_auc
from .arguments import TrainArguments, columns_of

VALIDATION_SEED = FIRST_SEED - 1_000  # procedural clips that neither training nor the published scores draw


class Validation:
    """Tracks a few sequences, each with its own and with another sentence in one session.

    The other sentence is that of the next sequence or, in a procedural clip, that of another figure in it.

    Args:
        args: of the run: which sequences, how many, how many frames of each.
        processor: the model's.
        best_score: of the run so far.

    Raises `ValueError` if no sequence can be tracked.
    """

    def __init__(self, args: TrainArguments, processor, best_score: float | None = None):
        self.processor, self.best_score = processor, best_score
        self.max_frames = args.max_validation_frames
        self.sequences, self.shuffled, self.phrases = [], [], []
        if args.validation_steps is None:
            return
        if args.validation_phrases is not None:
            self.phrases = read_phrase_pairs(args.validation_phrases)
        number = args.num_validation_sequences
        if args.validation_dataset_name is None:
            kinds = [KINDS[i % len(KINDS)] for i in range(number)]
            self.sequences = [
                ProceduralClip(VALIDATION_SEED + i, self.max_frames, kind=k) for i, k in enumerate(kinds)
            ]
            self.shuffled = [clip.wrong_text for clip in self.sequences]
            return
        dataset = load_tracking_dataset(
            args.validation_dataset_name,
            args.validation_split,
            columns=columns_of(args),
            preferred_split="validation",
        )
        chosen = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int)
        candidates = [dataset[int(i)] for i in chosen]
        self.sequences = [s for s in candidates if len(s) > 1 and s.visible[0]]
        if not self.sequences:
            raise ValueError("--validation_dataset_name: no sequence of several frames shows its target in the first.")
        texts = [sequence.text for sequence in self.sequences]
        self.shuffled = texts[1:] + texts[:1]

    def run(self, accelerator: Accelerator, model) -> tuple[dict[str, float], bool]:
        """Scores in [0, 1] by name, and whether `auc` is the best so far.

        `auc`, `auc_shuffled`: mean success AUC with the right and with the other sentence. `phrase_accuracy`, with
        phrase pairs: the share of them in which the phrase selects its box. The processes share the sequences and the
        pairs. Random states and the number of threads are left as they were.
        """
        threads = torch.get_num_threads()  # which a session may change
        unwrapped = accelerator.unwrap_model(model, keep_torch_compile=False)
        unwrapped.eval()
        scores = torch.zeros(len(self.sequences), 2, device=accelerator.device)
        with torch.random.fork_rng(), torch.inference_mode(), accelerator.autocast():
            for number in range(accelerator.process_index, len(self.sequences), accelerator.num_processes):
                scores[number] = torch.tensor(self._score(unwrapped, number), device=scores.device)
            mine = self.phrases[accelerator.process_index :: accelerator.num_processes]
            chosen = torch.tensor(
                sum(choices(unwrapped, self.processor, mine)), dtype=torch.float32, device=scores.device
            )
        torch.set_num_threads(threads)
        unwrapped.train()
        right, shuffled = accelerator.reduce(scores, "sum").mean(dim=0).tolist()
        chosen = float(accelerator.reduce(chosen, "sum"))
        better = self.best_score is None or right > self.best_score
        if better:
            self.best_score = right
        phrases = {"phrase_accuracy": chosen / len(self.phrases)} if self.phrases else {}
        return {"auc": right, "auc_shuffled": shuffled, **phrases}, better

    def _score(self, model, number: int) -> list[float]:
        sequence = self.sequences[number]
        texts = {"right": sequence.text, "shuffled": self.shuffled[number]}
        tracks = track_sequence(model, self.processor, sequence, texts, self.max_frames)
        return [visible_auc(boxes, sequence) for boxes in tracks.boxes.values()]
