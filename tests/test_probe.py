"""`scripts/ablations/probe.py`: its rule, what it reads, and that finished forms are not trained again."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from modeling_pjvlt.training.command_line import parse_arguments

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "ablations"))

import probe

STEPS, EVERY = 100, 5


def write_run(folder: Path, early: float, late: float, similarity: float) -> Path:
    """A run whose overlap goes from `early` in the first fifth to `late` in the last one."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(EVERY, STEPS + 1, EVERY):
        overlap = early if step <= 20 else late
        lines.append({"step": step, "overlap": overlap + 0.001 * (step // EVERY % 3), "loss": 1.0})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    health = [{"step": 0, "token_similarity": 0.96}, {"step": 95, "token_similarity": similarity}]
    (folder / "health.jsonl").write_text("".join(json.dumps(line) + "\n" for line in health))
    return folder


@pytest.mark.parametrize(
    ("literal", "residual", "none", "answer", "why"),
    [
        ((0.495, 0.5), (0.55, 0.3), (0.5, 0.3), "literal", "it keeps up"),  # also where the residual form is better
        ((0.6, 0.95), (0.5, 0.3), (0.5, 0.3), "residual", "the literal form does not keep up"),  # alike all the same
        ((0.4, 0.5), (0.495, 0.3), (0.5, 0.3), "residual", "overlap -0.100 against none's"),
        ((0.4, 0.5), (0.45, 0.3), (0.5, 0.3), "none yet", "neither keeps up; repeat with three times the steps"),
        ((0.1, 0.5), (0.1, 0.3), (0.1, 0.3), "none yet", "too short"),
    ],
)
def test_rule_answers(literal, residual, none, answer, why, tmp_path):
    forms = {"literal": literal, "residual": residual, "none": none}
    folders = {name: write_run(tmp_path / name, 0.1, late, alike) for name, (late, alike) in forms.items()}
    form, reason = probe.decide(probe.measure(folders, STEPS))
    assert form == answer and why in reason


def test_a_noisy_difference_widens_the_margin():
    one = {"overlap": 0.4, "behind": -0.05, "error": 0.03, "similarity": 0.5}
    none = {"overlap": 0.45, "behind": 0.0, "error": 0.01, "similarity": 0.3, "gained": 0.3}
    assert probe.decide({"literal": one, "residual": one, "none": none})[0] == "literal"
    assert probe.decide({"literal": {**one, "error": 0.001}, "residual": one, "none": none})[0] == "residual"


def test_three_forms_of_one_recipe_are_launched_once_and_the_answer_is_kept(tmp_path, monkeypatch, capsys):
    calls = []

    def launch(module, words, num_processes):
        args = parse_arguments(words)
        calls.append((args.model_config, num_processes))
        folder = Path(args.output_dir)
        write_run(folder, 0.1, 0.5, 0.4)
        (folder / "checkpoints" / f"{args.max_train_steps:06d}").mkdir(parents=True)

    monkeypatch.setattr(probe, "launch", launch)
    command = ["--output", str(tmp_path / "probe"), "--max_train_steps", str(STEPS), "--num_processes", "2"]
    assert probe.main(command) == 0 and probe.main(command) == 0
    shared = {"modulation_init": "zero"}
    assert calls == [({**shared, **fields}, 2) for fields in probe.FORMS.values()]
    assert "Train: literal (it keeps up." in capsys.readouterr().out
    assert json.loads((tmp_path / "probe" / "probe.json").read_text())["train"] == "literal"


def test_too_few_lines_in_the_log_are_said(tmp_path, monkeypatch, capsys):
    folders = {name: write_run(tmp_path / name, 0.1, 0.5, 0.4) for name in probe.FORMS}
    with pytest.raises(ValueError, match="needs 3: choose a smaller logging_steps"):
        probe.measure(folders, 1000)


def test_recipes_of_the_probe_differ_from_the_papers_only_in_length_and_place():
    recipes = Path(probe.RECIPE).parent
    short, whole = (yaml.safe_load((recipes / n).read_text()) for n in ("probe_base.yaml", "pjvlt_base_lasot.yaml"))
    changed = {name for name in short if short[name] != whole.get(name)}
    assert changed == {
        "output_dir",
        "max_train_steps",
        "lr_scheduler_type",
        "checkpointing_steps",
        "checkpoints_total_limit",
        "logging_steps",
    }
