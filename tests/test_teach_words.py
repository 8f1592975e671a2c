"""`scripts/teach_words`: its losses, its data, the fusion that multiplies, and a run from start to resumption."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import build_tiny_inputs, build_tiny_model
from torch.nn import functional
from torch.testing import assert_close

from modeling_pjvlt import PJVLTImageProcessor, PJVLTModel, PJVLTProcessor
from modeling_pjvlt.data.boxed_images import BoxedImages
from modeling_pjvlt.data.pairs.cropping import PairCropper
from modeling_pjvlt.data.pairs.mixture import PairCollator, TrackingPairs, normalize_pairs
from modeling_pjvlt.data.pairs.sources import ProceduralPairs

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "teach_words"))

import product_fusion
import resize_checkpoint
import teacher
from batches import PhraseBatches
from features import PhraseCrops, StoredMaps, store_crops, store_pairs
from parts import Parts
from teach import main

HYBRID = {
    "stem_channels": [8],
    "stem_stages": [[1, 3, 2, 1, 12], [2, 5, 2, 2, 16]],
    "stem_fine_stage": 0,
    "patch_size": 16,
    "template_size": 32,
    "search_size": 64,
}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 60, 230)}


def write_images(folder: Path, count: int = 8) -> Path:
    """Images with a red object on the left, a green one on the right and a blue one below."""
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        pixels, objects = np.full((96, 120, 3), 120, np.uint8), []
        for colour, (x, y), side in (("red", (5, 8), "left"), ("green", (70, 10), "right"), ("blue", (40, 52), "low")):
            (x, y), (w, h) = (np.array([x, y]) + rng.integers(0, 8, 2)).tolist(), rng.integers(20, 32, 2).tolist()
            pixels[y : y + h, x : x + w] = COLOURS[colour]
            phrases = [f"the {colour} block", f"block on the {side}"]
            objects.append({"box": [x, y, w, h], "phrases": phrases, "category": "blocks"})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append({"file": f"{number}.png", "width": 120, "height": 96, "objects": objects})
    (folder / "boxes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_box_covers_the_cells_whose_middles_it_holds_and_its_own():
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.05, 0.95, 0.01, 0.01], [0.9, 0.3, 0.3, 1.5]])
    cells = teacher.cells_in_boxes(boxes, 4).unflatten(1, (4, 4)).int().tolist()
    assert cells[0] == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert cells[1] == [[0, 0, 0, 0]] * 3 + [[1, 0, 0, 0]]  # smaller than a cell
    assert cells[2] == [[0, 0, 0, 1]] * 4


def test_similarity_is_that_of_the_two_latents_of_the_saiel():
    """For a box of one cell: V_o and L_o (Eq. 5 and 6) there, which a SAIEL that concatenates shows to its output."""
    model = build_tiny_model(stirred=True)
    inputs = build_tiny_inputs(model.config, batch=3)
    saiel, seen = model.encoder.saiels()[0], {}
    saiel.register_forward_pre_hook(lambda module, given: seen.update(visual=given[0]))
    saiel.output.register_forward_pre_hook(lambda module, given: seen.update(fused=given[0]))
    with torch.no_grad():
        model(**inputs)
        text = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        cells, grid = torch.tensor([0, 5, 15]), model.config.search_grid
        boxes = torch.stack([(cells % grid + 0.5) / grid, (cells // grid + 0.5) / grid], dim=1)
        boxes = torch.cat([boxes, torch.full((3, 2), 0.1)], dim=1)
        rows = torch.arange(3)
        weight = torch.ones(model.config.saiel_hidden_size)
        similar = teacher.similarity(saiel, seen["visual"], boxes, rows, text, weight).diagonal()
        latent, language = seen["fused"][:, -(grid**2) :][rows, cells].chunk(2, dim=-1)
    assert_close(similar, functional.cosine_similarity(latent, language), rtol=1e-3, atol=1e-4)


def test_contrast_is_small_for_the_right_phrases_and_ignores_what_belongs_together():
    nothing = torch.zeros(3, 3, dtype=torch.bool)
    right, wrong = 9 * torch.eye(3), 9 * torch.eye(3).roll(1, 0)
    assert teacher.contrast_loss(right, nothing) < 0.01 < 8 < teacher.contrast_loss(wrong, nothing)
    assert_close(teacher.contrast_loss(torch.zeros(3, 3), nothing), torch.tensor(3.0).log())
    shared = torch.zeros(3, 3)
    shared[0, 1] = 9  # object 0 is also meant by phrase 1
    also = torch.zeros(3, 3, dtype=torch.bool)
    also[0, 1] = True
    assert teacher.contrast_loss(shared, also) < teacher.contrast_loss(shared, nothing) - 2


def build_batch(**fields):
    nothing = dict.fromkeys(teacher.PhraseBatch.__dataclass_fields__)
    return teacher.PhraseBatch(**{**nothing, **fields})


@pytest.fixture
def batch():
    """Two images of two objects; objects 1 and 2 are asked, and each image for a phrase of the other."""
    boxes = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.8, 0.2, 0.2, 0.2], [0.2, 0.8, 0.2, 0.2]])
    return build_batch(
        boxes=boxes,
        image_of=torch.tensor([0, 0, 1, 1]),
        also=torch.zeros(4, 4, dtype=torch.bool),
        asked=torch.tensor([[1], [2]]),
        foreign=torch.tensor([2, 0]),
    )


def test_right_answers_are_half_the_phrases_object_and_half_what_the_contrast_says(batch):
    logits = torch.zeros(4, 4)
    logits[0, 1] = 20  # the contrast takes object 0 for that of phrase 1
    logits[0, 2] = 20
    right, among = teacher.choices(logits, batch)
    assert among.tolist() == [[True, True, False, False], [False, False, True, True]] * 2
    expected = [[0.5, 0.5, 0, 0], [0, 0, 0.75, 0.25], [1, 0, 0, 0], [0, 0, 0.5, 0.5]]
    assert_close(right, torch.tensor(expected), atol=1e-4, rtol=0)
    batch.also[3, 2] = True  # phrase 2 means object 3, too: no question between them
    right, among = teacher.choices(logits, batch)
    assert right[1].tolist() == [0, 0, 1, 0] and among[1].tolist() == [False, False, True, False]


def test_choice_is_among_the_objects_of_the_image_alone(batch):
    logits = torch.full((4, 8, 8), -4.0)
    logits[0, 6, 6] = 2  # the asked object of image 0
    logits[0, 1, 6] = 4  # where image 1 has one
    logits[1, 6, 1] = 2  # the other object of image 1
    right, among = teacher.choices(torch.zeros(4, 4), batch)
    loss, chosen = teacher.choice_loss(logits, batch, right, among)
    assert chosen == 0.5 and loss > 1
    logits[1, 6, 1], logits[1, 1, 6] = -4, 2
    better, chosen = teacher.choice_loss(logits, batch, right, among)
    assert chosen == 1 and better < loss - 0.4


@dataclass
class Stored:
    """A tiny hybrid, and what it stored of eight images and eight pairs."""

    model: PJVLTModel
    processor: PJVLTProcessor
    pairs: TrackingPairs
    maps: tuple[StoredMaps, StoredMaps]

    def draw(self, *sizes, template=()):
        return PhraseBatches(*self.maps, template, self.processor, *sizes).draw(0)


@pytest.fixture
def stored(tmp_path, tiny_tokenizer):
    model = build_tiny_model(**HYBRID, saiel_fusion="product")
    processor = PJVLTProcessor(PJVLTImageProcessor(template_size=32, search_size=64), tiny_tokenizer)
    crops = PhraseCrops(BoxedImages([write_images(tmp_path / "boxed")]), 64, views=1)
    tools = {"model": model, "processor": processor, "num_workers": 0}
    images = store_crops(tmp_path / "images", crops, {}, **tools)
    pairs = TrackingPairs(ProceduralPairs(), PairCropper(processor.image_processor), 8)
    stored_pairs = store_pairs(tmp_path / "pairs", pairs, 8, {}, **tools)
    return Stored(model, processor, pairs, (images, stored_pairs))


def test_a_phrase_of_another_image_changes_only_what_the_contrast_answers(stored):
    model, processor, pairs, (images, stored_pairs) = stored.model, stored.processor, stored.pairs, stored.maps
    assert len(images) == 8 and stored_pairs.rows[3]["text"] == pairs[3]["text"]
    pixels = normalize_pairs(PairCollator(processor, False)([pairs[3]]), processor.image_processor)
    with torch.no_grad():
        last, fine = model.embeddings.features(pixels["pixel_values"])
    assert_close(stored_pairs.take("search", [3])[0], last, rtol=1e-2, atol=1e-2)
    assert_close(stored_pairs.take("search", [3])[1], fine, rtol=1e-2, atol=1e-2)
    drawn = stored.draw(4, 3, 2, 3, template=stored_pairs.take("template", [0]))
    assert drawn.asked.shape == (4, 2) and (drawn.image_of[drawn.asked] == torch.arange(4)[:, None]).all()
    assert (drawn.image_of[drawn.foreign] != torch.arange(4)).all()
    parts = []
    for foreign in (drawn.foreign, drawn.foreign.roll(1)):
        torch.manual_seed(0)
        parts.append(teacher.Teacher(model)(replace(drawn, foreign=foreign))[1])
    for name in ("contrast", "focal", "giou", "chosen"):
        assert_close(parts[0][name], parts[1][name], msg=name)
    assert parts[0]["choice"] != parts[1]["choice"]


def score_maps(*peaks):
    """(P, 1, 4, 4) scores of 0.05, but for the given (column, row, score) of each."""
    maps = torch.full((len(peaks), 1, 4, 4), 0.05)
    for score_map, row in zip(maps, peaks, strict=True):
        for x, y, score in row:
            score_map[0, y, x] = score
    return maps


def test_tracking_is_certain_where_one_peak_alone_is_right():
    middle, nothing = [0.3, 0.3, 0.2, 0.2], [0.0] * 4
    labels = torch.tensor([middle] * 5 + [nothing] * 2)
    wide = torch.tensor([[0.3, 0.3, 1.4, 0.2]])
    peaks = (
        [(1, 1, 0.9)],
        [(2, 2, 0.9)],
        [(3, 3, 0.9)],
        [(1, 1, 0.2)],
        [(1, 1, 0.8), (3, 1, 0.5)],
        [(3, 3, 0.4)],
        [(3, 3, 0.6)],
    )
    assert teacher.certain(score_maps(*peaks), labels).tolist() == [True, True, False, False, False, True, False]
    assert teacher.certain(score_maps(peaks[4]), wide).tolist() == [True]  # the second peak lies on the target, too


def test_maps_are_kept_only_in_the_rows_to_keep_and_boxes_only_around_targets():
    generator = torch.Generator().manual_seed(0)
    maps, targets = ([torch.rand(3, c, 4, 4, generator=generator) for c in (1, 2, 2)] for _ in range(2))
    labels = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.9, 0.9, 0.2, 0.2], [0.0] * 4])
    kept = torch.tensor([True, False, True])
    loss = teacher.kept_loss(maps, targets, labels, kept)
    assert loss > 0 and teacher.kept_loss(targets, targets, labels, kept).abs() < 1e-5
    for number, row, cells, heard in (
        (0, 1, (0, 0), False),
        (0, 0, (3, 3), True),
        (1, 0, (1, 1), True),
        (1, 0, (3, 3), False),
        (2, 2, (0, 0), False),
        (2, 1, (3, 3), False),
    ):
        changed = [part.clone() for part in maps]
        changed[number][row, :, *cells] = 1 - changed[number][row, :, *cells]
        assert (teacher.kept_loss(changed, targets, labels, kept) != loss) == heard, (number, row, cells)


def test_some_channels_of_an_image_and_some_words_of_its_phrases_are_left_out(stored, monkeypatch):
    drawn = []
    for share in (0.0, 0.5):
        monkeypatch.setattr("batches.CHANNEL_DROP", share)
        monkeypatch.setattr("batches.WORD_DROP", share)
        drawn.append(stored.draw(4, 3, 1, 4))
    whole, thinned = drawn
    for before, after in zip(whole.images, thinned.images, strict=True):
        left_out = (after == 0).all(dim=(2, 3)) & (before != 0).any(dim=(2, 3))
        assert 0 < left_out.float().mean() < 1
        assert_close(after, before * 2 * ~left_out[..., None, None])
    for before, after in zip(whole.searches, thinned.searches, strict=True):
        assert torch.equal(before, after)
    assert torch.equal(whole.input_ids, thinned.input_ids)
    read, phrases = thinned.attention_mask, len(thinned.boxes)
    assert torch.equal(read[phrases:], whole.attention_mask[phrases:])
    assert (read <= whole.attention_mask).all() and read[:phrases].sum() < whole.attention_mask[:phrases].sum()
    assert (read[:, 0] == 1).all() and (read.sum(dim=1) > 2).all()  # [CLS], [SEP] and at least one word


@pytest.mark.parametrize("seed", range(3))
def test_crops_show_their_objects_and_sides_are_swapped_when_mirrored(seed, tmp_path):
    crops = PhraseCrops(BoxedImages([write_images(tmp_path)]), 64, views=3, seed=seed)
    assert len(crops) == 3 * 8
    mirrored = set()
    for index in range(len(crops)):
        row = crops[index]
        again = crops[index]
        assert torch.equal(row["pixel_values"], again["pixel_values"]) and row["boxes"] == again["boxes"]
        middles = {}
        for (x, y, w, h), phrases in zip(row["boxes"], row["phrases"], strict=True):
            colour = phrases[0].split()[1]
            assert w > 0 and h > 0
            shown = row["pixel_values"][:, int(y * 64), int(x * 64)].int()
            assert (shown - torch.tensor(COLOURS[colour])).abs().max() < 60, (index, phrases)
            middles[colour] = x, phrases[1]
        if {"red", "green"} <= middles.keys():
            order = middles["red"][0] < middles["green"][0]
            mirrored.add(not order)
            assert middles["red"][1] == ("block on the left" if order else "block on the right")
    assert mirrored == {True, False}


def test_the_product_tracks_as_the_concatenation_with_an_average_sentence(monkeypatch):
    monkeypatch.setattr(product_fusion, "NOISE", 0.0)
    model = build_tiny_model(stirred=True)
    for saiel in model.encoder.saiels():  # one sentence for all: L_o = 0.5
        torch.nn.init.zeros_(saiel.value.weight)
        torch.nn.init.zeros_(saiel.value.bias)
        torch.nn.init.zeros_(saiel.modulation.weight)
        with torch.no_grad():
            saiel.modulation.bias.copy_(torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(saiel.visual.out_features))
    inputs = build_tiny_inputs(model.config)
    product = product_fusion.to_product(model, inputs)
    assert product.config.saiel_fusion == "product" and model.config.saiel_fusion == "concat"
    with torch.no_grad():
        assert_close(product(**inputs).score_map, model(**inputs).score_map, rtol=1e-4, atol=1e-5)
    assert product_fusion.to_product(product, inputs) is product
    for refused in ({"saiel_fusion": "sum"}, {"fusion": "none"}):
        with pytest.raises(ValueError, match=r"saiel_fusion|language"):
            product_fusion.to_product(build_tiny_model(**refused), inputs)


def test_a_sentence_is_exchanged_only_where_the_tracker_is_certain(stored, monkeypatch):
    drawn = stored.draw(3, 3, 1, 4, template=stored.maps[1].take("template", [0]))
    tracker = stored.model, stored.processor.encode_text(["the target"])
    model = build_tiny_model(**HYBRID, saiel_fusion="product", stirred=True)

    def parts(**settings):
        for name, value in settings.items():
            monkeypatch.setattr(teacher, name, value)
        torch.manual_seed(0)
        return teacher.Teacher(model, tracker)(drawn)[1]

    never = parts(EXCHANGED_SHARE=0.0, certain=lambda maps, labels: torch.ones(len(labels), dtype=torch.bool))
    always = parts(EXCHANGED_SHARE=1.0)
    nowhere = parts(certain=lambda maps, labels: torch.zeros(len(labels), dtype=torch.bool))
    assert never["focal"] == nowhere["focal"] != always["focal"]
    assert never["kept"] > 0 == nowhere["kept"]
    assert "kept" not in teacher.Teacher(model)(drawn)[1]


@pytest.fixture
def command(tiny_tokenizer, tmp_path):
    """A command line that teaches a tiny hybrid for four steps."""
    model = build_tiny_model(**HYBRID)
    images = PJVLTImageProcessor(template_size=32, search_size=64)
    for saved in (model, PJVLTProcessor(images, tiny_tokenizer)):
        saved.save_pretrained(tmp_path / "start")
    fields = {
        "dataset_name": ["boxed_images", "procedural"],
        "boxed_images": [str(write_images(tmp_path / "boxed"))],
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 3,
        "max_train_steps": 4,
        "checkpointing_steps": 2,
        "num_warmup_steps": 1,
        "logging_steps": 2,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    words = [str(tmp_path / "start"), "--config", str(tmp_path / "recipe.yaml")]
    return [*words, "--features", str(tmp_path / "features"), "--pairs", "8", "--views", "1", "--images", "3"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return PJVLTModel.from_pretrained(folder, dtype=torch.float32).state_dict()


def test_a_run_teaches_all_but_the_stem_and_a_stopped_one_ends_as_if_it_had_not_been(command, tmp_path, capsys):
    assert main([*command, "--lr_scheduler_type", "constant_with_warmup"]) == 0
    last = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    before, after = weights(tmp_path / "start"), weights(last)
    assert PJVLTModel.from_pretrained(last).config.saiel_fusion == "product"
    for name in after:
        if name.startswith("embeddings.stem."):
            assert torch.equal(after[name], before[name]), name
    for name in ("encoder.layers.0.fusion.saiel.visual.weight", "text_encoder.embeddings.word_embeddings.weight"):
        assert not torch.equal(after[name], before[name])
    running = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert running and all(torch.equal(after[name], before[name]) for name in running)
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    assert len(stored) == 6
    steady = [*command, "--lr_scheduler_type", "constant_with_warmup", "--output_dir", str(tmp_path / "twice")]
    assert main([*steady, "--max_train_steps", "2"]) == 0
    assert main([*steady, "--resume_from_checkpoint", "last", "--images", "4"]) == 2
    assert "--images was 3" in capsys.readouterr().err
    assert main([*steady, "--resume_from_checkpoint", "last"]) == 0
    assert {path: path.stat().st_mtime_ns for path in stored} == stored  # kept, not made again
    resumed = weights(tmp_path / "twice" / "checkpoints" / "last" / "pretrained_model")
    for name, value in after.items():
        assert_close(resumed[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_tracker_is_kept_and_must_have_the_same_stem_and_scale(command, tmp_path, capsys):
    start, short = command[0], ["--max_train_steps", "2"]
    assert main([*command, "--tracker", start, *short]) == 0
    assert ", kept 0." in capsys.readouterr().out
    resize_checkpoint.main([start, "--search_size", "48", "--same_scale", "--output_dir", str(tmp_path / "small")])
    smaller = [str(tmp_path / "small"), *command[1:], *short, "--output_dir", str(tmp_path / "second")]
    assert main([*smaller, "--tracker", start, "--features", str(tmp_path / "features")]) == 0
    taught = PJVLTModel.from_pretrained(tmp_path / "second" / "checkpoints" / "last" / "pretrained_model")
    assert taught.config.search_size == 48
    resize_checkpoint.main([start, "--search_size", "48", "--output_dir", str(tmp_path / "finer")])
    build_tiny_model(**HYBRID, stirred=True).save_pretrained(tmp_path / "other")
    PJVLTProcessor.from_pretrained(start).save_pretrained(tmp_path / "other")
    for model, tracker in ((start, "other"), (str(tmp_path / "finer"), start), (start, "small")):
        words = [model, *command[1:], "--tracker", str(tmp_path / tracker), "--output_dir", str(tmp_path / "third")]
        assert main(words) == 2 and "must have the same stem" in capsys.readouterr().err


def test_parts_are_cut_where_their_boxes_lie():
    parts, rng = Parts(4, 3), np.random.default_rng(0)
    assert sorted(map(tuple, parts.corners(rng).tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    fine = torch.arange(64.0).view(1, 1, 8, 8)
    (part,) = parts.cut((fine,), np.array([[1, 0]]))
    assert torch.equal(part, fine[..., :6, 2:])
    box = [0.5, 0.5, 0.25, 0.5]  # centre at the corner of the cells (1, 1) and (2, 2)
    np.testing.assert_allclose(parts.within([box], np.array([1, 0]))[0], [1 / 3, 2 / 3, 1 / 3, 2 / 3], atol=1e-6)
    assert parts.within([[0.0] * 4], np.array([1, 0])).tolist() == [[0.0] * 4]
    left, right, low = [0.1, 0.4, 0.1, 0.1], [0.9, 0.4, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1]
    for _ in range(8):
        assert parts.best_corner(rng, [left], enough=1)[0] == 0
        assert parts.best_corner(rng, [left, right, low], enough=2).tolist() == [1, 1]
        assert parts.best_corner(rng, [[0.0] * 4], enough=1).max() <= 1


def test_what_cannot_be_taught_is_one_clear_error(command, tmp_path, tiny_tokenizer, capsys):
    def error(words):
        assert main(words) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    build_tiny_model(patch_size=16, template_size=32, search_size=64).save_pretrained(tmp_path / "plain")
    images = PJVLTImageProcessor(template_size=32, search_size=64)
    PJVLTProcessor(images, tiny_tokenizer).save_pretrained(tmp_path / "plain")
    assert "no stages of a published network" in error([str(tmp_path / "plain"), *command[1:]])
    assert "a batch of 30 images needs as many" in error([*command[:-1], "30"])
    assert "made from another stem, other data" in error([*command, "--seed", "5"])
    (tmp_path / "full" / "checkpoints" / "last").mkdir(parents=True)
    full = ["--output_dir", str(tmp_path / "full"), "--features", str(tmp_path / "never")]
    assert "holds checkpoints: continue with" in error([*command, *full]) and not (tmp_path / "never").exists()
    assert "no recipe at" in error([command[0], "--config", "nowhere.yaml", *command[3:]])
    with pytest.raises(SystemExit):
        main([*command, "--objects", "1"])
