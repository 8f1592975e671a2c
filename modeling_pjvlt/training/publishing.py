"""Trained checkpoints on the Hub: weights, processor, the code that a machine without this package needs, and a card.

`push_checkpoint` does everything; `prepare_folder` writes what would be sent into a folder, to be looked at first.
"""

import json
import math
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import custom_object_save

from ..configuration_pjvlt import PJVLTConfig
from ..modeling_pjvlt import PJVLTModel
from ..pipeline_pjvlt import TASK, TrackingPipeline
from ..processing_pjvlt import MAX_WORDS, PJVLTProcessor
from .arguments import PROCEDURAL

TEMPLATE = Path(__file__).parent / "model_card_template.md"
CONFIG, PROCESSOR_CONFIG, CARD = "config.json", "processor_config.json", "README.md"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# What an earlier push may have left: a single file would be loaded in place of newer shards.
OLD_WEIGHTS = [WEIGHTS, WEIGHTS_INDEX, "model-?????-of-?????.safetensors"]
SECRET = re.compile(r"(^|_)(token|password|secret|key)$")
FOLDER_ARGUMENT = re.compile(r"_(dir|folder|file)$")
# Whoever repeats a run from its card should not thereby upload or delete anything.
NOT_RECIPE = re.compile(r"push_to_hub|hub_\w+|overwrite_output_dir|resume_from_checkpoint")
HTTP_ERROR = HfHubHTTPError.__bases__[0]  # of the HTTP library that huggingface_hub uses, whichever that is
FAILURES = (HTTP_ERROR, LocalTokenNotFoundError, OfflineModeIsEnabled)


class PublishingError(OSError):
    """The Hub could not be reached, or did not take what was sent."""


# What is sent


@dataclass
class _Checkpoint:
    """A checkpoint that has been looked through. `model` has the shapes of its weights, but no values."""

    folder: Path
    weights: list[Path]
    processor: PJVLTProcessor
    model: PJVLTModel


def prepare_folder(checkpoint: str | Path, output: str | Path, card: ModelCard) -> Path:
    """Write what a model repository holds into a folder, which also loads as it is.

    Args:
        checkpoint: folder with `config.json`, `model.safetensors` and the processor's files; it is only read.
        output: a folder that does not exist yet, or an empty one. It is written beside its place and renamed.
        card: becomes `README.md`; see [`render_card`].

    Returns `output`. Raises `FileNotFoundError` for what the checkpoint lacks, `ValueError` for what does not fit
    together, `FileExistsError` where there is something at `output`.
    """
    return _write_beside(_read_checkpoint(checkpoint), Path(output).resolve(), card)


def push_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    *,
    arguments: Mapping | None = None,
    metrics: Mapping[str, float] | None = None,
    datasets: Sequence[str] = (),
    hardware: str = "",
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload PJVLT checkpoint",
    revision: str | None = None,
    dry_run: str | Path | None = None,
    **about,
) -> str:
    """Upload a checkpoint to a model repository, made if need be, in one commit; returns the repository's address.

    Weights of an earlier push are replaced; other files that are there stay. The checkpoint is only read.

    Args:
        checkpoint: folder with `config.json`, `model.safetensors` and the processor's files.
        repo_id: `user/name`, or a name for the owner of the token.
        arguments, metrics, datasets, hardware: see [`render_card`], as for `about`: its other arguments.
        private: whether a new repository is private; by default what the account is set to. With True, an existing
            public repository gets nothing.
        token: by default the one of `hf auth login` or HF_TOKEN.
        revision: the branch, made if need be; by default `main`.
        dry_run: a new folder for what would be sent; nothing is, and the folder is returned.

    Raises what [`prepare_folder`] raises before the Hub is asked for anything, `ValueError` for a bad `repo_id` or
    metric, and [`PublishingError`] where the Hub cannot be reached or refuses.
    """
    validate_repo_id(repo_id)
    read = _read_checkpoint(checkpoint)
    told = {"arguments": arguments, "metrics": metrics, "datasets": datasets, "hardware": hardware, **about}
    told.setdefault("config", read.model.config)
    card = render_card(repo_id, **told)
    if dry_run is not None:
        return str(_write_beside(read, Path(dry_run).resolve(), card))
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="pjvlt-") as folder, _explain_failures(api.endpoint, repo_id):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
            card = render_card(repo_id, **told)
        _write_folder(read, Path(folder), card, _link)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise PublishingError(
                f"{repo_id} exists and is public; nothing was sent: make it private on the Hub first"
            )
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=OLD_WEIGHTS,
        )
    return str(address)


def _read_checkpoint(folder: str | Path) -> _Checkpoint:
    """Look through a checkpoint: everything is there, and the weights have the shapes that the config asks for."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such checkpoint folder")
    for name in (CONFIG, PROCESSOR_CONFIG, "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}; a checkpoint is a folder that `save_pretrained` has written"
            )
    model_type = _read_json(folder / CONFIG).get("model_type")
    if model_type != PJVLTConfig.model_type:
        raise ValueError(f"{folder}: {CONFIG} is that of a {model_type!r}, not of a {PJVLTConfig.model_type!r}")
    weights = _weight_files(folder)
    with torch.device("meta"):
        model = PJVLTModel(PJVLTConfig.from_pretrained(folder))
    _check_shapes(folder, weights, model)
    processor = PJVLTProcessor.from_pretrained(folder)
    for name in ("template_size", "search_size"):
        pair = getattr(processor.image_processor, name), getattr(model.config, name)
        if pair[0] != pair[1]:
            raise ValueError(f"{folder}: {name} is {pair[0]} in {PROCESSOR_CONFIG}, but {pair[1]} in {CONFIG}")
    return _Checkpoint(folder, weights, processor, model)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards of an index."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise FileNotFoundError(f"{folder}: no {WEIGHTS}; other formats are not published")
    names = sorted(set(_read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
    missing = [name for name in names if name != Path(name).name or not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {missing[0]}, which {WEIGHTS_INDEX} names")
    return [folder / name for name in names]


def _check_shapes(folder: Path, files: list[Path], model: PJVLTModel) -> None:
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                found |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file}: not a whole safetensors file: {error}") from error
    wrong = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    if wrong:
        shapes = (by_name.get(wrong[0], "missing") for by_name in (found, wanted))
        raise ValueError(
            "{}: {} weights do not fit {}, the first is {}: {} in the file, {} by the config".format(
                folder, len(wrong), CONFIG, wrong[0], *shapes
            )
        )


def _write_beside(read: _Checkpoint, output: Path, card: ModelCard) -> Path:
    """[`prepare_folder`], once the checkpoint has been read."""
    if output.is_relative_to(read.folder.resolve()):
        raise FileExistsError(f"{output} is in the checkpoint; write elsewhere")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is not empty; remove it or write elsewhere")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_folder(read, partial, card, shutil.copyfile)
        if output.exists():
            output.rmdir()  # empty; not every system renames onto a folder
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _write_folder(read: _Checkpoint, folder: Path, card: ModelCard, place) -> None:
    """Fill an empty folder; `place(source, target)` brings the weights there."""
    config = _read_json(read.folder / CONFIG)
    config.pop("_name_or_path", None)
    read.processor.save_pretrained(folder)
    processor = _read_json(folder / PROCESSOR_CONFIG)
    for part, auto_class, told in (
        (read.model.config, "AutoConfig", config),
        (read.model, "AutoModel", config),
        (read.processor, "AutoProcessor", processor),
        (read.processor.image_processor, "AutoImageProcessor", processor["image_processor"]),
    ):
        _save_code(part, auto_class, folder, told)
    custom_object_save(TrackingPipeline, folder)
    # As `Pipeline.save_pretrained` writes it.
    module = TrackingPipeline.__module__.split(".")[-1]
    config["custom_pipelines"] = {TASK: {"impl": f"{module}.{TrackingPipeline.__name__}", "pt": ["AutoModel"]}}
    for name, values in ((CONFIG, config), (PROCESSOR_CONFIG, processor)):
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    index = [read.folder / WEIGHTS_INDEX] if read.weights[0].name != WEIGHTS else []
    for file in (*read.weights, *index):
        place(file.resolve(), folder / file.name)
    card.save(folder / CARD)


def _save_code(part, auto_class: str, folder: Path, told: dict) -> None:
    """transformers copies the modules of a part and enters its class into `told["auto_map"]`."""
    before = part._auto_class
    part._auto_class = auto_class  # of this object, not of its class: whatever else is saved stays without code
    try:
        custom_object_save(part, folder, config=told)
    finally:
        part._auto_class = before


def _link(source: Path, target: Path) -> None:
    """A link, so that large weights are not copied only to be sent; a copy where the system allows no links."""
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _read_json(path: Path) -> dict:
    """The object in a JSON file. Raises `ValueError` naming the file where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


# What goes wrong on the way


@contextmanager
def _explain_failures(endpoint: str, repo_id: str) -> Iterator[None]:
    """Whatever the client libraries raise becomes a [`PublishingError`] of one sentence."""
    try:
        yield
    except (*FAILURES, RuntimeError) as error:
        # Uploads of large files hide the reason behind a RuntimeError.
        reason = next((e for e in (error, error.__cause__) if isinstance(e, FAILURES)), None)
        if reason is None:
            raise
        raise PublishingError(_explanation(reason, endpoint, repo_id)) from error


def _explanation(error: Exception, endpoint: str, repo_id: str) -> str:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = error.server_message or str(error).splitlines()[0]
        if status == 401:
            return f"{endpoint} does not accept the token (401): log in with `hf auth login`, or set HF_TOKEN"
        if status == 403:
            return f"the token may not write to {repo_id} (403): {said}"
        return f"{endpoint} answered {status} for {repo_id}: {said}"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token: log in with `hf auth login`, or set HF_TOKEN"
    return f"cannot reach {endpoint}: {(str(error) or type(error).__name__).splitlines()[0]}"


# The card


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
    """The card of a model: how to use it, data, recipe, hardware, what was measured, limits, citation.

    Local folders, among the datasets and in the arguments, are shown by their last component only; tokens, and
    arguments that would upload or delete something, are left out.

    Args:
        arguments: fields of `TrainArguments` of the run; None where they are not known.
        metrics: numbers by name. In `suite/metric`, `suite` is what the number was measured on.
        datasets: Hub ids, folders or `procedural`; by default the arguments' `dataset_name`.
        hardware: what it was trained on; [`describe_hardware`] says it of this machine.
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
        pipeline_tag="other",  # the Hub has no tag for tracking
        tags=["object-tracking", TASK, "pjvlt"],
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
    return _read_json(path) if path is not None and path.is_file() else None


def read_metrics(path: str | Path) -> dict[str, float]:
    """Numbers by name from a JSON file. Raises `FileNotFoundError`, or `ValueError` for what is not a finite number."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of metrics")
    values = _read_json(path)
    try:
        return {name: _number(name, value) for name, value in values.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def describe_hardware() -> str:
    """What this machine computes with, for a card: its GPUs or else its processor cores, and PyTorch's version."""
    if torch.cuda.is_available():
        count, memory = torch.cuda.device_count(), torch.cuda.get_device_properties(0).total_memory
        device = f"{count} x {torch.cuda.get_device_name(0)} ({memory / 2**30:.0f} GiB)"
    else:
        device = f"{os.cpu_count()} processor cores ({platform.machine()})"
    return f"{device}, PyTorch {torch.__version__}"


def _number(name: str, value) -> float | int:
    if isinstance(value, bool) or not hasattr(value, "__float__") or not math.isfinite(float(value)):
        raise ValueError(f"metric {name!r} must be a finite number, got {value!r}")
    return value if isinstance(value, int) else float(value)


def _eval_result(name: str, value: float, evaluated_on: str) -> EvalResult:
    suite, _, metric = name.rpartition("/")
    dataset = suite or evaluated_on or "not stated"
    return EvalResult(
        task_type=TASK,
        task_name="Vision-language tracking",
        dataset_type=re.sub(r"[^\w./-]+", "-", dataset).strip("-").lower() or "unknown",
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
        return "procedural clips, drawn by the package: coloured and patterned figures on textured backgrounds"
    if _is_hub_id(name):
        return f"[{name}](https://huggingface.co/datasets/{name})"
    return f"{_last_component(name)} (a local folder)"


def _limits(datasets: list[str], config: PJVLTConfig | None) -> list[str]:
    """What holds for every PJVLT, and what its data and its config tell."""
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


__all__ = [
    "PublishingError",
    "describe_hardware",
    "prepare_folder",
    "push_checkpoint",
    "read_metrics",
    "read_run_arguments",
    "render_card",
]
