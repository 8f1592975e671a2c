"""The card of a trained model: usage, data, recipe, hardware, scores, limits and citation."""

import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..configuration_pjvlt import PJVLTConfig
from ..data.generated import PROCEDURAL
from ..modeling_pjvlt import PJVLTModel
from ..pipeline_pjvlt import TASK
from ..processing_pjvlt import MAX_WORDS
from .eval_results import PIPELINE_TAG, TAGS, TASK_NAME, is_repository

TEMPLATE = Path(__file__).parent / "model_card_template.md"
SECRET = re.compile(r"(^|_)(token|password|secret|key)$")
FOLDER_ARGUMENT = re.compile(r"_(dir|folder|file)$")
# Left out, so that repeating a run from its card does not upload or delete anything.
NOT_RECIPE = re.compile(r"push_to_hub|hub_\w+|overwrite_output_dir|resume_from_checkpoint")


def render_card(
    repo_id: str,
    arguments: Mapping | None = None,
    metrics: Mapping[str, float] | None = None,
    datasets: Sequence[str] = (),
    hardware: str = "",
    license: str = "apache-2.0",
    *,
    config: PJVLTConfig | None = None,
    evaluated_on: str = "",
    limits: Sequence[str] = (),
    citation: str = "",
) -> ModelCard:
    """The card of a model: usage, data, recipe, hardware, scores, limits and citation.

    Local folders, among the datasets and in the arguments, are shown by their last component only; tokens, and
    arguments that would upload or delete something, are left out.

    Args:
        arguments: fields of `TrainArguments` of the run; None where they are not known.
        metrics: numbers by name. In `suite/metric`, `suite` is the data it was measured on; where that is a dataset
            on the Hub, user/name, the number also goes into `.eval_results`.
        datasets: Hub ids, folders or `procedural`; by default the arguments' `dataset_name`.
        hardware: what it was trained on; [`describe_hardware`] describes this machine.
        license: as the Hub names it.
        config: of the model, for a sentence about its sizes.
        evaluated_on: what metrics without a `suite/` were measured on.
        limits: sentences to add to those that hold for every PJVLT.
        citation: BibTeX of the paper.

    Raises `ValueError` for a metric that is not a finite number.
    """
    metrics = {str(name): _number(name, value) for name, value in (metrics or {}).items()}
    arguments = _without_paths(dict(arguments or {}))
    names = list(datasets) or _as_list(arguments.get("dataset_name"))
    name = repo_id.split("/")[-1]
    start = arguments.get("model_name_or_path")
    metadata = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=TAGS,
        datasets=[d for d in names if _is_hub_id(d)] or None,
        base_model=start if start and _is_hub_id(start) else None,
        model_name=name,
        eval_results=[_eval_result(metric, value, evaluated_on) for metric, value in metrics.items()] or None,
    )
    recipe = {
        field: value for field, value in arguments.items() if value is not None and not NOT_RECIPE.fullmatch(field)
    }
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        task=TASK,
        model_facts=_model_facts(config) if config is not None else "",
        data=[_dataset_line(d) for d in names],
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100).strip() if recipe else "",
        hardware=hardware,
        metrics={metric: f"{value:.6g}" for metric, value in metrics.items()},
        evaluated_on=evaluated_on,
        limits=[*_limits(names, config), *limits],
        citation=citation.strip(),
        own_citation=f"@misc{{{re.sub('[^a-z0-9]+', '-', name.lower())},\n  title = {{{name}, a PJVLT}},\n"
        f"  howpublished = {{https://huggingface.co/{repo_id}}}\n}}",
    )


def read_run_arguments(checkpoint: str | Path) -> dict | None:
    """The arguments of the run that wrote `<run>/checkpoints/<step>/pretrained_model`, from `<run>/arguments.json`.

    None where there is no such file; `ValueError` where it is not a JSON object.
    """
    parents = Path(checkpoint).resolve().parents
    path = parents[2] / "arguments.json" if len(parents) > 2 else None
    return read_json(path) if path is not None and path.is_file() else None


def read_metrics(path: str | Path) -> dict[str, float]:
    """Numbers by name from a JSON file.

    Raises `FileNotFoundError`, or `ValueError` for what is not a finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of metrics")
    values = read_json(path)
    try:
        return {name: _number(name, value) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def describe_hardware() -> str:
    """This machine's GPUs or else its processor cores, and the version of PyTorch, for a card."""
    if torch.cuda.is_available():
        count, memory = torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory
        device = f"{count} x {torch.cuda.get_device_name(0)} ({memory / 2**30:.0f} GiB)"
    else:
        device = f"{os.cpu_count()} processor cores ({platform.machine()})"
    return f"{device}, PyTorch {torch.__version__}"


def read_json(path: Path) -> dict:
    """The object in a JSON file. Raises `ValueError` naming the file if it does not hold one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


# What goes wrong on the way


def _number(name: str, value) -> float | int:
    if isinstance(value, bool) or not hasattr(value, "__float__") or not math.isfinite(float(value)):
        raise ValueError(f"metric {name!r} must be a finite number, got {value!r}")
    return value if isinstance(value, int) else float(value)


def _eval_result(name: str, value: float, evaluated_on: str) -> EvalResult:
    suite, _, metric = name.rpartition("/")
    dataset = suite or evaluated_on or "not stated"
    return EvalResult(
        task_type=TASK,
        task_name=TASK_NAME,
        dataset_type=dataset
        if is_repository(dataset)
        else re.sub(r"[^\w./-]+", "-", dataset).strip("-").lower() or "unknown",
        dataset_name=dataset,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
    )


def _model_facts(config: PJVLTConfig) -> str:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in PJVLTModel(config).parameters())
    fused = f"{config.fusion} fusion" if config.num_fused else "no fusion"
    return (
        f"{parameters / 1e6:.2f} M parameters; {config.num_hidden_layers} vision layers of {config.hidden_size} "
        f"channels, patches of {config.patch_size} pixels, crops of {config.template_size} (template) and "
        f"{config.search_size} (search) pixels, {fused}."
    )


def _dataset_line(name: str) -> str:
    if name == PROCEDURAL:
        return "procedural clips, generated by the package: coloured and patterned figures on textured backgrounds"
    if _is_hub_id(name):
        return f"[{name}](https://huggingface.co/datasets/{name})"
    return f"{_last_component(name)} (a local folder)"


def _limits(datasets: list[str], config: PJVLTConfig | None) -> list[str]:
    """Limits of every PJVLT, and those that follow from data and config."""
    lines = [
        "It needs the target's box in the first frame; it does not find the target from the sentence alone.",
        "It looks around the last box only: a target that leaves that window between two frames may stay lost.",
        "It always answers with a box; whether the target can be seen shows in the score alone.",
    ]
    if config is not None and not config.uses_language:
        lines.append("It does not read the sentence: its fusion is switched off.")
    else:
        lines.append(f"It reads English, and of a sentence the first {MAX_WORDS} tokens.")
    if datasets and set(datasets) == {PROCEDURAL}:
        lines.append("It has seen nothing but procedural clips: **it is not a tracker for real video.**")
    return lines


# Paths of this machine


def _is_local(name: str) -> bool:
    """Whether a name is a path of this machine, rather than a Hub id or another word."""
    if re.match(r"~|\.{1,2}([/\\]|$)|[/\\]|[A-Za-z]:[/\\]", name) or "\\" in name or name.count("/") > 1:
        return True
    with suppress(OSError, ValueError):
        return Path(name).exists()
    return False


def _is_hub_id(name: str) -> bool:
    """Whether a name can be that of a repository: `user/name`, and nothing that lies here."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not _is_local(name)


def _last_component(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def _without_paths(value, name: str = ""):
    """Arguments as plain values, with paths cut to their last component and without secrets."""
    if isinstance(value, Mapping):
        return {str(k): _without_paths(v, str(k)) for k, v in value.items() if not SECRET.search(str(k))}
    if isinstance(value, (list, tuple)):
        return [_without_paths(v, name) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    local = isinstance(value, PurePath) or FOLDER_ARGUMENT.search(name) or _is_local(str(value))
    return _last_component(str(value)) if local else str(value)


def _as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


__all__ = ["describe_hardware", "read_metrics", "read_run_arguments", "render_card"]
