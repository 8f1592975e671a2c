"""`scripts/benchmarks/compare_opencv.py`: the same frames for all, fair clocks, OpenCV's failures counted as such."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.evaluation import score_benchmark
from modeling_pjvlt.evaluation.metrics import iou

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts" / "benchmarks"))

import compare_opencv as script
import opencv_trackers as trackers

FRAMES = 40  # more than a chunk, so that the trackers take turns


class FakeTracker:
    """Moves its box one pixel a frame and reports failure, with a box of zeros, in every third."""

    started = []

    @classmethod
    def create(cls):
        cls.started.append(cls())
        return cls.started[-1]

    def init(self, frame, box):
        assert all(isinstance(value, int) for value in box)
        self.box, self.frames = box, [frame]

    def update(self, frame):
        self.frames.append(frame)
        if (len(self.frames) - 1) % 3 == 0:
            return False, (0, 0, 0, 0)
        self.box = (self.box[0] + 1, *self.box[1:])
        return True, self.box


@pytest.fixture
def clips(monkeypatch):
    """Two short clips in place of the 200 long ones."""
    clips = [ProceduralClip(seed, FRAMES, size=(120, 160), kind="appearance") for seed in (1, 2)]
    monkeypatch.setattr("modeling_pjvlt.evaluation.sequences.load_sequences", lambda name, split: clips)
    return clips


@pytest.fixture
def fake_opencv(monkeypatch):
    """An OpenCV whose only tracker is [`FakeTracker`]."""
    told = SimpleNamespace(TrackerKCF=FakeTracker, __version__="fake", setNumThreads=lambda threads: None)
    monkeypatch.setitem(sys.modules, "cv2", told)
    monkeypatch.setattr(FakeTracker, "started", [])
    return told


@pytest.fixture
def checkpoint(tiny_model, tiny_processor, tmp_path):
    """A folder with a random tiny model."""
    tiny_model().save_pretrained(tmp_path / "random")
    tiny_processor.save_pretrained(tmp_path / "random")
    return str(tmp_path / "random")


def test_everybody_sees_the_same_frames_and_failure_keeps_the_last_box(
    clips, fake_opencv, checkpoint, tmp_path, capsys
):
    output = tmp_path / "out.json"
    arguments = ["--model", checkpoint, "--trackers", "kcf", "--max_frames", "36", "--per_sequence"]
    assert script.main([*arguments, "--output", str(output)]) == 0
    told = json.loads(output.read_text())
    assert set(told["datasets"]["procedural"]) == {"random", "KCF"}
    for tracker, clip in zip(FakeTracker.started, clips, strict=True):
        assert len(tracker.frames) == 36
        assert np.array_equal(tracker.frames[35], clip.frame(35)[..., ::-1])  # BGR
        boxes = np.array(told["sequences"][f"procedural/{clip.name}"]["KCF"]["boxes"])
        assert boxes[0] == pytest.approx(clip.boxes[0])
        assert np.array_equal(boxes[1:6, 0] - round(float(clip.boxes[0][0])), [1, 2, 2, 3, 4])
    assert told["datasets"]["procedural"]["KCF"]["lost"] == pytest.approx(100 * 11 / 35)
    printed = capsys.readouterr().out
    assert "| KCF |" in printed and "| random |" in printed and f"| procedural/{clips[1].name} | 36 |" in printed


def test_scores_are_those_of_the_protocol(clips, fake_opencv, checkpoint, tmp_path):
    output = tmp_path / "out.json"
    arguments = ["--model", checkpoint, "--trackers", "kcf", "--protocol", "pytracking", "--output", str(output)]
    assert script.main(arguments) == 0
    told = json.loads(output.read_text())
    for name in ("random", "KCF"):
        boxes = {c.name: np.array(told["sequences"][f"procedural/{c.name}"][name]["boxes"]) for c in clips}
        truth, absent = ({c.name: rows(c) for c in clips} for rows in (lambda c: c.boxes, lambda c: ~c.visible))
        expected = score_benchmark(boxes, truth, absent, protocol="pytracking")
        for metric in ("auc", "precision"):
            assert told["datasets"]["procedural"][name][metric] == pytest.approx(expected[metric])
        seen = [np.flatnonzero(c.visible[1:]) + 1 for c in clips]
        shares = [(iou(boxes[c.name][s], c.boxes[s]) > 0.75).mean() for c, s in zip(clips, seen, strict=True)]
        assert told["datasets"]["procedural"][name]["strict"] == pytest.approx(100 * np.mean(shares))


def test_speed_counts_frames_after_the_first():
    boxes = {"a": np.zeros((11, 4)), "b": np.zeros((31, 4)), "c": np.zeros((6, 4))}
    run = script.Run(boxes=boxes, seconds={"a": 1, "b": 1, "c": 1})
    assert run.fps(["a", "b", "c"]) == (10, 15)


def test_several_datasets_are_also_scored_together(clips, fake_opencv, checkpoint, capsys):
    assert script.main(["--model", checkpoint, "--trackers", "--dataset_name", "one", "two", "--max_frames", "3"]) == 0
    printed = capsys.readouterr().out
    assert f"{script.TOGETHER} (4 sequences, 12 frames" in printed and "opencv" not in printed


def test_plot_draws_every_tracker(clips, fake_opencv, checkpoint, tmp_path):
    pytest.importorskip("matplotlib", reason='plots need matplotlib: pip install -e ".[eval]"')
    path = tmp_path / "success.svg"
    assert script.main(["--model", checkpoint, "--trackers", "kcf", "--max_frames", "3", "--plot", str(path)]) == 0
    assert path.read_text().startswith("<?xml")


@pytest.mark.parametrize("opencv", [None, SimpleNamespace(__version__="without contrib")])
def test_missing_trackers_name_the_extra(opencv, monkeypatch, clips, checkpoint, capsys):
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    assert script.main(["--model", checkpoint, "--trackers", "csrt"]) == 2
    assert 'pip install "pjvlt[compare]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_frames", "1"], "--max_frames must be at least 2, got 1"),
        (["--dataset_name", "one", "one"], "Two datasets are called 'one'"),
        (["--vit", "none.onnx"], "none.onnx: there is no such network"),
        (["--nano", "none.onnx", "head.onnx"], "none.onnx: there is no such network"),
    ],
)
def test_mistakes_are_named(arguments, message, clips, fake_opencv, checkpoint, capsys):
    assert script.main(["--model", checkpoint, "--trackers", "kcf", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("kind", script.CLASSICAL)
def test_real_trackers_follow_a_figure(kind):
    pytest.importorskip("cv2", reason='OpenCV is not here: pip install -e ".[compare]"')
    clip = ProceduralClip(1, 8, kind="appearance")
    frames = [np.ascontiguousarray(clip.frame(index)[..., ::-1]) for index in range(len(clip))]
    tracker = script.OpenCVTracker(script.opencv_class(kind).create, frames[0], clip.boxes[0])
    for frame in frames[1:]:
        box, lost = tracker.step(frame)
        assert len(box) == 4 and isinstance(lost, bool)
    centre, truth = (np.array(b[:2]) + np.array(b[2:]) / 2 for b in (box, clip.boxes[-1]))
    assert np.linalg.norm(centre - truth) < max(clip.boxes[-1][2:])


def test_networks_that_are_given_run_beside_the_others(clips, fake_opencv, checkpoint, tmp_path, capsys):
    made = []

    def tracker(params):
        made.append(params)
        return FakeTracker.create()

    def parameters():
        return SimpleNamespace(stdvalue=(0.229, 0.224, 0.225, 0.0))

    fake_opencv.TrackerVit_Params = fake_opencv.TrackerNano_Params = parameters
    fake_opencv.TrackerVit = fake_opencv.TrackerNano = SimpleNamespace(create=tracker)
    files = [tmp_path / name for name in ("vit.onnx", "backbone.onnx", "head.onnx")]
    for file in files:
        file.write_bytes(bytes(500_000))
    networks = ["--vit", str(files[0]), "--nano", *map(str, files[1:])]
    assert script.main(["--model", checkpoint, "--trackers", "--max_frames", "3", *networks]) == 0
    shipped, trained, nano = made[:3]
    assert shipped.net == trained.net == str(files[0]) and (nano.backbone, nano.neckhead) == tuple(map(str, files[1:]))
    assert shipped.stdvalue == parameters().stdvalue != trained.stdvalue
    first = clips[0].frame(0)
    assert [np.array_equal(t.frames[0], first) for t in FakeTracker.started[:3]] == [False, True, False]
    printed = capsys.readouterr().out
    rows = {line.split(" | ")[0]: line.split(" | ")[-1] for line in printed.splitlines() if line.startswith("| ")}
    assert rows["| VitTrack as shipped"] == rows["| VitTrack"] == "0.5 |" and rows["| NanoTrack"] == "1.0 |"


def test_vittrack_as_trained_sees_normalised_pixels(tmp_path):
    """A network whose score is the mean of one channel of what OpenCV hands it."""
    cv2 = pytest.importorskip("cv2", reason='OpenCV is not here: pip install -e ".[compare]"')
    onnx = pytest.importorskip("onnx", reason='needs onnx: pip install -e ".[export]"')
    if not hasattr(cv2, "TrackerVit"):
        pytest.skip("this OpenCV has no VitTrack")
    colour, mean = np.array([200, 100, 50]), np.array([0.485, 0.456, 0.406])
    expected = (colour / 255 - mean) / trackers.IMAGENET_STD
    frame = np.tile(colour.astype(np.uint8), (200, 200, 1))

    def score(weights):
        tracker = script.create_vit(_vit_network(onnx, tmp_path / "vit.onnx", weights), as_trained=True)
        tracker.init(frame, (80, 80, 40, 40))
        tracker.update(frame)
        return tracker.getTrackingScore()

    window = score([0, 0, 0]) / 0.5  # the highest value of the window that the score is weighted with
    for channel in range(3):
        likelihood = score([0.1 * (channel == number) for number in range(3)]) / window
        assert 10 * np.log(likelihood / (1 - likelihood)) == pytest.approx(expected[channel], abs=1e-2)


def _vit_network(onnx, path, weights):
    """The three maps of VitTrack: a score of the weighted channels of the search region, and two that are 0.5."""
    make, floats = onnx.helper, onnx.TensorProto.FLOAT
    shapes = {"template": (1, 3, 128, 128), "search": (1, 3, 256, 256)}
    inputs = [make.make_tensor_value_info(name, floats, shape) for name, shape in shapes.items()]
    outputs = [
        make.make_tensor_value_info(f"output{number}", floats, (1, channels, 16, 16))
        for number, channels in ((1, 1), (2, 2), (3, 2))
    ]
    kernels = {
        "weights": np.array(weights, np.float32).reshape(1, 3, 1, 1), "nothing": np.zeros((2, 3, 1, 1), np.float32)
    }  # fmt: skip
    nodes = []
    for name, cell in (("search", 16), ("template", 8)):
        nodes.append(
            make.make_node("AveragePool", [name], [f"{name} cells"], kernel_shape=[cell] * 2, strides=[cell] * 2)
        )
    for number, cells, kernel in ((1, "search", "weights"), (2, "template", "nothing"), (3, "search", "nothing")):
        nodes.append(make.make_node("Conv", [f"{cells} cells", kernel], [f"map {number}"]))
        nodes.append(make.make_node("Sigmoid", [f"map {number}"], [f"output{number}"]))
    values = [onnx.numpy_helper.from_array(value, name) for name, value in kernels.items()]
    graph = make.make_graph(nodes, "vit", inputs, outputs, values)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
