"""Exports equal the model they came from, run without torch, and are refused where they do not."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_inference_model import stirred_model
from test_model_variants import STEM
from tiny import build_tiny_config

import modeling_pjvlt
from modeling_pjvlt import PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.cli.export import main
from modeling_pjvlt.cli.track import main as track
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.decoding_pjvlt import decode_boxes, hann_window
from modeling_pjvlt.onnx.tracker import OnnxModel, OnnxTracker, decode_maps, hann_array
from modeling_pjvlt.session_pjvlt import Search

for needed in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed, reason=f"exports need {needed}: pip install 'pjvlt[export]'")

SHALLOW = {"num_hidden_layers": 1, "text_config": {"num_hidden_layers": 1}}  # tracing takes seconds a layer
VARIANTS = [
    {"fusion": "none"},
    {"saiel_fusion": "sum", "fusion_residual": True},
    {"fusion": "none", **STEM, "stem_fine_stage": 0, "offset_activation": "identity"},
    pytest.param({"saiel_fusion": "product", "num_saiel_heads": 1}, marks=pytest.mark.slow),
    pytest.param({"fusion": "late", "use_ccm": False}, marks=pytest.mark.slow),
    pytest.param({"use_saiel": False}, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def checkpoint(tiny_processor, tmp_path_factory):
    """A folder with a literal model in which nothing is neutral."""
    folder = tmp_path_factory.mktemp("checkpoint")
    stirred_model(**SHALLOW, alignment_size=8).save_pretrained(folder)
    PJVLTProcessor(tiny_processor.image_processor, tiny_processor.tokenizer, 0.5, 0.25).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Its ONNX export."""
    folder = tmp_path_factory.mktemp("export") / "onnx"
    assert main(["--model", str(checkpoint), "--output_dir", str(folder), "--num_threads", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def clip():
    return ProceduralClip(3, 8)


def run_both(session, clip, texts=("white dog on the left", "a red car")):
    """(frames, targets, 4) boxes of a session with two targets, one of whose sentences changes on the way."""
    first = clip.boxes[0]
    session.add_target(clip.frame(0), first, texts[0])
    session.add_target(clip.frame(0), [first[0] + 9, first[1] - 4, first[2] * 1.5, first[3]], texts[1])
    boxes = []
    for index in range(1, len(clip)):
        if index == 3:
            session.set_text("1", texts[0])
        boxes.append([target.box for target in session.step(clip.frame(index))])
    return np.array(boxes)


def test_a_tracker_without_torch_finds_the_boxes_of_a_session(checkpoint, exported, clip):
    model, processor = PJVLTModel.from_pretrained(checkpoint), PJVLTProcessor.from_pretrained(checkpoint)
    expected = run_both(TrackingSession(model, processor), clip)
    np.testing.assert_allclose(run_both(OnnxTracker(exported), clip), expected, atol=0.1)


def test_hidden_templates_and_regions_of_the_whole_frame_are_those_of_a_session(checkpoint, exported, clip):
    model, processor = PJVLTModel.from_pretrained(checkpoint), PJVLTProcessor.from_pretrained(checkpoint)
    found = []
    for tracker in (TrackingSession(model, processor), OnnxTracker(exported)):
        tracker.add_target(clip.frame(0), clip.boxes[0], clip.text, hide_template=True)
        tracker.add_target(clip.frame(0), clip.boxes[0], "it")
        image, size = tracker._read(clip.frame(1))
        searches = [
            Search(row, tuple(clip.boxes[0]), growth) for row, growth in ((0, 1.0), (1, 1.0), (1, 1.5), (0, 2.0))
        ]
        boxes, scores = tracker._locate(image, size, searches)
        found.append((np.array(boxes), np.array(scores)))
    np.testing.assert_allclose(found[1][0], found[0][0], atol=0.1)
    np.testing.assert_allclose(found[1][1], found[0][1], atol=1e-3)


def test_a_sentence_in_a_list_is_refused(exported, clip):
    tracker = OnnxTracker(exported)
    for give in (
        lambda: tracker.add_target(clip.frame(0), clip.boxes[0], ["a dog"]),
        lambda: tracker._read_text(["a dog"]),
    ):
        with pytest.raises(ValueError, match="one sentence, a string"):
            give()
    assert tracker.target_ids == []


def test_pjvlt_track_takes_an_export(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    track(["--seed", "3", "--max_frames", "3", "--model", str(exported), "--output", "clip.mp4"])
    told = json.loads((tmp_path / "clip.json").read_text())
    assert told["model"] == str(exported) and [len(frame["box"]) for frame in told["frames"]] == [4, 4, 4]
    with pytest.raises(SystemExit):
        track(["--seed", "3", "--model", str(exported), "--dtype", "bfloat16"])
    assert "leave --device and --dtype out" in capsys.readouterr().err


def test_torch_and_transformers_may_be_missing(checkpoint, exported, clip, tmp_path):
    np.savez(tmp_path / "clip.npz", frames=[clip.frame(i) for i in range(4)], box=clip.boxes[0])
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
sys.path.insert(0, {str(Path(modeling_pjvlt.__file__).parent.parent)!r})
import json, numpy, os
from modeling_pjvlt.onnx.tracker import OnnxTracker
clip = numpy.load({str(tmp_path / "clip.npz")!r})
tracker = OnnxTracker({str(exported)!r})
assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
tracker.add_target(clip["frames"][0], clip["box"], "white dog")
print(json.dumps([tracker.step(frame)[0].box for frame in clip["frames"][1:]]))
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "transformers") and sys.modules[name]]
"""
    told = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    run = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    model, processor = PJVLTModel.from_pretrained(checkpoint), PJVLTProcessor.from_pretrained(checkpoint)
    session = TrackingSession(model, processor)
    session.add_target(clip.frame(0), clip.boxes[0], "white dog")
    expected = [session.step(clip.frame(i))[0].box for i in range(1, 4)]
    np.testing.assert_allclose(json.loads(run.stdout), expected, atol=0.1)


@pytest.mark.slow
def test_the_bundled_model_exports_and_tracks_as_a_session_does(tmp_path, clip):
    assert main(["--output_dir", str(tmp_path / "onnx"), "--num_threads", "1"]) == 0
    model = PJVLTModel.from_pretrained(modeling_pjvlt.DEFAULT_CHECKPOINT)
    processor = PJVLTProcessor.from_pretrained(modeling_pjvlt.DEFAULT_CHECKPOINT)
    expected = run_both(TrackingSession(model, processor), clip)
    np.testing.assert_allclose(run_both(OnnxTracker(tmp_path / "onnx"), clip), expected, atol=0.1)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant_passes_its_own_check(variant, tiny_processor, tmp_path, capsys):
    stirred_model(**(SHALLOW | variant)).save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    output = tmp_path / "export"
    assert main(["--model", str(tmp_path / "model"), "--output_dir", str(output), "--num_threads", "1"]) == 0
    assert "largest difference of the maps" in capsys.readouterr().out
    language = variant.get("fusion") != "none" and variant.get("use_saiel", True)
    assert (output / "text.onnx").exists() == (output / "tokenizer.json").exists() == language


def test_int8_is_smaller_and_stays_near(checkpoint, exported, clip, tmp_path, capsys):
    small = tmp_path / "int8"
    arguments = ["--model", str(checkpoint), "--output_dir", str(small), "--num_threads", "1"]
    assert main([*arguments, "--int8", "--eval_clips", "1"]) == 0
    assert "int8 loses" in capsys.readouterr().out
    assert {path.name for path in small.iterdir()} == {path.name for path in exported.iterdir()}
    assert (small / "tracker.onnx").stat().st_size < (exported / "tracker.onnx").stat().st_size
    generator = np.random.default_rng(0)
    inputs = {
        "pixel_values": generator.standard_normal((2, 3, 32, 32), dtype=np.float32),
    }
    template = generator.standard_normal((2, 3, 16, 16), dtype=np.float32)
    maps = []
    for model in (OnnxModel(exported), OnnxModel(small)):
        words = model.encode_text(["white dog", "a red car"])
        maps.append(model.maps(inputs | model.encode_templates(template) | words))
    for large, quantized in zip(*maps, strict=True):
        assert np.abs(large - quantized).max() < 0.1
    assert np.isfinite(run_both(OnnxTracker(small), clip)).all()


def test_torch_export_comes_back_equal(checkpoint, tmp_path):
    output = tmp_path / "pt2"
    assert main(["--model", str(checkpoint), "--output_dir", str(output), "--format", "torch_export"]) == 0
    model, processor = PJVLTModel.from_pretrained(checkpoint), PJVLTProcessor.from_pretrained(checkpoint)
    pixels, template = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 16, 16)
    words = processor.encode_text("white dog on the grass")
    text, tracker, templates = (
        torch.export.load(output / f"{n}.pt2").module() for n in ("text", "tracker", "template")
    )
    maps = tracker(pixels, templates(template), *text(words["input_ids"], words["attention_mask"]))
    with torch.no_grad():
        expected = model(pixel_values=pixels, template_pixel_values=template, **words)
    for found, wanted in zip(maps, (expected.score_map, expected.offset_map, expected.size_map), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_frames_in_float16_stay_near(tiny_processor, tmp_path):
    PJVLTModel(build_tiny_config(**SHALLOW)).save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--output_dir", str(tmp_path / "export")]
    assert main([*arguments, "--dtype", "float16"]) == 0


def test_an_export_that_differs_is_deleted(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("modeling_pjvlt.onnx.export.trace", lambda model, dtype: {})
    monkeypatch.setattr("modeling_pjvlt.onnx.export.torch_runner", lambda folder: None)
    monkeypatch.setattr("modeling_pjvlt.onnx.export.largest_difference", lambda model, run: 2e-4)
    arguments = ["--model", str(checkpoint), "--output_dir", str(tmp_path / "new"), "--format", "torch_export"]
    assert main(arguments) == 2
    assert "more than 1e-04" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dtype", "bfloat16"], "--dtype bfloat16"),
        (["--format", "torch_export", "--int8"], "--int8"),
        (["--int8", "--dtype", "float16"], "--int8"),
        (["--num_threads", "0"], "--num_threads"),
        (["--model", "missing/folder/of/mine"], "missing/folder/of/mine"),
    ],
)
def test_bad_arguments_give_one_clear_error(arguments, told, tmp_path, capsys):
    assert main([*arguments, "--output_dir", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pjvlt-export: error: ") and told in error
    assert not list(tmp_path.iterdir())


def test_only_exports_are_replaced(exported, tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    assert main(["--output_dir", str(tmp_path), "--overwrite_output_dir"]) == 2
    assert "is not an export" in capsys.readouterr().err
    assert main(["--output_dir", str(exported)]) == 2
    assert "--overwrite_output_dir" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious" and (exported / "tracker.onnx").exists()


def test_a_folder_without_an_export_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pjvlt_onnx\.json"):
        OnnxTracker(tmp_path)
    (tmp_path / "pjvlt_onnx.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="of an older version, export it again"):
        OnnxTracker(tmp_path)


def test_boxes_and_window_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(5, channels, 7, 7, generator=generator) for channels in (1, 2, 2)]
    np.testing.assert_allclose(hann_array(7), hann_window(7), atol=1e-6)
    for window in (None, hann_window(7)):
        expected = decode_boxes(*maps, window)
        found = decode_maps(*(m.numpy() for m in maps), None if window is None else window.numpy())
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("text", ["white dog", "", None, "Ünknown wörds!", "dog " * 60])
def test_tokens_are_those_of_the_processor(text, exported, checkpoint):
    processor = PJVLTProcessor.from_pretrained(checkpoint)
    expected = processor(text=[text])
    model = OnnxModel(exported)
    found = model.tokenize([OnnxTracker(model)._read_text(text)["text"]])
    for name in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_tracker_takes_frames_of_any_type_as_a_session_does(exported, clip):
    def boxes_of(kind):
        tracker = OnnxTracker(exported)
        tracker.add_target(kind(clip.frame(0)), clip.boxes[0], "white dog")
        return [tracker.step(kind(clip.frame(i)))[0].box for i in range(1, 4)]

    expected = boxes_of(lambda frame: frame)
    for kind in (lambda frame: frame / np.float32(255), lambda frame: frame.astype(np.uint16) * 257, Image.fromarray):
        assert boxes_of(kind) == expected
    with pytest.raises(ValueError, match="float32 must hold 0 to 1, got"):
        boxes_of(lambda frame: frame.astype(np.float32))


def test_openvino_export_finds_the_boxes_of_onnxruntime(checkpoint, exported, clip, tmp_path, capsys):
    pytest.importorskip("openvino", reason="pip install 'pjvlt[openvino]'")
    folder = tmp_path / "openvino"
    command = ["--model", str(checkpoint), "--output_dir", str(folder), "--num_threads", "1", "--format", "openvino"]
    assert main(command) == 0
    told = capsys.readouterr().out
    difference = float(told.split("largest difference of the maps from PyTorch in float32: ")[1].split()[0])
    assert difference < 1e-4 and "OpenVINO float32: " in told
    assert {path.suffix for path in folder.iterdir()} == {".xml", ".bin", ".json"}
    model = OnnxModel(folder, num_threads=1)
    found, expected = (run_both(OnnxTracker(m), clip) for m in (model, OnnxModel(exported, num_threads=1)))
    np.testing.assert_allclose(found, expected, atol=0.01)
    copied = run_both(OnnxTracker(pickle.loads(pickle.dumps(model))), clip)
    np.testing.assert_array_equal(copied, found)


def test_openvino_export_without_openvino_names_the_extra(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(["--model", str(checkpoint), "--output_dir", str(tmp_path / "out"), "--format", "openvino"]) == 2
    assert "pip install 'pjvlt[openvino]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "openvino", "--int8"], "--int8 is for --format onnx"),
        (["--format", "openvino", "--dtype", "float16"], "--format openvino is float32 only"),
        (["--format", "torch_export", "--num_threads", "1"], "are not for --format torch_export"),
    ],
)
def test_options_of_another_format_are_refused(options, message, tmp_path, capsys):
    assert main(["--output_dir", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
