"""Speed and memory of the training data: `python scripts/benchmarks data`.

pairs    pairs per second of one core from 1280x720 JPEGs, beside decoding the same two frames (as images, as arrays)
index    time and memory to the first pair of a dataset of 1 000 000 frames whose Arrow files are in the cache
memory   memory of the process over 100 000 samples

All data are generated in a temporary folder.
"""

import gc
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.converters.shards import row_features
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.data.pairs.sources import SequencePairs

FRAME_SIZE = (1280, 720)
TARGET_SIZES = (50, 100, 150, 200, 300)  # pixels, sqrt of the box's area
PAIRS_PER_SIZE = 60
INDEX_ROWS, INDEX_SEQUENCES = 1_000_000, 1_000
MEMORY_SAMPLES = 100_000


def natural_jpeg(rng: np.random.Generator, size: tuple[int, int] = FRAME_SIZE) -> bytes:
    """A JPEG of quality 90, whose detail falls off with frequency as in photographs."""
    width, height = size
    pixels = np.zeros((height, width, 3))
    for cells in (8, 16, 32, 64, 128, 256, height):
        noise = rng.normal(size=(cells, cells * width // height, 3)) / cells**0.7
        layers = [Image.fromarray(noise[..., c].astype(np.float32)).resize(size, Image.BICUBIC) for c in range(3)]
        pixels += np.stack([np.array(layer) for layer in layers], axis=-1)
    pixels = (pixels - pixels.min()) / np.ptp(pixels) * 255
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_dataset(folder: Path, images: list[bytes], boxes: list[list[float]], sequences: int) -> None:
    """Write a dataset of `sequences` sequences of equal length, a row for each box."""
    (folder / "data").mkdir(parents=True)
    schema = row_features(False).arrow_schema
    length = len(boxes) // sequences
    with pq.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", schema) as writer:
        for start in range(0, len(boxes), 10_000):
            rows = range(start, min(start + 10_000, len(boxes)))
            columns = {
                "sequence": [f"sequence-{row // length:05d}" for row in rows],
                "frame": [row % length for row in rows],
                "image": [{"bytes": images[row % len(images)], "path": None} for row in rows],
                "box": [boxes[row] for row in rows],
                "visible": [True for _ in rows],
                "text": ["white dog on the left" for _ in rows],
                "category": ["dog" for _ in rows],
            }
            writer.write_table(pa.table(columns, schema=schema), row_group_size=1_000)


def benchmark_pairs(folder: Path) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [natural_jpeg(rng) for _ in range(8)]
    frames = 40
    boxes = [
        [*(float(rng.uniform(0, side - size)) for side in FRAME_SIZE), float(size), float(size)]
        for size in TARGET_SIZES
        for _ in range(frames)
    ]
    write_dataset(folder, images, boxes, len(TARGET_SIZES))
    dataset, cropper = load_tracking_dataset(str(folder)), PairCropper(PJVLTImageProcessor())
    print("| target (px) | decoding (ms) | decoding to arrays (ms) | pair (ms) | decoding / pair | arrays / pair |")
    print("|---:|---:|---:|---:|---:|---:|")
    medians = []
    for number, size in enumerate(TARGET_SIZES):
        times = []
        source = SequencePairs([dataset[number]])
        for index in range(PAIRS_PER_SIZE + 5):
            rng = np.random.default_rng(index)
            started = time.perf_counter()
            pair = source.draw(rng)
            cropper(pair, rng)
            drawn = time.perf_counter()
            encoded = [images[(number * frames + f.index) % len(images)] for f in (pair.template, pair.search)]
            for data in encoded:
                Image.open(io.BytesIO(data)).load()
            decoded = time.perf_counter()
            for data in encoded:
                np.array(Image.open(io.BytesIO(data)))
            times.append((decoded - drawn, time.perf_counter() - decoded, drawn - started))
        medians.append([statistics.median(column) for column in zip(*times[5:], strict=True)])
        print(_row(size, *medians[-1]))
    means = [statistics.mean(column) for column in zip(*medians, strict=True)]
    print(_row("mean", *means))
    size = statistics.mean(map(len, images)) / 1000
    print(f"{1 / means[2]:.0f} pairs per second on one core; JPEGs of {size:.0f} kB")


def _row(name, bare: float, arrays: float, whole: float) -> str:
    times = " | ".join(f"{seconds * 1000:.2f}" for seconds in (bare, arrays, whole))
    return f"| {name} | {times} | {bare / whole:.2f} | {arrays / whole:.2f} |"


FIRST_SAMPLE = """
import json, sys, time
def anonymous():  # memory of the process that is not a mapped file, MB
    lines = open("/proc/self/status").read().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("RssAnon", "VmHWM"))}
import numpy as np, datasets
from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.data import load_tracking_dataset
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.data.pairs.sources import SequencePairs
before, started = anonymous(), time.perf_counter()
dataset = load_tracking_dataset(sys.argv[1])
pairs = TrackingPairs(SequencePairs(dataset), PairCropper(PJVLTImageProcessor()), 10)
pairs[0]
seconds, after = time.perf_counter() - started, anonymous()
print(json.dumps({"rows": sum(map(len, dataset)), "seconds": seconds, "imports": before["RssAnon"],
                  "added": after["RssAnon"] - before["RssAnon"], "anonymous": after["RssAnon"],
                  "peak": after["VmHWM"]}))
"""


def benchmark_index(folder: Path) -> None:
    small = io.BytesIO()
    Image.new("RGB", (64, 48)).save(small, "JPEG")
    write_dataset(folder, [small.getvalue()], [[8.0, 8.0, 20.0, 16.0]] * INDEX_ROWS, INDEX_SEQUENCES)
    started = time.perf_counter()
    load_tracking_dataset(str(folder))
    print(f"preparing the Arrow files of {INDEX_ROWS:,} frames: {time.perf_counter() - started:.0f} s, once")
    answer = subprocess.run(
        [sys.executable, "-c", FIRST_SAMPLE, str(folder)], env=os.environ, check=True, capture_output=True, text=True
    )
    measured = json.loads(answer.stdout.splitlines()[-1])
    print(
        f"{measured['rows']:,} frames: first pair after {measured['seconds']:.1f} s; memory {measured['added']:.0f} "
        f"MB more than the {measured['imports']:.0f} MB of the imports (peak of the process, with mapped files: "
        f"{measured['peak']:.0f} MB)"
    )


def benchmark_memory(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = [natural_jpeg(rng, (96, 64)) for _ in range(50)]
    write_dataset(folder, images, [[20.0, 20.0, 20.0, 20.0]] * 20_000, 100)
    cropper = PairCropper(PJVLTImageProcessor(template_size=32, search_size=64))
    pairs = TrackingPairs(SequencePairs(load_tracking_dataset(str(folder))), cropper, MEMORY_SAMPLES)
    for index in range(MEMORY_SAMPLES):
        pairs[index]
        if (index + 1) % (MEMORY_SAMPLES // 5) == 0 or index + 1 == MEMORY_SAMPLES // 100:
            gc.collect()  # only memory that stays counts
            print(f"after {index + 1:,} samples: {anonymous_mb():.0f} MB")


def anonymous_mb() -> float:
    """Memory of this process that is not a mapped file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def benchmark_data(only: str | None = None) -> None:
    """Run all parts, or one, in a temporary folder that also holds the cache of `datasets`."""
    runs = {"pairs": benchmark_pairs, "index": benchmark_index, "memory": benchmark_memory}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/cache"  # for the process that `index` starts
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        datasets.disable_progress_bars()
        for part in [only] if only else runs:
            print(f"\n{part}")
            runs[part](Path(folder) / part)
