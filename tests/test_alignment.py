"""The alignment branch: its equation, what it adds to the scores, and how it is taught."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_teach_words import HYBRID, write_images
from tiny import build_tiny_inputs, build_tiny_model
from torch.nn import functional
from torch.testing import assert_close

from modeling_pjvlt import PJVLTImageProcessor, PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.alignment_pjvlt import mean_word

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "teach_words"))

import align
from features import StoredMaps

SIZE = 8


@pytest.fixture
def model():
    return build_tiny_model(stirred=True, alignment_size=SIZE)


def plain_patches(branch, search):
    """p of each patch of one image (G, G, C), in a plain loop."""
    grid = len(search)
    hidden = functional.gelu(branch.patch(branch.norm(search)))
    around = functional.pad(hidden, (0, 0, 2, 2, 2, 2))  # zeros outside
    kernel = branch.context.weight[:, 0].permute(1, 2, 0)  # (5, 5, c)
    rows = []
    for y in range(grid):
        for x in range(grid):
            context = (around[y : y + 5, x : x + 5] * kernel).sum(dim=(0, 1)) + branch.context.bias
            patch = branch.project(hidden[y, x] + functional.gelu(context))
            rows.append(patch / patch.norm())
    return torch.stack(rows)


@torch.no_grad()
def test_the_branch_equals_its_equation(model):
    branch, grid = model.alignment.double(), model.config.search_grid
    generator = torch.Generator().manual_seed(3)
    words = model.config.text_config.hidden_size
    sizes = (grid**2, model.config.hidden_size), (4, words), (4, words)
    search, first, last = (torch.randn(2, *size, generator=generator, dtype=torch.float64) for size in sizes)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    sentences = branch.encode_sentence(mean_word(first, mask), mean_word(last, mask))
    added = branch(search, sentences)
    assert added.shape == (2, 1, grid, grid)
    for row, length in enumerate([4, 2]):
        ends = branch.first_norm(first[row, :length].mean(dim=0)), branch.last_norm(last[row, :length].mean(dim=0))
        sentence = branch.project_sentence(functional.gelu(branch.sentence(torch.cat(ends))))
        patches = plain_patches(branch, search[row].unflatten(0, (grid, grid)))
        assert_close(added[row].flatten(), branch.gain * patches @ (sentence / sentence.norm()) + branch.bias)


@torch.no_grad()
def test_it_is_added_to_the_logits_of_the_scores_and_to_nothing_else(model):
    inputs = build_tiny_inputs(model.config)
    model.alignment.gain.fill_(0.0)
    model.alignment.bias.fill_(0.0)
    without = model(**inputs)
    model.alignment.gain.fill_(2.0)
    model.alignment.bias.fill_(0.5)
    aligned = model(**inputs)
    tokens = model.embeddings(inputs["template_pixel_values"], inputs["pixel_values"])
    search = tokens[:, -(model.config.search_grid**2) :]
    text = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    assert_close(aligned.score_map.logit(), without.score_map.logit() + model.alignment(search, text.alignment))
    assert not torch.allclose(aligned.score_map, without.score_map, atol=0.01)
    for name in ("offset_map", "size_map", "last_hidden_state"):
        assert torch.equal(aligned[name], without[name])


def test_a_checkpoint_without_it_gets_one_that_hardly_changes_a_score(tmp_path):
    plain = build_tiny_model()
    plain.save_pretrained(tmp_path)
    branched = PJVLTModel.from_pretrained(tmp_path, alignment_size=64)
    assert branched.alignment.gain.tolist() == [1.0] and branched.alignment.bias.tolist() == [0.0]
    inputs = build_tiny_inputs(plain.config)
    assert_close(branched(**inputs).score_map.logit(), plain(**inputs).score_map.logit(), atol=0.5, rtol=0)


@torch.no_grad()
def test_targets_in_one_batch_get_their_own_sentences(model, tiny_processor):
    """Two targets whose sentences have different lengths, in one session and in two."""
    model.alignment.gain.fill_(3.0)
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    texts, box = ("white dog on the left", "a red car"), [10.0, 12.0, 20.0, 16.0]
    together = TrackingSession(model, tiny_processor)
    for text in texts:
        together.add_target(frame, box, text)
    both = [target.score for target in together.step(frame)]
    for text, score in zip(texts, both, strict=True):
        alone = TrackingSession(model, tiny_processor)
        alone.add_target(frame, box, text)
        assert alone.step(frame)[0].score == pytest.approx(score, abs=1e-4)


def test_a_model_without_language_has_none():
    model = build_tiny_model(alignment_size=SIZE, fusion="none")
    assert model.alignment is None
    with pytest.raises(ValueError, match="no language"):
        align.with_alignment(model, SIZE)


@pytest.fixture
def command(tiny_tokenizer, tmp_path):
    """A command line that teaches the branch of a tiny hybrid where the left and the right block are."""
    folder = write_images(tmp_path / "boxed")
    objects = json.loads((folder / "boxes.jsonl").read_text().splitlines()[0])["objects"]
    pairs = [(objects[0], objects[1]), (objects[1], objects[0])]
    rows = [{"file": "0.png", "box": a["box"], "other": b["box"], "phrases": a["phrases"][1:]} for a, b in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for saved in (
        build_tiny_model(**HYBRID, stirred=True),
        PJVLTProcessor(PJVLTImageProcessor(template_size=32, search_size=64), tiny_tokenizer),
    ):
        saved.save_pretrained(tmp_path / "start")
    words = [str(tmp_path / "start"), "--boxed_images", str(folder), "--features", str(tmp_path / "features")]
    words += ["--phrase_pairs", str(folder / "pairs.jsonl"), "--alignment_size", "32", "--steps", "200"]
    return [*words, "--views", "2", "--images", "6", "--learning_rate", "0.01", "--gain", "50"]


@torch.no_grad()
def contrast(model, folder):
    """Loss and mean cosine of a branch on the crops that a run has stored."""
    processor = PJVLTProcessor.from_pretrained(folder / "start")
    crops = StoredMaps(folder / "features")
    phrases = sorted({phrase for row in crops.rows for known in row["phrases"] for phrase in known})
    words = dict(zip(phrases, align.mean_words(model, processor, phrases), strict=True))
    teacher = align.AlignmentTeacher(model, crops, words)
    teacher.finish()  # no dropout
    return teacher(np.random.default_rng(1), 8)


def test_a_run_teaches_the_branch_and_nothing_else(command, tmp_path, capsys):
    assert align.main([*command, "--output_dir", str(tmp_path / "aligned")]) == 0
    assert re.search(r"the phrase chooses its box in \d+\.0% of 2 pairs", capsys.readouterr().out)
    new = build_tiny_model(**HYBRID, alignment_size=32)
    taught = PJVLTModel.from_pretrained(tmp_path / "aligned").eval()
    (chance, _), (loss, cosine) = (contrast(model, tmp_path) for model in (new, taught))
    assert loss < 0.8 * chance
    assert_close(taught.alignment.bias, -50 * cosine[None], rtol=0.2, atol=1)
    before, after = (PJVLTModel.from_pretrained(tmp_path / name).state_dict() for name in ("start", "aligned"))
    assert {name for name in after if name not in before} == {n for n in after if n.startswith("alignment.")} != set()
    for name, weight in before.items():
        assert_close(after[name], weight, atol=1e-3, rtol=1e-3)  # stored in half precision
    assert after["alignment.gain"].tolist() == [50.0]
    assert align.main([*command, "--output_dir", str(tmp_path / "again")]) == 0  # with the stored maps
    again = PJVLTModel.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], after[name]) for name in after)


def test_a_run_that_cannot_work_says_why(command, tmp_path, capsys):
    missing = [*command, "--output_dir", str(tmp_path / "aligned"), "--boxed_images", str(tmp_path / "nothing")]
    assert align.main(missing) == 2
    assert "boxes.jsonl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        align.main([*command, "--output_dir", str(tmp_path / "aligned"), "--steps", "0"])
    assert "--steps must be at least 1" in capsys.readouterr().err and not (tmp_path / "aligned").exists()
