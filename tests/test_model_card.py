"""The card of a published model: true of its run, and without anything private."""

import json
import re

import numpy as np
import pytest
from huggingface_hub import ModelCard

from modeling_pjvlt.hub.model_card import describe_hardware, read_metrics, render_card

TASK = "vision-language-tracking"
SECTIONS = ["How to use", "Data", "Recipe", "Hardware", "Measured", "Limits", "Citation"]
ARGUMENTS = {
    "output_dir": "/home/somebody/outputs/mine",
    "model_name_or_path": "/data/private/checkpoints/last/pretrained_model",
    "model_config": None,
    "dataset_name": ["somebody/got10k", "/data/private/lasot", "procedural"],
    "dataset_weights": [2.0, 1.0, 1.0],
    "hub_token": "hf_never_shown",
    "push_to_hub": True,
    "hub_model_id": "tester/mine",
    "overwrite_output_dir": True,
    "seed": 7,
}


def section(card: ModelCard, title: str) -> str:
    return re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", card.text, flags=re.DOTALL)[1].strip()


def test_card_has_metadata_and_all_sections():
    card = render_card(
        "tester/card",
        ARGUMENTS,
        {"LaSOT/success_auc": 0.7125, "LaSOT/precision": 0.5, "steps": 5},
        hardware="2 x H200",
        limits=["It is slow."],
        evaluated_on="my clips",
    )
    card = ModelCard(str(card))  # as the Hub reads it
    assert re.findall(r"^## (.*)$", card.text, flags=re.MULTILINE) == SECTIONS
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "transformers" and TASK in data["tags"]
    assert data["datasets"] == ["somebody/got10k"]  # local folders and procedural clips are on no Hub
    assert "base_model" not in data
    results = {r.metric_name: (r.dataset_name, r.metric_type, r.metric_value) for r in card.data.eval_results}
    assert results == {
        "LaSOT/success_auc": ("LaSOT", "success_auc", 0.7125),
        "LaSOT/precision": ("LaSOT", "precision", 0.5),
        "steps": ("my clips", "steps", 5),
    }
    assert data["model-index"][0]["name"] == "card" and len(data["model-index"][0]["results"]) == 2
    assert "| LaSOT/success_auc | 0.7125 |" in section(card, "Measured")
    assert "lasot (a local folder)" in section(card, "Data") and "procedural clips" in section(card, "Data")
    assert section(card, "Hardware") == "2 x H200"
    assert "- It is slow." in section(card, "Limits")
    use = section(card, "How to use")
    assert 'model="tester/card", trust_remote_code=True' in use and "pipeline_class=TrackingPipeline" in use


def test_recipe_can_be_given_to_training_again():
    import yaml

    from modeling_pjvlt.training.arguments import TrainArguments

    recipe = section(render_card("tester/card", ARGUMENTS), "Recipe")
    values = yaml.safe_load(re.search(r"```yaml\n(.*?)```", recipe, flags=re.DOTALL)[1])
    assert values == {
        "output_dir": "mine",
        "model_name_or_path": "pretrained_model",
        "dataset_name": ["somebody/got10k", "lasot", "procedural"],
        "dataset_weights": [2.0, 1.0, 1.0],
        "seed": 7,
    }
    TrainArguments(**values)


@pytest.mark.parametrize(
    "path",
    ["/data/private/x", "~/private/x", "../private/x", "./x", r"C:\private\x", r"private\x", "a/private/x", "/x/"],
)
def test_paths_are_shown_by_their_last_component(path):
    arguments = {"output_dir": "a/b", "model_name_or_path": path, "dataset_name": [path], "nested": {"file": [path]}}
    for card in (render_card("tester/card", arguments), render_card("tester/card", datasets=[path])):
        assert "private" not in str(card) and ":\\" not in str(card) and "~" not in str(card)
        assert "- x (a local folder)" in card.text
        assert "datasets" not in card.data.to_dict() and "base_model" not in card.data.to_dict()


def test_folder_that_looks_like_a_hub_id_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody" / "got10k").mkdir(parents=True)
    card = render_card("tester/card", {"model_name_or_path": "somebody/base"}, datasets=["somebody/got10k"])
    assert "somebody/got10k" not in str(card) and "got10k (a local folder)" in card.text
    assert card.data.base_model == "somebody/base"


def test_card_of_an_unknown_run_says_so():
    card = render_card("tester/card")
    for title in ("Data", "Recipe", "Hardware"):
        assert section(card, title) == "Not recorded."
    assert section(card, "Measured") == "Nothing has been measured."
    assert "model-index" not in card.data.to_dict()


def test_data_that_the_package_generates_is_not_called_a_folder():
    data = section(render_card("a/b", datasets=["procedural", "photographs", "boxed_images"]), "Data")
    assert data.count("- ") == 3 and "clips made of photographs" in data and "local folder" not in data


def test_limits_follow_from_data_and_config(tiny_config):
    assert "not a tracker for real video" in section(render_card("a/b", datasets=["procedural"]), "Limits")
    assert "not a tracker for real video" not in section(render_card("a/b", datasets=["procedural", "c/d"]), "Limits")
    assert "reads English" in section(render_card("a/b", config=tiny_config()), "Limits")
    assert "does not read the sentence" in section(render_card("a/b", config=tiny_config(fusion="none")), "Limits")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True, None, [1]])
def test_metric_that_is_no_number_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="'auc' must be a finite number"):
        render_card("tester/card", metrics={"auc": value})
    (tmp_path / "metrics.json").write_text(json.dumps({"auc": value}))
    with pytest.raises(ValueError, match=r"metrics\.json: metric 'auc' must be a finite number"):
        read_metrics(tmp_path / "metrics.json")


def test_numbers_of_numpy_and_torch_are_metrics():
    import torch

    card = render_card("tester/card", metrics={"a": np.float32(0.5), "b": torch.tensor(0.25)})
    assert [result.metric_value for result in card.data.eval_results] == [0.5, 0.25]


def test_citation_and_hardware_of_the_caller():
    card = render_card("tester/card", hardware=describe_hardware(), citation="@article{pjvlt, title={…}}\n")
    assert "```bibtex\n@article{pjvlt, title={…}}\n```" in section(card, "Citation")
    assert "PyTorch" in section(card, "Hardware")
