"""`health.jsonl`: token similarity, shares of the score and gradient norms against slow Python, and from step 0."""

import itertools
import json

import pytest
import torch

from modeling_pjvlt.cli.train import main
from modeling_pjvlt.training.health_checks import gradient_norms, part_of, target_share, token_similarity


def test_token_similarity_is_the_mean_cosine_of_all_pairs():
    tokens = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)) + 0.5
    cosines = [
        torch.nn.functional.cosine_similarity(sample[i], sample[j], dim=0)
        for sample in tokens
        for i, j in itertools.combinations(range(5), 2)
    ]
    torch.testing.assert_close(token_similarity(tokens), torch.stack(cosines).mean())
    assert token_similarity(tokens[:, :1].expand(-1, 5, -1)) == pytest.approx(1)
    assert token_similarity(torch.eye(5)[None]) == pytest.approx(0, abs=1e-6)


def test_target_share_is_of_the_targets_own_cell():
    scores = torch.full((2, 1, 4, 4), 0.1)
    labels = torch.tensor([[0.6, 0.1, 0.2, 0.2], [0.1, 0.9, 0.2, 0.2]])
    assert target_share(scores, labels) == pytest.approx(1 / 16)
    scores[0, 0, 0, 2], scores[1, 0, 3, 0] = 0.5, 0.9
    assert target_share(scores, labels) == pytest.approx((0.5 / 2.0 + 0.9 / 2.4) / 2)


def test_gradient_norms_by_part_make_up_the_whole(tiny_model, tiny_inputs, tiny_labels):
    model = tiny_model(stirred=True)
    model(**tiny_inputs(model.config), labels=tiny_labels()).loss.backward()
    norms = gradient_norms(model.named_parameters())
    assert list(norms) == ["vision", "text", "fusion", "head"] and all(norm > 0 for norm in norms.values())
    whole = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(torch.stack(list(norms.values())).norm(), whole)
    for name, _ in model.encoder.named_parameters():
        inside = "saiel" in name or "ccpil" in name
        assert part_of(f"encoder.{name}") == ("fusion" if inside else "vision"), name


def test_health_is_written_from_step_0_before_clipping_and_goes_on_when_resumed(recipe, tmp_path):
    def lines() -> list[dict]:
        return [json.loads(line) for line in (tmp_path / "run" / "health.jsonl").read_text().splitlines()]

    arguments = ["--config", str(recipe), "--max_train_steps", "4", "--checkpointing_steps", "2"]
    assert main(arguments) == 0
    whole = lines()
    assert [line["step"] for line in whole] == [0, 1, 2, 3]
    assert all(0 < line["target_share"] < 1 and -1 <= line["token_similarity"] <= 1 for line in whole)
    assert sum(line["gradient_head"] for line in whole) > 4 * 0.1  # the clipped norm of all parts together is 0.1
    assert main([*arguments, "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoints" / "000002")]) == 0
    assert lines() == whole


def test_tokens_that_are_alike_at_the_start_are_warned_of(recipe, caplog, monkeypatch):
    monkeypatch.setattr("modeling_pjvlt.training.health_checks.ALIKE", -1.0)
    assert main(["--config", str(recipe), "--max_train_steps", "1"]) == 0
    assert "The search tokens are nearly equal at the start (mean cosine" in caplog.text


def test_literal_equations_flatten_the_tokens_of_twelve_layers_and_a_residual_does_not(tiny_model, tiny_inputs):
    """What the check is there to see."""
    seen = {}
    for name, fields in {"literal": {}, "residual": {"fusion_residual": True}, "none": {"fusion": "none"}}.items():
        model = tiny_model(num_hidden_layers=12, **fields)
        with torch.no_grad():
            outputs = model(**tiny_inputs(model.config))
        seen[name] = float(token_similarity(outputs.last_hidden_state[:, -16:]))
    assert seen["literal"] > 0.5 + seen["none"] and abs(seen["residual"] - seen["none"]) < 0.1
