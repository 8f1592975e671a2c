"""`scripts/ablations/reproduce_tables.py`: every variant once, nothing half, nothing twice, nothing invented."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny import build_tiny_model

from modeling_pjvlt import PJVLTConfig, PJVLTModel
from modeling_pjvlt.data.pairs.cropping import FramePair, PairCropper
from modeling_pjvlt.data.pairs.mixture import TrackingPairs
from modeling_pjvlt.evaluation.published import published_ablations
from modeling_pjvlt.training.command_line import parse_arguments

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "ablations"))

import reproduce_tables as script
import table_launch
import table_plan
import table_report
from table_pairs import DrawnOnce
from table_variants import PAPERS, TINY, build_tables, build_variants


@pytest.fixture
def plan(tmp_path):
    """The tiny preset, kept in a folder of the test."""
    return script.build_plan(script.build_parser().parse_args(["--output", str(tmp_path / "tables")]))


@pytest.fixture
def trained(monkeypatch):
    """List of (variant, seed) that were "trained"; training and scoring themselves are left out."""
    calls = []

    def train(args, pairs=None):
        calls.append((Path(args.output_dir).name.rpartition("-seed")[0], args.seed))
        folder = Path(args.output_dir) / "checkpoints" / f"{args.max_train_steps:06d}" / "pretrained_model"
        folder.mkdir(parents=True)
        lines = [{"step": step, "loss": 1.0 + args.seed} for step in (10, args.max_train_steps)]
        log = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 400, "validation_auc": 0.5}])
        (Path(args.output_dir) / "log.jsonl").write_text(log)
        return folder

    monkeypatch.setattr(script, "train", train)
    monkeypatch.setattr(script, "score", lambda plan, checkpoint: dict.fromkeys(table_report.COLUMNS, 0.5))
    monkeypatch.setattr(script, "write_start", lambda plan, variant, seed: None)
    return calls


def run(plan, *arguments: str) -> int:
    return script.main([*arguments, "--output", str(plan.folder.parent), "--num_proc", "1"])


def test_variants_are_models_that_can_be_built_and_all_differ(plan):
    variants = build_variants(4)
    for variant in variants.values():
        config = PJVLTConfig(**plan.settings_of(variant, 0)["model_config"])
        assert config.uses_language == (variant.name not in ("none", "without-saiel"))
        assert variant.start is None or not PJVLTConfig(**variants[variant.start].overrides).uses_language
    prints = {plan.fingerprint(variant, seed) for variant in variants.values() for seed in (0, 1)}
    assert len(prints) == 2 * len(variants)


@pytest.mark.parametrize("depth", [4, 12])
def test_tables_hold_every_variant_and_no_unknown_one(depth):
    variants, tables = build_variants(depth), build_tables(depth)
    assert {name for table in tables.values() for _, name in table.rows} == set(variants)
    assert len(tables["3"].rows) == depth
    neither = PJVLTConfig(use_saiel=False, use_ccm=False, use_pim=False)
    assert neither.num_fused == PJVLTConfig(fusion="none").num_fused == 0  # why table IV's first row is `none`
    papers = {name for key in PAPERS for _, name in build_tables(12, ours=False)[key].rows}
    assert papers == set(published_ablations("lasot")) == set(published_ablations("got10k")) and len(papers) == 14


def test_every_variant_is_trained_once_and_starts_after_what_it_starts_from(plan, trained):
    assert run(plan, "--seeds", "0") == 0
    papers = {name for name, _ in trained}
    assert papers == set(build_variants(4)) - {"residual", "literal-on-none", "residual-on-none", "identity", "zero"}
    assert run(plan, "--seeds", "0", "--ours") == 0
    names = [name for name, _ in trained]
    assert sorted(names) == sorted(build_variants(4))
    assert names.index("none") < names.index("residual-on-none")
    trained.clear()
    run(plan, "--table", "residual", "--seeds", "1")
    expected = {"none", "progressive", "residual", "literal-on-none", "residual-on-none"}
    assert {name for name, _ in trained} == expected


def test_finished_variants_are_not_trained_again_unless_a_setting_changed(plan, trained, capsys):
    run(plan, "--table", "5", "--seeds", "0")
    assert len(trained) == 3
    run(plan, "--table", "5", "--seeds", "0", "1")
    assert trained[3:] == [("progressive", 1), ("sum", 1), ("product", 1)]
    run(plan, "--table", "5", "--seeds", "0", "--max_train_steps", "50")
    assert len(trained) == 9
    capsys.readouterr()
    run(plan, "--table", "5", "--print")
    assert "cannot be compared" in capsys.readouterr().out


def test_a_killed_run_leaves_no_half_result(plan, trained, monkeypatch, capsys):
    whole = script.train

    def interrupted(args, pairs):  # what `train` does when a signal comes: a checkpoint of the step under way
        return whole(SimpleNamespace(**{**vars(args), "max_train_steps": 7}))

    monkeypatch.setattr(script, "train", interrupted)
    assert run(plan, "--table", "5", "--seeds", "0") == 130
    assert "run it again" in capsys.readouterr().err
    assert table_report.read_results(plan) == {} and not (plan.folder / "results.json").exists()
    monkeypatch.setattr(script, "train", whole)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(plan, "--table", "5", "--seeds", "0") == 130
    assert table_report.read_results(plan) == {}


def test_trained_but_not_scored_is_only_scored(plan, trained, monkeypatch):
    run(plan, "--table", "5", "--seeds", "0")
    plan.result_path("sum", 0).unlink()
    assert run(plan, "--table", "5", "--seeds", "0") == 0
    assert len(trained) == 3 and plan.finished(plan.variants["sum"], 0)


def test_a_loss_that_is_not_finite_fails_its_variant_and_those_that_start_from_it(plan, trained, monkeypatch, capsys):
    whole = script.train

    def train(args, pairs):
        if args.model_config and args.model_config.get("fusion") == "none":
            raise FloatingPointError("the loss is nan")
        return whole(args)

    monkeypatch.setattr(script, "train", train)
    assert run(plan, "--table", "residual", "--seeds", "0") == 1
    assert {name for name, _ in trained} == {"progressive", "residual"}
    captured = capsys.readouterr()
    assert "the loss is nan" in captured.err and captured.out.count("| 0 of 1 |") == 2


def test_missing_cells_are_open_and_unknown_numbers_are_dashes(plan, trained, capsys):
    run(plan, "--table", "5", "--seeds", "0", "1")
    plan.result_path("sum", 1).unlink()
    plan.result_path("product", 0).unlink()
    plan.result_path("product", 1).unlink()
    capsys.readouterr()
    assert script.main(["--table", "5", "--print", "--seeds", "0", "1", "--output", str(plan.folder.parent)]) == 0
    out = capsys.readouterr().out
    metrics = " | ".join(["0.500 ± 0.000"] * 4)
    assert f"| concat | {metrics} | 1.500 ± 0.500 | 2 of 2 |" in out
    assert "| sum | 0.500 | 0.500 | 0.500 | 0.500 | 1.000 | 1 of 2 |" in out
    assert "| product | open | open | open | open | open | 0 of 2 |" in out
    assert table_report.TINY_NOTE in out


def test_all_results_are_in_one_file(plan, trained):
    run(plan, "--table", "5")
    written = json.loads((plan.folder / "results.json").read_text())
    assert written["note"] == table_report.TINY_NOTE and set(written["variants"]) == {"progressive", "sum", "product"}
    assert [result["seed"] for result in written["variants"]["sum"]] == [0, 1]


@pytest.mark.parametrize("variant", build_variants(4).values(), ids=lambda v: v.name)
def test_trained_model_without_language_fills_all_vision_tensors(variant):
    if not PJVLTConfig(**variant.overrides).num_fused:
        pytest.skip("nothing is added")
    sizes = {"num_hidden_layers": 4}
    source = build_tiny_model(seed=1, stirred=True, **sizes, fusion="none")
    source.head.score[1].running_mean.fill_(3.0)
    target = build_tiny_model(seed=2, **sizes, **variant.overrides)
    untrained = {name: value.clone() for name, value in target.state_dict().items()}
    matched = script.graft(source, target)
    for name, value in target.state_dict().items():
        new = ".fusion." in name or name.startswith("text_encoder.")
        assert (name in matched) != new, name
        torch.testing.assert_close(value, untrained[name] if new else source.state_dict()[name], rtol=0, atol=0)


def test_a_tensor_without_a_place_is_an_error():
    with pytest.raises(ValueError, match="lacks"):
        script.graft(build_tiny_model(fusion="none", num_hidden_layers=4), build_tiny_model())


def test_start_is_a_checkpoint_that_training_loads(plan, monkeypatch, tiny_processor):
    small = {"hidden_size": 32, "intermediate_size": 32, "saiel_hidden_size": 16, "pim_hidden_size": 16}
    plan.settings["model_config"].update(small)
    none, variant = plan.variants["none"], plan.variants["residual-on-none"]
    trained = PJVLTModel(PJVLTConfig(**plan.settings_of(none, 0)["model_config"]))
    trained.save_pretrained(plan.folder / "runs" / "trained")
    result = {"fingerprint": plan.fingerprint(none, 0), "checkpoint": "runs/trained"}
    table_plan.write_json(plan.result_path("none", 0), result)
    script.write_start(plan, variant, 0)
    args = script.training_arguments(plan, variant, 0)
    assert args.model_config is None
    start = PJVLTModel.from_pretrained(args.model_name_or_path)
    assert start.config.fusion_residual and start.config.uses_language
    for name, value in trained.state_dict().items():
        assert torch.equal(start.state_dict()[name], value), name
    assert not list((plan.folder / "starts").glob(".*"))


def test_pairs_are_drawn_once_and_read_back_the_same(tiny_processor, tmp_path):
    class Noise:
        drawn = 0

        def draw(self, rng):
            self.drawn += 1
            frames = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
            return FramePair(frames[0], np.array([10, 12, 9, 9]), frames[1], np.array([20, 9, 9, 9]), "red square")

    noise = Noise()
    pairs = TrackingPairs(noise, PairCropper(tiny_processor.image_processor), length=5)
    plain = [pairs[i] for i in range(5)]
    first, second = (DrawnOnce(pairs, tmp_path / "pairs") for _ in range(2))
    assert len(first) == 5 and first[1]["text"] == plain[1]["text"]
    drawn = noise.drawn
    for i in (3, 0, 4):
        assert second[i].keys() == plain[i].keys() and second[i]["text"] == plain[i]["text"]
        assert all(torch.equal(second[i][n], plain[i][n]) for n in plain[i] if n != "text")
    with pytest.raises(IndexError):
        second[5]
    assert noise.drawn == drawn == 10 and len(list((tmp_path / "pairs").iterdir())) == 1


def commands(out: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  pjvlt-train ")]


def test_dry_run_names_changes_and_commands_that_parse(plan, capsys, trained):
    assert run(plan, "--dry_run", "--ours", "--seeds", "0") == 0
    out = capsys.readouterr().out
    assert "late, seed 0 (table 2): fusion=late" in out and not trained and not plan.folder.exists()
    for command, (variant, seed) in zip(
        commands(out), [(v, 0) for v in script.wanted_variants(plan, list(script.TABLES))], strict=True
    ):
        assert parse_arguments(command) == script.training_arguments(plan, variant, seed)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Function: the script with the base preset and a small recipe; `base.calls` are the modules that it launched."""
    recipe = {
        "vision_backbone": "vit_base_patch16_224.mae", "text_backbone": "google-bert/bert-base-uncased",
        "output_dir": "elsewhere", "max_train_steps": 140, "lr_scheduler_type": "step", "lr_drop_step": 112, "seed": 3,
        "global_batch_size": 128, "dataset_name": "converted/lasot", "model_config": {"modulation_init": "zero"},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))

    def call(*arguments: str) -> int:
        settings = ["--preset", "base", "--config", str(path), "--output", str(tmp_path), "--num_processes", "8"]
        return script.main([*settings, *arguments])

    def launch(module, words, num_processes):
        call.calls.append((module.rpartition(".")[2], num_processes, words))
        if module.endswith("train"):
            args = parse_arguments(words)
            folder = Path(args.output_dir) / "checkpoints" / f"{args.max_train_steps:06d}" / "pretrained_model"
            folder.mkdir(parents=True)
            (Path(args.output_dir) / "log.jsonl").write_text('{"step": 140, "loss": 1.5}\n')
            return
        folder = Path(words[words.index("--output_dir") + 1]) / "lasot"
        folder.mkdir(parents=True)
        if "--submission" in words:
            (folder / "got10k.zip").write_bytes(b"")
        else:
            scores = {"auc": 60.04, "precision": 50.0, "normalized_precision": 55.5}
            (folder / "lasot").mkdir()
            (folder / "lasot" / "report.json").write_text(json.dumps({"results": [{"scores": scores}]}))

    call.calls = []
    monkeypatch.setattr(script, "launch", launch)
    return call


def test_base_changes_only_the_config_of_its_recipe(base, capsys):
    assert base("--dry_run", "--max_train_steps", "70", "--dataset_name", "other/lasot") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  accelerate launch")]
    assert len(lines) == 14 and not base.calls
    for line in lines:
        words = shlex.split(line)
        assert words[2:5] == ["--multi_gpu", "--num_processes", "8"]
        args = parse_arguments(words[words.index("modeling_pjvlt.cli.train") + 1 :])
        assert (args.max_train_steps, args.lr_drop_step, args.seed, args.dataset_name) == (70, 56, 0, ["other/lasot"])
        assert args.global_batch_size == 128 and args.model_config["modulation_init"] == "zero"
        assert args.vision_backbone == "vit_base_patch16_224.mae" and len(args.model_config) <= 3
    assert base("--dry_run", "--ours") == 0
    assert capsys.readouterr().out.count("  accelerate launch") == len(build_variants(12))


def test_base_is_launched_scored_by_its_protocol_and_printed_beside_the_papers_numbers(base, capsys):
    assert base("--table", "5") == 0
    assert [(name, number) for name, number, _ in base.calls] == [("train", 8), ("evaluate", 8)] * 3
    words = base.calls[1][2]
    assert words[words.index("--protocol") + 1] == "pytracking_lasot" and words[words.index("--split") + 1] == "test"
    out = capsys.readouterr().out
    assert "| `saiel_fusion` | AUC, here | NP, here | P, here | AUC, paper | NP, paper | P, paper |" in out
    assert "| sum | 60.0 | 55.5 | 50.0 | 65.6 | 74.8 | 70.6 | 1.500 | 1 of 1 |" in out
    assert "protocol pytracking_lasot" in out
    assert base("--table", "5") == 0 and len(base.calls) == 6  # nothing again


def test_got10k_leaves_an_archive_for_its_server(base, capsys):
    assert base("--table", "4", "--dataset", "got10k", "--sentences", "words.tsv") == 0
    words = base.calls[1][2]
    assert words[-4:] == ["--submission", "got10k", "--sentences", "words.tsv"]
    out = capsys.readouterr().out
    assert "| on, off | open | open | open | 72.0 | 81.9 | 68.8 | 1.500 | 1 of 1 |" in out
    assert out.count("To submit: ") == 4 and "got10k.zip" in out


def test_a_launch_that_fails_fails_its_variant_alone(base, monkeypatch, capsys):
    whole = script.launch

    def launch(module, words, num_processes):
        if "sum" in " ".join(words):
            raise FloatingPointError(f"{module} ended with code 2; its output is above")
        whole(module, words, num_processes)

    monkeypatch.setattr(script, "launch", launch)
    assert base("--table", "5") == 1
    captured = capsys.readouterr()
    assert "sum, seed 0: failed: modeling_pjvlt.cli.train ended with code 2" in captured.err
    assert "| product | 60.0 |" in captured.out and "| sum | open |" in captured.out


def test_processes_that_cannot_share_the_global_batch_are_refused_before_anything_starts(base, capsys):
    assert base("--num_processes", "7") == 2 and not base.calls
    assert "--global_batch_size 128 cannot be shared evenly by 7 processes" in capsys.readouterr().err


def test_a_failed_launch_is_told_with_its_code():
    with pytest.raises(FloatingPointError, match="this_is_no_module ended with code 1"):
        table_launch.launch("this_is_no_module", [], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "7"], "invalid choice"),
        (["--config", "missing.yaml", "--preset", "base"], "no recipe at missing.yaml"),
        (["--max_train_steps", "0"], "--max_train_steps must be at least 1"),
        (["--dataset_name", "lasot"], "goes with --preset base"),
        (["--num_proc", "0"], "--num_proc must be at least 1"),
        (["--preset", "base", "--num_processes", "0"], "--num_processes must be at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, tmp_path, capsys):
    try:
        code = script.main([*arguments, "--output", str(tmp_path)])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("reproduce_tables: error: ") and message in error and error.count("\n") == 1


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as exit:
        script.main(["--help"])
    assert exit.value.code == 0 and "--dry_run" in capsys.readouterr().out


def test_preset_is_not_changed_by_a_run(plan, trained):
    before = json.dumps(TINY, sort_keys=True)
    run(plan, "--table", "5", "--seeds", "0", "--max_train_steps", "20")
    assert json.dumps(TINY, sort_keys=True) == before
