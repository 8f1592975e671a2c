"""The time of scoring: `python scripts/benchmarks evaluation`, with as many random boxes as LaSOT's test set has."""

import resource
import time

import numpy as np

from modeling_pjvlt.evaluation import PROTOCOLS, score_benchmark

SEQUENCES, FRAMES = 280, 685_000  # LaSOT's test set has as many


def benchmark_evaluation() -> None:
    rng = np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, FRAMES), SEQUENCES - 1, replace=False))
    truth = np.split(np.concatenate([rng.uniform(1, 600, (FRAMES, 2)), rng.uniform(20, 200, (FRAMES, 2))], 1), cuts)
    names = [f"sequence-{i:03d}" for i in range(SEQUENCES)]
    ground_truth = dict(zip(names, truth, strict=True))
    predictions = {name: boxes + rng.normal(0, 10, boxes.shape).clip(-15, 15) for name, boxes in ground_truth.items()}
    flags = {
        "absent": {name: rng.random(len(boxes)) < 0.05 for name, boxes in ground_truth.items()},
        "cover": {name: rng.integers(0, 9, len(boxes)) for name, boxes in ground_truth.items()},
        "frame_sizes": dict.fromkeys(names, (720, 1280)),
    }
    before = _peak_mb()
    print("| protocol | seconds |\n|---|---:|")
    for name, protocol in PROTOCOLS.items():
        started = time.perf_counter()
        score_benchmark(
            predictions, ground_truth, protocol=name, **{key: flags[key] for key in flags if key in protocol.takes}
        )
        print(f"| {name} | {time.perf_counter() - started:.2f} |")
    print(f"{SEQUENCES} sequences, {FRAMES:,} frames; peak memory {_peak_mb():.0f} MB, {before:.0f} MB of it before")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
