"""The per-frame graph in int8: weights are quantised once, per channel; activations by their range in each frame.

Such dynamic ranges need no calibration data. Convolutions stay in float, because onnxruntime's dynamic int8
convolutions are slow.
"""

import logging
from pathlib import Path

from .tracker import import_onnxruntime

QUANTIZED = ("MatMul", "Gemm")  # those with weights; attention multiplies activations and stays in float


def quantize_tracker(source: Path, target: Path) -> None:
    """Write `source`, a tracker.onnx in float32, to `target` with 8-bit matmuls."""
    import_onnxruntime()
    from onnxruntime.quantization import quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its warning always recommends another tool to run first
    try:
        quantize_dynamic(source, target, op_types_to_quantize=list(QUANTIZED), per_channel=True)
    finally:
        root.setLevel(level)


__all__ = ["quantize_tracker"]
