"""Importing the package registers the task, whoever imports it, in whatever order; --help loads no torch."""

import importlib
import subprocess
import sys

import pytest

from modeling_pjvlt.after_import import AfterImport

LOOK = """
import sys
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
assert "vision-language-tracking" in PIPELINE_REGISTRY.supported_tasks and "pjvlt" in CONFIG_MAPPING
assert not [finder for finder in sys.meta_path if type(finder).__name__ == "AfterImport"]
"""


def run(folder, code, name="script.py"):
    (folder / name).write_text(code)
    done = subprocess.run([sys.executable, str(folder / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_script_may_have_any_name(tmp_path):
    run(tmp_path, f"import modeling_pjvlt\n{LOOK}", "pjvlt-demo.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import transformers, modeling_pjvlt",
        "from modeling_pjvlt.modeling_pjvlt import PJVLTModel",
        "from modeling_pjvlt.cli.track import main; from modeling_pjvlt import TrackingSession",
        "from modeling_pjvlt import PJVLTConfig, TrackingResults",
    ],
)
def test_every_order_of_imports_registers(tmp_path, first):
    run(tmp_path, f"{first}\n{LOOK}")


def test_commands_read_their_arguments_without_torch(tmp_path):
    code = """
import sys
from modeling_pjvlt.cli import convert, evaluate, export, track
for command in (convert, evaluate, export, track):
    try:
        command.main(["--help"])
    except SystemExit:
        pass
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    run(tmp_path, code)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Function: writes modules of the packages `heavy` and `ours`; afterwards all is as before."""
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)

    def write(**modules):
        for name, code in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(code)
        importlib.invalidate_caches()

    (tmp_path / "ours").mkdir()
    write(heavy="value = 1\n", ours="")
    (tmp_path / "ours.py").rename(tmp_path / "ours" / "__init__.py")
    yield write
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if name.split(".")[0] in ("heavy", "ours")]:
        del sys.modules[name]


def watch(action):
    finder = AfterImport("heavy", "ours", action)
    sys.meta_path.insert(0, finder)
    return finder


def test_the_action_comes_once_and_after_the_import(packages):
    seen = []
    finder = watch(lambda: seen.append(importlib.import_module("heavy").value))
    importlib.import_module("json")
    assert seen == []
    heavy = importlib.import_module("heavy")
    assert seen == [1] and finder not in sys.meta_path
    assert type(heavy.__loader__) is type(heavy.__spec__.loader) is type(importlib.import_module("json").__loader__)
    importlib.reload(heavy)
    assert seen == [1]


def test_a_module_of_ours_is_whole_before_the_action(packages):
    packages(
        ours__first="import heavy\nfrom ours.second import other\nvalue = 2\n",
        ours__second="import heavy\nother = 3\n",
    )
    seen = []
    watch(lambda: seen.append((sys.modules["ours.first"].value, sys.modules["ours.second"].other)))
    importlib.import_module("ours.first")
    assert seen == [(2, 3)]


def test_an_import_that_fails_can_be_tried_again(packages):
    packages(heavy="raise ImportError('broken')\n")
    seen = []
    finder = watch(lambda: seen.append(True))
    with pytest.raises(ImportError, match="broken"):
        importlib.import_module("heavy")
    assert seen == [] and finder in sys.meta_path and finder.running == 0
    packages(heavy="value = 'mended now'\n")
    importlib.import_module("heavy")
    assert seen == [True]


def test_what_asks_for_the_loader_is_answered(packages):
    watch(lambda: None)
    spec = importlib.util.find_spec("heavy")
    assert "value = 1" in spec.loader.get_source("heavy") and importlib.util.find_spec("heavier") is None
