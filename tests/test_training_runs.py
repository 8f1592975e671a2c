"""Runs that are resumed, interrupted, spread over processes, or that fail."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from modeling_pjvlt import PJVLTConfig, PJVLTModel, PJVLTProcessor
from modeling_pjvlt.cli.train import main
from modeling_pjvlt.data.pairs.sources import ProceduralPairs
from modeling_pjvlt.data.synthetic.procedural import KINDS, ProceduralClip
from modeling_pjvlt.evaluation.tracking import track_sequence, visible_auc
from modeling_pjvlt.onednn_pjvlt import OneDNN
from modeling_pjvlt.training import failures, trainer
from modeling_pjvlt.training.arguments import SCHEDULES, STABLE, WITHOUT_WARMUP, TrainArguments, share_batch
from modeling_pjvlt.training.build import batches_of_rank, build_model
from modeling_pjvlt.training.command_line import parse_arguments
from modeling_pjvlt.training.validation import VALIDATION_SEED

ROOT = Path(__file__).parents[1]
RATES = ["--encoder_learning_rate", "1e-3", "--head_learning_rate", "1e-3"]


def weights(run: Path, name: str = "last") -> bytes:
    return (run / "checkpoints" / name / "pretrained_model" / "model.safetensors").read_bytes()


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def start(recipe: Path, run: Path, *more: str) -> int:
    return main(["--config", str(recipe), "--output_dir", str(run), *RATES, *more])


def subprocess_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def test_resumed_run_ends_as_the_one_that_was_not_interrupted(recipe, tmp_path):
    more = ["--max_train_steps", "4", "--gradient_accumulation_steps", "2", "--checkpointing_steps", "2"]
    assert start(recipe, tmp_path / "whole", *more) == 0
    first = tmp_path / "whole" / "checkpoints" / "000002"
    assert start(recipe, tmp_path / "resumed", *more, "--resume_from_checkpoint", str(first)) == 0
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")
    losses = [line["loss"] for line in log_of(tmp_path / "whole")]
    assert [line["loss"] for line in log_of(tmp_path / "resumed")] == losses[2:]


def test_resuming_in_place_continues_the_log(recipe, tmp_path, monkeypatch):
    saved = trainer._save

    def save_and_fail(checkpoints, step, *arguments):
        saved(checkpoints, step, *arguments)
        if step == 2:
            raise KeyboardInterrupt  # as a kill after the second step

    more = ["--max_train_steps", "3", "--checkpointing_steps", "1"]
    monkeypatch.setattr(trainer, "_save", save_and_fail)
    assert start(recipe, tmp_path / "run", *more) == 130
    monkeypatch.setattr(trainer, "_save", saved)
    assert start(recipe, tmp_path / "run", *more, "--resume_from_checkpoint", "last") == 0
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (["--per_device_train_batch_size", "3"], "--per_device_train_batch_size was 2"),
        (["--max_train_steps", "1"], "--max_train_steps was 2"),
        (["--seed", "7"], "--seed was 0"),
        (["--resume_from_checkpoint", "nowhere"], "--resume_from_checkpoint: no training state in nowhere"),
    ],
)
def test_resuming_another_run_is_refused_and_the_flag_named(recipe, tmp_path, capsys, change, flag):
    start(recipe, tmp_path / "run")
    assert start(recipe, tmp_path / "run", "--resume_from_checkpoint", "last", *change) == 2
    assert flag in capsys.readouterr().err


def test_new_run_does_not_go_over_an_old_one_unasked(recipe, tmp_path, capsys):
    start(recipe, tmp_path / "run", "--max_train_steps", "3")
    before = weights(tmp_path / "run")
    assert start(recipe, tmp_path / "run") == 2
    assert "--overwrite_output_dir" in capsys.readouterr().err and weights(tmp_path / "run") == before
    assert start(recipe, tmp_path / "run", "--overwrite_output_dir") == 0
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["000002", "last"]


def test_only_the_newest_and_the_best_checkpoints_are_kept(recipe, tmp_path, monkeypatch):
    scores = iter([0.2, 0.9, 0.5, 0.4, 0.3])
    monkeypatch.setattr("modeling_pjvlt.training.validation.Validation._score", lambda *_: [next(scores), 0.1])
    more = ["--checkpointing_steps", "1", "--checkpoints_total_limit", "2", "--validation_steps", "1"]
    assert start(recipe, tmp_path / "run", *more, "--num_validation_sequences", "1", "--max_train_steps", "5") == 0
    root = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in root.iterdir()) == ["000002", "000004", "000005", "best", "last"]
    assert (root / "best").resolve().name == "000002" and (root / "last").resolve().name == "000005"
    told = [line for line in log_of(tmp_path / "run") if "validation_auc" in line]
    assert [line["validation_auc"] for line in told] == [0.2, 0.9, 0.5, 0.4, 0.3]


def test_validation_tracks_and_leaves_the_training_as_it_is(recipe, tmp_path):
    start(recipe, tmp_path / "plain")
    validating = ["--validation_steps", "1", "--num_validation_sequences", "2", "--max_validation_frames", "4"]
    start(recipe, tmp_path / "validated", *validating)
    assert weights(tmp_path / "plain") == weights(tmp_path / "validated")
    (line,) = [line for line in log_of(tmp_path / "validated") if "validation_auc" in line and line["step"] == 2]
    folder = tmp_path / "validated/checkpoints/last/pretrained_model"
    model, processor = PJVLTModel.from_pretrained(folder), PJVLTProcessor.from_pretrained(folder)
    clips = [ProceduralClip(VALIDATION_SEED + i, 4, kind=kind) for i, kind in enumerate(KINDS)]
    for score, words in (("validation_auc", "text"), ("validation_auc_shuffled", "wrong_text")):
        found = [track_sequence(model, processor, clip, {"it": getattr(clip, words)}).boxes["it"] for clip in clips]
        expected = np.mean([visible_auc(boxes, clip) for boxes, clip in zip(found, clips, strict=True)])
        assert line[score] == pytest.approx(expected, abs=1e-4)


def first_weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights that a run begins with."""
    torch.manual_seed(0)
    return build_model(TrainArguments(**json.loads((run / "arguments.json").read_text())))[0].state_dict()


def test_gradients_reach_the_optimizer_no_larger_than_they_may(recipe, tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def measured(self, *arguments, **keywords):
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", measured)
    assert start(recipe, tmp_path / "free", "--max_grad_norm", "1e9", "--max_train_steps", "1") == 0
    (free,) = norms
    assert free > 0.2
    assert start(recipe, tmp_path / "clipped", "--max_train_steps", "3") == 0  # to 0.1
    assert start(recipe, tmp_path / "shorter", "--max_train_steps", "1", "--max_grad_norm", str(free / 4)) == 0
    assert norms[1:] == pytest.approx([0.1, 0.1, 0.1, free / 4], rel=1e-3)


def test_weight_decay_pulls_every_weight_towards_zero_by_its_share_of_the_rate(recipe, tmp_path):
    """AdamW's rule: besides the same step, each weight loses rate * decay of what it was."""
    one = ["--max_train_steps", "1"]
    assert start(recipe, tmp_path / "none", *one, "--weight_decay", "0") == 0
    assert start(recipe, tmp_path / "decayed", *one, "--weight_decay", "50") == 0
    none, decayed = (
        load_file(tmp_path / run / "checkpoints/last/pretrained_model/model.safetensors")
        for run in ("none", "decayed")
    )
    before = first_weights(tmp_path / "none")
    names = [name for name, p in build_model(parse_arguments(["--config", str(recipe)]))[0].named_parameters()]
    assert names
    for name in names:
        torch.testing.assert_close(decayed[name], none[name] - 1e-3 * 50 * before[name], rtol=1e-4, atol=1e-6)
    assert TrainArguments(output_dir="o", model_name_or_path="m").weight_decay == 1e-4  # the paper's


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_saves_and_ends_the_run_and_it_can_go_on(recipe, tmp_path, monkeypatch, capsys, request, name):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")
    if signal.getsignal(number) is signal.SIG_IGN:  # under nohup, where a run rightly goes on
        request.addfinalizer(lambda: signal.signal(number, signal.SIG_IGN))
        signal.signal(number, signal.SIG_DFL)
    draw, drawn = ProceduralPairs.draw, []

    def draw_and_signal(self, rng):
        drawn.append(1)
        if len(drawn) in (5, 6):  # in the third step of two pairs; the second is what a launcher passes on
            os.kill(os.getpid(), number)
        return draw(self, rng)

    monkeypatch.setattr(ProceduralPairs, "draw", draw_and_signal)
    more = ["--max_train_steps", "6"]
    assert start(recipe, tmp_path / "run", *more) == 130
    assert "Interrupted after step 3; its checkpoint is saved" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert start(recipe, tmp_path / "run", *more, "--resume_from_checkpoint", "last") == 0
    assert start(recipe, tmp_path / "whole", *more) == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_later_second_signal_acts_as_usual(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with pytest.raises(KeyboardInterrupt), trainer.interruptible(SimpleNamespace(num_processes=1)) as interrupted:
        for moment in (0.0, 1.0):
            now[0] = moment
            signal.raise_signal(signal.SIGINT)
            assert interrupted()
        now[0] = 10.0
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(recipe, tmp_path, monkeypatch, capsys):
    forward, calls = PJVLTModel.forward, []

    def broken(self, *arguments, **keywords):
        outputs = forward(self, *arguments, **keywords)
        calls.append(1)
        if len(calls) == 3:
            outputs.loss = outputs.loss * float("nan")
        return outputs

    monkeypatch.setattr(PJVLTModel, "forward", broken)
    assert start(recipe, tmp_path / "run", "--max_train_steps", "5", "--checkpointing_steps", "2") == 1
    assert "the loss is nan" in capsys.readouterr().err
    folder = tmp_path / "run" / "failure-000003"
    assert json.loads((folder / "batch-0.json").read_text())["samples"] == [[4, 5]]
    assert load_file(folder / "batch-0.safetensors")["0.pixel_values"].shape == (2, 3, 32, 32)
    model = PJVLTModel.from_pretrained(folder / "pretrained_model")
    assert all(p.isfinite().all() for p in model.parameters())
    assert weights(tmp_path / "run", "last") and (tmp_path / "run" / "checkpoints" / "last").resolve().name == "000002"


def test_full_disk_costs_no_earlier_checkpoint(recipe, tmp_path, monkeypatch, capsys, caplog):
    save, saves = PJVLTModel.save_pretrained, []

    def full(self, folder, **keywords):
        saves.append(1)
        if len(saves) in (2, 4):
            raise OSError(28, "No space left on device")
        return save(self, folder, **keywords)

    monkeypatch.setattr(PJVLTModel, "save_pretrained", full)
    assert start(recipe, tmp_path / "run", "--max_train_steps", "4", "--checkpointing_steps", "1") == 1
    assert "step 2 could not be written" in caplog.text
    assert "the earlier ones are complete" in capsys.readouterr().err
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000001", "000003", "last"]
    PJVLTModel.from_pretrained(tmp_path / "run" / "checkpoints" / "last" / "pretrained_model")


def test_step_schedule_drops_to_a_tenth(recipe, tmp_path):
    more = ["--lr_scheduler_type", "step", "--lr_drop_step", "2", "--max_train_steps", "3"]
    assert start(recipe, tmp_path / "run", *more) == 0
    assert [line["learning_rate"] for line in log_of(tmp_path / "run")] == pytest.approx([1e-3, 1e-4, 1e-4])


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name not in WITHOUT_WARMUP])
def test_warm_up_of_a_schedule_is_applied(schedule, tiny_model, recipe):
    argv = ["--lr_scheduler_type", schedule, "--num_warmup_steps", "4", "--max_train_steps", "8"]
    argv += ["--num_decay_steps", "2"] if schedule == STABLE else []
    args = parse_arguments(["--config", str(recipe), *RATES, *argv])
    _, optimizer, scheduler = trainer._prepare(args, Accelerator(), tiny_model())
    rates = []
    for _ in range(4):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4])
    assert scheduler.get_last_lr()[0] == pytest.approx(1e-3)


def test_run_of_constant_rate_can_be_given_its_end_later(recipe, tmp_path, capsys):
    """Stopped after two steps, which a run with a decay at its end would have made as well."""
    end = ["--lr_scheduler_type", "warmup_stable_decay", "--num_decay_steps", "2", "--max_train_steps", "4"]
    assert start(recipe, tmp_path / "whole", *end, "--checkpointing_steps", "2") == 0
    constant = ["--lr_scheduler_type", "constant_with_warmup", "--max_train_steps", "2"]
    assert start(recipe, tmp_path / "parts", *constant) == 0
    assert start(recipe, tmp_path / "parts", *end, "--resume_from_checkpoint", "last") == 0
    rates = [line["learning_rate"] for line in log_of(tmp_path / "whole")]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 0])
    whole, parts = (
        load_file(tmp_path / run / "checkpoints/last/pretrained_model/model.safetensors") for run in ("whole", "parts")
    )
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0)
    first = ["--resume_from_checkpoint", str(tmp_path / "whole" / "checkpoints" / "000002")]
    assert start(recipe, tmp_path / "other", *end[:-1], "3", *first) == 2  # its rate would have fallen by then
    assert "--max_train_steps was 4" in (message := capsys.readouterr().err) and "must be at least 2" in message


def test_finished_run_can_be_made_longer_and_follows_the_longer_schedule(recipe, tmp_path, capsys):
    assert start(recipe, tmp_path / "run", "--max_train_steps", "2") == 0
    longer = ["--max_train_steps", "5", "--resume_from_checkpoint", "last"]
    capsys.readouterr()
    assert start(recipe, tmp_path / "run", *longer) == 0
    assert "5, 10 samples in all; continues after step 2" in capsys.readouterr().out
    lines = log_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    cosine = [1e-3 * 0.5 * (1 + np.cos(np.pi * step / 5)) for step in (3, 4, 5)]
    assert [line["learning_rate"] for line in lines[2:]] == pytest.approx(cosine, abs=1e-9)
    assert start(recipe, tmp_path / "whole", "--max_train_steps", "5") == 0
    assert [line["step"] for line in log_of(tmp_path / "whole")] == [1, 2, 3, 4, 5]


def test_first_step_of_a_longer_run_has_a_rate(recipe, tmp_path, monkeypatch):
    assert start(recipe, tmp_path / "run", "--max_train_steps", "2") == 0
    rates, step = [], torch.optim.AdamW.step

    def noted(self, *arguments, **keywords):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    longer = ["--max_train_steps", "4", "--resume_from_checkpoint", "last"]
    assert start(recipe, tmp_path / "run", *longer) == 0
    assert rates[0] == pytest.approx([5e-4, 5e-4]) and len(rates) == 2


def test_run_says_what_it_does_before_its_first_step_and_what_comes_after(recipe, tmp_path, capsys):
    more = ["--max_train_steps", "3", "--gradient_accumulation_steps", "2", "--logging_steps", "50"]
    assert main(["--config", str(recipe), *more, "--learning_rate", "1e-3"]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert lines[0].startswith("device  cpu, ") and lines[1].startswith("model   random weights, ")
    assert lines[2:7] == [
        "data    procedural, drawn clips",
        "batch   4 samples a step (2, 2 batches a step)",
        "steps   3, 12 samples in all",
        "rates   encoder 0.001, head 0.001, cosine",
        f"writes  {tmp_path / 'run'}, a checkpoint every 3 steps",
    ]
    assert f"--model {tmp_path / 'run'}" in told.out
    for command in ("pjvlt-track VIDEO --box X Y W H", "pjvlt-eval --dataset_name NAME"):
        assert command in told.out
    first = next(part for part in told.err.split("\r") if " 1/3 " in part and "loss=" in part)
    assert log_of(tmp_path / "run")[0]["step"] == 3 and " 1/3 " in first


@pytest.mark.parametrize(
    ("recipe_rates", "argv", "rates"),
    [
        ("", [], (1e-5, 1e-4)),
        ("", ["--learning_rate", "0.5"], (0.5, 0.5)),
        ("", ["--learning_rate", "0.5", "--head_learning_rate", "2"], (0.5, 2)),
        ("encoder_learning_rate: 3\nhead_learning_rate: 4", ["--learning_rate", "0.5"], (0.5, 0.5)),
        ("encoder_learning_rate: 3\nhead_learning_rate: 4", [], (3, 4)),
        ("learning_rate: 3", ["--encoder_learning_rate", "1"], (1, 3)),
        ("learning_rate: 3", [], (3, 3)),
    ],
)
def test_one_rate_is_enough(recipe, recipe_rates, argv, rates):
    recipe.write_text(recipe.read_text() + recipe_rates)
    args = parse_arguments(["--config", str(recipe), *argv])
    assert (args.encoder_learning_rate, args.head_learning_rate) == rates
    assert TrainArguments(**json.loads(json.dumps(vars(args)))) == args


def test_frozen_text_encoder_stays_and_checkpointed_activations_change_nothing(recipe, tmp_path):
    assert start(recipe, tmp_path / "plain") == 0
    assert start(recipe, tmp_path / "checkpointed", "--gradient_checkpointing", "true") == 0
    plain, checkpointed = (
        load_file(tmp_path / run / "checkpoints/last/pretrained_model/model.safetensors")
        for run in ("plain", "checkpointed")
    )
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value)
    assert start(recipe, tmp_path / "frozen", "--freeze_text_encoder", "true") == 0
    frozen = load_file(tmp_path / "frozen/checkpoints/last/pretrained_model/model.safetensors")
    torch.manual_seed(0)
    args = json.loads((tmp_path / "frozen" / "arguments.json").read_text())
    initial = build_model(TrainArguments(**args))[0].state_dict()
    text = [name for name in frozen if name.startswith("text_encoder.")]
    assert text and all(torch.equal(initial[name], frozen[name]) for name in text)
    assert any(not torch.equal(initial[name], plain[name]) for name in text)


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_processes_share_each_batch_in_order(num_processes):
    size = 12 // num_processes
    parts = [list(batches_of_rank(60, size, rank, num_processes)) for rank in range(num_processes)]
    batches = [[index for part in parts for index in part[b]] for b in range(5)]
    assert batches == [list(range(12 * b, 12 * b + 12)) for b in range(5)]
    later = batches_of_rank(60, size, 0, num_processes, first_batch=3)
    assert list(later) == parts[0][3:] and len(later) == 2


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "scripts" / "recipes").glob("*.yaml"))])
def test_recipes_are_read(name):
    more = ["--dataset_name", "mine"] if name == "finetune.yaml" else []
    args = parse_arguments(["--config", str(ROOT / "scripts" / "recipes" / name), *more])
    if args.model_config:
        assert PJVLTConfig(**args.model_config)
    if name.startswith("pjvlt_base"):
        batch = args.global_batch_size
        assert share_batch(args, 8).per_device_train_batch_size == 16
        assert batch == 128 and args.max_train_steps % 60_000 != 0
        epochs = args.max_train_steps * batch / 60_000
        assert (epochs, args.lr_drop_step * batch / 60_000) in [(300, 240), (100, 60)]


@pytest.mark.parametrize(("num_processes", "steps", "share"), [(1, 1, 24), (8, 1, 3), (2, 4, 3), (3, 8, 1)])
def test_global_batch_is_shared_by_processes_and_accumulated_batches(num_processes, steps, share):
    args = TrainArguments("", model_name_or_path="-", global_batch_size=24, gradient_accumulation_steps=steps)
    assert share_batch(args, num_processes).per_device_train_batch_size == share
    assert args.per_device_train_batch_size is None


def test_global_batch_that_does_not_divide_or_fit_is_refused():
    args = TrainArguments("", model_name_or_path="-", global_batch_size=24)
    with pytest.raises(ValueError, match="--global_batch_size 24 cannot be shared evenly by 5 processes"):
        share_batch(args, 5)
    args.per_device_train_batch_size = 4
    assert share_batch(args, 6).per_device_train_batch_size == 4
    with pytest.raises(ValueError, match="4 x 2 processes x 1 --gradient_accumulation_steps is 8, but"):
        share_batch(args, 2)


def test_run_with_a_global_batch_equals_that_of_its_share(recipe, tmp_path, capsys):
    """The recipe's own 2 pairs a device go, the run is the same, and it can be resumed."""
    plain = tmp_path / "global.yaml"
    lines = [line for line in recipe.read_text().splitlines() if "per_device" not in line]
    plain.write_text("\n".join([*lines, "global_batch_size: 4", "gradient_accumulation_steps: 2"]))
    assert start(recipe, tmp_path / "share", "--gradient_accumulation_steps", "2") == 0
    assert start(plain, tmp_path / "global") == 0
    assert weights(tmp_path / "global") == weights(tmp_path / "share")
    assert json.loads((tmp_path / "global" / "arguments.json").read_text())["global_batch_size"] == 4
    assert start(plain, tmp_path / "global", "--resume_from_checkpoint", "last") == 0
    capsys.readouterr()
    assert start(plain, tmp_path / "odd", "--global_batch_size", "5") == 2
    assert "--global_batch_size 5 cannot be shared evenly" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 8])
def test_processes_that_share_a_batch_train_as_one(number, recipe, tmp_path):
    """The same global batch of 8 in one process and in several (gloo): equal losses and equal weights."""
    plain = recipe.read_text().replace("per_device_train_batch_size: 2", "global_batch_size: 8")
    recipe.write_text(plain)
    common = [str(ROOT / "tests" / "train_without_noise.py"), "--config", str(recipe), *RATES]
    common += ["--max_train_steps", "6", "--output_dir"]
    environment = subprocess_environment()
    subprocess.run([sys.executable, *common, str(tmp_path / "one")], env=environment, check=True, timeout=300)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
    environment["ACCELERATE_USE_CPU"] = "true"
    subprocess.run([*launch, *common, str(tmp_path / "many")], env=environment, check=True, timeout=600)
    one, many = ([line["loss"] for line in log_of(tmp_path / name)] for name in ("one", "many"))
    assert len(one) == 6 and many == pytest.approx(one, abs=1e-4)
    one, many = (
        load_file(tmp_path / name / "checkpoints/last/pretrained_model/model.safetensors") for name in ("one", "many")
    )
    torch.testing.assert_close(many, one, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_killed_runs_end_with_equal_weights():
    command = [sys.executable, str(ROOT / "scripts" / "check_resume.py"), "--kills", "1", "--steps", "8"]
    told = subprocess.run(command, env=subprocess_environment(), capture_output=True, text=True, timeout=600)
    assert told.returncode == 0 and told.stdout.count("equal weights") == 2, told.stdout + told.stderr


def test_transformers_own_trainer_trains_the_model(tiny_model, tiny_processor, tmp_path):
    from transformers import Trainer, TrainingArguments

    from modeling_pjvlt.data.pairs.cropping import PairCropper
    from modeling_pjvlt.data.pairs.mixture import PairCollator, TrackingPairs

    model = tiny_model().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    pairs = TrackingPairs(ProceduralPairs(num_frames=4), PairCropper(tiny_processor.image_processor), length=8)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        remove_unused_columns=False, learning_rate=1e-3, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    own = Trainer(model=model, args=arguments, train_dataset=pairs, data_collator=PairCollator(tiny_processor))
    result = own.train()
    assert result.global_step == 4 and result.training_loss > 0
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize(
    ("device", "precision", "native", "told"),
    [("cpu", "bf16", False, 1), ("cpu", "bf16", True, 0), ("cpu", "no", False, 0), ("cuda", "bf16", False, 0)],
)
def test_bf16_that_the_processor_has_not_is_said(device, precision, native, told, monkeypatch, caplog):
    monkeypatch.setattr(OneDNN, "serves", lambda device, dtype: native)
    failures.warn_of_emulation(SimpleNamespace(device=torch.device(device), mixed_precision=precision))
    assert [record.message.endswith("--mixed_precision no.") for record in caplog.records] == [True] * told
