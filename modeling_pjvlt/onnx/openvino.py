"""Runs the graphs of an OpenVINO export, with the interface of an onnxruntime session."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SUFFIX = ".xml"  # of a graph; its weights lie beside it in a .bin


def import_openvino():
    """The module `openvino`. Raises `ImportError` that names the extra."""
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ImportError("This export runs in OpenVINO: pip install 'pjvlt[openvino]'.") from error
    return openvino


def convert_graphs(folder: Path) -> None:
    """Convert every .onnx file of an export to OpenVINO's format, with weights in float32, and delete it."""
    openvino = import_openvino()
    for path in sorted(folder.glob("*.onnx")):
        openvino.save_model(openvino.convert_model(path), path.with_suffix(SUFFIX), compress_to_fp16=False)
        path.unlink()


class OpenVinoGraph:
    """One graph, on the CPU in float32; threads can share it. It is called like an `InferenceSession` of onnxruntime.

    Threads are not pinned to cores: a pinned thread waits for whatever else runs on its core, which made frames
    several times slower beside busy processes.
    """

    def __init__(self, path: Path, num_threads: int | None = None):
        openvino = import_openvino()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
        if num_threads:
            settings["INFERENCE_NUM_THREADS"] = num_threads
        self._compiled = openvino.Core().compile_model(path, "CPU", settings)
        self._requests = threading.local()  # a request runs one batch at a time

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs with these names."""
        if not hasattr(self._requests, "request"):
            self._requests.request = self._compiled.create_infer_request()
        outputs = self._requests.request.infer(inputs)
        return [outputs[name] for name in names]

    def get_outputs(self) -> list[SimpleNamespace]:
        """The outputs, each with its `name`."""
        return [SimpleNamespace(name=output.any_name) for output in self._compiled.outputs]


__all__ = ["SUFFIX", "OpenVinoGraph", "convert_graphs", "import_openvino"]
