"""OSTrack's checkpoints as ours: against a slow transcription of the published network, with random weights."""

import sys
import types

import numpy as np
import pytest
import torch
from tiny import build_tiny_config, stir
from torch.nn import functional
from torch.testing import assert_close
from transformers import BertConfig, BertModel

from modeling_pjvlt import PJVLTConfig, PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.cli.convert_weights import main

DEPTH, HIDDEN, HEADS, PATCH, TEMPLATE, SEARCH, CHANNELS = 2, 128, 2, 8, 16, 32, 16
BRANCHES = {"ctr": 1, "offset": 2, "size": 2}


def random_weights(search: int = SEARCH) -> dict[str, torch.Tensor]:
    """A small OSTrack's weights by its own names, of such a size that every one of them matters."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int, mean: float = 0.0, std: float = 0.1) -> torch.Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    weights = {
        "backbone.cls_token": noise(1, 1, HIDDEN),
        "backbone.pos_embed": noise(1, 197, HIDDEN),
        "backbone.pos_embed_z": noise(1, (TEMPLATE // PATCH) ** 2, HIDDEN),
        "backbone.pos_embed_x": noise(1, (search // PATCH) ** 2, HIDDEN),
        "backbone.patch_embed.proj.weight": noise(HIDDEN, 3, PATCH, PATCH),
        "backbone.patch_embed.proj.bias": noise(HIDDEN),
        "backbone.norm.weight": noise(HIDDEN, mean=1.0),
        "backbone.norm.bias": noise(HIDDEN),
    }
    for n in range(DEPTH):
        sizes = {"attn.qkv": (3 * HIDDEN, HIDDEN), "attn.proj": (HIDDEN, HIDDEN)}
        sizes |= {"mlp.fc1": (4 * HIDDEN, HIDDEN), "mlp.fc2": (HIDDEN, 4 * HIDDEN)}
        for part, shape in sizes.items():
            weights[f"backbone.blocks.{n}.{part}.weight"] = noise(*shape)
            weights[f"backbone.blocks.{n}.{part}.bias"] = noise(shape[0])
        for part in ("norm1", "norm2"):
            weights[f"backbone.blocks.{n}.{part}.weight"] = noise(HIDDEN, mean=1.0)
            weights[f"backbone.blocks.{n}.{part}.bias"] = noise(HIDDEN)
    for branch, outputs in BRANCHES.items():
        inputs = HIDDEN
        for k in range(1, 5):
            channels = CHANNELS // 2 ** (k - 1)
            prefix = f"box_head.conv{k}_{branch}"
            weights[f"{prefix}.0.weight"] = noise(channels, inputs, 3, 3)
            weights[f"{prefix}.0.bias"] = noise(channels)
            weights[f"{prefix}.1.weight"] = noise(channels, mean=1.0)
            weights[f"{prefix}.1.bias"] = noise(channels, mean=0.3)
            weights[f"{prefix}.1.running_mean"] = noise(channels)
            weights[f"{prefix}.1.running_var"] = noise(channels).abs() + 0.5
            weights[f"{prefix}.1.num_batches_tracked"] = torch.tensor(7)
            inputs = channels
        weights[f"box_head.conv5_{branch}.weight"] = noise(outputs, inputs, 1, 1, std=0.7)
        weights[f"box_head.conv5_{branch}.bias"] = noise(outputs)
    return weights


def slow_ostrack(weights: dict, template: torch.Tensor, search: torch.Tensor) -> list[torch.Tensor]:
    """Score, offset and size maps as the paper and its code describe them: one image at a time, one head at a time."""
    maps = [_slow_image(weights, z, x) for z, x in zip(template, search, strict=True)]
    return [torch.stack(part) for part in zip(*maps, strict=True)]


def _slow_image(weights: dict, template: torch.Tensor, search: torch.Tensor) -> list[torch.Tensor]:
    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scale = (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    tokens = []
    for image, table in ((template, "backbone.pos_embed_z"), (search, "backbone.pos_embed_x")):
        kernel = weights["backbone.patch_embed.proj.weight"].reshape(HIDDEN, -1)
        for row in range(image.shape[1] // PATCH):
            for column in range(image.shape[2] // PATCH):
                patch = image[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].reshape(-1)
                place = weights[table][0, row * (image.shape[2] // PATCH) + column]
                tokens.append(kernel @ patch + weights["backbone.patch_embed.proj.bias"] + place)
    x = torch.stack(tokens)
    for n in range(DEPTH):
        name = f"backbone.blocks.{n}"
        q, k, v = linear(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).split(HIDDEN, dim=1)
        width, heads = HIDDEN // HEADS, []
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            heads.append((q[:, part] @ k[:, part].T / width**0.5).softmax(dim=1) @ v[:, part])
        x = x + linear(f"{name}.attn.proj", torch.cat(heads, dim=1))
        x = x + linear(f"{name}.mlp.fc2", functional.gelu(linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", x))))
    grid = search.shape[1] // PATCH
    searched = norm("backbone.norm", x)[-grid * grid :]
    outputs = []
    for branch in BRANCHES:
        field = torch.stack([row.reshape(grid, grid) for row in searched.T])[None]
        for k in range(1, 5):
            name = f"box_head.conv{k}_{branch}"
            field = functional.conv2d(field, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"], padding=1)
            mean, variance = (weights[f"{name}.1.running_{part}"][:, None, None] for part in ("mean", "var"))
            field = (field - mean) / (variance + 1e-5).sqrt()
            field = field * weights[f"{name}.1.weight"][:, None, None] + weights[f"{name}.1.bias"][:, None, None]
            field = field.clamp(min=0)
        name = f"box_head.conv5_{branch}"
        field = functional.conv2d(field, weights[f"{name}.weight"], weights[f"{name}.bias"])[0]
        outputs.append(field if branch == "offset" else (1 / (1 + (-field).exp())).clamp(1e-4, 1 - 1e-4))
    return outputs


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint file as the authors' trainer writes it, with objects of classes that nobody here can import."""
    trainer = types.ModuleType("lib.train.admin.settings")
    trainer.Settings = type("Settings", (), {"__module__": trainer.__name__})
    settings = trainer.Settings()
    settings.env, settings.project_path = {"workspace_dir": "/somewhere"}, "train/ostrack"
    content = {"epoch": 300, "net_type": "OSTrack", "net": random_weights(), "settings": settings}
    content["stats"] = {"train": {"Loss/total": np.float64(0.5)}}
    path = tmp_path / "OSTrack_ep0300.pth.tar"
    with monkeypatch.context() as patch:
        for name in ("lib", "lib.train", "lib.train.admin"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, trainer.__name__, trainer)
        torch.save(content, path)
    return path


@pytest.fixture
def tracker(checkpoint, tmp_path, capsys):
    """The converted folder."""
    assert main(["ostrack", str(checkpoint), "--output", str(tmp_path / "ostrack")]) == 0
    capsys.readouterr()
    return tmp_path / "ostrack"


@pytest.fixture
def bert_folder(tmp_path):
    torch.manual_seed(4)
    config = BertConfig(**{k: v for k, v in build_tiny_config().text_config.to_dict().items() if k != "model_type"})
    stir(BertModel(config)).save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


def crops(seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"template_pixel_values": TEMPLATE, "pixel_values": SEARCH}
    return {name: torch.randn(2, 3, size, size, generator=generator) for name, size in sizes.items()}


@torch.no_grad()
@pytest.mark.parametrize("form", ["model", "inference form"])
def test_converted_tracker_gives_the_maps_of_the_published_network(form, tracker):
    model, inputs = PJVLTModel.from_pretrained(tracker), crops()
    expected = slow_ostrack(random_weights(), inputs["template_pixel_values"], inputs["pixel_values"])
    if form == "model":
        output = model(**inputs)
        maps = [output.score_map, output.offset_map, output.size_map]
    else:
        prepared = model.prepare_for_tracking()
        maps = prepared(inputs["pixel_values"], prepared.template(inputs["template_pixel_values"]), None)[:3]
    differences = []
    for ours, theirs in zip(maps, expected, strict=True):
        assert theirs.std() > 0.01  # or equal maps would say nothing
        differences.append(float((ours - theirs).abs().max()))
        assert_close(ours, theirs, atol=1e-5, rtol=0)
    print(f"largest differences of score, offset and size maps from OSTrack ({form}): {differences}")
    assert expected[1].min() < 0  # the offset is not bounded


def test_converted_folder_says_what_it_is_and_tracks(tracker):
    config, processor = PJVLTConfig.from_pretrained(tracker), PJVLTProcessor.from_pretrained(tracker)
    assert (config.fusion, config.offset_activation, config.head_channels) == ("none", "identity", [16, 8, 4, 2])
    images = processor.image_processor
    assert (images.template_size, images.search_size, images.template_factor, images.search_factor) == (16, 32, 2, 4)
    card = (tracker / "README.md").read_text(encoding="utf-8")
    assert "license: mit" in card and "Nothing is eliminated" in card
    session = TrackingSession(PJVLTModel.from_pretrained(tracker), processor)
    frames = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
    session.add_target(frames[0], box=[20, 12, 16, 14])
    (target,) = session.step(frames[1])
    assert np.isfinite(target.box).all()


def test_large_search_region_of_the_published_384_is_five_targets_wide(tmp_path):
    from modeling_pjvlt.convert_ostrack_weights import convert

    torch.save({"net": random_weights(search=384)}, tmp_path / "ostrack.pth")
    convert(tmp_path / "ostrack.pth", tmp_path / "converted")
    assert PJVLTProcessor.from_pretrained(tmp_path / "converted").image_processor.search_factor == 5


class Runs:
    """Runs a function when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))


def test_nothing_in_the_file_is_executed(tmp_path, capsys):
    marker = tmp_path / "executed"
    torch.save({"net": random_weights(), "settings": Runs(marker)}, tmp_path / "bad.pth.tar")
    assert main(["ostrack", str(tmp_path / "bad.pth.tar"), "--output", str(tmp_path / "out")]) == 2
    assert "holds more than tensors" in capsys.readouterr().err and not marker.exists()
    torch.load(tmp_path / "bad.pth.tar", weights_only=False)
    assert marker.exists()  # the file would have done it


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"nothing", "not a checkpoint that torch reads"),
        (
            {"net": {"conv.weight": torch.zeros(2)}},
            "not OSTrack: there is no backbone.pos_embed_z among its 1 weights",
        ),
        ("no head", "there is no box_head.conv1_ctr.0.weight"),
        ("more", "for backbone.scale it has (3,), and nothing was expected"),
        ("less", "for norm.bias it has nothing, and (128,) was expected"),
    ],
)
def test_what_is_no_ostrack_is_refused_in_one_sentence_and_nothing_is_written(content, message, tmp_path, capsys):
    path, weights = tmp_path / "checkpoint.pth.tar", random_weights()
    if content == "no head":
        content = {"net": {name: value for name, value in weights.items() if not name.startswith("box_head")}}
    elif content == "more":
        content = {"net": weights | {"backbone.scale": torch.zeros(3)}}
    elif content == "less":
        content = {"net": {name: value for name, value in weights.items() if name != "backbone.norm.bias"}}
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert main(["ostrack", str(path), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not any(p.name not in ("checkpoint.pth.tar",) for p in tmp_path.iterdir())


def test_folder_in_use_is_left_alone(checkpoint, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["ostrack", str(checkpoint), "--output", str(tmp_path / "mine")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@torch.no_grad()
def test_language_model_starts_from_the_tracker_and_close_to_it(tracker, bert_folder, caplog):
    model = PJVLTModel.from_backbones(tracker=str(tracker), text=bert_folder)
    assert model.config.fusion_residual and model.config.fusion == "progressive" and model.config.uses_language
    own = PJVLTModel.from_pretrained(tracker).state_dict()
    for name, value in model.state_dict().items():
        if name in own:
            assert_close(value, own[name], msg=name)
    words = BertModel.from_pretrained(bert_folder, add_pooling_layer=False).state_dict()
    assert_close(dict(model.text_encoder.state_dict()), dict(words))
    told = caplog.text.split("PJVLTModel: ")[1].split(". Train")[0]
    assert "saiel (" in told and "ccpil (" in told and "head (" not in told and "encoder (" not in told

    for parameter in (p for name, p in model.named_parameters() if name.endswith("layer_scale")):
        parameter.zero_()
    inputs = crops()
    output = model(**inputs, input_ids=torch.tensor([[2, 7, 8, 3]] * 2))
    for ours, theirs in zip(
        (output.score_map, output.offset_map, output.size_map),
        slow_ostrack(random_weights(), inputs["template_pixel_values"], inputs["pixel_values"]),
        strict=True,
    ):
        assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_tracker_that_does_not_fit_is_refused(tracker, bert_folder, tmp_path, tiny_model):
    sizes = {name: getattr(PJVLTConfig.from_pretrained(tracker), name) for name in (
        "hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "patch_size", "template_size",
        "search_size", "head_channels",
    )}  # fmt: skip
    text = build_tiny_config().text_config
    bounded = PJVLTConfig(**sizes, text_config=text, fusion_residual=True)
    with pytest.raises(ValueError, match="offset_activation='identity', but the config says 'sigmoid'"):
        PJVLTModel.from_backbones(tracker=str(tracker), text=bert_folder, config=bounded)
    deeper = {**sizes, "num_hidden_layers": 1, "offset_activation": "identity"}
    with pytest.raises(ValueError, match=r"does not fit the config: encoder\.layers\.1"):
        PJVLTModel.from_backbones(
            tracker=str(tracker), text=bert_folder, config=PJVLTConfig(**deeper, text_config=text)
        )
    tiny_model().save_pretrained(tmp_path / "reads")
    with pytest.raises(ValueError, match="reads sentences already"):
        PJVLTModel.from_backbones(tracker=str(tmp_path / "reads"), text=bert_folder)
    for arguments in ({"text": bert_folder}, {"vision": "vit", "tracker": "x", "text": "y"}, {"vision": "vit"}):
        with pytest.raises(ValueError, match="needs `text` and either `vision` or `tracker`"):
            PJVLTModel.from_backbones(**arguments)
