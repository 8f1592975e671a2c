"""Upload of checkpoints to the Hub: weights, processor, the code for machines without this package, and a card.

`push_checkpoint` does everything; `prepare_folder` writes the files into a folder for inspection.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import custom_object_save

from ..configuration_pjvlt import PJVLTConfig
from ..files_pjvlt import check_new_folder, replacing_folder
from ..modeling_pjvlt import PJVLTModel
from ..pipeline_pjvlt import TASK, TrackingPipeline
from ..processing_pjvlt import PJVLTProcessor
from .eval_results import PIPELINE_TAG, TAGS, merged, result_files
from .model_card import describe_hardware, read_json, read_metrics, read_run_arguments, render_card
from .repositories import PublishingError, create_repository, explain_failures

CONFIG, PROCESSOR_CONFIG, CARD = "config.json", "processor_config.json", "README.md"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
# Deleted from earlier pushes: a single file that was left there would be loaded in place of newer shards.
OLD_WEIGHTS = [WEIGHTS, WEIGHTS_INDEX, "model-?????-of-?????.safetensors"]


# The files of a model repository


@dataclass
class _Checkpoint:
    """A checkpoint that passed the checks. `model` has the shapes of its weights, but no values."""

    folder: Path
    weights: list[Path]
    processor: PJVLTProcessor
    model: PJVLTModel


def prepare_folder(checkpoint: str | Path, output: str | Path, card: ModelCard) -> Path:
    """Write the files of a model repository into a folder, which can also be loaded.

    Args:
        checkpoint: folder with `config.json`, `model.safetensors` and the processor's files; it is only read.
        output: a folder that does not exist yet or is empty. It appears only once it is complete.
        card: becomes `README.md`; see [`render_card`].

    Returns `output`. Raises `FileNotFoundError` for missing files of the checkpoint, `ValueError` for files that do
    not match, `FileExistsError` if `output` is not empty.
    """
    return _write_new(_read_checkpoint(checkpoint), Path(output).resolve(), card)


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
    """Upload a checkpoint to a model repository, created if needed, in one commit; returns its address.

    Weights of an earlier push are replaced; other files in the repository stay. The checkpoint is only read.

    Args:
        checkpoint: folder with `config.json`, `model.safetensors` and the processor's files.
        repo_id: `user/name`, or only the name, for the owner of the token.
        arguments, metrics, datasets, hardware, about: see [`render_card`], which takes them.
        private: see [`create_repository`].
        token: by default the one of `hf auth login` or HF_TOKEN.
        revision: the branch, created if needed; by default `main`.
        dry_run: write the files to this new folder instead of uploading them, and return it.

    Raises what [`prepare_folder`] raises before the Hub is asked for anything, `ValueError` for a bad `repo_id` or
    metric, and [`PublishingError`] if the Hub cannot be reached or refuses.
    """
    validate_repo_id(repo_id)
    source = _read_checkpoint(checkpoint)
    fields = {"arguments": arguments, "metrics": metrics, "datasets": datasets, "hardware": hardware, **about}
    fields.setdefault("config", source.model.config)
    card = render_card(repo_id, **fields)
    if dry_run is not None:
        return str(_write_new(source, Path(dry_run).resolve(), card))
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory(prefix="pjvlt-") as folder, explain_failures(api.endpoint, repo_id):
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
            card = render_card(repo_id, **fields)
        _write_folder(source, Path(folder), card, _link)
        address = create_repository(api, repo_id, "model", private)
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


def find_model(repo_id: str, token: str | None = None) -> None:
    """Check before a long evaluation that the model is on the Hub. Raises `ValueError` or [`PublishingError`]."""
    validate_repo_id(repo_id)
    api = HfApi(token=token)
    with explain_failures(api.endpoint, repo_id):
        try:
            api.model_info(repo_id)
        except RepositoryNotFoundError as error:
            raise PublishingError(
                f"{api.endpoint} has no model {repo_id}, or it is private and the token may not read it: push the "
                "model first"
            ) from error


def push_results(repo_id: str, results: list[EvalResult], token: str | None = None) -> str:
    """Add scores to a model's card and `.eval_results` in one commit; returns the commit's address.

    Earlier scores of the same dataset, split and metric are replaced; the rest of the card stays. Raises
    [`PublishingError`] if the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    with explain_failures(api.endpoint, repo_id):
        try:
            card = ModelCard.load(repo_id, token=token)
        except EntryNotFoundError:
            data = ModelCardData(library_name="transformers", pipeline_tag=PIPELINE_TAG, tags=TAGS)
            card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {repo_id.split('/')[-1]}\n")
        card.data.eval_results = merged(card.data.eval_results or [], results)
        card.data.model_name = card.data.get("model_name") or repo_id.split("/")[-1]
        files = {CARD: str(card), **result_files(card)}
        commit = api.create_commit(
            repo_id,
            [CommitOperationAdd(path, text.encode("utf-8")) for path, text in files.items()],
            commit_message="Add evaluation results",
        )
    return commit.commit_url


def _read_checkpoint(folder: str | Path) -> _Checkpoint:
    """Check a checkpoint: all files are there, and weights, processor and config agree on shapes and sizes."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such checkpoint folder")
    for name in (CONFIG, PROCESSOR_CONFIG, "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}; a checkpoint is a folder that `save_pretrained` has written"
            )
    model_type = read_json(folder / CONFIG).get("model_type")
    if model_type != PJVLTConfig.model_type:
        raise ValueError(f"{folder}: {CONFIG} is that of a {model_type!r} model, not of {PJVLTConfig.model_type!r}")
    weights = _weight_files(folder)
    with torch.device("meta"):
        model = PJVLTModel(PJVLTConfig.from_pretrained(folder))
    _check_shapes(folder, weights, model)
    processor = PJVLTProcessor.from_pretrained(folder)
    for name in ("template_size", "search_size"):
        processed, expected = getattr(processor.image_processor, name), getattr(model.config, name)
        if processed != expected:
            raise ValueError(f"{folder}: {name} is {processed} in {PROCESSOR_CONFIG}, but {expected} in {CONFIG}")
    return _Checkpoint(folder, weights, processor, model)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards of an index."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        raise FileNotFoundError(f"{folder}: no {WEIGHTS}; other formats are not published")
    names = sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))
    missing = [name for name in names if name != Path(name).name or not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: no {missing[0]}, which {WEIGHTS_INDEX} names")
    return [folder / name for name in names]


def _check_shapes(folder: Path, files: list[Path], model: PJVLTModel) -> None:
    """Raises `ValueError` naming the first weight whose shape in the files is not that of the model."""
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    stored = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                stored |= {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file}: not a complete safetensors file: {error}") from error
    wrong = sorted(name for name in {*expected, *stored} if expected.get(name) != stored.get(name))
    if wrong:
        first, missing = wrong[0], "missing"
        raise ValueError(
            f"{folder}: {len(wrong)} weights do not fit {CONFIG}, the first is {first}: "
            f"{stored.get(first, missing)} in the file, {expected.get(first, missing)} by the config"
        )


def _write_new(source: _Checkpoint, output: Path, card: ModelCard) -> Path:
    """[`prepare_folder`] for a checkpoint that has been read."""
    if output.is_relative_to(source.folder.resolve()):
        raise FileExistsError(f"{output} is in the checkpoint; choose a folder outside of it")
    check_new_folder(output)
    with replacing_folder(output) as partial:
        _write_folder(source, partial, card, shutil.copyfile)
    return output


def _write_folder(source: _Checkpoint, folder: Path, card: ModelCard, copy_file) -> None:
    """Write the files of a repository into an empty folder; `copy_file(from, to)` copies or links the weights."""
    config = read_json(source.folder / CONFIG)
    config.pop("_name_or_path", None)
    source.processor.save_pretrained(folder)
    processor = read_json(folder / PROCESSOR_CONFIG)
    for part, auto_class, settings in (
        (source.model.config, "AutoConfig", config),
        (source.model, "AutoModel", config),
        (source.processor, "AutoProcessor", processor),
        (source.processor.image_processor, "AutoImageProcessor", processor["image_processor"]),
    ):
        _save_code(part, auto_class, folder, settings)
    custom_object_save(TrackingPipeline, folder)
    # As `Pipeline.save_pretrained` writes it.
    module = TrackingPipeline.__module__.split(".")[-1]
    config["custom_pipelines"] = {TASK: {"impl": f"{module}.{TrackingPipeline.__name__}", "pt": ["AutoModel"]}}
    for name, values in ((CONFIG, config), (PROCESSOR_CONFIG, processor)):
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    index = [source.folder / WEIGHTS_INDEX] if source.weights[0].name != WEIGHTS else []
    for file in (*source.weights, *index):
        copy_file(file.resolve(), folder / file.name)
    card.save(folder / CARD)
    for name, text in result_files(card).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _save_code(part, auto_class: str, folder: Path, settings: dict) -> None:
    """Let transformers copy the modules of a part and enter its class into `settings["auto_map"]`."""
    previous = part._auto_class
    part._auto_class = auto_class  # of this object, not of its class: other objects are still saved without code
    try:
        custom_object_save(part, folder, config=settings)
    finally:
        part._auto_class = previous


def _link(source: Path, target: Path) -> None:
    """Link a file, so that large weights are not copied for the upload; copy it if links are not allowed."""
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


__all__ = [
    "PublishingError",
    "describe_hardware",
    "find_model",
    "prepare_folder",
    "push_checkpoint",
    "push_results",
    "read_metrics",
    "read_run_arguments",
    "render_card",
]
