"""`scripts/benchmarks tracking`: every case in table, ratios and JSON, and crops that stay what they are."""

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny import build_tiny_model

from modeling_pjvlt import DEFAULT_CHECKPOINT, PJVLTProcessor

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "benchmarks"))

import commands
import machine
import tracking as script
from model import SENTENCE_TOKENS
from tracking_cases import EAGER
from tracking_report import build_ratios, build_rows

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path, tiny_processor, monkeypatch):
    """A folder with a tiny random model; frames, clip and matmuls are small too."""
    monkeypatch.setattr(script, "CLIP_FRAMES", 6)
    monkeypatch.setattr(script, "FRAME_SIZES", {"cpu": (160, 120)})
    monkeypatch.setattr(script, "VISIT_SECONDS", 0.0)
    monkeypatch.setattr(script, "has_native", lambda dtype, device: dtype != torch.float16)
    monkeypatch.setattr(machine, "MATMUL_SIZES", {"cpu": 32})
    build_tiny_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_every_case_is_in_the_table_the_ratios_and_the_json(checkpoint, tmp_path, monkeypatch, capsys):
    output = tmp_path / "told" / "times.json"
    command = ["benchmarks", "tracking", "--device", "cpu", "--models", checkpoint, "--targets", "1", "3"]
    command += ["--precisions", "fp32", "bf16", "fp16", "--repeats", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--compile", "--compile_seconds", "0"])
    commands.main()
    printed, told = capsys.readouterr().out, json.loads(output.read_text())
    assert "fp16 is left out" in printed
    cases = {(n, p, c) for n in (1, 3) for p in ("fp32", "bf16") for c in EAGER}
    assert {(row["targets"], row["precision"], row["path"]) for row in told["cases"]} == cases
    for targets, precision, path in cases:
        assert f"| {checkpoint} | {targets} | {precision} | {path} |" in printed
    for row in told["cases"]:
        ms = row["milliseconds"]
        assert set(ms) == {"decode", "crop", "network", "box", "end to end"} and row["frames"] == 1
        parts = sum(ms[part]["median"] for part in ("decode", "crop", "network", "box"))
        assert parts <= ms["end to end"]["median"] * 1.001
    by_path = {row["path"]: row["macs"] for row in told["cases"] if row["targets"] == 1}
    assert by_path["baseline"] < by_path["fast"] and by_path["plain"] < by_path["text"]
    whats = [(r["targets"], r["precision"], r["what"]) for r in told["ratios"]]
    assert len(whats) == printed.count("\n- ") and all(f"{what}: " in printed for _, _, what in whats)
    for targets in (1, 3):
        for precision in ("fp32", "bf16"):
            assert (targets, precision, "time of fast over baseline") in whats
            assert (targets, precision, "fast network's share of the matmul peak") in whats
            assert (targets, precision, "fast: crop and box over network") in whats
        assert (targets, "bf16", "time of fast in bf16 over baseline in fp32") in whats
    assert (1, "fp32", "time of text over fast") in whats and (1, "bf16", "fast end to end") in whats
    assert set(told["peak_flops"]) == {"fp32", "bf16"} and told["machine"]["torch"] == torch.__version__
    assert told["macs_by_part"][checkpoint]["total"]["per_frame"] == by_path["plain"]


def test_fast_cases_also_run_the_whole_file_decoded_ahead(checkpoint, tmp_path, monkeypatch):
    clip, steps = script.build_clip(tmp_path, CPU), []
    subject = script.Subject(checkpoint, CPU, script.Clock(CPU))
    for path in ("fast", "plain"):
        contestant = script.Contestant(script.Case("tiny", 1, "fp32", path), subject, clip)
        contestant.frames, step = 2, contestant.session.step
        monkeypatch.setattr(contestant.session, "step", lambda frame, step=step: steps.append(frame) or step(frame))
        contestant.visit()
        # one frame for the caches, two by stage, and all six of the file
        assert len(steps) == (3 + script.CLIP_FRAMES if path == "fast" else 3)
        steps.clear()
        whats = [row["what"] for row in build_ratios([contestant], build_rows([contestant], {"fp32": 1e9}), False)]
        assert ("fast end to end, decoded ahead" in whats) == (path == "fast")


def test_the_exports_are_cases(checkpoint, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxscript")
    output = tmp_path / "times.json"
    command = [
        "benchmarks",
        "tracking",
        "--device",
        "cpu",
        "--models",
        checkpoint,
        "--targets",
        "1",
        "--repeats",
        "1",
    ]
    command += ["--cases", "fast", "onnx", "onnx-int8", "--precisions", "fp32", "bf16", "--output", str(output)]
    monkeypatch.setattr(script, "VISIT_SECONDS", 0.1)
    monkeypatch.setattr(sys, "argv", command)
    commands.main()
    told = json.loads(output.read_text())
    rows = [row for row in told["cases"] if row["path"].startswith("onnx")]
    assert [row["path"] for row in rows] == ["onnx", "onnx-int8"]
    for row in rows:
        assert row["precision"] == "fp32" and {"crop", "network", "box"} < set(row["milliseconds"])
    whats = [ratio["what"] for ratio in told["ratios"] if ratio["precision"] == "fp32"]
    assert {"time of fast over onnx", "onnx end to end", "onnx-int8 end to end, decoded ahead"} < set(whats)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("path", EAGER)
def test_crops_keep_their_place_and_size(checkpoint, precision, path):
    subject = script.Subject(checkpoint, CPU, script.Clock(CPU))
    session = subject.session(precision, path)
    frame = torch.zeros(3, 480, 640, dtype=torch.uint8)
    session.add_target(frame, [300.0, 200.0, *script.BOX], script.SENTENCE)
    centre, side = (300 + script.BOX[0] / 2, 200 + script.BOX[1] / 2), (script.BOX[0] * script.BOX[1]) ** 0.5
    for _ in range(80):
        (target,) = session.step(frame)
    x, y, w, h = target.box
    assert not target.lost
    assert (x + w / 2, y + h / 2) == pytest.approx(centre, abs=1)
    assert (w, h) == pytest.approx((side, side), abs=1)


def test_the_text_case_reads_the_words_with_every_frame_and_only_then(checkpoint, monkeypatch):
    subject = script.Subject(checkpoint, CPU, script.Clock(CPU))
    clip = script.Clip(script._from_memory([torch.zeros(120, 160, 3, dtype=torch.uint8).numpy()]), None)
    contestants = [
        script.Contestant(script.Case(checkpoint, 2, "fp32", path), subject, clip) for path in ("text", "plain")
    ]
    model, calls = subject.models["full"], []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda *args: calls.append(1) or encode(*args))
    for contestant, expected in zip(contestants, (1, 0), strict=True):
        calls.clear()
        contestant.visit()
        assert len(calls) == expected


def test_goals_are_judged_both_ways():
    class Measured:
        seconds, compile_seconds = {}, None

        def __init__(self, path, visits):
            self.case, self.visits = script.Case("base", 1, "fp32", path), visits

    measured = [
        Measured("fast", [1.5, 1.0, 1.5]),
        Measured("baseline", [1.0, 1.0, 1.0]),
        Measured("text", [3.0, 2.0, 3.0]),
    ]
    stages = {part: {"median": 1.0, "q25": 1.0, "q75": 1.0} for part in ("crop", "network", "box", "end to end")}
    rows = {m.case: {"milliseconds": stages, "share_of_peak": 0.8} for m in measured}
    judged = {r["what"]: r.get("met") for r in build_ratios(measured, rows, on_gpu=False)}
    assert judged["time of fast over baseline"] is False and judged["time of text over fast"] is True
    assert judged["fast network's share of the matmul peak"] is True
    assert judged["fast: crop and box over network"] is False
    assert "met" not in build_ratios(measured, rows, on_gpu=True)[0]


def test_the_sentence_has_as_many_tokens_as_the_macs_are_counted_for():
    processor = PJVLTProcessor.from_pretrained(DEFAULT_CHECKPOINT)
    assert processor.encode_text([script.SENTENCE])["input_ids"].shape == (1, SENTENCE_TOKENS)
