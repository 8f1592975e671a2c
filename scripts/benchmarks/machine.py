"""The machine that a benchmark runs on, and its peak performance."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MATMUL_SIZES, MATMUL_REPEATS = {"cpu": 2048, "cuda": 8192}, 5  # 2048 is too small to keep a GPU busy
NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # names among the flags of x86 and ARM processors


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, the best of a few."""
    size = MATMUL_SIZES[device.type]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(MATMUL_REPEATS + 1):
        wait_for(device)
        started = time.perf_counter()
        a @ b
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def wait_for(device: torch.device) -> None:
    """Return when the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def _cpu_info(*names: str) -> str:
    """The first entry of /proc/cpuinfo with one of these names; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() in names), "")


def has_native(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the processor itself computes in this type."""
    if dtype == torch.float32:
        return True
    if device.type == "cuda":
        return dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    return dtype == torch.bfloat16 and not NATIVE_BF16.isdisjoint(_cpu_info("flags", "Features").split())


def describe_machine(device: torch.device) -> dict:
    """Processor model, cores and threads, and versions; on a GPU its name too."""
    machine = {
        "processor": _cpu_info("model name", "Model") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        machine |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return machine


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """In this context, this many other processes compute without a pause."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()
