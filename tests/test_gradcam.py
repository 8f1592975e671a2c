"""Grad-CAM and word weights: the definitions by hand, a model left as it was, and the script that draws them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pjvlt import PJVLTImageProcessor
from modeling_pjvlt.modeling_pjvlt import instance_norm
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter
from modeling_pjvlt.visualization.gradcam import search_activation, word_weights
from modeling_pjvlt.visualization.looking_inside import Look, Row, draw_figure, draw_overlay, merge_pieces, save_figure

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
import visualize

MODES = [{"fusion": mode} for mode in ("progressive", "early", "late", "none")] + [{"use_saiel": False}]


def score_behind(model, tokens, cells):
    """Logits (B,) of some cells, from the output (B, N, C) of the encoder."""
    grid = model.config.search_grid
    search = model.norm(tokens)[:, -grid * grid :].transpose(1, 2).unflatten(2, (grid, grid))
    return model.head.score(search).flatten(1).gather(1, cells[:, None])[:, 0]


def test_map_equals_grad_cam_by_finite_differences(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True).double()
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
        tokens, cells = outputs.hidden_states[-1], outputs.score_map.flatten(1).argmax(dim=1)
        patches, step = model.config.search_grid**2, 1e-5
        weights = torch.zeros(len(tokens), tokens.shape[-1], dtype=torch.float64)
        for channel in range(tokens.shape[-1]):  # the mean gradient is the slope when all search tokens move together
            shift = torch.zeros_like(tokens)
            shift[:, -patches:, channel] = step
            slope = score_behind(model, tokens + shift, cells) - score_behind(model, tokens - shift, cells)
            weights[:, channel] = slope / (2 * step * patches)
        raw = (tokens[:, -patches:] * weights[:, None]).sum(dim=-1).relu()
    assert (raw.amax(dim=1) > 0).all()
    expected = (raw / raw.amax(dim=1, keepdim=True)).unflatten(1, (4, 4)).float()
    torch.testing.assert_close(search_activation(model, inputs), expected, atol=1e-4, rtol=1e-4)


def test_map_of_the_score_is_that_of_its_logit_at_a_cell_that_the_window_picks(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    inputs, window = tiny_inputs(model.config, batch=1), torch.full((4, 4), 1e-3)
    window[3, 0] = 1.0
    tokens = model(**inputs, output_hidden_states=True).hidden_states[-1].detach().requires_grad_(True)
    score = score_behind(model, tokens, torch.tensor([12])).sigmoid().sum()
    (gradient,) = torch.autograd.grad(score, tokens)
    raw = (tokens[:, -16:] * gradient[:, -16:].mean(dim=1, keepdim=True)).sum(dim=-1).relu().detach()
    expected = (raw / raw.max()).view(1, 4, 4)
    torch.testing.assert_close(search_activation(model, inputs, window=window), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(search_activation(model, inputs), expected, atol=1e-2)
    assert torch.equal(search_activation(model, inputs, window=torch.ones(4, 4)), search_activation(model, inputs))


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: "-".join(f"{k}={v}" for k, v in mode.items()))
def test_every_layer_of_every_fusion_mode_has_a_map(tiny_model, tiny_inputs, mode):
    model = tiny_model(stirred=True, **mode)
    inputs = tiny_inputs(model.config)
    depth = len(model.encoder.all_layers())
    maps = [search_activation(model, inputs, layer) for layer in range(depth)]
    for layer, found in enumerate(maps):
        assert found.shape == (2, 4, 4) and found.dtype == torch.float32
        assert found.min() >= 0 and set(found.amax(dim=(1, 2)).tolist()) <= {0.0, 1.0}
        assert torch.equal(found, search_activation(model, inputs, layer - depth))
    assert any(found.any() for found in maps)
    assert not torch.equal(maps[0], maps[-1])
    assert len(word_weights(model, inputs)) == len(model.encoder.saiels())
    for wrong in (depth, -depth - 1):
        with pytest.raises(ValueError, match=f"no layer {wrong}: the joint encoder has {depth}"):
            search_activation(model, inputs, wrong)


def test_map_without_positive_parts_is_all_zero(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    for parameter in model.head.score.parameters():
        parameter.data.zero_()
    assert not search_activation(model, tiny_inputs(model.config)).any()


def state_of(model):
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return modules, [p.requires_grad for p in model.parameters()], [b.clone() for b in model.buffers()]


@pytest.mark.parametrize("training", [False, True])
def test_model_is_left_as_it_was(tiny_model, tiny_inputs, training):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)
    before = model(**inputs)  # transformers puts its own hooks on at the first call
    model.train(training)
    model.head.eval()
    model.embeddings.requires_grad_(False)
    (modules, needed, buffers), grad_mode = state_of(model), torch.is_grad_enabled()
    word_weights(model, inputs)
    search_activation(model, inputs, 1)
    with pytest.raises(ValueError, match="needs a sentence"):
        search_activation(model, {k: v for k, v in inputs.items() if "pixel" in k})
    with pytest.raises(ValueError, match="needs a sentence"):
        word_weights(model, {k: v for k, v in inputs.items() if "pixel" in k})
    after = state_of(model)
    assert after[:2] == (modules, needed) and torch.is_grad_enabled() == grad_mode
    assert all(torch.equal(old, new) for old, new in zip(buffers, after[2], strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(before.score_map, model.eval()(**inputs).score_map)


def test_gradients_that_were_there_stay_and_labels_do_no_harm(tiny_model, tiny_inputs, tiny_labels):
    model = tiny_model(stirred=True)
    inputs = {**tiny_inputs(model.config), "labels": tiny_labels()}
    model(**inputs).loss.backward()
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    search_activation(model, inputs)
    for old, parameter in zip(before, model.parameters(), strict=True):
        assert parameter.grad is None if old is None else torch.equal(old, parameter.grad)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_caller_may_have_switched_gradients_off(tiny_model, tiny_inputs, guard):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    images = {name: value for name, value in inputs.items() if name not in words}
    expected, weights = search_activation(model, inputs), word_weights(model, inputs)
    with guard():
        images = {name: value.clone() for name, value in images.items()}
        inputs = {**images, "text_features": model.encode_text(**words)}
        torch.testing.assert_close(search_activation(model, inputs), expected)
        for found, wanted in zip(word_weights(model, inputs), weights, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gives_about_the_same(tiny_model, tiny_inputs, dtype):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)
    exact = search_activation(model, inputs), word_weights(model, inputs)
    model = model.to(dtype)
    found = search_activation(model, inputs)
    assert found.dtype == torch.float32 and (found - exact[0]).abs().mean() < 0.05
    for low, high in zip(word_weights(model, inputs), exact[1], strict=True):
        torch.testing.assert_close(low, high, atol=0.03, rtol=0)
        torch.testing.assert_close(low.sum(dim=1), torch.ones(2))


def test_batch_of_one_equals_its_row_of_a_batch(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config, batch=3)
    maps, weights = search_activation(model, inputs), word_weights(model, inputs)
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        torch.testing.assert_close(search_activation(model, alone)[0], maps[row], atol=1e-4, rtol=1e-4)
        for one, many in zip(word_weights(model, alone), weights, strict=True):
            torch.testing.assert_close(one[0], many[row])


def test_word_weights_by_hand_and_padding_zero(tiny_model, tiny_inputs):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config, batch=3)
    seen = []
    hooks = [s.register_forward_pre_hook(lambda module, args: seen.append(args)) for s in model.encoder.saiels()]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    found = word_weights(model, inputs)
    assert len(found) == len(seen) == 3
    for saiel, (visual, keys, *_), weights in zip(model.encoder.saiels(), seen, found, strict=True):
        queries = instance_norm(visual @ saiel.query.weight.T).detach()
        for row, mask in enumerate(inputs["attention_mask"].bool()):
            expected = torch.zeros(mask.shape)
            for head in range(2):
                query, key = queries[row, -16:, 8 * head : 8 * head + 8], keys[row, head]
                expected[mask] += (query @ key[mask].T / 8**0.5).softmax(dim=-1).mean(dim=0) / 2
            torch.testing.assert_close(weights[row], expected, atol=1e-5, rtol=1e-4)
            assert not weights[row, ~mask].any()
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
        assert not weights.requires_grad


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_word_weights_are_the_models_own_attention(tiny_model, tiny_inputs, attention):
    model = tiny_model(stirred=True)
    inputs = tiny_inputs(model.config)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        own = model(**inputs, output_attentions=True).cross_attentions
    model.set_attn_implementation(attention)
    for found, weights in zip(word_weights(model, inputs), own, strict=True):
        torch.testing.assert_close(found, weights[:, :, -16:].mean(dim=(1, 2)))


def test_pieces_of_a_word_are_joined_and_their_weights_added():
    weights = np.array([[0.1, 0.2], [0.3, 0.3], [0.2, 0.1], [0.4, 0.4]])
    words, merged = merge_pieces(["[CLS]", "check", "##ered", "dog"], weights)
    assert words == ["[CLS]", "checkered", "dog"]
    np.testing.assert_allclose(merged, [[0.1, 0.2], [0.5, 0.4], [0.4, 0.4]])


def test_overlay_leaves_what_is_not_active_and_warms_the_rest():
    crop, activation = np.full((32, 32, 3), 100, np.uint8), np.zeros((4, 4))
    assert (draw_overlay(crop, activation, 64) == 100).all()
    activation[0, 3] = 1
    overlay = draw_overlay(crop, activation, 64)
    red, green, blue = overlay[4, 60].astype(int)
    assert red > 180 > green > blue and (overlay[:, :30] == 100).all() and (overlay[34:] == 100).all()


def test_frames_of_a_video_have_one_size_whether_the_target_is_seen_or_not():
    crop, words, weights = np.zeros((32, 32, 3), np.uint8), ["a", "dog"], np.array([[0.9], [0.1]])
    sizes = set()
    for box in (None, [4, 4, 8, 8]):
        look = Look(crop, np.zeros((4, 4)), [2, 2, 9, 9], box, words=words, weights=weights)
        row = Row("frame 1", crop, "a dog", [look])
        sizes.add(draw_figure([row], ["one"], top_weight=0.5, has_truth=True).size)
    assert len(sizes) == 1
    with pytest.raises(ValueError, match="a look for each of 2"):
        draw_figure([row], ["one", "two"])


def test_figure_shows_the_part_of_a_crop_that_lies_in_the_frame():
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[16:48] = (30, 140, 60)  # a wide frame, of which the target fills a large part
    look = Look(crop, np.zeros((4, 4)), inside=(0, 16, 64, 48))
    looks = {"trimmed": look, "whole": Look(crop, np.zeros((4, 4)))}
    drawn = {
        name: np.asarray(draw_figure([Row("frame 1", crop, "a dog", [one])], ["model"])) for name, one in looks.items()
    }
    green = {name: (figure == (30, 140, 60)).all(axis=2).sum() for name, figure in drawn.items()}
    cells = [figure[50:, -250:-20] for figure in drawn.values()]  # below the words about Grad-CAM
    black = [(cell == 0).all(axis=2).sum() for cell in cells]
    assert drawn["trimmed"].shape == drawn["whole"].shape and abs(green["trimmed"] - green["whole"]) < 3000
    assert black[0] == 0 and black[1] > 10_000


@pytest.mark.parametrize("box", [[10, 10, 60, 40], [0, 0, 100, 80], [90, 70, 10, 10], [45, 30, 10, 10]])
def test_part_inside_the_frame_is_where_the_crop_is_not_black(box):
    frame = torch.full((3, 80, 100), 255, dtype=torch.uint8)
    images = PJVLTImageProcessor(template_size=16, search_size=32)
    crop, place = images.crop(frame, box, images.search_factor, 64)
    left, top, right, bottom = visualize.part_inside(place, (80, 100), 64)
    assert (crop[:, top + 1 : bottom - 1, left + 1 : right - 1] > 200).all()
    crop[:, max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = 0
    assert crop.max() < 60  # of the filter at the edge


def test_saved_figure_keeps_its_colours(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    save_figure(Image.fromarray(pixels), tmp_path / "figure.png")
    difference = np.asarray(Image.open(tmp_path / "figure.png")).astype(int) - pixels
    assert np.abs(difference).max() <= 5
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_model, tiny_processor):
    """Folders of a model with words and of one without."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, mode in (("both", "progressive"), ("bare", "none")):
        tiny_model(stirred=True, fusion=mode).save_pretrained(root / name)
        tiny_processor.save_pretrained(root / name)
    return root


def test_script_draws_a_figure_of_two_clips_and_two_models(checkpoints, tmp_path, capsys):
    models = [f"Both={checkpoints / 'both'}", f"Without={checkpoints / 'bare'}"]
    output = tmp_path / "new" / "figure.png"
    visualize.main(
        ["--seed", "3", "4", "--kind", "words", "--frames", "0", "2", "--model", *models, "--output", str(output)]
    )
    image = Image.open(output)
    assert image.width > 600 and image.height > 800
    assert [path.name for path in output.parent.iterdir()] == ["figure.png"]
    assert str(output) in capsys.readouterr().out


def test_script_draws_a_video_of_all_frames(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, boxes = tmp_path / "clip.mp4", ["--box", "10", "12", "20", "16"]
    rng = np.random.default_rng(0)
    with VideoWriter(source) as writer:
        for _ in range(3):
            writer.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    arguments = [str(source), *boxes, "--text", "the white dog", "--model", str(checkpoints / "both"), "--layer", "0"]
    visualize.main([*arguments, "--every", "2", "--output", "figure.png", "--video", "out.mp4"])
    assert Image.open("figure.png").height > 200
    frames = list(read_frames("out.mp4"))
    assert len(frames) == 3 and frames[0].shape[1] > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip.mp4"], "--box X Y W H is missing"),
        (["clip.mp4", "--seed", "1", "--box", "1", "1", "5", "5"], "give either a VIDEO or --seed"),
        (["--seed", "1", "--box", "1", "1", "5", "5"], "--box needs a VIDEO"),
        (["--seed", "1", "2", "--video", "out.mp4"], "one clip"),
        (["--seed", "1", "--frames", "0", "99"], "no frame 99"),
        (["--seed", "1", "--every", "0"], "--every must be 1 or more"),
        (["--seed", "1", "--layer", "7"], "no layer 7"),
        (["--seed", "-1"], "--seed must be 0 or more"),
        (["--seed", "1", "--model", "A=MODEL", "A=MODEL"], "two models are called A"),
        (["--seed", "1", "--model", "/nowhere"], "no such checkpoint folder"),
        (["nothing.mp4", "--box", "1", "1", "5", "5"], "nothing.mp4"),
        (["--seed", "1", "--output", "figure.txt"], "figure.txt"),
    ],
)
def test_script_says_in_one_line_what_is_wrong(checkpoints, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [a.replace("MODEL", str(checkpoints / "both")) for a in arguments]
    if "--model" not in arguments:
        arguments += ["--model", str(checkpoints / "both")]
    with pytest.raises(SystemExit) as error:
        visualize.main(arguments)
    said = capsys.readouterr().err
    assert error.value.code == 2 and message in said.splitlines()[-1]
    assert not list(tmp_path.glob("*.png"))


def test_figure_never_replaces_an_image_of_the_source(tmp_path, capsys):
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    before = (tmp_path / "1.png").read_bytes()
    with pytest.raises(SystemExit):
        visualize.main([str(tmp_path), "--box", "1", "1", "20", "20", "--output", str(tmp_path / "1.png")])
    assert "1.png would be an image of" in capsys.readouterr().err
    assert (tmp_path / "1.png").read_bytes() == before


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as finished:
        visualize.main(["--help"])
    assert finished.value.code == 0
    text = capsys.readouterr().out
    for part in ("--model", "NAME=PATH", "--layer", "examples:", "Grad-CAM"):
        assert part in text
