"""Checkpoints on a Hub: what is sent loads with this package and without it, and nothing is sent by half."""

import hashlib
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from hub_server import run_python
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from test_model_card import ARGUMENTS, section
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline

from modeling_pjvlt import PJVLTConfig, PJVLTImageProcessor, PJVLTModel, PJVLTProcessor, TrackingPipeline
from modeling_pjvlt.hub.publishing import (
    PublishingError,
    prepare_folder,
    push_checkpoint,
    read_run_arguments,
    render_card,
)

ROOT = Path(__file__).parent.parent
TASK = "vision-language-tracking"
BOX, TEXT = [20, 12, 10, 14], "white dog"


@pytest.fixture(scope="module")
def run(tiny_model, tiny_processor, tmp_path_factory):
    """A run's folder, as training leaves it."""
    folder = tmp_path_factory.mktemp("run")
    for part in (tiny_model(stirred=True), tiny_processor):
        part.save_pretrained(folder / "checkpoints/000005/pretrained_model")
    (folder / "checkpoints/last").symlink_to("000005")
    (folder / "arguments.json").write_text(json.dumps(ARGUMENTS))
    return folder


@pytest.fixture
def checkpoint(run):
    """The checkpoint of that run; a test that changes it fails."""
    folder = run / "checkpoints/last/pretrained_model"
    before = fingerprint(folder)
    yield folder
    assert fingerprint(folder) == before


@pytest.fixture
def broken(run, tmp_path):
    """A copy of the checkpoint to break."""
    return Path(shutil.copytree(run / "checkpoints/last/pretrained_model", tmp_path / "broken"))


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(4)]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "scripts/push_to_hub.py"))["main"]


def fingerprint(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# What is sent


def test_folder_holds_weights_processor_code_and_card(checkpoint, tmp_path):
    output = prepare_folder(checkpoint, tmp_path / "new" / "look", render_card("tester/look"))
    names = {path.name for path in output.iterdir()}
    code = {path.name for path in (ROOT / "modeling_pjvlt").glob("*_pjvlt.py")}
    assert names == code | {
        *("README.md", "config.json", "model.safetensors", "processor_config.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert (output / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
    assert not any(path.is_symlink() for path in output.iterdir())
    config = json.loads((output / "config.json").read_text())
    assert config.pop("auto_map") == {
        "AutoConfig": "configuration_pjvlt.PJVLTConfig",
        "AutoModel": "modeling_pjvlt.PJVLTModel",
    }
    assert config.pop("custom_pipelines") == {TASK: {"impl": "pipeline_pjvlt.TrackingPipeline", "pt": ["AutoModel"]}}
    assert config == json.loads((checkpoint / "config.json").read_text())
    assert [path.name for path in output.parent.iterdir()] == ["look"]


def test_nothing_that_is_sent_names_a_path_of_this_machine(checkpoint, tmp_path):
    card = render_card("tester/look", ARGUMENTS)
    output = prepare_folder(checkpoint, tmp_path / "look", card)
    for path in output.iterdir():
        if path.suffix in (".json", ".md", ".py"):
            text = path.read_text(encoding="utf-8")
            for local in (str(tmp_path.parent), str(checkpoint), "/home", "private", "/tmp/", str(ROOT), "hf_never"):
                assert local not in text, (path.name, local)


def test_classes_keep_saving_without_code(checkpoint, tmp_path):
    prepare_folder(checkpoint, tmp_path / "look", render_card("tester/look"))
    PJVLTModel.from_pretrained(checkpoint).save_pretrained(tmp_path / "plain")
    PJVLTProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))
    assert "auto_map" not in (tmp_path / "plain/config.json").read_text()


def test_what_was_published_can_be_published_again(checkpoint, tmp_path):
    first = prepare_folder(checkpoint, tmp_path / "first", render_card("tester/look"))
    second = prepare_folder(first, tmp_path / "second", render_card("tester/look"))
    assert fingerprint(first) == fingerprint(second)


def test_folder_that_is_in_use_is_left_alone(checkpoint, tmp_path):
    card = render_card("tester/look")
    (tmp_path / "mine").mkdir()
    assert prepare_folder(checkpoint, tmp_path / "mine", card).is_dir()  # an empty one will do
    with pytest.raises(FileExistsError, match="not empty"):
        prepare_folder(checkpoint, tmp_path / "mine", card)
    with pytest.raises(FileExistsError, match="in the checkpoint"):
        prepare_folder(checkpoint, checkpoint / "look", card)


def test_folder_appears_whole_or_not_at_all(checkpoint, tmp_path):
    class Unwritable:
        def save(self, path):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        prepare_folder(checkpoint, tmp_path / "look", Unwritable())
    assert not list(tmp_path.iterdir())


def test_shards_are_sent_with_their_index(tiny_model, tiny_processor, tmp_path):
    tiny_model().save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    tiny_processor.save_pretrained(tmp_path / "sharded")
    output = prepare_folder(tmp_path / "sharded", tmp_path / "look", render_card("tester/look"))
    files = {path.name for path in (tmp_path / "sharded").glob("model*")}
    assert files == {path.name for path in output.glob("model.*")} | {path.name for path in output.glob("model-*")}
    assert len(files) > 2
    PJVLTModel.from_pretrained(output)


def remove(name):
    return lambda folder: (folder / name).unlink()


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncate(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


BROKEN = {
    "no config": (remove("config.json"), FileNotFoundError, r"no config\.json"),
    "no processor": (remove("processor_config.json"), FileNotFoundError, r"no processor_config\.json"),
    "no tokenizer": (remove("tokenizer_config.json"), FileNotFoundError, r"no tokenizer_config\.json"),
    "no weights": (remove("model.safetensors"), FileNotFoundError, r"no model\.safetensors"),
    "pickled weights": (pickle_only, FileNotFoundError, r"no model\.safetensors"),
    "half a file": (truncate, ValueError, "not a complete safetensors file"),
    "another model": (lambda f: edit_json(f / "config.json", model_type="bert"), ValueError, "'bert'"),
    "other sizes": (
        lambda f: edit_json(f / "config.json", intermediate_size=80),
        ValueError,
        r"weights do not fit config\.json, the first is .*: \[.*\] in the file, \[.*\] by the config",
    ),
    "other layers": (lambda f: edit_json(f / "config.json", num_hidden_layers=2), ValueError, "missing by the config"),
    "other crops": (
        lambda f: edit_json(
            f / "processor_config.json",
            image_processor={
                **json.loads((f / "processor_config.json").read_text())["image_processor"],
                "search_size": 64,
            },
        ),
        ValueError,
        "search_size is 64",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), ValueError, "not JSON"),
    "a lost shard": (
        lambda f: (
            remove("model.safetensors")(f),
            (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'
            ),
        ),
        FileNotFoundError,
        r"no model-00001-of-00001\.safetensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoint_is_one_clear_error_and_reaches_nobody(name, broken, hub, tmp_path):
    breaking, error, message = BROKEN[name]
    breaking(broken)
    with pytest.raises(error, match=message):
        prepare_folder(broken, tmp_path / "look", render_card("tester/look"))
    assert not (tmp_path / "look").exists()
    with pytest.raises(error, match=message):
        push_checkpoint(broken, "tester/publishing-broken")
    assert not hub.requests


# The Hub


def test_push_is_one_commit_that_loads_with_the_package(hub, checkpoint, frames):
    address = push_checkpoint(
        checkpoint, "tester/publishing-load", arguments=ARGUMENTS, metrics={"auc": 0.5}, commit_message="Mine"
    )
    repo = "tester/publishing-load"
    assert address == f"{hub.url}/{repo}"
    assert [commit.title for commit in HfApi().list_repo_commits(repo)] == ["Mine", "initial commit"]
    assert not hub.repo(repo).private
    files = hub.files(repo)
    assert {Path(name).suffix for name in files} == {".py", ".json", ".md", ".safetensors", ""}
    assert ModelCard.load(repo).data.eval_results[0].metric_value == 0.5

    assert type(AutoConfig.from_pretrained(repo)) is PJVLTConfig
    assert type(AutoModel.from_pretrained(repo)) is PJVLTModel
    assert type(AutoProcessor.from_pretrained(repo)) is PJVLTProcessor
    assert type(AutoImageProcessor.from_pretrained(repo)) is PJVLTImageProcessor
    model, processor = PJVLTModel.from_pretrained(repo), PJVLTProcessor.from_pretrained(repo)
    there = pipeline(TASK, model=repo, pipeline_class=TrackingPipeline, device="cpu")
    weights = load_file(checkpoint / "model.safetensors")
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    here = TrackingPipeline(
        model=PJVLTModel.from_pretrained(checkpoint), processor=PJVLTProcessor.from_pretrained(checkpoint)
    )
    assert processor.image_processor.to_dict().items() >= here.processor.image_processor.to_dict().items()
    expected = here(frames, box=BOX, text=TEXT, progress=False)
    assert there(frames, box=BOX, text=TEXT, progress=False) == expected


WITHOUT_PACKAGE = """
import importlib.util, json, sys
import numpy as np

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "modeling_pjvlt":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked)
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline

repo = sys.argv[1]
parts = [auto.from_pretrained(repo, trust_remote_code=True)
         for auto in (AutoConfig, AutoModel, AutoProcessor, AutoImageProcessor)]
tracker = pipeline("vision-language-tracking", model=repo, trust_remote_code=True, device="cpu")
parts += [tracker, tracker.model, tracker.processor, tracker.processor.image_processor]
rng = np.random.default_rng(0)
frames = [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(4)]
results = tracker(frames, box=[20, 12, 10, 14], text="white dog", progress=False)
try:
    pipeline("vision-language-tracking", model=repo, trust_remote_code=False, device="cpu")
except Exception as error:
    untrusted = str(error)
else:
    untrusted = "loaded"
try:
    import modeling_pjvlt
except ModuleNotFoundError:
    print(json.dumps({"classes": [f"{type(p).__module__}.{type(p).__name__}" for p in parts],
                      "results": results, "untrusted": untrusted}))
"""


@pytest.mark.slow
def test_pushed_model_loads_and_tracks_without_the_package(hub, checkpoint, frames, tmp_path):
    push_checkpoint(checkpoint, "tester/publishing-alone")
    done = run_python(hub, WITHOUT_PACKAGE, "tester/publishing-alone", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    names = [name.rsplit(".", 1)[1] for name in found["classes"]]
    four = ["PJVLTConfig", "PJVLTModel", "PJVLTProcessor", "PJVLTImageProcessor"]
    assert names == [*four, "TrackingPipeline", *four[1:]]
    assert all(name.startswith("transformers_modules.") for name in found["classes"])
    assert "trust_remote_code" in found["untrusted"]
    here = pipeline(TASK, model=str(checkpoint), device="cpu")
    expected = here(frames, box=BOX, text=TEXT, progress=False)
    for a, b in zip(found["results"], expected, strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
        assert a["box"] == pytest.approx(b["box"], abs=1e-3)


def test_private_repository_on_a_branch(hub, checkpoint):
    push_checkpoint(checkpoint, "tester/publishing-branch", private=True, revision="step-5")
    assert hub.repo("tester/publishing-branch").private
    assert "model.safetensors" not in hub.files("tester/publishing-branch")
    PJVLTModel.from_pretrained("tester/publishing-branch", revision="step-5")


def test_nothing_private_goes_to_a_public_repository(hub, checkpoint):
    hub.add_repo("tester/publishing-public")
    with pytest.raises(PublishingError, match="is public; nothing was sent"):
        push_checkpoint(checkpoint, "tester/publishing-public", private=True)
    assert list(hub.files("tester/publishing-public")) == [".gitattributes"]


def test_name_without_a_user_is_the_token_owners(hub, checkpoint):
    assert push_checkpoint(checkpoint, "publishing-name").endswith("/tester/publishing-name")
    assert 'model="tester/publishing-name"' in hub.files("tester/publishing-name")["README.md"].decode()


def test_second_push_replaces_weights_and_keeps_what_else_is_there(
    hub, checkpoint, tiny_model, tiny_processor, tmp_path
):
    repo = "tester/publishing-again"
    hub.add_repo(repo, {"notes.txt": b"mine", "onnx/model.safetensors": b"mine too"})
    push_checkpoint(checkpoint, repo)
    other = tiny_model(seed=1)
    other.save_pretrained(tmp_path, max_shard_size="50KB")
    tiny_processor.save_pretrained(tmp_path)
    push_checkpoint(tmp_path, repo)
    files = hub.files(repo)
    assert "model.safetensors" not in files and "model.safetensors.index.json" in files
    assert files["notes.txt"] == b"mine" and files["onnx/model.safetensors"] == b"mine too"
    loaded = PJVLTModel.from_pretrained(repo).state_dict()
    assert all(value.equal(loaded[name]) for name, value in other.state_dict().items())
    push_checkpoint(checkpoint, repo)
    assert {name for name in hub.files(repo) if name.startswith("model")} == {"model.safetensors", "modeling_pjvlt.py"}
    assert len(hub.repo(repo).branches["main"].history()) == 5


def test_missing_permission_is_explained(hub, checkpoint):
    hub.add_repo("tester/publishing-denied")
    hub.read_only.add("tester/publishing-denied")
    with pytest.raises(PublishingError, match=r"may not write to tester/publishing-denied \(403\)"):
        push_checkpoint(checkpoint, "tester/publishing-denied")
    with pytest.raises(PublishingError, match=r"may not write to somebody/publishing-denied \(403\)"):
        push_checkpoint(checkpoint, "somebody/publishing-denied")
    assert list(hub.files("tester/publishing-denied")) == [".gitattributes"]


@pytest.mark.parametrize("repo", ["tester/publishing-token", "publishing-token"])
def test_wrong_token_is_explained(repo, hub, checkpoint):
    with pytest.raises(PublishingError, match=r"does not accept the token \(401\): log in with `hf auth login`"):
        push_checkpoint(checkpoint, repo, token="hf_wrong")
    assert not hub.repos


@pytest.mark.parametrize("repo", ["tester/publishing-nowhere", "publishing-nowhere"])
def test_unreachable_hub_is_explained(repo, hub, checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishingError, match=r"cannot reach http://127\.0\.0\.1:9: "):
        push_checkpoint(checkpoint, repo)


def test_hub_that_hangs_up_is_explained(hub, checkpoint):
    hub.fail_next(status=None, match="/repos/create")
    with pytest.raises(PublishingError, match=f"cannot reach {hub.url}: "):
        push_checkpoint(checkpoint, "tester/publishing-hang-up")


@pytest.mark.parametrize("match", ["/commit/main", "/preupload/", "/large-files/", "info/lfs"])
@pytest.mark.parametrize("status", [403, 413])
def test_upload_that_breaks_off_leaves_no_half_and_can_be_repeated(status, match, hub, checkpoint):
    repo = "tester/publishing-half"
    hub.fail_next(status=status, match=match)
    with pytest.raises(PublishingError, match=str(status)):
        push_checkpoint(checkpoint, repo)
    assert list(hub.files(repo)) == [".gitattributes"]
    push_checkpoint(checkpoint, repo)
    assert "model.safetensors" in hub.files(repo)


@pytest.mark.parametrize("repo", ["a/b/c", "", "spaces in it", "tester/--x"])
def test_bad_repository_name_is_a_value_error(repo, hub, checkpoint):
    with pytest.raises(ValueError, match=r"[Rr]epo"):
        push_checkpoint(checkpoint, repo)
    assert not hub.requests


# The script


def test_script_pushes_with_the_arguments_of_the_run(script, hub, checkpoint, tmp_path, capsys):
    (tmp_path / "metrics.json").write_text('{"LaSOT/success_auc": 0.7}')
    (tmp_path / "paper.bib").write_text("@article{it}")
    argv = ["tester/publishing-script", "--private", "--metrics", str(tmp_path / "metrics.json")]
    argv += ["--citation", str(tmp_path / "paper.bib"), "--hardware", "a laptop", "--license", "mit"]
    assert script([str(checkpoint), *argv]) == 0
    assert capsys.readouterr().out == f"pushed to {hub.url}/tester/publishing-script\n"
    card = ModelCard(hub.files("tester/publishing-script")["README.md"].decode())
    assert hub.repo("tester/publishing-script").private
    assert "seed: 7" in section(card, "Recipe") and "/home" not in str(card) and "hf_never" not in str(card)
    assert card.data.datasets == ["somebody/got10k"] and card.data.license == "mit"
    assert section(card, "Hardware") == "a laptop" and "@article{it}" in section(card, "Citation")
    assert card.data.eval_results[0].metric_value == 0.7


def test_script_can_show_what_it_would_send(script, hub, checkpoint, tmp_path, capsys):
    assert script([str(checkpoint), "tester/publishing-look", "--dry_run", str(tmp_path / "look")]) == 0
    assert "Nothing was sent" in capsys.readouterr().out
    assert not hub.requests
    assert "seed: 7" in (tmp_path / "look/README.md").read_text()
    PJVLTModel.from_pretrained(tmp_path / "look")


def test_arguments_are_found_from_the_step_and_from_last(run, tmp_path, monkeypatch):
    for step in ("000005", "last"):
        assert read_run_arguments(run / "checkpoints" / step / "pretrained_model") == ARGUMENTS
    monkeypatch.chdir(run / "checkpoints/last")
    assert read_run_arguments("pretrained_model") == ARGUMENTS
    assert read_run_arguments(tmp_path) is None and read_run_arguments("/") is None


MISTAKES = {
    "no checkpoint": (["missing", "a/b"], "no such checkpoint folder"),
    "no metrics": (["CHECKPOINT", "a/b", "--metrics", "missing.json"], "no such file of metrics"),
    "metrics of words": (["CHECKPOINT", "a/b", "--metrics", "words.json"], "metric 'auc' must be a finite number"),
    "metrics in a list": (["CHECKPOINT", "a/b", "--metrics", "list.json"], "expected a JSON object"),
    "no citation": (["CHECKPOINT", "a/b", "--citation", "missing.bib"], "missing.bib"),
    "folder in use": (["CHECKPOINT", "a/b", "--dry_run", "."], "not empty"),
    "bad name": (["CHECKPOINT", "a/b/c"], "a/b/c"),
    "not allowed": (["CHECKPOINT", "somebody/x"], "may not write to somebody/x (403)"),
    "broken arguments": (["BROKEN", "a/b"], "arguments.json: not JSON"),
    "an unknown flag": (["CHECKPOINT", "a/b", "--colour", "red"], "--colour"),
    "no repository": (["CHECKPOINT"], "REPO"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_script_says_in_one_line_what_is_wrong(name, script, hub, run, checkpoint, tmp_path, monkeypatch, capsys):
    argv, message = MISTAKES[name]
    (tmp_path / "words.json").write_text('{"auc": "high"}')
    (tmp_path / "list.json").write_text("[0.5]")
    broken = tmp_path / "run/checkpoints/000005/pretrained_model"
    shutil.copytree(checkpoint, broken)
    (tmp_path / "run/arguments.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    places = {"CHECKPOINT": str(checkpoint), "BROKEN": str(broken)}
    try:
        code = script([places.get(argument, argument) for argument in argv])
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    assert code == 2 and not captured.out
    assert captured.err.startswith("push_to_hub: error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_script_teaches(script, capsys):
    with pytest.raises(SystemExit) as exit:
        script(["--help"])
    assert exit.value.code == 0
    told = capsys.readouterr().out
    for word in ("--dry_run", "--metrics", "metrics.json", "arguments.json", "hf auth login", "trust_remote_code"):
        assert word in told
