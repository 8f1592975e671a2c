"""`python scripts/benchmarks soak`: whether the memory of a session grows over many frames with two targets."""

import gc
import time

import torch
from data import anonymous_mb
from tqdm import tqdm

from modeling_pjvlt import DEFAULT_CHECKPOINT, PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip

CLIP_FRAMES, REPORTS = 100, 10


def benchmark_soak(frames: int) -> None:
    """Print the memory of the process ten times; meanwhile a sentence changes, and a target is added and removed."""
    clip = ProceduralClip(0, CLIP_FRAMES)
    images = [clip.frame(i) for i in range(CLIP_FRAMES)]
    model = PJVLTModel.from_pretrained(DEFAULT_CHECKPOINT, dtype=torch.float32)
    session = TrackingSession(model, PJVLTProcessor.from_pretrained(DEFAULT_CHECKPOINT))
    session.add_target(images[0], clip.boxes[0], clip.text, target_id="it")
    started = time.perf_counter()
    print("| frames | memory (MB) |\n|---:|---:|")
    for number in tqdm(range(1, frames + 1), unit="frame", disable=None):
        if number % 500 == 1:
            if "other" in session.target_ids:
                session.remove_target("other")
            session.add_target(images[number % CLIP_FRAMES], clip.boxes[0], f"figure {number}", target_id="other")
            session.set_text("it", clip.text if number % 1000 == 1 else clip.wrong_text)
        session.step(images[number % CLIP_FRAMES])
        if number == frames // 100 or number % (frames // REPORTS) == 0:
            gc.collect()
            tqdm.write(f"| {number:,} | {anonymous_mb():.0f} |")
    print(f"{frames:,} frames with two targets in {time.perf_counter() - started:.0f} s")
