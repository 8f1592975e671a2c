"""Every variant of the paper's ablations: it runs, learns and saves. Its equations: `test_fusion_equations.py`."""

import itertools
import math

import pytest
import torch
from tiny import build_tiny_config, build_tiny_inputs, build_tiny_labels, build_tiny_model, stir
from torch import nn
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from modeling_pjvlt import PJVLTConfig, PJVLTModel
from modeling_pjvlt.modeling_pjvlt import decode_boxes

SWITCHES = {
    "fusion": ("progressive", "early", "late", "none"),
    "num_fusion_layers": (None, 1),
    "use_saiel": (True, False),
    "saiel_fusion": ("concat", "sum", "product"),
    "use_ccm": (True, False),
    "use_pim": (True, False),
    "fusion_residual": (False, True),
}


def pairwise(switches: dict[str, tuple]) -> list[dict]:
    """Few combinations that hold every pair of values of two switches: greedily, the one with most new pairs first."""
    combinations = [dict(zip(switches, values, strict=True)) for values in itertools.product(*switches.values())]
    pairs = {i: set(itertools.combinations(combination.items(), 2)) for i, combination in enumerate(combinations)}
    missing, chosen = set().union(*pairs.values()), []
    while missing:
        best = max(pairs, key=lambda i: len(pairs[i] & missing))
        chosen.append(combinations[best])
        missing -= pairs[best]
    return chosen


def name(variant: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in variant.items())


VARIANTS = pairwise(SWITCHES)
STEM = {"stem_channels": [8], "stem_stages": [[1, 3, 2, 1, 12], [2, 5, 2, 2, 16]]}
TABLES = [  # the rows of the paper's ablation tables that pairs do not promise
    {"fusion": "progressive"},
    {"fusion": "progressive", "use_saiel": False},
    {"fusion": "progressive", "use_ccm": False, "use_pim": False},
    {"fusion": "progressive", "use_saiel": False, "use_ccm": False, "use_pim": False},
    {"stem_channels": [8, 16], "position_scale": 0.5, "attention_identity": 0.8},  # what small models start from
    {**STEM, "stem_fine_stage": 0, "offset_activation": "identity", "box_cells": 3},
    {"alignment_size": 8},
]
ALL = pytest.mark.parametrize("variant", VARIANTS + TABLES, ids=name)
FUSIONS = pytest.mark.parametrize("fusion", ["progressive", "early", "late"])


def assert_outputs_equal(ours, theirs, **tolerance):
    for field in ("score_map", "offset_map", "size_map", "last_hidden_state", "pred_boxes", "scores"):
        assert_close(ours[field], theirs[field], msg=lambda m, field=field: f"{field}: {m}", **tolerance)


def gradients(model: PJVLTModel, seed: int = 5) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one seeded backward pass, in the mode that the model is in."""
    inputs = build_tiny_inputs(model.config)
    model.zero_grad()
    torch.manual_seed(seed)
    loss = model(**inputs, labels=build_tiny_labels()).loss
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def zero_in_theory(model: PJVLTModel) -> set[str]:
    """Parameters that cannot change the output, by mathematics and not by mistake."""
    # Softmax ignores what is added to all keys alike.
    names = {
        n for n, _ in model.named_parameters() if n.endswith((".attention.k_proj.bias", ".attention.self.key.bias"))
    }
    # Batch norm subtracts the mean, and with it the bias of the convolution before it.
    for part, branch in model.head.named_children():
        names |= {f"head.{part}.{i}.bias" for i in range(len(branch) - 1) if isinstance(branch[i], nn.Conv2d)}
    # The last bias of the last PIM shifts a whole token by one number, which the final layer norm takes away.
    last = model.encoder.all_layers()[-1].fusion
    if last is not None and last.ccpil.pim is not None:
        names.add(next(n for n, p in model.named_parameters() if p is last.ccpil.pim.fc3.bias))
    return names


def fresh_like_stirred(config: PJVLTConfig) -> PJVLTModel:
    torch.manual_seed(0)
    return stir(PJVLTModel(config), std=0.05)


@ALL
def test_one_backward_pass_reaches_every_parameter(variant):
    torch.manual_seed(0)
    model = PJVLTModel(build_tiny_config(**variant)).train().double()
    _, found = gradients(model)
    missing = {n for n, _ in model.named_parameters() if n not in found}
    assert not missing, f"never touched: {sorted(missing)}"
    exempt = zero_in_theory(model)
    largest = max(float(g.abs().max()) for g in found.values())
    zero = {n for n, g in found.items() if float(g.abs().max()) < 1e-13 * largest}  # float64's rounding
    assert zero == exempt, f"no gradient: {sorted(zero - exempt)}; wrongly excepted: {sorted(exempt - zero)}"
    assert all(torch.isfinite(g).all() for g in found.values())


@ALL
@torch.no_grad()
def test_a_saved_model_comes_back_the_same(variant, tmp_path):
    model = fresh_like_stirred(build_tiny_config(**variant)).eval()
    inputs = build_tiny_inputs(model.config)
    model.save_pretrained(tmp_path)
    loaded, info = PJVLTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not loaded.training
    assert {key: getattr(loaded.config, key) for key in variant} == variant
    assert_outputs_equal(loaded(**inputs), model(**inputs), atol=0, rtol=0)


@ALL
def test_shapes_and_ranges(variant):
    model = build_tiny_model(stirred=True, **variant)
    inputs = build_tiny_inputs(model.config, batch=3)
    with torch.no_grad():
        out = model(**inputs)
    assert out.loss is None
    assert out.score_map.shape == (3, 1, 4, 4) and out.offset_map.shape == out.size_map.shape == (3, 2, 4, 4)
    assert out.pred_boxes.shape == (3, 4) and out.scores.shape == (3,)
    assert out.last_hidden_state.shape == (3, 20, 32)
    bounded = ("offset_map", "pred_boxes") if model.config.offset_activation == "sigmoid" else ()
    for field in ("score_map", "size_map", *bounded):
        assert (out[field] >= 0).all() and (out[field] <= 1).all()
    assert torch.equal(out.scores, out.score_map.flatten(1).amax(dim=1))


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant, variant):
    random_parts = {"drop_path_rate": 0.5, "attention_dropout": 0.1}  # and Gumbel noise
    torch.manual_seed(0)
    model = PJVLTModel(build_tiny_config(**variant, **random_parts)).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    loss, plain = gradients(model)
    model.load_state_dict(state)  # batch norm counts
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed_loss, checkpointed = gradients(model)
    assert checkpointed_loss == pytest.approx(loss, abs=1e-6)
    assert plain.keys() == checkpointed.keys()
    for key, gradient in plain.items():
        assert_close(checkpointed[key], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}")


def test_checkpointing_is_on_in_the_joint_layers(tiny_model):
    model = tiny_model().train()
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.encoder.all_layers())
    calls = []
    layer = model.encoder.layers[0]
    original = layer._gradient_checkpointing_func
    layer._gradient_checkpointing_func = lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs)
    gradients(model)
    assert calls == [1]


@pytest.mark.parametrize("fused", [None, 1])
def test_late_fusion_has_as_many_parameters_as_progressive(fused, tiny_model):
    late, progressive = (
        tiny_model(fusion=f, num_fusion_layers=fused).num_parameters() for f in ("late", "progressive")
    )
    assert late == progressive


@pytest.mark.parametrize(
    "variant", [{"fusion": "none"}, {"use_saiel": False}, {"use_saiel": False, "fusion": "late"}], ids=name
)
def test_no_bert_is_built_where_nothing_reads_it(variant, tiny_model, tiny_inputs):
    model = tiny_model(**variant)
    assert model.text_encoder is None
    assert not [n for n, _ in model.named_parameters() if "text" in n or "saiel" in n]
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        assert_outputs_equal(model(**inputs, input_ids=torch.ones(2, 3, dtype=torch.long)), model(**inputs))
    with pytest.raises(ValueError, match="has no language stream"):
        model.encode_text(torch.ones(2, 3, dtype=torch.long))


BAD_CONFIGS = [
    ({"fusion": "middle"}, "fusion.*middle"),
    ({"saiel_fusion": "mean"}, "saiel_fusion.*mean"),
    ({"num_attention_heads": 5}, "hidden_size.*num_attention_heads"),
    ({"num_saiel_heads": 3}, "saiel_hidden_size.*num_saiel_heads"),
    ({"template_size": 20}, "template_size.*patch_size"),
    ({"search_size": 33}, "search_size.*patch_size"),
    ({"num_fusion_layers": 0}, "num_fusion_layers.*num_hidden_layers"),
    ({"num_fusion_layers": 4}, "num_fusion_layers.*num_hidden_layers"),
    ({"patch_size": 0}, "patch_size.*positive"),
    ({"search_size": -32}, "search_size.*positive"),
    ({"num_attention_heads": 0}, "num_attention_heads.*positive"),
    ({"num_saiel_heads": 0}, "num_saiel_heads.*positive"),
    ({"num_hidden_layers": 0}, "num_hidden_layers.*positive"),
    ({"offset_activation": "tanh"}, "offset_activation.*tanh"),
    ({"box_cells": 2}, "box_cells.*2"),
    ({"box_cells": 3}, "box_cells.*offset_activation"),
    ({**STEM, "stem_channels": [8, 8]}, "stem_stages.*stem_channels"),
    ({**STEM, "stem_stages": [[1, 3, 2, 1]]}, "stem_stages.*channels"),
    ({**STEM, "patch_size": 4}, "stem_channels.*patch_size"),
    ({**STEM, "stem_fine_stage": 1}, "stem_fine_stage.*1"),
    ({"alignment_size": 0}, "alignment_size.*0"),
    ({"word_temperature": 0.0}, "word_temperature.*positive"),
    ({"text_config": {"num_hidden_layers": 0}}, "text_config.num_hidden_layers"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD_CONFIGS, ids=lambda value: str(value))
def test_a_config_that_cannot_work_names_its_fields(overrides, message, tiny_config):
    with pytest.raises(ValueError, match=message):
        tiny_config(**overrides)


@pytest.mark.parametrize("crop", ["pixel_values", "template_pixel_values"])
@pytest.mark.parametrize("bad", [(2, 3, 40, 40), (2, 1, 32, 32), (3, 32, 32)])
def test_a_crop_of_another_size_is_refused(crop, bad, tiny_model, tiny_inputs):
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    inputs[crop] = torch.zeros(bad)
    with pytest.raises(ValueError, match=f"`{crop}` must be"):
        model(**inputs)


def test_a_model_that_reads_language_asks_for_a_sentence(tiny_model, tiny_inputs):
    model = tiny_model()
    inputs = tiny_inputs(model.config)
    with pytest.raises(ValueError, match="sentence"):
        model(inputs["pixel_values"], inputs["template_pixel_values"])


@FUSIONS
@torch.no_grad()
def test_padding_words_change_nothing(fusion, tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, fusion=fusion)
    inputs = tiny_inputs(model.config, batch=3)
    expected = model(**inputs)
    generator = torch.Generator().manual_seed(7)
    for extra in (1, 5, 11):
        noise = torch.randint(0, 99, (3, extra), generator=generator)  # any ids, not only [PAD]
        ids = torch.where(
            inputs["attention_mask"].bool(), inputs["input_ids"], torch.randint(0, 99, (3, 6), generator=generator)
        )
        padded = {
            **inputs,
            "input_ids": torch.cat([ids, noise], dim=1),
            "attention_mask": torch.cat([inputs["attention_mask"], torch.zeros_like(noise)], dim=1),
        }
        assert_outputs_equal(model(**padded), expected, atol=5e-5, rtol=1e-3)


@FUSIONS
@torch.no_grad()
def test_another_sentence_changes_the_answer(fusion, tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, fusion=fusion)
    inputs = tiny_inputs(model.config)
    before = model(**inputs)
    inputs["input_ids"][0, 1] = (inputs["input_ids"][0, 1] + 1) % 99
    after = model(**inputs)
    assert (before.score_map[0] - after.score_map[0]).abs().max() > 1e-5
    assert_close(before.score_map[1], after.score_map[1])  # the other row keeps its answer


@FUSIONS
def test_eager_attention_equals_sdpa(fusion):
    model = fresh_like_stirred(build_tiny_config(fusion=fusion)).eval()
    inputs, results = build_tiny_inputs(model.config, batch=3), {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        model.zero_grad()
        out = model(**inputs, labels=build_tiny_labels(3))
        out.loss.backward()
        results[implementation] = out, {n: p.grad.clone() for n, p in model.named_parameters()}
    assert_outputs_equal(results["eager"][0], results["sdpa"][0], atol=2e-6, rtol=1e-4)
    for key, gradient in results["sdpa"][1].items():
        scale = float(gradient.abs().max())
        assert_close(
            results["eager"][1][key],
            gradient,
            atol=1e-4 * scale + 1e-5,
            rtol=1e-3,
            msg=lambda m, key=key: f"{key}: {m}",
        )


@FUSIONS
@torch.no_grad()
def test_a_batch_equals_its_rows(fusion, tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, fusion=fusion)
    inputs = tiny_inputs(model.config, batch=4)
    together = model(**inputs)
    for row in range(4):
        alone = model(**{key: value[row : row + 1] for key, value in inputs.items()})
        assert_close(alone.last_hidden_state[0], together.last_hidden_state[row], atol=1e-5, rtol=1e-4)
        assert_close(alone.pred_boxes[0], together.pred_boxes[row], atol=1e-5, rtol=1e-4)


@FUSIONS
@torch.no_grad()
def test_encoded_text_stands_for_the_sentence(fusion, tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, fusion=fusion)
    inputs = tiny_inputs(model.config)
    text = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    images = {key: value for key, value in inputs.items() if key.endswith("pixel_values")}
    expected = model(**inputs)
    model.text_encoder = nn.Identity()  # it may not be asked again
    assert_outputs_equal(model(**images, text_features=text), expected, atol=0, rtol=0)


@torch.no_grad()
def test_embedded_tokens_stand_for_the_crops(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)
    tokens = model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"])
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert_outputs_equal(model(**words, inputs_embeds=tokens), model(**inputs), atol=0, rtol=0)
    for given in ({"pixel_values": inputs["pixel_values"]}, {**inputs, "inputs_embeds": tokens}, {}):
        with pytest.raises(ValueError, match="either `pixel_values` and"):
            model(**{**words, **given})


def test_a_missing_attention_mask_means_all_words(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)
    mask = torch.ones_like(inputs.pop("attention_mask"))
    assert_outputs_equal(model(**inputs), model(**inputs, attention_mask=mask))


@torch.no_grad()
def test_gumbel_noise_only_while_training_and_from_the_global_generator(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)

    def answer(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.encode_text(inputs["input_ids"], inputs["attention_mask"]).values

    assert torch.equal(answer(0), answer(1))
    model.train()
    assert torch.equal(answer(0), answer(0))
    assert not torch.allclose(answer(0), answer(1))


@torch.no_grad()
def test_gumbel_noise_chooses_words_with_the_softmax_probabilities(tiny_model):
    """The largest of logits plus Gumbel noise is word t with probability softmax(logits)_t."""
    saiel = tiny_model(word_temperature=1e-3).encoder.saiels()[0].train()
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 2.0, 0.5, 3.0])
    value = logits[None, :, None].expand(1, 4, 20_000)
    mask = torch.tensor([[True, True, True, False]])
    chosen = (saiel.select_words(value, mask) / value)[0].mean(dim=1)
    assert_close(chosen, torch.cat([logits[:3].softmax(0), torch.zeros(1)]), atol=0.015, rtol=0)


@pytest.mark.parametrize("fusion", ["progressive", "late"])
@torch.no_grad()
def test_hidden_states_and_attentions_are_recorded(fusion, tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, fusion=fusion, num_fusion_layers=2)
    model.set_attn_implementation("eager")
    inputs = tiny_inputs(model.config)
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    late = 2 if fusion == "late" else 0
    assert [tuple(h.shape) for h in out.hidden_states] == [(2, 20, 32)] * (3 + 1 + late)
    assert_close(out.hidden_states[0], model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"]))
    assert_close(model.norm(out.hidden_states[-1]), out.last_hidden_state)
    assert [tuple(a.shape) for a in out.attentions] == [(2, 2, 20, 20)] * 3
    assert [tuple(a.shape) for a in out.cross_attentions] == [(2, 2, 20, 6)] * 2
    for weights in out.attentions + out.cross_attentions:
        assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert (out.cross_attentions[0][1, ..., 5] == 0).all()  # the second sentence is one word shorter
    plain = model(**inputs)
    assert plain.hidden_states is None and plain.attentions is None and plain.cross_attentions is None


@torch.no_grad()
def test_the_head_sees_the_search_patches_where_they_are_in_the_crop(tiny_model, tiny_inputs):
    model, seen = tiny_model(stirred=True, fusion="none"), []
    model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    inputs = tiny_inputs(model.config)
    hidden = model(**inputs).last_hidden_state
    before = model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"])
    for row, column in itertools.product(range(4), range(4)):
        token = 4 + 4 * row + column  # behind the 2 x 2 template patches
        assert torch.equal(seen[0][:, :, row, column], hidden[:, token])
        pixels = inputs["pixel_values"].clone()
        pixels[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 1
        changed = (model.embeddings(inputs["template_pixel_values"], pixels) != before).any(dim=(0, 2))
        assert changed.nonzero().flatten().tolist() == [token]


def test_boxes_are_read_at_the_highest_score_and_a_window_moves_the_choice_but_not_the_score():
    score, offset, size = torch.full((1, 1, 4, 4), 0.1), torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
    score[0, 0, 1, 3], score[0, 0, 2, 1] = 0.9, 0.8  # row, column
    window = torch.ones(4, 4)
    window[1, 3] = 0.5
    for mask, row, column, confidence in ((None, 1, 3, 0.9), (window, 2, 1, 0.8)):
        boxes, scores = decode_boxes(score, offset, size, mask)
        x, y = offset[0, :, row, column].tolist()
        expected = [(column + x) / 4, (row + y) / 4, *size[0, :, row, column].tolist()]  # Eq. 12-13
        assert_close(boxes, torch.tensor([expected]))
        assert scores.item() == pytest.approx(confidence)
    _, scores = decode_boxes(score, offset, size, torch.full((4, 4), 0.3))
    assert scores.item() == pytest.approx(0.9)


def test_eval_twice_gives_the_same_answer(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True, drop_path_rate=0.9, attention_dropout=0.9)
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        assert_outputs_equal(model(**inputs), model(**inputs), atol=0, rtol=0)


# Number types and training


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
@torch.no_grad()
def test_half_precision_stays_close(dtype, tolerance):
    """bf16 has 8 bits of mantissa: 2^-9 relative error an operation, in some ten operations on each of nine layers.

    (Three of ViT, BERT and the head together.) They add as a random walk: about 2 %. fp16 has three bits more. A
    sigmoid at most quarters the error, and its values are below 1.
    """
    model = fresh_like_stirred(build_tiny_config()).eval()
    inputs = build_tiny_inputs(model.config)
    exact = model(**inputs)
    half = model.to(dtype)(**inputs)
    assert half.last_hidden_state.dtype == dtype and half.score_map.dtype == torch.float32
    error = (half.last_hidden_state.float() - exact.last_hidden_state).norm() / exact.last_hidden_state.norm()
    assert error < tolerance
    for field in ("score_map", "offset_map", "size_map"):
        assert_close(half[field], exact[field], atol=tolerance / 4, rtol=0)


def test_loss_and_gradients_in_bfloat16_are_finite(tiny_model, tiny_inputs, tiny_labels):
    model = tiny_model().to(torch.bfloat16).train()
    out = model(**tiny_inputs(model.config), labels=tiny_labels())
    out.loss.backward()
    assert out.loss.dtype == torch.float32 and torch.isfinite(out.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("fusion", ["progressive", "none"])
def test_trainer_takes_two_steps(fusion, tmp_path):
    torch.manual_seed(0)
    model = PJVLTModel(build_tiny_config(fusion=fusion))
    inputs = {**build_tiny_inputs(model.config, batch=4), "labels": build_tiny_labels(4)}
    rows = [{key: value[row] for key, value in inputs.items()} for row in range(4)]
    before = {key: value.clone() for key, value in model.named_parameters()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, per_device_eval_batch_size=2,
        learning_rate=1e-3, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    result = trainer.train()
    assert result.global_step == 2 and math.isfinite(result.training_loss)
    still = {n for n, p in model.named_parameters() if torch.equal(before[n], p)}
    assert still <= zero_in_theory(model), still
    assert math.isfinite(trainer.evaluate()["eval_loss"])


@torch.no_grad()
def test_sentences_are_read_alike_after_bert_was_used_alone():
    """BERT alone sets transformers' hooks on itself, and the whole model then sets them once more."""
    alone, fresh = (build_tiny_model(text_config={"num_hidden_layers": 3}, alignment_size=8) for _ in range(2))
    inputs = build_tiny_inputs(alone.config)
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    alone.text_encoder(**words, output_hidden_states=True)
    for model in (alone, fresh):
        model(**inputs)  # whichever part of it sets hooks
    for name, expected in fresh.encode_text(**words).items():
        assert torch.equal(alone.encode_text(**words)[name], expected), name
