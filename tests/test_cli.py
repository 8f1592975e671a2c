"""What all commands have in common: versions, mistyped options, pipes, and `python -m modeling_pjvlt`."""

import os
import subprocess
import sys

import pytest

import modeling_pjvlt
from modeling_pjvlt.__main__ import COMMANDS, main
from modeling_pjvlt.cli import convert, convert_weights, evaluate, export, track, train
from modeling_pjvlt.command_parser import checkpoint
from modeling_pjvlt.evaluation import absence, distractors, grounding, phrase_pairs

MAINS = {
    "pjvlt-track": track.main,
    "pjvlt-train": train.main,
    "pjvlt-eval": evaluate.main,
    "pjvlt-convert": convert.main,
    "pjvlt-convert-weights": convert_weights.main,
    "pjvlt-export": export.main,
}


def ended(main, *argv) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(list(argv))
    return stopped.value.code


@pytest.mark.parametrize("name", MAINS)
def test_every_command_knows_its_version(name, capsys):
    assert ended(MAINS[name], "--version") == 0
    assert capsys.readouterr().out == f"{name} {modeling_pjvlt.__version__}\n"


@pytest.mark.parametrize(
    ("name", "typed", "meant"),
    [
        ("pjvlt-track", "--max-frames", "; did you mean --max_frames?"),
        ("pjvlt-track", "-box", "; did you mean --box or --boxes?"),
        ("pjvlt-train", "--learning-rte=1", "; did you mean --learning_rate or --text_learning_rate?"),
        ("pjvlt-eval", "--datset_name", "; did you mean --dataset_name?"),
        ("pjvlt-convert", "--splitts", "; did you mean --splits?"),
        ("pjvlt-convert-weights", "--ouput", "; did you mean --output?"),
        ("pjvlt-export", "--ouput_dir", "; did you mean --output_dir?"),
        ("pjvlt-export", "--zzz", ""),
    ],
)
def test_mistyped_option_is_named_with_the_right_one_in_two_lines(name, typed, meant, capsys):
    assert ended(MAINS[name], typed, "1") == 2
    error, usage, nothing = capsys.readouterr().err.split("\n")
    assert error == f"{name}: error: there is no option {typed.split('=')[0]}{meant}" and nothing == ""
    assert usage.startswith(f"usage: {name} ") and usage.endswith(f"; see {name} --help") and len(usage) < 140


@pytest.mark.parametrize(
    "measure", [absence, distractors, grounding, phrase_pairs], ids=lambda module: module.__name__
)
def test_a_measure_says_first_that_its_checkpoint_is_not_there(measure, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    given = {absence: ["--procedural", "1"], grounding: ["--images", "nowhere"]}.get(measure, ["nowhere"])
    assert ended(measure.main, *given, "--model", str(tmp_path / "min")) == 2
    printed = capsys.readouterr()
    assert not printed.out and f"no such checkpoint folder. Did you mean {tmp_path / 'mine'}?" in printed.err


def test_a_measure_takes_bundled_checkpoints_by_name_and_the_last_one_of_a_run(tmp_path):
    assert checkpoint("pjvlt-tiny") == modeling_pjvlt.TINY_CHECKPOINT
    inside = tmp_path / "checkpoints" / "last" / "pretrained_model"
    inside.mkdir(parents=True)
    (inside / "config.json").write_text("{}")
    assert checkpoint(str(tmp_path)) == str(inside)


def test_module_hands_over_to_the_commands(capsys):
    assert set(COMMANDS) == {name.removeprefix("pjvlt-") for name in MAINS}
    for name in COMMANDS:
        assert ended(main, name, "--version") == 0
    assert capsys.readouterr().out.splitlines() == [f"{name} {modeling_pjvlt.__version__}" for name in MAINS]
    assert ended(main, "tarck") == 2
    assert "invalid choice: 'tarck'" in capsys.readouterr().err
    assert ended(main) == 2 and "required: command" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["convert", "--help"], ["--help"]])
def test_command_whose_reader_has_gone_ends_in_silence(arguments):
    command = [sys.executable, "-m", "modeling_pjvlt", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    child.stdout.close()
    assert child.stderr.read() == b"" and child.wait() == 141
