"""The per-frame graph in int8: weights once, per channel; activations of each matmul by their range in that frame.

Dynamic ranges need no calibration data. Convolutions stay in float, because onnxruntime's dynamic int8 ones are slow.
"""

import logging
from pathlib import Path

from .tracker import import_onnxruntime

QUANTIZED = ("MatMul", "Gemm")  # with weights; attention, which multiplies activations, stays in float


def quantize_tracker(source: Path, target: Path) -> None:
    """Write `source`, a tracker.onnx in float32, with eight-bit matmuls to `target`."""
    import_onnxruntime()
    from onnxruntime.quantization import quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it always advises to run another tool first
    try:
        quantize_dynamic(source, target, op_types_to_quantize=list(QUANTIZED), per_channel=True)
    finally:
        root.setLevel(level)


__all__ = ["quantize_tracker"]
