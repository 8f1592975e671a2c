"""The first box from words alone, with a small Grounding DINO that nobody trained, loaded as the real one would be."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    SwinConfig,
)

from modeling_pjvlt import TrackingPipeline, TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.detection_pjvlt import OwnDetector, find_target, load_detector
from modeling_pjvlt.results_pjvlt import xywh

CLIP = ProceduralClip(2, 4, size=(60, 80))
FRAMES = [CLIP.frame(i) for i in range(len(CLIP))]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grounding-dino")
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        window_size=4,
        out_indices=[2, 3],
    )
    bert = BertConfig(vocab_size=100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    sizes = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "decoder_layers"), 2)
    config = GroundingDinoConfig(
        backbone_config=swin,
        text_config=bert,
        d_model=32,
        num_queries=9,
        encoder_layers=1,
        num_feature_levels=2,
        max_text_len=32,
        **sizes,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "the", "dog", *LETTERS, *(f"##{c}" for c in LETTERS)]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True).save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return str(folder)


class Answers:
    """A detector that says what it is told to."""

    def __init__(self, *answers):
        self.answers, self.labels = answers, []

    def __call__(self, image, candidate_labels, threshold):
        self.size, self.labels = image.size, candidate_labels
        names = ("xmin", "ymin", "xmax", "ymax")
        return [{"score": s, "label": "", "box": dict(zip(names, box, strict=True))} for s, *box in self.answers]


def test_best_answer_is_the_box_inside_the_frame():
    detector = Answers((0.4, 1, 2, 9, 9), (0.7, -5, 10, 30, 99), (0.9, 70, 50, 70, 55))
    assert find_target(FRAMES[0], " The White Dog. ", detector) == ((0.0, 10.0, 30.0, 50.0), 0.7)
    assert detector.labels == ["the white dog."] and detector.size == (80, 60)


@pytest.mark.parametrize(("answers", "best"), [([(0.21, 1, 2, 9, 9), (0.1, 0, 0, 5, 5)], "0.21"), ([], "0.00")])
def test_no_hit_tells_the_best_score(answers, best):
    with pytest.raises(ValueError, match=f"'a dog': the best score is {best}, and 0.3 is needed"):
        find_target(FRAMES[0], "a dog", Answers(*answers))


def test_real_detector_of_transformers_finds_a_box(checkpoint):
    (x, y, w, h), score = find_target(FRAMES[0], "the dog", load_detector(checkpoint), min_score=0.0)
    assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= 80 and y + h <= 60 and 0 < score <= 1


def test_tracker_starts_from_words_and_loads_its_detector_once(checkpoint, tiny_model, tiny_processor, monkeypatch):
    from modeling_pjvlt import pipeline_pjvlt

    loaded = []
    load = pipeline_pjvlt.load_detector
    monkeypatch.setattr(pipeline_pjvlt, "load_detector", lambda *args: (loaded.append(args[0]), load(*args))[1])
    tracker = TrackingPipeline(model=tiny_model(stirred=True), processor=tiny_processor)
    for _ in range(2):
        results = tracker(FRAMES, text="the dog", detector=checkpoint, progress=False)
    expected, _ = find_target(FRAMES[0], "the dog", load(checkpoint))
    first = results[0]["box"]
    assert (first["xmin"], first["ymin"], first["xmax"] - first["xmin"]) == expected[:3]
    assert len(results) == len(FRAMES) and loaded == [checkpoint]
    (streamed, *_) = tracker.stream(iter(FRAMES), text="the dog", detector=checkpoint)
    assert streamed == results[0]


@pytest.mark.parametrize("text", [None, "", "  "])
def test_neither_box_nor_words_is_an_error(text, tiny_model, tiny_processor):
    tracker = TrackingPipeline(model=tiny_model(), processor=tiny_processor)
    with pytest.raises(ValueError, match="or a sentence by which a detector"):
        tracker(FRAMES, text=text, progress=False)


def test_frames_of_any_kind_are_looked_at():
    detector = Answers((0.9, 1, 2, 9, 9))
    for frame in (FRAMES[0], torch.from_numpy(np.ascontiguousarray(FRAMES[0].transpose(2, 0, 1)))):
        assert find_target(frame, "dog", detector)[0] == (1, 2, 8, 7)


def test_a_sentence_that_is_not_a_string_is_refused():
    with pytest.raises(ValueError, match="one sentence, a string"):
        find_target(np.zeros((8, 8, 3), np.uint8), ["a dog"], lambda *args, **options: [])


def test_command_line_starts_from_words(checkpoint, tmp_path, monkeypatch, capsys):
    from modeling_pjvlt.cli.track import main
    from modeling_pjvlt.video_writer_pjvlt import VideoWriter

    monkeypatch.chdir(tmp_path)
    with VideoWriter("clip.mp4") as writer:
        for frame in FRAMES:
            writer.write(frame)
    main(["clip.mp4", "--text", "the dog", "--detector", checkpoint, "--boxes", "boxes.csv", "--device", "cpu"])
    assert "found 'the dog' at" in capsys.readouterr().out
    assert len((tmp_path / "boxes.csv").read_text().splitlines()) == 1 + len(FRAMES)


def test_tracker_itself_looks_in_regions_that_cover_the_image(tiny_model, tiny_processor):
    session = TrackingSession(tiny_model(stirred=True), tiny_processor)
    session.add_target(FRAMES[0], [5, 5, 20, 20], "a cat", target_id="cat")
    seen = []

    class Watched(OwnDetector):
        def _answers(self, own, frame):
            (target,) = own._targets.values()
            seen.append((target.text, target.template.flatten(2).std(-1).max().item()))
            return super()._answers(own, frame)

    (x, y, w, h), score = find_target(FRAMES[0], "The Dog.", Watched(session), min_score=0.0)
    assert 0 <= x < x + w <= 80 and 0 <= y < y + h <= 60 and 0 < score < 1
    assert seen == [("the dog", pytest.approx(0, abs=1e-6))]
    assert session.target_ids == ["cat"] and session.box_of("cat") == (5, 5, 20, 20)
    with pytest.raises(ValueError, match=f"the best score is {score:.2f}, and 0.99 is needed"):
        find_target(FRAMES[0], "the dog", Watched(session), min_score=0.99)


def test_pipeline_and_command_let_the_tracker_itself_look(tiny_model, tiny_processor, tmp_path, monkeypatch, capsys):
    from modeling_pjvlt.cli.track import main

    looks = []

    def answer(detector, image, candidate_labels, threshold):
        looks.append((type(detector.session), candidate_labels))
        return [{"score": 0.9, "box": {"xmin": 3, "ymin": 4, "xmax": 33, "ymax": 24}}]

    monkeypatch.setattr(OwnDetector, "__call__", answer)
    model, box = tiny_model(stirred=True), [3, 4, 30, 20]
    tracker = TrackingPipeline(model=model, processor=tiny_processor)
    results = tracker(FRAMES, text="the dog", detector=None, progress=False)
    assert list(xywh(results[0])) == box
    for part in (model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    arguments = ["--text", "the dog", "--detector", "own", "--model", "./model", "--no_video", "--device", "cpu"]
    main([".", *arguments, "--boxes", "boxes.json"])
    first = json.loads((tmp_path / "boxes.json").read_text())["frames"][0]["box"]
    assert first == box and "found 'the dog' at 3 4 30 20 (x, y, width, height), score 0.90" in capsys.readouterr().out
    assert looks == [(TrackingSession, ["the dog."])] * 2
