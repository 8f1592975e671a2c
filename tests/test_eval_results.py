"""Scores where the Hub looks for them: a model's card, `.eval_results`, and a benchmark's `eval.yaml`."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from miniatures import BUILDERS
from test_dataset import FEATURES, rows

from modeling_pjvlt.cli.convert import main as convert_main
from modeling_pjvlt.cli.evaluate import main
from modeling_pjvlt.data.benchmarks import BENCHMARK_PROTOCOLS, PROTOCOL_SCORES, SCORES
from modeling_pjvlt.data.dataset import TrackingDataset
from modeling_pjvlt.evaluation.protocols import PROTOCOLS, score_benchmark
from modeling_pjvlt.hub.dataset_publishing import push_dataset
from modeling_pjvlt.hub.eval_results import eval_results
from modeling_pjvlt.hub.publishing import PublishingError, push_checkpoint, push_results

FLAGS = {"absent": np.zeros(4, dtype=bool), "frame_sizes": (60, 80), "cover": np.full(4, 8)}


@pytest.fixture
def checkpoint(tiny_model, tiny_processor, tmp_path):
    for part in (tiny_model(stirred=True), tiny_processor):
        part.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def card_of(hub, repo: str) -> ModelCard:
    return ModelCard(hub.files(repo)["README.md"].decode())


def test_scores_of_every_protocol_have_names():
    boxes = {"a": np.tile([10.0, 10, 20, 20], (4, 1))}
    for name, protocol in PROTOCOLS.items():
        needed = {flag: {"a": FLAGS[flag]} for flag in protocol.needs}
        assert tuple(score_benchmark(boxes, boxes, protocol=name, **needed)) == PROTOCOL_SCORES[name]
    assert set(PROTOCOL_SCORES) == set(PROTOCOLS)
    assert {score for scores in PROTOCOL_SCORES.values() for score in scores} == set(SCORES)


def test_evaluation_adds_its_scores_to_the_model_in_one_commit(checkpoint, hub, isolated_cache, capsys):
    push_checkpoint(checkpoint, "tester/tiny", metrics={"validation/auc": 0.25})
    push_dataset(TrackingDataset(Dataset.from_dict(rows(), features=FEATURES)), "tester/lasot-like", split="test")
    before = len(hub.repo("tester/tiny").commits)
    out = isolated_cache / "out"
    command = ["--model", str(checkpoint), "--dataset_name", "tester/lasot-like", "--output_dir", str(out)]
    assert main([*command, "--push_to_hub", "tester/tiny"]) == 0
    assert "pushed to http" in capsys.readouterr().out
    assert len(hub.repo("tester/tiny").commits) == before + 1

    (report,) = out.glob("*/lasot/report.json")
    scores = json.loads(report.read_text())["results"][0]["scores"]
    results = {result.metric_type: result for result in card_of(hub, "tester/tiny").data.eval_results}
    assert results["auc"].metric_value == 0.25  # an earlier number stays
    for score in PROTOCOL_SCORES["lasot"]:
        told = results[f"lasot_{score}"]
        assert told.metric_value == pytest.approx(scores[score], abs=0.006)
        assert (told.dataset_type, told.dataset_split) == ("tester/lasot-like", "test")
    file = yaml.safe_load(hub.files("tester/tiny")[".eval_results/tester--lasot-like.yaml"])
    assert file[0] == {
        "dataset": {"id": "tester/lasot-like", "task_id": "lasot_auc"},
        "value": results["lasot_auc"].metric_value,
    }
    assert len(file) == len(PROTOCOL_SCORES["lasot"])


def test_new_scores_take_the_place_of_old_ones(checkpoint, hub):
    push_checkpoint(checkpoint, "tester/tiny")
    for value in (10.0, 20.0):
        push_results("tester/tiny", eval_results("me/lasot", "test", "lasot", {"auc": value}))
        push_results("tester/tiny", eval_results("folder", None, "lasot", {"auc": value}))
    card = card_of(hub, "tester/tiny")
    assert sorted((r.dataset_type, r.metric_value) for r in card.data.eval_results) == [
        ("folder", 20.0),
        ("me/lasot", 20.0),
    ]
    files = [name for name in hub.files("tester/tiny") if name.startswith(".eval_results")]
    assert files == [".eval_results/me--lasot.yaml"]  # a folder is no dataset of the Hub
    assert "## How to use" in card.text


def test_model_without_a_card_gets_one(hub):
    hub.add_repo("tester/bare", {"config.json": b"{}"})
    push_results("tester/bare", eval_results("me/lasot", "test", "lasot", {"auc": 10.0}))
    card = card_of(hub, "tester/bare")
    assert "visual-object-tracking" in card.data.tags and card.data.eval_results[0].metric_value == 10.0


def test_pushed_checkpoint_brings_its_scores_in_both_forms(checkpoint, hub):
    push_checkpoint(checkpoint, "tester/tiny", metrics={"me/LaSOT/lasot_auc": 12.5, "validation/auc": 0.5})
    file = yaml.safe_load(hub.files("tester/tiny")[".eval_results/me--LaSOT.yaml"])
    assert file == [{"dataset": {"id": "me/LaSOT", "task_id": "lasot_auc"}, "value": 12.5}]
    data = card_of(hub, "tester/tiny").data
    assert {r.metric_type for r in data.eval_results} == {"lasot_auc", "auc"} and data.pipeline_tag == "other"
    assert {"object-tracking", "visual-object-tracking", "vision-language-tracking"} <= set(data.tags)


def test_what_cannot_be_pushed_is_said_before_the_evaluation(checkpoint, hub, tmp_path, capsys):
    command = ["--model", str(checkpoint), "--dataset_name", "procedural", "--output_dir", str(tmp_path / "out")]
    push = [*command, "--push_to_hub", "tester/nowhere"]
    for arguments, message in (
        (push, "has no model tester/nowhere"),
        ([*push, "--max_sequences", "1"], "takes scores on all sequences only"),
        ([*push, "--text", "empty"], "add own to --text"),
        ([*command, "--push_to_hub", "a/b/c"], "a/b/c"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_refused_push_leaves_the_card_as_it_was(checkpoint, hub):
    push_checkpoint(checkpoint, "tester/tiny")
    before = hub.files("tester/tiny")
    hub.read_only.add("tester/tiny")
    with pytest.raises(PublishingError, match="403"):
        push_results("tester/tiny", eval_results("me/lasot", "test", "lasot", {"auc": 10.0}))
    assert hub.files("tester/tiny") == before


def test_bundled_checkpoints_card_gives_the_hub_the_numbers_of_its_text():
    card = ModelCard.load(Path(__file__).parent.parent / "model_card" / "pjvlt-tiny.md")
    assert len(card.data.eval_results) == 4 and "visual-object-tracking" in card.data.tags
    table = [cell.strip() for line in card.text.splitlines() if line.startswith("|") for cell in line.split("|")]
    for result in card.data.eval_results:
        assert any(f"{result.metric_value:.{digits}f}" in table for digits in (1, 3)), result


@pytest.mark.parametrize("name", ["lasot", "otb99"])
def test_benchmark_on_the_hub_lists_its_tasks(name, hub, isolated_cache):
    miniature = BUILDERS[name](isolated_cache / "raw")
    output, repo = isolated_cache / "converted", f"tester/{miniature.benchmark}"
    assert (
        convert_main([miniature.benchmark, str(miniature.root), "--output", str(output), "--push_to_hub", repo]) == 0
    )
    told = yaml.safe_load(hub.files(repo, "dataset")["eval.yaml"])
    assert set(told) == {"name", "description", "tasks"}
    expected = {f"{p}_{s}" for p in BENCHMARK_PROTOCOLS[name] for s in PROTOCOL_SCORES[p]}
    assert {task["id"] for task in told["tasks"]} == expected
    assert all((task["config"], task["split"]) == ("default", "test") for task in told["tasks"])
