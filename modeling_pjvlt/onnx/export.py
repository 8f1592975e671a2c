"""Writes the folder of an export, which appears only once it has been checked and measured."""

import json
import shutil
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import torch

from ..files_pjvlt import replacing_folder
from ..modeling_pjvlt import PJVLTModel
from ..processing_pjvlt import PJVLTProcessor
from ..run_folders import checkpoint_name, find_checkpoint
from ..tracking_pjvlt import TrackingSession
from .checks import (
    largest_difference,
    milliseconds_per_frame,
    onnx_runner,
    procedural_clips,
    success_auc,
    torch_runner,
)
from .graphs import trace, write_onnx, write_torch
from .openvino import convert_graphs, import_openvino
from .quantize import quantize_tracker
from .tracker import SETTINGS_FILE, TOKENIZER_FILE, TRACKER_FILE, OnnxModel, OnnxTracker, import_onnxruntime

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}  # of the maps; score and size lie in (0, 1)


def export(args: Namespace) -> Path:
    """Run `pjvlt-export` with its arguments. Returns the folder.

    Raises `ValueError` for a folder that holds files and for an export that differs from PyTorch, which is deleted,
    and `ImportError` if the format needs a package that is missing.
    """
    output = Path(args.output_dir)
    _check_free(output, args.overwrite_output_dir)
    import_exporters(args.format)
    checkpoint = find_checkpoint(args.model)
    model = PJVLTModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = PJVLTProcessor.from_pretrained(checkpoint)
    with replacing_folder(output) as folder:
        write_export(folder, model, processor, checkpoint_name(checkpoint), args.format, args.dtype, args.int8)
        if args.format != "torch_export":
            exported = OnnxModel(folder, args.num_threads)
            run = onnx_runner(exported)
        else:
            run = torch_runner(folder)
        _refuse_difference(largest_difference(model, run), args.dtype)
        if args.format != "torch_export":
            _measure(folder, args, exported, model, processor)
    sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f} MB" for path in sorted(output.iterdir()))
    print(f"wrote {output}: {sizes}")
    return output


def write_export(
    folder: Path,
    model: PJVLTModel,
    processor: PJVLTProcessor,
    name: str,
    format: str = "onnx",
    dtype: str = "float32",
    int8: bool = False,
) -> None:
    """Write the files of an export into an existing folder: graphs, settings and tokenizer.

    Args: `name` of the model, for display; `format`, "onnx", "openvino" or "torch_export"; `dtype` of the per-frame
    graph; `int8`, whether its matmuls will be quantised later, which is only noted here.
    """
    with timed("tracing"):
        programs = trace(model, getattr(torch, dtype))
    for part, program in programs.items():
        with timed(f"writing {part}"):
            if format == "torch_export":
                write_torch(program, folder / f"{part}.pt2")
            else:
                write_onnx(program, folder / f"{part}.onnx")
    if format == "openvino":
        convert_graphs(folder)
    images, tokenizer, config = processor.image_processor, processor.tokenizer, model.config
    scale, shift = images.normalization()
    crops = ("template_size", "search_size", "template_factor", "search_factor")
    settings = {
        "model": name,
        "format": format,
        "dtype": dtype,
        "int8": int8,
        "uses_language": config.uses_language,
        **{crop: getattr(images, crop) for crop in crops},
        "grid": config.search_grid,
        **processor.tracking_settings(config),
        "scale": scale.tolist(),
        "shift": shift.tolist(),
        "pad_token_id": tokenizer.pad_token_id,
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if config.uses_language:
        (folder / TOKENIZER_FILE).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")


def import_exporters(format: str) -> None:
    """Import what the format needs, so that a missing package is reported before the work begins as `ImportError`."""
    if format == "openvino":
        import_openvino()
    if format == "onnx":
        import_onnxruntime()
    if format != "torch_export":
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401


def _check_free(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SETTINGS_FILE).is_file():
        raise ValueError(f"--output_dir: {output} exists and is not an export; choose another folder.")
    if not overwrite:
        raise ValueError(f"--output_dir: {output} holds an export; replace it with --overwrite_output_dir.")


@contextmanager
def timed(step: str):
    """Print the name of a step, and then how long it took."""
    print(f"{step} … ", end="", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print()
        raise
    print(f"{time.perf_counter() - started:.0f} s")


def _refuse_difference(difference: float, dtype: str) -> None:
    print(f"largest difference of the maps from PyTorch in float32: {difference:.1e}")
    if not difference <= TOLERANCE[dtype]:
        raise ValueError(
            f"The exported maps differ from PyTorch's by {difference:.1e}, more than {TOLERANCE[dtype]:.0e}: "
            "the export was deleted."
        )


def _measure(folder: Path, args: Namespace, exported: OnnxModel, model: PJVLTModel, processor: PJVLTProcessor) -> None:
    """Print the speed and, if asked for, the AUC. With `--int8`, also those in int8, which then replaces the graph."""
    models = {args.dtype: exported}
    if args.int8:
        int8_folder = folder / "int8"
        shutil.copytree(folder, int8_folder, ignore=shutil.ignore_patterns(int8_folder.name, TRACKER_FILE))
        with timed("int8"):
            quantize_tracker(folder / TRACKER_FILE, int8_folder / TRACKER_FILE)
        models["int8"] = OnnxModel(int8_folder, args.num_threads)
    trackers = {"PyTorch float32": TrackingSession(model, processor)}
    runtime = "OpenVINO" if args.format == "openvino" else "onnxruntime"
    trackers |= {f"{runtime} {name}": OnnxTracker(graphs) for name, graphs in models.items()}
    for name, tracker in trackers.items():
        total, network = milliseconds_per_frame(tracker)
        print(f"{name}: {total:.1f} ms for a frame of 640x480 from crop to box, {network:.1f} of them in the network")
    for label, sequences in _sequences(args):
        scores = success_auc(models, sequences, label)
        listed = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        loss = f"; int8 loses {scores[args.dtype] - scores['int8']:.3f}" if args.int8 else ""
        print(f"success AUC on {len(sequences)} {label} clips: {listed}{loss}")
    if args.int8:
        (int8_folder / TRACKER_FILE).replace(folder / TRACKER_FILE)
        shutil.rmtree(int8_folder)


def _sequences(args: Namespace):
    """Yields a label and sequences for each AUC to measure."""
    if args.eval_clips:
        yield "procedural", procedural_clips(args.eval_clips)
    if args.eval_dataset_name:
        from ..evaluation.sequences import load_sequences

        for name in args.eval_dataset_name:
            yield Path(name).name, load_sequences(name, args.eval_split)


__all__ = ["export", "write_export"]
