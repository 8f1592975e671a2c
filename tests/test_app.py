"""What the web page of `scripts/app.py` does, without the page."""

import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from test_video import flat_frames, write_thumbnail_and_video

from modeling_pjvlt import DEFAULT_CHECKPOINT, PJVLTModel, PJVLTProcessor, TrackingSession
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.evaluation.metrics import iou
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

pytest.importorskip("gradio", reason='the page needs gradio: pip install -e ".[demo]"')

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "app.py"


sys.path.insert(0, str(SCRIPT.parent))


def _load_script():
    spec = importlib.util.spec_from_file_location("pjvlt_app", SCRIPT)
    module = sys.modules["pjvlt_app"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


app = _load_script()
import app_examples  # noqa: E402, beside the script

LIMITS = app.Limits(seconds=2, side=400)


def write_clip(path, num_frames=12, size=(240, 320), seed=3, fps=30):
    clip = ProceduralClip(seed, num_frames=num_frames, size=size)
    with VideoWriter(path, fps) as writer:
        for index in range(num_frames):
            writer.write(clip.frame(index))
    return clip


@pytest.fixture
def video(tmp_path):
    write_clip(tmp_path / "clip.mp4")
    return app.open_upload(tmp_path / "clip.mp4", LIMITS)


def marked(video, text="dog"):
    return app.Scene.of(video).mark((10, 10, 20, 20)).say(text)


def test_thumbnail_before_the_video_is_not_taken_for_it(tmp_path):
    path = write_thumbnail_and_video(tmp_path / "drone.mp4", flat_frames(6))
    video = app.open_upload(path, LIMITS)
    assert video.num_frames == 6 and video.frame_size == (48, 64)


@pytest.fixture(scope="module")
def bundled():
    return TrackingSession(
        PJVLTModel.from_pretrained(DEFAULT_CHECKPOINT), PJVLTProcessor.from_pretrained(DEFAULT_CHECKPOINT)
    )


def test_upload_is_opened(video):
    assert video.frame_size == (240, 320) and video.first_frame.dtype == np.uint8
    assert (video.fps, video.num_frames) == (30, 12)


def write_text_file(path):
    path.write_text("not a video\n" * 100)


def _playlist(path):
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.mp4\n#EXT-X-ENDLIST\n")


def _cut_off(path):
    write_clip(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "The file is empty"),
        (write_text_file, "not a video that can be read"),
        (_playlist, "not a video that can be read"),
        (_cut_off, "not a video that can be read"),
        (lambda path: write_clip(path, 70), "2.3 seconds and 70 frames; 2 seconds"),
        (lambda path: write_clip(path, 130, (48, 64), fps=100), "130 frames; 2 seconds at 60 frames"),
        (lambda path: write_clip(path, 2, (300, 500)), "500 x 300 pixels; the longer side may have at most 400"),
        (lambda path: None, "no longer here"),
    ],
)
def test_bad_upload_is_refused_in_plain_words(tmp_path, spoil, message):
    spoil(tmp_path / "clip.mp4")
    with pytest.raises(app.Refused, match=message) as refused:
        app.open_upload(tmp_path / "clip.mp4", LIMITS)
    assert str(tmp_path) not in str(refused.value)


def test_large_file_is_refused(tmp_path):
    with (tmp_path / "clip.mp4").open("wb") as file:
        file.truncate(int(LIMITS.megabytes * 1e6) + 1)
    with pytest.raises(app.Refused, match="200 MB are allowed"):
        app.open_upload(tmp_path / "clip.mp4", LIMITS)


def test_sound_without_a_picture_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(app.Refused, match="only sound"):
        app.open_upload(tmp_path / "sound.mp4", LIMITS)


def test_two_corners_in_any_order_are_a_box():
    assert app.box_from_corners((40, 60), (10, 20)) == app.box_from_corners((10, 60), (40, 20)) == (10, 20, 30, 40)
    with pytest.raises(app.Refused, match="too close together"):
        app.box_from_corners((40, 60), (41, 90))


def test_typed_box_is_cut_at_the_edge():
    assert app.check_typed_box((-5, 10, 20, 20), (240, 320)) == (0, 10, 15, 20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((None, 1, 10, 10), "There is no box yet"),
        ((1, math.nan, 10, 10), "There is no box yet"),
        ((1, 1, 10, -10), "too small"),
        ((330, 1, 10, 10), "outside the frame, which is 320 x 240"),
        ((-20, 1, 10, 10), "outside the frame"),
    ],
)
def test_unusable_box_is_refused(values, message):
    with pytest.raises(app.Refused, match=message):
        app.check_typed_box(values, (240, 320))


def test_corner_and_box_are_drawn_on_a_copy(video):
    before, scene = video.first_frame.copy(), app.Scene.of(video)
    for drawn in (scene.drawing(corner=(100, 80)), scene.mark((100, 80, 40, 30)).drawing()):
        assert (drawn[80, 100] == (255, 196, 0)).all()
    assert (scene.drawing() == before).all() and (video.first_frame == before).all()


def test_scene_keeps_targets_and_their_boxes_by_frame(video):
    scene = app.Scene.of(video)
    with pytest.raises(app.Refused, match="There is no box yet"):
        scene.starts()
    with pytest.raises(app.Refused, match="no box yet"):
        scene.add_target()
    scene = scene.mark((10, 20, 30, 40)).say("  a red  disc ").add_target()
    assert scene.target == "2" and scene.box is None and scene.texts == {"1": "a red disc", "2": ""}
    assert [start.target_id for start in scene.starts()] == ["1"]
    later = scene.turn_to(7).mark((50, 60, 20, 20)).choose("1").mark((12, 20, 30, 40))
    assert (later.image == list(read_frames(video.path))[7]).all()
    assert [(s.target_id, s.frame, s.text) for s in later.starts()] == [
        ("1", 0, "a red disc"), ("1", 7, "a red disc"), ("2", 7, "the target")
    ]  # fmt: skip
    assert later.listed() == [
        ("1: a red disc, box in frames 0, 7", "1"), ("2: (no sentence), box in frame 7", "2")
    ]  # fmt: skip
    assert later.mark(None).box is None and scene.frame == 0 and len(scene.boxes) == 1
    assert later.remove_target().listed() == [("2: (no sentence), box in frame 7", "2")]
    assert later.remove_target().remove_target().listed() == [("1: (no sentence), no box yet", "1")]
    with pytest.raises(app.Refused, match="Frame 99 of this video cannot be read"):
        scene.turn_to(99)
    for number in range(2, 7):
        scene = scene.mark((number, 1, 10, 10))
        scene = scene.add_target() if number < 6 else scene
    with pytest.raises(app.Refused, match="6 targets at a time"):
        scene.add_target()


def test_each_target_has_its_colour_and_what_was_found_is_a_thin_box(video):
    scene = app.Scene.of(video).mark((20, 20, 60, 60)).add_target().mark((120, 100, 60, 60))
    drawn = scene.drawing()
    assert (drawn[50, 20] == (255, 196, 0)).all() and (drawn[130, 120] == (86, 180, 233)).all()
    found = {"frame": 3, "box": {"xmin": 30, "ymin": 40, "xmax": 90, "ymax": 100}, "score": 0.5}
    drawn = app.replace(scene, tracked={"2": [found]}).turn_to(3).drawing()
    assert (drawn[70, 30] == (86, 180, 233)).all() and not (drawn[70, 31] == (86, 180, 233)).all()


def test_video_is_tracked_to_files(bundled, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 20)
    video, calls = app.open_upload(tmp_path / "clip.mp4", LIMITS), []
    results = app.ResultFolders(tmp_path / "results")
    scene = app.Scene.of(video).mark(clip.boxes[0]).say(clip.text)
    result = app.track_video(bundled, scene, results.renew("a"), LIMITS, lambda *done: calls.append(done))
    assert calls == [(index + 1, 20) for index in range(20)]
    assert len(list(read_frames(result.video))) == 20
    with result.csv.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["frame", "x", "y", "w", "h", "score", "time", "lost", "redetected"]
    assert [row[0] for row in rows] == [str(i) for i in range(20)]
    assert [float(row[6]) for row in rows] == pytest.approx([i / 30 for i in range(20)], abs=1e-4)
    boxes = np.array([[float(value) for value in row[1:5]] for row in rows])
    assert iou(boxes[1:], clip.boxes[1:]).mean() > 0.6
    frames = json.loads(result.json.read_text())["frames"]
    assert frames[0]["score"] == 1 and np.allclose([frame["box"] for frame in frames], boxes)
    assert result.mean_score == pytest.approx(np.mean([frame["score"] for frame in frames[1:]]))
    assert f"Mean confidence {result.mean_score:.2f}" in app.summarise(result, video)
    assert bundled.target_ids == []
    results.remove("a")
    assert list((tmp_path / "results").iterdir()) == []


def test_targets_and_corrections_are_tracked_to_one_file_with_ids(bundled, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 12)
    scene = app.Scene.of(app.open_upload(tmp_path / "clip.mp4", LIMITS)).mark(clip.boxes[0]).say(clip.text)
    scene = scene.add_target().turn_to(4).mark((10, 10, 40, 30)).turn_to(8).mark((50, 20, 40, 30))
    result = app.track_video(bundled, scene, tmp_path, LIMITS)
    assert result.num_frames == len(list(read_frames(result.video))) == 12
    assert [[found["frame"] for found in results] for results in result.boxes.values()] == [
        list(range(12)), list(range(4, 12))
    ]  # fmt: skip
    given = {found["frame"]: found["box"] for found in result.boxes["2"] if found["score"] == 1}
    assert given == {
        4: {"xmin": 10, "ymin": 10, "xmax": 50, "ymax": 40}, 8: {"xmin": 50, "ymin": 20, "xmax": 90, "ymax": 50}
    }  # fmt: skip
    assert [row[0] for row in csv.reader(result.csv.open(newline=""))] == ["id", *["1"] * 12, *["2"] * 8]
    told = json.loads(result.json.read_text())["targets"]
    assert [(target["id"], target["text"]) for target in told] == [("1", clip.text), ("2", "the target")]
    assert app.summarise(result, scene.video).count("12 frames in")


def test_video_that_does_not_tell_its_length_is_stopped_at_the_limit(bundled, tmp_path):
    with av.open(str(tmp_path / "clip.webm"), "w", options={"live": "1"}) as container:  # as browsers record
        stream = container.add_stream("libvpx", rate=1000)
        stream.height, stream.width = 48, 64
        for second in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8)).reformat(format="yuv420p")
            picture.pts, picture.time_base = 1000 * second, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    video = app.open_upload(tmp_path / "clip.webm", LIMITS)
    assert video.fps == 1 and video.num_frames is None
    with pytest.raises(app.Refused, match="longer than it says; 2 seconds are allowed"):
        app.track_video(bundled, marked(video), tmp_path, LIMITS)
    assert not (tmp_path / "tracked.mp4").exists()


def test_new_results_replace_the_visitors_old_ones(tmp_path):
    folders = app.ResultFolders(tmp_path)
    old, others, new = folders.renew("a"), folders.renew("b"), folders.renew("a")
    assert others.exists() and new.exists() and not old.exists()


def test_video_longer_than_it_says_is_stopped(bundled, video, tmp_path):
    with pytest.raises(app.Refused, match="longer than it says"):
        app.track_video(bundled, marked(video), tmp_path, app.Limits(seconds=0.1))
    assert not (tmp_path / "tracked.mp4").exists()


def test_detector_finds_the_box_by_words(video, monkeypatch):
    answers = [{"score": 0.8, "box": {"xmin": 30.4, "ymin": 20, "xmax": 90, "ymax": 400}}]
    loaded = []

    def load(name, device):
        loaded.append((name, device))
        return lambda image, candidate_labels, threshold: answers

    monkeypatch.setattr("modeling_pjvlt.detection_pjvlt.load_detector", load)
    detector = app.Detector("some/detector", "cpu")
    assert loaded == []
    for _ in range(2):
        assert detector.find(video.first_frame, " the  dog ") == (30.4, 20, 59.6, 220)
    assert loaded == [("some/detector", "cpu")]
    with pytest.raises(app.Refused, match="no sentence yet"):
        detector.find(video.first_frame, "  ")
    answers[0]["score"] = 0.1
    with pytest.raises(app.Refused, match="Nothing in the first frame looks like"):
        detector.find(video.first_frame, "dog")


def test_detector_that_cannot_be_loaded_is_named(video, tmp_path):
    with pytest.raises(app.Refused, match="cannot be loaded on this machine"):
        app.Detector(str(tmp_path)).find(video.first_frame, "dog")


@pytest.mark.parametrize(
    ("text", "gone", "message"), [("dog " * 100, False, "399 letters"), ("dog", True, "no longer here")]
)
def test_tracking_refuses_in_plain_words(bundled, video, tmp_path, text, gone, message):
    if gone:
        video.path.unlink()
    with pytest.raises(app.Refused, match=message):
        app.track_video(bundled, marked(video, text), tmp_path, LIMITS)


def test_examples_pass_the_pages_own_limits(tmp_path):
    examples = app.draw_examples(tmp_path, num_frames=2)
    assert len(examples) == 2
    for example in examples:
        assert all(isinstance(value, int) for value in example.box)
        video = app.open_upload(example.path, app.Limits())
        assert example.text and app.check_typed_box(example.box, video.frame_size) == example.box


def test_help_is_fast_and_a_missing_gradio_is_named(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('none here')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT, SCRIPT.parent)))}
    command = [sys.executable, str(SCRIPT)]
    check = "import runpy, sys; sys.argv[1:] = ['--help']\ntry: runpy.run_path(sys.argv[0])\n"
    check += "finally: assert 'torch' not in sys.modules"
    check = check.replace("sys.argv[0]", repr(str(SCRIPT)))
    subprocess.run([sys.executable, "-c", check], env=environment, check=True)
    failed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.endswith('pip install "pjvlt[demo]"\n')


def test_balloon_lies_in_its_box_and_is_followed(bundled):
    frames, boxes = app_examples.draw_balloons(20)
    x, y, w, h = boxes[0].astype(int)
    inside, beside = frames[0][y : y + h, x + w // 4 : x + w * 3 // 4], frames[0][y : y + h, x - 6 : x - 2]
    redness = [image[..., 0].astype(float).mean() - image[..., 2].mean() for image in (inside, beside)]
    assert redness[0] > redness[1] + 30
    session = TrackingSession(bundled.model, bundled.processor)
    session.add_target(frames[0], boxes[0], "the red and white hot-air balloon")
    found = np.array([session.step(frame)[0].box for frame in frames[1:]])
    assert iou(found, boxes[1:]).mean() > 0.7
