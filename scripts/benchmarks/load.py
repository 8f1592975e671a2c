"""Time and memory of importing and loading: `python scripts/benchmarks load`.

Every measurement runs in a new process, because a process imports a module only once. The results are medians of
several runs. PJVLT-B with random weights is first saved to a temporary folder. `from_pretrained` maps its weights
instead of copying them and returns before most of the file is read, so the time and memory of reading every weight
once are reported, too.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from modeling_pjvlt import PJVLTConfig, PJVLTModel

IMPORT = """
import time
from transformers import PreTrainedModel
started = time.perf_counter()
import modeling_pjvlt
print(time.perf_counter() - started)
"""
COMMAND = """
import sys, time
sys.argv = ["{command}", "--help"]
started = time.perf_counter()
from modeling_pjvlt.cli.{module} import main
try:
    main()
except SystemExit:
    print(time.perf_counter() - started)
"""
LOAD = """
import time
from pathlib import Path
from transformers.utils import logging
from modeling_pjvlt import PJVLTModel

def memory():
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    values = {{line[0]: int(line[1]) / 1024 for line in lines if line[0] in ("RssAnon:", "VmHWM:")}}
    return values["RssAnon:"], values["VmHWM:"]

logging.disable_progress_bar()
(own, peak), started = memory(), time.perf_counter()
model = PJVLTModel.from_pretrained({folder!r})
loaded = time.perf_counter() - started
sum(float(parameter.detach().sum()) for parameter in model.parameters())
touched = time.perf_counter() - started
now_own, now_peak = memory()
print(loaded, touched, now_own - own, now_peak - peak)
"""
COMMANDS = {"pjvlt-track": "track", "pjvlt-eval": "evaluate", "pjvlt-train": "train", "pjvlt-convert": "convert"}


def medians(code: str, runs: int) -> list[float]:
    """Medians of the numbers in the last line that a new interpreter prints, over several runs."""
    rows = []
    for _ in range(runs):
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        rows.append([float(number) for number in process.stdout.splitlines()[-1].split()])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def benchmark_load(runs: int) -> None:
    """Print the import, the commands' `--help`, and loading of PJVLT-B."""
    (seconds,) = medians(IMPORT, runs)
    print(f"import modeling_pjvlt, after `from transformers import PreTrainedModel`: {seconds:.2f} s")
    for command, module in COMMANDS.items():
        (seconds,) = medians(COMMAND.format(command=command, module=module), runs)
        print(f"{command} --help: {seconds:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        PJVLTModel(PJVLTConfig()).save_pretrained(folder)
        size = (Path(folder) / "model.safetensors").stat().st_size / 2**20
        loaded, touched, own, peak = medians(LOAD.format(folder=folder), runs)
    print(
        f"PJVLTModel.from_pretrained, PJVLT-B, {size:.0f} MB in the page cache: {loaded:.2f} s; with every weight "
        f"read once {touched:.2f} s. The peak of the process rises by {peak:.0f} MB, {own:.0f} of them not the mapped "
        "file."
    )
