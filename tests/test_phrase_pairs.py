"""The share of phrase pairs in which the phrase selects its box, with a model that knows colours and without."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_pjvlt.evaluation.phrase_pairs import main, phrase_accuracy, read_phrase_pairs

BOXES = {"red": [8, 10, 20, 30], "blue": [60, 40, 24, 20]}


@pytest.fixture
def table(tmp_path):
    """Two pairs in one image, a red and a blue block, told apart by their colours."""
    pixels = np.full((80, 100, 3), 110, np.uint8)
    for colour, (x, y, w, h) in BOXES.items():
        pixels[y : y + h, x : x + w] = (220, 20, 20) if colour == "red" else (20, 20, 220)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "blocks.png")
    rows = [("red", "blue"), ("blue", "red")]
    lines = [
        {"file": "blocks.png", "box": BOXES[a], "other": BOXES[b], "phrases": ["one", f"the {a} one"]} for a, b in rows
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "pairs.jsonl"


class KnowsColours:
    """Scores are how red or how blue a cell is, as the phrase says; `sign` -1 confuses the two."""

    device = torch.device("cpu")
    config = SimpleNamespace(search_grid=8)

    def __init__(self, tokenizer, sign=1):
        self.tokenizer, self.sign = tokenizer, sign

    def __call__(self, pixel_values, template_pixel_values, input_ids, attention_mask):
        assert template_pixel_values.abs().max() < 0.02  # hidden
        cells = torch.nn.functional.avg_pool2d(pixel_values, pixel_values.shape[-1] // 8)
        red = torch.tensor(["red" in text for text in self.tokenizer.batch_decode(input_ids)])
        difference = (cells[:, :1] - cells[:, 2:]) * self.sign
        return SimpleNamespace(score_map=torch.where(red[:, None, None, None], difference, -difference))


class Deaf:
    """Random scores, the same for every phrase."""

    device, config = KnowsColours.device, KnowsColours.config

    def __init__(self, seed):
        self.scores = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    def __call__(self, pixel_values, **_):
        return SimpleNamespace(score_map=self.scores.expand(len(pixel_values), -1, -1, -1))


@pytest.mark.parametrize(("sign", "share"), [(1, 1.0), (-1, 0.0)])
def test_the_share_counts_the_phrases_that_choose_their_box(sign, share, table, tiny_processor):
    model = KnowsColours(tiny_processor.tokenizer, sign)
    assert phrase_accuracy(model, tiny_processor, read_phrase_pairs(table)) == share


@pytest.mark.parametrize("near", [2, 8, 30])
def test_a_score_that_ignores_the_phrase_is_right_in_half_of_the_pairs(near, table, tiny_processor):
    """Also where the best cell is next to the middles of both boxes: the other pair has the boxes exchanged."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[0]["other"] = [BOXES["red"][0] + near, *BOXES["red"][1:]]
    rows[1] = rows[0] | {"box": rows[0]["other"], "other": rows[0]["box"]}
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = read_phrase_pairs(table)
    for seed in range(5):
        assert phrase_accuracy(Deaf(seed), tiny_processor, pairs) == 0.5


def test_the_command_prints_the_share(table, tiny_model, tiny_processor, tmp_path, capsys):
    tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    assert main([str(table), "--model", str(tmp_path / "model")]) == 0
    assert capsys.readouterr().out.strip().endswith("% of 2 pairs (chance: 50 %)")


@pytest.mark.parametrize(
    "line", ["", "{}", '{"file": "a", "box": [1, 2, 3], "other": [1, 2, 3, 4], "phrases": ["a"]}']
)
def test_a_line_that_is_no_pair_is_named(line, table):
    table.write_text(table.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"pairs\.jsonl, line 3"):
        read_phrase_pairs(table)
