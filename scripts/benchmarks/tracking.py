"""The time of a frame: `python scripts/benchmarks tracking`.

plain               the session calls the model itself; the sentence is encoded once, when its target is added
text                the same, but the sentence is encoded with every frame, as other trackers do
fast                the path of sessions: `model.prepare_for_tracking()`
baseline            the fast path of the same model without language (`fusion="none"`): a one-stream tracker
compiled            the fast path through `torch.compile`, on a GPU with CUDA graphs
compiled-baseline   the baseline through `torch.compile`
onnx                the files that `pjvlt-export` writes, in onnxruntime: `OnnxTracker`, on a CPU and in fp32
onnx-int8           the same with the 8-bit matmuls of `pjvlt-export --int8`

Every case is a session with its targets, and the cases take turns: each turn is a few frames, so that other work on
the machine disturbs all of them alike. A frame is decoded from a video file, on a GPU taken from memory (that is the
"decode" of the table), and given to `session.step`: crops, network, and the boxes, with the one wait for the device.
On a CPU, the fast path and the exports of a small model also run as in pjvlt-track and the pipeline, over the whole
file with frames decoded ahead in a thread: "decoded ahead", the opening of the file included. In compiled cases,
network and boxes are one graph and are not timed separately.

The head of every model is set to predict the middle of its crop, so that all cases always cut the same crops. The rest
of PJVLT-B ("base") and of every baseline is random. MACs are those that a path computes for one target. The peak is
the best large matrix product of the whole run in that precision; int8 exports are compared with the fp32 peak.
"""

import copy
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import describe_machine, has_native, matmul_peak
from model import SENTENCE_TOKENS, count_macs, parts_of
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from tracking_cases import EXPORTED
from tracking_report import report

from modeling_pjvlt import PJVLTConfig, PJVLTImageProcessor, PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.onnx.export import write_export
from modeling_pjvlt.onnx.quantize import quantize_tracker
from modeling_pjvlt.onnx.tracker import TRACKER_FILE, OnnxModel, OnnxTracker
from modeling_pjvlt.processing_pjvlt import MAX_WORDS
from modeling_pjvlt.run_folders import find_checkpoint
from modeling_pjvlt.streams_pjvlt import read_ahead
from modeling_pjvlt.threads_pjvlt import users_choice
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

# "base" is built anew; it takes only the tokenizer of this checkpoint
BUNDLED = {"base": "pjvlt-tiny", "tiny": "pjvlt-tiny", "small": "pjvlt-small"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SENTENCE = "the small white dog running on the left side of the road behind a man in a car"  # `SENTENCE_TOKENS` tokens
FRAME_SIZES = {"cpu": (640, 480), "cuda": (1280, 720)}
CLIP_FRAMES = 150  # long enough that the time to open the file matters little
BOX = (72.0, 56.0)  # width and height of a target, pixels
QUARTER = -1.1015625  # exact in every type; its sigmoid is a hair under 1/4, so crops, which round up, keep their size
CASE_SECONDS, LEAST_VISITS = 8.0, 3  # a case gets fewer turns (visits) than --repeats if they would take longer
VISIT_SECONDS, VISIT_FRAMES = 0.2, 20  # a visit of a fast case has more than one frame
AHEAD = ("fast", *EXPORTED)  # cases that also run over the whole file, with frames decoded ahead
WARM_UPS = {"cpu": 1, "cuda": 5}  # CUDA graphs are captured in the first few frames


class Case(NamedTuple):
    """One row of the table."""

    model: str
    targets: int
    precision: str
    path: str


class Clock:
    """When the stages of a frame ended: times on a CPU, events on a GPU, whose work runs asynchronously."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.marks = {}

    def mark(self, name: str) -> None:
        if self.on_gpu:
            self.marks[name] = torch.cuda.Event(enable_timing=True)
            self.marks[name].record()
        else:
            self.marks[name] = time.perf_counter()

    def seconds(self, first: str, last: str) -> float:
        """Seconds between two marks; on a GPU both must have passed."""
        if self.on_gpu:
            return self.marks[first].elapsed_time(self.marks[last]) / 1000
        return self.marks[last] - self.marks[first]


class Clip(NamedTuple):
    """Endless frames, each with the seconds of its decoding, and the file that they come from, if there is one."""

    frames: Iterator[tuple[np.ndarray, float]]
    path: Path | None


def build_clip(folder: Path, device: torch.device) -> Clip:
    """A clip that is decoded from a file or, for a GPU, taken from memory."""
    width, height = FRAME_SIZES[device.type]
    clip = ProceduralClip(0, CLIP_FRAMES, (height, width))
    frames = [np.asarray(clip.frame(i)) for i in range(CLIP_FRAMES)]
    if device.type == "cuda":
        return Clip(_from_memory(frames), None)
    with VideoWriter(folder / "clip.mp4") as writer:
        for frame in frames:
            writer.write(frame)
    return Clip(_from_file(folder / "clip.mp4"), folder / "clip.mp4")


def _from_memory(frames: list[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
    while True:
        yield from ((frame, 0.0) for frame in frames)


def _from_file(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    while True:
        frames = iter(read_frames(path))
        next(frames)  # opening the file is not decoding
        started = time.perf_counter()
        for frame in frames:
            yield frame, time.perf_counter() - started
            started = time.perf_counter()


@torch.no_grad()
def _predict_the_middle(model: PJVLTModel) -> PJVLTModel:
    """Let every box lie in the middle of its crop and have a quarter of its side, with a score that is not low."""
    head, grid = model.head, model.config.search_grid
    for branch in (head.score, head.offset, head.size):
        branch[-1].weight.zero_()
    head.score[-1].bias.fill_(2.0)
    head.size[-1].bias.fill_(QUARTER)
    steps = torch.arange(1, grid + 1, dtype=torch.float32)
    # The grid is even, so it has two middle cells: this is the one that the window chooses.
    cell = int((1 - torch.cos(2 * torch.pi * steps / (grid + 1))).argmax())
    head.offset[-1].bias.fill_(30.0 if cell < grid / 2 else -30.0)  # a sigmoid of 1 or 0
    return model.eval()


class Subject:
    """A model, its baseline without language, and the MACs of both."""

    def __init__(self, name: str, device: torch.device, clock: Clock):
        torch.manual_seed(0)
        checkpoint = find_checkpoint(BUNDLED.get(name, name))
        self.name, self.device, self.clock = name, device, clock
        self.processor = PJVLTProcessor.from_pretrained(checkpoint)
        if name == "base":
            self.processor = PJVLTProcessor(PJVLTImageProcessor(), self.processor.tokenizer)
            model = PJVLTModel(PJVLTConfig())
        else:
            model = PJVLTModel.from_pretrained(checkpoint, dtype=torch.float32)
        if not model.config.uses_language:
            raise ValueError(f"{name!r} reads no language: there is nothing to compare it with.")
        self.models = {"full": _predict_the_middle(model)}
        self.models["none"] = _predict_the_middle(
            PJVLTModel(PJVLTConfig.from_dict({**model.config.to_dict(), "fusion": "none"}))
        )
        self._count()
        for part in self.models.values():
            part.to(device)
        self.plain, self.exports = {}, {}
        images = self.processor.image_processor
        normalize = images.normalize_crops
        images.normalize_crops = lambda crops: (normalize(crops), clock.mark("crop"))[0]

    @torch.inference_mode()
    def _count(self) -> None:
        full, baseline = self.models["full"], self.models["none"]
        sentence, frame = count_macs(copy.deepcopy(full), parts_of(full))
        _, without = count_macs(copy.deepcopy(baseline), parts_of(baseline))
        self.parts = {part: (sentence[part], frame[part], without.get(part, 0)) for part in frame}
        fast, padded, none = self._fast_macs(full), self._fast_macs(full, MAX_WORDS), self._fast_macs(baseline)
        self.macs = {
            "plain": frame["total"],
            "text": frame["total"] + sentence["total"],
            "fast": fast,
            "baseline": none,
            "compiled": padded,  # all sentences have one length, so that none needs a compilation of its own
            "compiled-baseline": none,
            "onnx": fast,
            "onnx-int8": fast,
        }

    @staticmethod
    def _fast_macs(model: PJVLTModel, words: int | None = None) -> int:
        config = model.config
        inference_model = model.prepare_for_tracking(portable=True)  # whose operations the counter knows
        search, template = (torch.zeros(1, 3, size, size) for size in (config.search_size, config.template_size))
        sentence = None
        if config.uses_language:
            sentence = model.encode_text(torch.ones(1, SENTENCE_TOKENS, dtype=torch.long))
        sentence, template = inference_model.sentence(sentence, words), inference_model.template(template)
        with FlopCounterMode(display=False) as counter:
            inference_model(search, template, sentence)
        return counter.get_total_flops() // 2

    def session(self, precision: str, path: str) -> TrackingSession | OnnxTracker:
        """A session without targets, whose network marks its end on the clock."""
        if path in EXPORTED:
            return OnnxTracker(self._exported(path))
        dtype = DTYPES[precision]
        if path in ("plain", "text"):
            if precision not in self.plain:
                full = self.models["full"]
                self.plain[precision] = full if precision == "fp32" else copy.deepcopy(full).to(dtype)
                self._watch(self.plain[precision])
            return TrackingSession(self.plain[precision], self.processor, fast=False)
        model = self.models["none" if path.endswith("baseline") else "full"]
        compiled = path.startswith("compiled")
        session = TrackingSession(model, self.processor, dtype=dtype, compile=compiled)
        if not compiled:
            self._watch(session.inference_model)
        return session

    def _exported(self, path: str) -> OnnxModel:
        """The export that a path needs; both exports are made at once, because tracing takes long."""
        if not self.exports:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_export(folder, self.models["full"], self.processor, self.name)
                self.exports["onnx"] = self._opened(folder)
                quantize_tracker(folder / TRACKER_FILE, folder / "int8.onnx")
                (folder / "int8.onnx").replace(folder / TRACKER_FILE)
                self.exports["onnx-int8"] = self._opened(folder)
        return self.exports[path]

    def _opened(self, folder: Path) -> OnnxModel:
        """An export whose network marks its begin and end on the clock."""
        model = OnnxModel(folder, users_choice())
        run = model.maps

        def watched(inputs):
            self.clock.mark("crop")
            maps = run(inputs)
            self.clock.mark("network")
            return maps

        model.maps = watched
        return model

    def _watch(self, network: torch.nn.Module) -> None:
        if not network.head._forward_hooks:  # sessions share it
            network.head.register_forward_hook(lambda *_: self.clock.mark("network"))


class Contestant:
    """One case, ready to run. seconds: of its frames, by stage. visits: median seconds of a frame of each visit."""

    def __init__(self, case: Case, subject: Subject, clip: Clip):
        self.case, self.clip, self.clock = case, clip, subject.clock
        self.macs = subject.macs[case.path] * case.targets
        self.seconds, self.visits = defaultdict(list), []
        self.session = subject.session(case.precision, case.path)
        self.compile_seconds = None
        self.encoded = None
        if case.path == "text":
            self.encoded = subject.processor.encode_text([SENTENCE] * case.targets).to(subject.device)
        self._add_targets(case.targets)
        self._warm_up(subject.device)

    def _add_targets(self, targets: int) -> None:
        frame, _ = next(self.clip.frames)
        rng = np.random.default_rng(0)
        for _ in range(targets):
            place = [float(rng.uniform(0, side - size)) for side, size in zip(frame.shape[1::-1], BOX, strict=True)]
            self.session.add_target(frame, [*place, *BOX], SENTENCE)

    def _warm_up(self, device: torch.device) -> None:
        first = self._frame()["end to end"]
        if self.case.path.startswith("compiled"):
            self.compile_seconds = first
        runs = WARM_UPS[device.type] if self.compile_seconds or first < 1 else 0
        seconds = ([first] + [self._frame()["end to end"] for _ in range(runs)])[-1]
        self.frames = int(min(max(VISIT_SECONDS / seconds, 1), VISIT_FRAMES))
        self.wanted = max(int(CASE_SECONDS / (seconds * self.frames)), LEAST_VISITS)

    def _reading(self):
        """In this context, the model of the case `text` gets the tokens with every frame."""
        if self.encoded is None:
            return nullcontext()
        tokens = {**self.encoded, "text_features": None}
        return self.session.model.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, **tokens}), with_kwargs=True
        )

    def _frame(self) -> dict[str, float]:
        """Seconds of one frame by stage."""
        frame, decoding = next(self.clip.frames)
        clock = self.clock
        clock.marks.clear()
        with self._reading():
            started = time.perf_counter()
            clock.mark("start")
            self.session.step(frame)
            clock.mark("end")
            stepping = time.perf_counter() - started
        if clock.on_gpu:
            clock.marks["end"].synchronize()
        stages = {"decode": decoding, "crop": clock.seconds("start", "crop")}
        if "network" in clock.marks:
            stages |= {"network": clock.seconds("crop", "network"), "box": clock.seconds("network", "end")}
        else:
            stages["network"] = clock.seconds("crop", "end")
        return {**stages, "end to end": decoding + stepping}

    def visit(self) -> None:
        """Measure a few frames; if there are more than one, after a frame that warms the caches."""
        if self.frames > 1:
            self._frame()
        measured = [self._frame() for _ in range(self.frames)]
        for stages in measured:
            for stage, seconds in stages.items():
                self.seconds[stage].append(seconds)
        self.visits.append(float(np.median([stages["end to end"] for stages in measured])))
        if self.case.path in AHEAD and self.frames > 1 and self.clip.path:
            self.seconds["decoded ahead"].append(self._whole_clip())

    def _whole_clip(self) -> float:
        """Mean seconds of a frame over the whole file, while a thread decodes."""
        started, count = time.perf_counter(), 0
        for frame in read_ahead(read_frames(self.clip.path)):
            self.session.step(frame)
            count += 1
        return (time.perf_counter() - started) / count


def choose_precisions(names: list[str], device: torch.device) -> list[str]:
    """The precisions that the processor computes in; prints which ones are left out."""
    chosen = [name for name in names if has_native(DTYPES[name], device)]
    for name in names:
        if name not in chosen:
            print(
                f"{name} is left out: this {'GPU' if device.type == 'cuda' else 'processor'} has no {name} arithmetic."
            )
    return chosen


def prepare(subject: Subject, cases: list[Case], clip: Clip, compile_seconds: float) -> list[Contestant]:
    """The cases of one model, warmed up; no compilation starts after `compile_seconds`."""
    ready, left = [], compile_seconds
    for case in tqdm(cases, unit="case", desc=f"{subject.name}, getting ready", disable=None):
        compiled = case.path.startswith("compiled")
        if compiled and left <= 0:
            tqdm.write(f"left out, no time to compile: {', '.join(map(str, case))}")
            continue
        ready.append(Contestant(case, subject, clip))
        left -= ready[-1].compile_seconds or 0
    return ready


def benchmark_tracking(
    models: list[str],
    paths: list[str],
    precisions: list[str],
    targets: list[int],
    repeats: int,
    device: torch.device,
    compile_seconds: float,
    output: Path | None,
) -> None:
    """Measure and print. output: file for the same as JSON."""
    precisions = choose_precisions(precisions, device)
    torch._dynamo.config.recompile_limit = 256  # each case compiles the same few functions once more
    peaks, contestants, parts = dict.fromkeys(precisions, 0.0), [], {}
    with tempfile.TemporaryDirectory() as folder:
        clip = build_clip(Path(folder), device)
        try:
            for name in models:
                subject = Subject(name, device, Clock(device))
                parts[name] = subject.parts
                cases = [Case(name, n, precision, path) for path in paths for precision in precisions for n in targets]
                cases = [
                    c for c in cases if c.path not in EXPORTED or (c.precision == "fp32" and device.type == "cpu")
                ]
                racing = prepare(subject, cases, clip, compile_seconds)
                contestants += racing
                race(racing, repeats, peaks, device)
                for contestant in racing:
                    contestant.session = None  # the last one frees the model
        except KeyboardInterrupt:
            print("Interrupted. Measured so far:")
    measured = [contestant for contestant in contestants if contestant.visits]
    if measured:
        report(measured, peaks, parts, describe_machine(device), device, output)


def race(racing: list[Contestant], repeats: int, peaks: dict[str, float], device: torch.device) -> None:
    """Let the cases of one model take turns. Before each round the peaks are measured, too; the best ones are kept."""
    rounds = [[c for c in racing if number < c.wanted] for number in range(repeats)]
    with tqdm(total=sum(map(len, rounds)), unit="visit", desc=racing[0].case.model, disable=None) as bar:
        for taking_part in rounds:
            for precision, peak in peaks.items():
                peaks[precision] = max(peak, matmul_peak(device, DTYPES[precision]))
            for contestant in taking_part:
                contestant.visit()
                bar.update()
