"""`scripts/reproduce.md`, command by command, on miniatures of the seven benchmarks: two processes instead of eight.

The commands are the page's own. What is smaller: the recipes (a tiny model without downloads, a few steps) and the
ablations (one table). What the page has in ```text blocks is not run: other numbers of machines, and the installation.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from miniatures import BUILDERS

from modeling_pjvlt import DEFAULT_CHECKPOINT
from modeling_pjvlt.training.command_line import read_recipe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "scripts" / "reproduce.md"
TINY_MODEL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8,
    "template_size": 16, "search_size": 32, "saiel_hidden_size": 8, "num_saiel_heads": 2, "pim_hidden_size": 8,
    "head_channels": [8], "text_config": {
        "model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16,
    },
}  # fmt: skip
TINY_RUN = {
    "tokenizer_name_or_path": str(DEFAULT_CHECKPOINT), "max_train_steps": 15, "global_batch_size": 4,
    "mixed_precision": "no", "dataloader_num_workers": 0, "logging_steps": 1, "checkpointing_steps": 15,
}  # fmt: skip


def blocks() -> list[str]:
    """The page's commands, a string for each block of them."""
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def write_small_recipes(folder: Path) -> None:
    """The page's recipes, with all that is theirs but the size."""
    for path in (ROOT / "scripts" / "recipes").glob("*_base*.yaml"):
        recipe = read_recipe(str(path))
        del recipe["vision_backbone"], recipe["text_backbone"]
        recipe |= {**TINY_RUN, "model_config": {**recipe["model_config"], **TINY_MODEL}}
        if recipe["lr_scheduler_type"] == "step":
            recipe["lr_drop_step"] = 10
        if "validation_steps" in recipe:
            recipe["validation_steps"] = 15
        if "min_box_side" in recipe:
            recipe["min_box_side"] = [side / 10 for side in recipe["min_box_side"]]
        (folder / path.name).write_text(yaml.safe_dump(recipe), encoding="utf-8")


@pytest.fixture
def place(tmp_path) -> Path:
    """A copy of the scripts, `raw/` with the miniatures, and the three small files that the page names."""
    return prepare(tmp_path)


def prepare(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    write_small_recipes(tmp_path / "scripts" / "recipes")
    for name, build in BUILDERS.items():
        miniature = build(tmp_path / "raw" / name)
        if miniature.class_map:
            shutil.copy(miniature.class_map, tmp_path / "trackingnet_classmap.txt")
    for name in ("atv-2", "advSamp_Baseball_game_002-Done"):  # begin without a box, as no real test sequence does
        shutil.rmtree(next((tmp_path / "raw").rglob(name)))
    (tmp_path / "got10k_vot_exclude.txt").write_text("GOT-10k_Train_000002\n")
    sentences = [f"GOT-10k_Test_{number:06d}\tperson number {number}\n" for number in (1, 2)]
    (tmp_path / "got10k_test_sentences.tsv").write_text("".join(sentences))
    return tmp_path


def run(commands: str, place: Path) -> None:
    """Run a block with bash, two processes for eight, the smallest table for all."""
    small = commands.replace("--num_processes 8", "--num_processes 2").replace("--num_proc 16", "--num_proc 1")
    small = re.sub(r"(--preset base .*)", r"\1 --table 3", small)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(place / "cache"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", small], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{small}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def test_page_names_only_recipes_scripts_and_datasets_that_there_are():
    page = PAGE.read_text(encoding="utf-8")
    for path in set(re.findall(r"scripts/[\w/]+\.(?:yaml|py)", page)):
        assert (ROOT / path).is_file(), path
    converted = set(re.findall(r"--output (converted/\w+)", page))
    assert converted == {f"converted/{name}" for name in BUILDERS}
    assert set(re.findall(r"--dataset_name (\S+)", page)) <= converted
    for path in (ROOT / "scripts" / "recipes").glob("*_base*.yaml"):
        names = read_recipe(str(path))["dataset_name"]
        assert set([names] if isinstance(names, str) else names) <= converted


@pytest.mark.slow
def test_whole_page_works_on_miniatures(place):
    convert, probe, train, evaluate, ablate = blocks()
    run(convert, place)
    reports = {path.parent.name for path in place.glob("converted/*/conversion_report.json")}
    assert reports == set(BUILDERS)

    run(probe, place)
    assert json.loads((place / "outputs/probe/probe.json").read_text())["train"] in ("literal", "residual", "none yet")

    run(train, place)
    for name in ("pjvlt-base", "pjvlt-base-lasot", "pjvlt-base-got10k"):
        log = [json.loads(line) for line in (place / "outputs" / name / "log.jsonl").read_text().splitlines()]
        assert any("validation_auc" in line for line in log), name
        run_file = place / "outputs" / name / "checkpoints/last/training_state/run.json"
        saved = json.loads(run_file.read_text())
        assert saved["num_processes"] == 2 and saved["arguments"]["per_device_train_batch_size"] == 2

    run(evaluate, place)
    metrics = ("auc", "normalized_precision", "precision")
    for dataset in ("lasot", "lasotext", "tnl2k"):
        (path,) = (place / "outputs/table1" / dataset).glob("*/report.json")
        report = json.loads(path.read_text())
        assert all(report["results"][0]["scores"][metric] >= 0 for metric in metrics)
        assert {row["dataset"] for row in report["published"]} == {dataset}
    told = json.loads((place / "outputs/table1/got10k/raw/own/GOT-10k_Test_000002.json").read_text())
    assert told["sentence"] == "person number 2"
    assert all((place / "outputs" / name / "got10k/got10k.zip").is_file() for name in ("table1", "table1-got10k"))

    run(ablate, place)
    variants = {"progressive", "last-1"}
    lasot = json.loads((place / "outputs/tables/base-lasot/results.json").read_text())["variants"]
    assert set(lasot) == variants and all(set(metrics) <= set(runs[0]["scores"]) for runs in lasot.values())
    got10k = json.loads((place / "outputs/tables/base-got10k/results.json").read_text())["variants"]
    assert set(got10k) == variants and all(Path(place / runs[0]["archive"]).is_file() for runs in got10k.values())
