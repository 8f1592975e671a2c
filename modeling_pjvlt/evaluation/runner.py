"""One-pass evaluation of a model on a dataset: shared among processes, resumable by sequence, then scored."""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.converters.sources import has_area
from ..files_pjvlt import remove_partial
from ..sentences_pjvlt import clean_sentences
from ..visualization.drawing import TRUTH_COLOR, draw_box
from .protocols import PROTOCOLS, BenchmarkScores, score_benchmark
from .result_files import Finished, check_names, read_finished, read_results, write_result
from .sequences import sentences
from .tracking import track_sequence

WORST_SEQUENCES, WORST_FRAMES = 3, 4


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth by sequence name, in the order of the dataset: arguments of [`score_benchmark`]."""

    boxes: dict[str, np.ndarray]
    absent: dict[str, np.ndarray]
    cover: dict[str, np.ndarray] | None
    attributes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether boxes after the first frames are known; for test sets of evaluation servers they are not."""
        return any(has_area(boxes[1:]).any() for boxes in self.boxes.values())

    def at_border(self) -> int:
        """Number of frames after the first that show the target, but with an x or y that is not positive."""
        return sum(
            int((has_area(boxes[1:]) & (boxes[1:, :2] <= 0).any(axis=1) & ~self.absent[name][1:]).sum())
            for name, boxes in self.boxes.items()
        )


def ground_truth(sequences: list, attributes: dict[str, list[str]] | None = None) -> GroundTruth:
    """The ground truth of sequences. Raises `ValueError` for repeated names and for sequences without a first box."""
    names = [sequence.name for sequence in sequences]
    if not names:
        raise ValueError("The dataset has no sequences.")
    check_names(names)
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise ValueError(f"Sequences appear more than once: {repeated[:5]}.")
    without_box = [s.name for s in sequences if not has_area(np.asarray(s.boxes)[:1])[0]]
    if without_box:
        raise ValueError(f"{len(without_box)} sequences have no box in their first frame: {without_box[:5]}.")
    covers = {s.name: s.cover for s in sequences if getattr(s, "cover", None) is not None}
    return GroundTruth(
        {s.name: np.asarray(s.boxes, np.float64) for s in sequences},
        {s.name: ~np.asarray(s.visible, bool) for s in sequences},
        covers if len(covers) == len(sequences) else None,
        attributes or {},
    )


def score(
    protocol: str, predictions: dict[str, np.ndarray], truth: GroundTruth, frame_sizes: dict[str, tuple[int, int]]
) -> BenchmarkScores:
    """Score by the rules of a protocol, with those of the flags that it uses."""
    given = {"absent": truth.absent, "cover": truth.cover, "frame_sizes": frame_sizes}
    takes = {name: value for name, value in given.items() if name in PROTOCOLS[protocol].takes}
    return score_benchmark(predictions, truth.boxes, protocol=protocol, attributes=truth.attributes, **takes)


def fingerprint(model, processor) -> str:
    """A hash of the weights and of the settings of model, image processor and tracking.

    The tokenizer is not part of it: an [`Evaluation`] records the tokens of each sentence.
    """
    tracking = processor.tracking_settings(model.config)
    del tracking["lost_score"]  # an evaluation has its own
    digest = hashlib.sha256()
    for settings in (model.config.to_dict(), processor.image_processor.to_dict(), tracking):
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def shares(lengths: list[int], num_processes: int) -> list[list[int]]:
    """The indices of the sequences of each process: longest first, each to the process with the least work."""
    work, shared = [0] * num_processes, [[] for _ in range(num_processes)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = work.index(min(work))
        work[rank] += lengths[index]
        shared[rank].append(index)
    return shared


class Evaluation:
    """Tracks a dataset with one kind of sentence, and skips the sequences that `folder` already holds.

    Args:
        model, processor: what is evaluated.
        sequences: from [`load_sequences`].
        text: which sentences, of TEXTS.
        folder: for the raw results.
        state: an `accelerate.PartialState` or `Accelerator`, for the rank of this process.
        protocol: for the scores in the progress bar.
        lost_score: see [`TargetSession`]; 0, as in the paper, never treats a target as lost.

    Raises `ValueError` for a folder that holds results of another model, of other sentences, settings or data.
    """

    def __init__(
        self,
        model,
        processor,
        sequences: list,
        text: str,
        folder: Path,
        state,
        protocol: str = "lasot",
        lost_score: float = 0.0,
    ):
        self.text, self.lost_score = text, lost_score
        self.model, self.processor, self.sequences = model, processor, sequences
        self.texts, self.folder, self.state, self.protocol = sentences(sequences, text), Path(folder), state, protocol
        self.truth = ground_truth(sequences)
        self.tokens = [[]] * len(sequences)
        if model.config.uses_language:
            cleaned = clean_sentences(self.texts, len(sequences))
            self.tokens = processor.encode_text(cleaned, padding=False, return_tensors=None)["input_ids"]
        self.fingerprint = fingerprint(model, processor)

    def run(self, label: str = "") -> None:
        """Track the unfinished sequences. Returns when all processes are done and all results are on disk."""
        finished = [self._finished(number) for number in range(len(self.sequences))]
        if self.state.process_index == 0:
            remove_partial(self.folder)  # a killed run may have left half a file
        self.state.wait_for_everyone()  # all processes have checked the folder before one writes
        left = [number for number, record in enumerate(finished) if record is None]
        lengths = [len(self.sequences[number]) for number in left]
        rank = self.state.process_index
        mine = [left[i] for i in shares(lengths, self.state.num_processes)[rank]]
        with _Bar(self, label, [n for n, record in enumerate(finished) if record], left, rank == 0) as bar:
            for number in mine:
                self._track(number, bar)
        self.state.wait_for_everyone()

    def predictions(self) -> dict[str, np.ndarray]:
        """Boxes of all sequences, read from disk: (n, 4) xywh."""
        return read_results(self.folder, [sequence.name for sequence in self.sequences])

    def finished(self) -> dict[str, Finished]:
        """The record of each sequence. Raises `ValueError` for one that is not finished."""
        records = {s.name: self._finished(number) for number, s in enumerate(self.sequences)}
        missing = [name for name, record in records.items() if record is None]
        if missing:
            raise ValueError(f"{len(missing)} sequences are not finished: {missing[:5]}.")
        return records

    def _run_of(self, number: int) -> str:
        sequence = self.sequences[number]
        box = np.asarray(sequence.boxes[0], float).tolist()
        content = [self.fingerprint, self.texts[number], self.tokens[number], len(sequence), box, self.lost_score]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def _finished(self, number: int) -> Finished | None:
        name = self.sequences[number].name
        record = read_finished(self.folder, name)
        if record is not None and record.run != self._run_of(number):
            raise ValueError(
                f"{self.folder} holds results of another model, of other sentences, of other data or of an earlier "
                f"version ({name}). Choose another --output_dir, or delete that folder."
            )
        return record

    def _track(self, number: int, bar: "_Bar") -> None:
        sequence = self.sequences[number]
        try:
            tracks = track_sequence(
                self.model,
                self.processor,
                sequence,
                {"it": self.texts[number]},
                on_frame=bar.frame,
                lost_score=self.lost_score,
            )
        except ValueError as error:
            raise ValueError(f"Sequence {sequence.name!r}: {error}") from error
        finished = Finished(self._run_of(number), self.texts[number], len(sequence), tracks.frame_size, tracks.seconds)
        write_result(self.folder, sequence.name, tracks.boxes["it"], tracks.times, finished)
        bar.sequence(number)


class _Bar:
    """Progress bar over all processes, with the mean score of the finished sequences and frames per second."""

    def __init__(self, run: Evaluation, label: str, finished: list[int], left: list[int], shown: bool):
        self.run, self.left, self.shown = run, set(left), shown
        lengths = {number: len(run.sequences[number]) for number in (*finished, *left)}
        self.lengths, self.base = lengths, sum(lengths[n] for n in finished)
        self.bar = tqdm(
            total=sum(lengths.values()), initial=self.base, desc=label, unit="frame", disable=None if shown else True
        )
        self.scores: list[float] = []
        self.mine, self.looked, self.seconds, self.frames = 0, 0.0, 0.0, 0
        for number in finished:
            self._add(number)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *raised) -> None:
        if raised[0] is None:
            self._look(force=True)
        self.bar.close()

    def frame(self) -> None:
        """One more frame of this process."""
        self.mine += 1
        self._look()

    def sequence(self, number: int) -> None:
        """This process has finished a sequence."""
        self.left.discard(number)
        self.base += self.lengths[number]
        self.mine = 0
        self._add(number)

    def _look(self, force: bool = False) -> None:
        """Refresh the bar, at most once a second, with what the other processes have finished."""
        if self.bar.disable or (not force and time.monotonic() - self.looked < 1):
            return
        self.looked = time.monotonic()
        for number in sorted(self.left):
            if self.run.state.num_processes > 1 and read_finished(self.run.folder, self.run.sequences[number].name):
                self.left.discard(number)
                self.base += self.lengths[number]
                self._add(number)
        shown = {}
        if self.scores:
            shown[PROTOCOLS[self.run.protocol].metrics[0]] = f"{np.mean(self.scores):.1f}"
        if self.seconds:
            shown["fps"] = f"{self.frames / self.seconds:.0f}"
        self.bar.n = min(self.base + self.mine, self.bar.total)
        self.bar.set_postfix(shown, refresh=True)

    def _add(self, number: int) -> None:
        """Add the score and the time of a finished sequence."""
        if self.bar.disable:
            return
        run, name = self.run, self.run.sequences[number].name
        done = read_finished(run.folder, name)
        self.seconds += done.seconds["crop"] + done.seconds["network"]
        self.frames += done.frames - 1
        if run.truth.known:
            one = GroundTruth(
                {name: run.truth.boxes[name]},
                {name: run.truth.absent[name]},
                None if run.truth.cover is None else {name: run.truth.cover[name]},
            )
            scores = score(run.protocol, read_results(run.folder, [name]), one, {name: done.frame_size})
            self.scores.append(next(iter(scores.values())))


def worst_sequences(sequences: list, texts: list[str], predictions: dict[str, np.ndarray], scores: BenchmarkScores):
    """The sequences with the lowest main score, each with some frames: ground truth white, predicted box yellow."""
    from .report import WorstSequence

    metric = next(iter(scores))
    values = {name: one[metric] for name, one in scores.sequences.items() if np.isfinite(one[metric])}
    worst = []
    for name in sorted(values, key=values.get)[:WORST_SEQUENCES]:
        number = next(i for i, sequence in enumerate(sequences) if sequence.name == name)
        sequence, boxes = sequences[number], predictions[name]
        chosen = np.linspace(0, len(sequence) - 1, min(WORST_FRAMES, len(sequence))).round().astype(int)
        frames = []
        for index in chosen:
            frame = sequence.frame(int(index))
            if sequence.visible[index]:
                frame = draw_box(frame, sequence.boxes[index], color=TRUTH_COLOR)
            frames.append(draw_box(frame, boxes[index]))
        worst.append(WorstSequence(name, texts[number], values[name], frames, [f"frame {i}" for i in chosen]))
    return worst


def lost_sequences(run: Evaluation, plain: Evaluation) -> list[str]:
    """The sequences whose boxes the search for lost targets changed; `plain` is the run without it."""
    boxes, others = run.predictions(), plain.predictions()
    return [name for name in boxes if not np.array_equal(boxes[name], others[name])]


def result_of(run: Evaluation, text: str | None, truth: GroundTruth, name: str):
    """What one run measured, as a row of the report."""
    from .report import TrackerResult

    finished = run.finished()
    frames = sum(done.frames for done in finished.values())
    seconds = {part: sum(done.seconds[part] for done in finished.values()) for part in ("decode", "crop", "network")}
    tracked = frames - len(finished)  # the first frame is given
    per_frame = {
        part: 1000 * value / max(frames if part == "decode" else tracked, 1) for part, value in seconds.items()
    }
    busy = seconds["crop"] + seconds["network"]
    scores = score(run.protocol, run.predictions(), truth, {key: done.frame_size for key, done in finished.items()})
    return TrackerResult(name, scores, text, per_frame, tracked / busy if busy else None)
