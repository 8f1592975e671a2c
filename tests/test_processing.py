"""The processor: sentences, batches, saving."""

import os

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoProcessor

from modeling_pjvlt import PJVLTImageProcessor, PJVLTProcessor
from modeling_pjvlt.processing_pjvlt import MAX_WORDS

FRAME = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
BOX = [20, 12, 10, 14]


def test_output_is_what_the_model_takes(tiny_model, tiny_processor):
    inputs = tiny_processor(
        images=FRAME, boxes=BOX, template_images=FRAME, template_boxes=BOX, text="the white dog", return_crops=True
    )
    crops = inputs.pop("crops")
    assert set(inputs) == {"pixel_values", "template_pixel_values", "input_ids", "attention_mask"}
    outputs = tiny_model()(**inputs)
    boxes = tiny_processor.post_process_tracking(outputs, crops, [(60, 80)])
    left, top, scale = crops[0].tolist()
    cx, cy, w, h = (outputs.pred_boxes[0].double() * 32 / scale).tolist()
    expected = [max(left + cx - w / 2, 0), max(top + cy - h / 2, 0)]
    assert boxes.shape == (1, 4) and boxes[0, :2].tolist() == pytest.approx(expected, abs=1e-4)
    corner = [min(left + cx + w / 2, 80), min(top + cy + h / 2, 60)]
    assert (boxes[0, :2] + boxes[0, 2:]).tolist() == pytest.approx(corner, abs=1e-4)


def test_token_type_ids_are_dropped(tiny_processor):
    assert "token_type_ids" not in tiny_processor(text="white dog")


def test_one_sentence_serves_a_batch_of_images(tiny_processor):
    inputs = tiny_processor(images=[FRAME, FRAME], boxes=[BOX, BOX], text="white dog")
    assert inputs["input_ids"].shape[0] == 2 and torch.equal(*inputs["input_ids"])


@pytest.mark.parametrize("text", [None, "", "   ", "\n\t"])
def test_empty_sentence_reads_as_the_target_with_one_warning(tiny_processor, caplog, text):
    inputs = tiny_processor(images=FRAME, boxes=BOX, text=text)
    expected = tiny_processor(text="the target")
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert [r.message for r in caplog.records] == ["1 of 1 sentences are empty and read as 'the target'."]


def test_endless_sentence_is_cut_with_a_warning(tiny_processor, caplog):
    inputs = tiny_processor(text="dog " * 10_000)
    assert inputs["input_ids"].shape == (1, MAX_WORDS)
    assert "cut to its first 40" in caplog.text


def test_sentence_that_just_fits_is_not_cut(tiny_processor, caplog):
    assert tiny_processor(text="dog " * (MAX_WORDS - 2))["input_ids"].shape == (1, MAX_WORDS)
    assert not caplog.records


@pytest.mark.parametrize("text", [3, ["dog", 3], b"dog"])
def test_sentence_must_be_text(tiny_processor, text):
    with pytest.raises(ValueError, match="must be a string"):
        tiny_processor(text=text)


def test_a_sentence_that_is_no_utf8_is_refused(tiny_processor):
    """As the shell hands over the bytes of another encoding."""
    with pytest.raises(ValueError, match=r"Sentence 0 is not valid UTF-8: 'caf\\udce9'"):
        tiny_processor(text=os.fsdecode(b"caf\xe9"))


def test_numbers_of_images_boxes_and_sentences_must_agree(tiny_processor):
    with pytest.raises(ValueError, match="1 images but 2 sentences"):
        tiny_processor(images=FRAME, boxes=BOX, text=["dog", "cat"])
    with pytest.raises(ValueError, match="2 images but 1 boxes"):
        tiny_processor(images=[FRAME, FRAME], boxes=[BOX], text="dog")
    with pytest.raises(ValueError, match="1 boxes but 2 crops"):
        tiny_processor.post_process_tracking(torch.full((1, 4), 0.5), torch.zeros(2, 3), (60, 80))


def test_nothing_to_process_is_refused(tiny_processor):
    with pytest.raises(ValueError, match="Pass"):
        tiny_processor()


def test_saved_processor_loads_by_auto_classes(tiny_processor, tiny_model, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    for loaded in (PJVLTProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is PJVLTProcessor
        again = loaded(images=FRAME, boxes=BOX, text="white dog")
        first = tiny_processor(images=FRAME, boxes=BOX, text="white dog")
        assert all(torch.equal(again[name], first[name]) for name in first)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is PJVLTImageProcessor
