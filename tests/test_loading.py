"""Importing the package brings no more than it must, and loading a checkpoint does nothing twice."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel, modeling_utils
from transformers.utils import logging

import modeling_pjvlt
from modeling_pjvlt import PJVLTModel

KEPT_OUT = ("timm", "datasets", "matplotlib", "pandas", "accelerate.accelerator", "gradio", "modeling_pjvlt.training")
COMMANDS = {
    **{"track": "pjvlt-track", "evaluate": "pjvlt-eval", "train": "pjvlt-train", "convert": "pjvlt-convert"},
    "export": "pjvlt-export",
}


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter that finds the same package."""
    path = str(Path(modeling_pjvlt.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {path!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


class RandomNumbers(TorchDispatchMode):
    """Counts the operations that draw random numbers, but not those on the meta device, which do nothing."""

    def __init__(self):
        super().__init__()
        self.drawn = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = function(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in function.tags and answer.device.type != "meta":
            self.drawn[str(function)] += 1
        return answer


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A folder with a tiny model whose parameters are all away from their initial values."""
    tiny_model(stirred=True, fusion_residual=True).save_pretrained(tmp_path)
    return tmp_path


def test_import_registers_and_leaves_heavy_modules_alone():
    printed = run_python(
        "from transformers import AutoConfig, PreTrainedModel\n"
        "before = set(sys.modules)\n"
        "import modeling_pjvlt\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "print(AutoConfig.for_model('pjvlt').model_type)\n"
        "print('vision-language-tracking' in PIPELINE_REGISTRY.supported_tasks)\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    kind, registered, modules = printed.splitlines()
    assert (kind, registered) == ("pjvlt", "True")
    assert "modeling_pjvlt.modeling_pjvlt" in modules.split()
    assert not set(KEPT_OUT) & set(modules.split())


@pytest.mark.parametrize("module", list(COMMANDS))
def test_help_of_commands_needs_no_torch(module):
    printed = run_python(
        f"sys.argv = ['/bin/{COMMANDS[module]}', '--help']\n"
        f"from modeling_pjvlt.cli.{module} import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code, 'torch' in sys.modules)"
    )
    assert printed.startswith(f"usage: {COMMANDS[module]}") and printed.endswith("0 False\n")


def test_commands_register_when_they_ask_for_a_class():
    printed = run_python(
        "sys.argv = ['pjvlt-track']\n"
        "import modeling_pjvlt\n"
        "print('transformers' in sys.modules)\n"
        "from modeling_pjvlt import TrackedTarget\n"
        "from transformers import AutoConfig, AutoModel\n"
        "print(type(AutoModel.from_config(AutoConfig.for_model('pjvlt', fusion='none', "
        "num_hidden_layers=1))).__name__)"
    )
    assert printed.split() == ["False", "PJVLTModel"]


def test_public_names_are_complete():
    for name in modeling_pjvlt.__all__:
        assert getattr(modeling_pjvlt, name) is not None
        assert name in dir(modeling_pjvlt)
    assert set(modeling_pjvlt._HOMES) == set(modeling_pjvlt.__all__) - {"DEFAULT_CHECKPOINT", "TINY_CHECKPOINT"}
    with pytest.raises(AttributeError, match="no attribute 'PJVLTBanana'"):
        modeling_pjvlt.PJVLTBanana  # noqa: B018


def test_building_a_model_draws_random_numbers(tiny_model):
    with RandomNumbers() as numbers:
        tiny_model()
    assert numbers.drawn


def test_loading_initialises_nothing_and_opens_the_file_once(checkpoint, monkeypatch):
    initialised, devices, opened = [], set(), Counter()
    base, post_init, safe_open = PreTrainedModel._init_weights, PJVLTModel.post_init, modeling_utils.safe_open

    def record_module(self, module):  # it is also called for BERT's buffers, which no checkpoint holds
        initialised.extend(name for name, _ in module.named_parameters(recurse=False))
        base(self, module)

    def record_devices(self):
        devices.update(parameter.device.type for parameter in self.parameters())
        post_init(self)

    def record_file(path, *args, **kwargs):
        opened[Path(path).name] += 1
        return safe_open(path, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "_init_weights", record_module)  # ours calls it
    monkeypatch.setattr(PJVLTModel, "post_init", record_devices)
    monkeypatch.setattr(modeling_utils, "safe_open", record_file)
    with RandomNumbers() as numbers:
        PJVLTModel.from_pretrained(checkpoint)
    assert devices == {"meta"}
    assert not numbers.drawn and not initialised
    assert opened == {"model.safetensors": 1}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells which memory is a file's")
def test_loaded_parameters_lie_in_the_mapped_file(checkpoint):
    """So memory holds one copy of the weights, and no more of it than is used."""
    model = PJVLTModel.from_pretrained(checkpoint)
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "model.safetensors" in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines if line[-1].startswith(str(checkpoint))]
    outside = [
        name
        for name, parameter in model.named_parameters()
        if not any(begin <= parameter.data_ptr() < end for begin, end in ranges)
    ]
    assert not outside


def test_loading_prints_nothing_and_leaves_the_users_settings_alone(checkpoint, capfd):
    hook = logging.set_tqdm_hook(None)
    settings = logging.is_progress_bar_enabled(), logging.get_verbosity()
    made = []

    def users_own(factory, args, kwargs):
        made.append(kwargs.get("desc"))
        return factory(*args, **kwargs)

    try:
        logging.set_tqdm_hook(users_own)
        PJVLTModel.from_pretrained(checkpoint)
        with pytest.raises(OSError):
            PJVLTModel.from_pretrained(checkpoint / "nothing")
        assert logging.set_tqdm_hook(None) is users_own
    finally:
        logging.set_tqdm_hook(hook)
    assert made == ["Loading weights"] and capfd.readouterr().err == ""
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == settings


def test_pipeline_is_made_without_a_word_and_other_defaults_are_still_announced():
    path = str(Path(modeling_pjvlt.__file__).parent.parent)
    code = (
        f"import sys; sys.path.insert(0, {path!r})\nimport logging\nfrom transformers import pipeline\n"
        "import modeling_pjvlt\npipeline('vision-language-tracking')\n"
        "logging.getLogger('transformers.pipelines')"
        ".warning('No model was supplied, defaulted to another and revision')"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = made.stderr.splitlines()
    assert made.stdout == "" and line.endswith("No model was supplied, defaulted to another and revision")
