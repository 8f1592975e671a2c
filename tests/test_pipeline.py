"""The pipeline task, from a list, a folder, a video and a stream, and what it saves."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, pipeline

from modeling_pjvlt import PJVLTConfig, PJVLTModel, TrackingPipeline
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

BOX = [20, 12, 10, 14]
TASK = "vision-language-tracking"


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(4)]


@pytest.fixture(scope="module")
def checkpoint(tiny_model, tiny_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_model(stirred=True).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tracker(checkpoint):
    return pipeline(TASK, model=checkpoint, device="cpu")


def test_auto_classes_load_a_checkpoint(checkpoint):
    assert type(AutoConfig.from_pretrained(checkpoint)) is PJVLTConfig
    assert type(AutoModel.from_pretrained(checkpoint)) is PJVLTModel


def test_list_of_frames_is_one_video(tracker, frames):
    results = tracker(frames, box=BOX, text="white dog", progress=False)
    assert [r["frame"] for r in results] == [0, 1, 2, 3]
    box = {"xmin": 20.0, "ymin": 12.0, "xmax": 30.0, "ymax": 26.0}
    assert results[0] == {"frame": 0, "box": box, "score": 1.0, "time": 0.0, "lost": False, "redetected": False}
    assert [r["time"] for r in results] == pytest.approx([0, 1 / 30, 2 / 30, 3 / 30])
    for result in results[1:]:
        box = result["box"]
        assert 0 <= box["xmin"] < box["xmax"] <= 80 and 0 <= box["ymin"] < box["ymax"] <= 60
        assert 0 < result["score"] < 1
    json.dumps(results)


def test_stream_gives_each_result_as_soon_as_its_frame_is_in(tracker, frames):
    taken = []

    def camera():
        for frame in frames:
            taken.append(len(taken))
            yield frame

    whole = tracker(frames, box=BOX, text="white dog", progress=False)
    for seen, result in enumerate(tracker.stream(camera(), box=BOX, text="white dog")):
        assert len(taken) == seen + 1
        assert result == whole[seen]


def test_folder_pil_and_list_give_the_same(tracker, frames, tmp_path):
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    expected = tracker(frames, box=BOX, text="dog", progress=False)
    assert tracker(str(tmp_path), box=BOX, text="dog", progress=False) == expected
    assert tracker([Image.fromarray(f) for f in frames], box=BOX, text="dog", progress=False) == expected


def test_video_file_is_tracked(tracker, frames, tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", fps=10) as writer:
        for frame in frames:
            writer.write(frame)
    assert len(tracker(str(tmp_path / "clip.mp4"), box=BOX, text="dog", progress=False)) == 4


def test_bad_calls_are_explained(tracker, frames, tmp_path):
    with pytest.raises(ValueError, match="needs `box="):
        tracker(frames, text="")
    with pytest.raises(ValueError, match="outside the frame"):
        tracker(frames, box=[500, 0, 5, 5], text="dog")
    with pytest.raises(ValueError, match="no frames"):
        tracker([], box=BOX, text="dog")
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        tracker(str(tmp_path / "missing.mp4"), box=BOX, text="dog")


def test_a_sentence_in_a_list_is_refused_before_a_frame_is_read(tracker, frames):
    read = []
    video = (read.append(1) or frame for frame in frames)
    for box in ([20, 12, 10, 14], None):
        with pytest.raises(ValueError, match=r"one sentence, a string, got list: \['red square'\]"):
            tracker(video, box=box, text=["red square"], progress=False)
    with pytest.raises(ValueError, match="one sentence"):
        next(tracker.stream(video, box=[20, 12, 10, 14], text=["red square"]))
    assert not read


def test_saved_pipeline_keeps_the_processor_and_no_path_of_this_machine(tracker, frames, tmp_path):
    tracker.save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").is_file() and (tmp_path / "tokenizer.json").is_file()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["custom_pipelines"] == {TASK: {"impl": "pipeline_pjvlt.TrackingPipeline", "pt": ["AutoModel"]}}
    assert "/" not in json.dumps(config)
    expected = tracker(frames, box=BOX, text="dog", progress=False)
    again = pipeline(TASK, model=str(tmp_path), pipeline_class=TrackingPipeline, device="cpu")
    assert again(frames, box=BOX, text="dog", progress=False) == expected


def test_saved_pipeline_asks_before_it_runs_code_from_its_repo(tracker, tmp_path):
    tracker.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline(TASK, model=str(tmp_path), device="cpu")


def test_saved_pipeline_runs_from_its_own_code_when_trusted(tracker, frames, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    tracker.save_pretrained(tmp_path / "repo")
    again = pipeline(TASK, model=str(tmp_path / "repo"), trust_remote_code=True, device="cpu")
    assert type(again).__module__.startswith("transformers_modules")
    expected = tracker(frames, box=BOX, text="dog", progress=False)
    assert again(frames, box=BOX, text="dog", progress=False) == expected


def test_weights_are_saved_as_safetensors_only(checkpoint):
    from pathlib import Path

    names = {path.suffix for path in Path(checkpoint).iterdir()}
    assert ".safetensors" in names and not names & {".bin", ".pt", ".pth", ".pkl"}


def test_pickled_weights_are_not_loaded(tiny_model, tmp_path):
    import torch

    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        PJVLTModel.from_pretrained(tmp_path)


def test_checkpoint_whose_sizes_do_not_fit_its_config_is_one_clear_error(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises((RuntimeError, ValueError), match=r"size mismatch|mismatched"):
        PJVLTModel.from_pretrained(tmp_path)


@pytest.mark.slow
def test_importing_the_package_is_enough_to_register_the_task(checkpoint):
    code = "import modeling_pjvlt; from transformers import pipeline; "
    code += f"print(type(pipeline({TASK!r}, model={checkpoint!r}, device='cpu')).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "TrackingPipeline"


def test_box_is_taken_as_anyone_writes_it(tracker, frames):
    expected = tracker(frames, box=BOX, text="dog", progress=False)
    corners = expected[0]["box"]
    for box in (
        tuple(BOX),
        np.array(BOX),
        torch.tensor(BOX),
        torch.tensor(BOX, requires_grad=False).double(),
        corners,
    ):
        assert tracker(frames, box=box, text="dog", progress=False) == expected
    with pytest.raises(ValueError, match="keys xmin, ymin, xmax, ymax, got x, y"):
        tracker(frames, box={"x": 1, "y": 2}, text="dog", progress=False)


def test_results_lie_in_the_frame_and_are_rounded_unless_raw_ones_are_wanted(tracker, frames):
    over = [70.123, 50.456, 20.0, 20.0]
    options = {"box": over, "text": "dog", "progress": False}
    results, raw = tracker(frames, **options), tracker(frames, raw=True, **options)
    assert results[0]["box"] == {"xmin": 70.12, "ymin": 50.46, "xmax": 80.0, "ymax": 60.0}
    assert [raw[0]["box"][side] for side in ("xmin", "ymax")] == pytest.approx([70.123, 70.456], abs=1e-9)
    for result, found in zip(results, raw, strict=True):
        for (side, value), exact in zip(result["box"].items(), found["box"].values(), strict=True):
            limit = 80 if side.startswith("x") else 60
            assert value == pytest.approx(min(max(exact, 0), limit), abs=0.006) and value == round(value, 2)
        assert result["score"] == round(found["score"], 4)
    assert list(tracker.stream(frames, box=over, text="dog", raw=True)) == raw
    assert any(value != round(value, 2) for result in raw[1:] for value in result["box"].values())


def test_list_of_paths_is_one_video_in_the_order_given(tracker, frames, tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("d", "c", "b", "a")]
    for path, frame in zip(paths, frames, strict=True):
        Image.fromarray(frame).save(path)
    expected = tracker(frames, box=BOX, text="dog", progress=False)
    assert tracker(paths, box=BOX, text="dog", progress=False) == expected
    assert tracker([str(path) for path in paths], box=BOX, text="dog", progress=False) == expected
    assert tracker([paths[0].as_uri(), *paths[1:]], box=BOX, text="dog", progress=False) == expected
    with pytest.raises(FileNotFoundError, match=r"missing\.png: no such image"):
        tracker([*paths, "missing.png"], box=BOX, text="dog", progress=False)
    with pytest.raises(ValueError, match=r"clip\.mp4: a list is one video.* give one video file as it is"):
        tracker(["clip.mp4"], box=BOX, text="dog", progress=False)


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        (b"\x00\x01", TypeError, "got the bytes of a file: save it"),
        (io.BytesIO(b"x"), TypeError, r"got an open file \(BytesIO\)"),
        (Image.new("RGB", (8, 6)), ValueError, "got one image of 8 x 6; put it in a list"),
        ({"frame": 1}, TypeError, "got dict"),
        ("", ValueError, "the path of the video is empty"),
        ("ftp://me:secret@host/a.mp4", ValueError, "^ftp://host/a.mp4: addresses begin with"),
        ("file://elsewhere/a.mp4", ValueError, "a file of another machine"),
    ],
)
def test_what_is_no_video_gets_a_sentence(tracker, video, error, message):
    with pytest.raises(error, match=message):
        tracker(video, box=BOX, text="dog")


def test_address_of_a_file_is_read_as_its_path(tracker, frames, tmp_path):
    (tmp_path / "my clip").mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "my clip" / f"{index}.png")
    uri = (tmp_path / "my clip").as_uri()
    assert "%20" in uri
    assert tracker(uri, box=BOX, text="dog", progress=False) == tracker(frames, box=BOX, text="dog", progress=False)


@pytest.mark.parametrize(
    ("name", "told"),
    [("frames", "`video`"), ("bbox", "`box`"), ("prompt", "`text`"), ("max_frame", "`max_frames`"), ("colour", None)],
)
def test_wrong_name_of_an_argument_is_named_with_the_right_one(tracker, frames, name, told):
    with pytest.raises(TypeError, match=rf"no argument `{name}`" + (f"; did you mean {told}" if told else r"\.")):
        tracker(frames, box=BOX, **{name: 1})
    with pytest.raises(TypeError, match="no argument `video`; did you mean `frames`"):
        tracker.stream(video=frames, box=BOX)
    with pytest.raises(TypeError, match="needs `video`"):
        tracker(box=BOX)


def test_no_more_frames_are_read_than_wanted(tracker, frames):
    taken = []

    def camera():
        for frame in frames:
            taken.append(len(taken))
            yield frame

    assert len(tracker(camera(), box=BOX, text="dog", max_frames=2, progress=False)) == len(taken) == 2
    assert len(list(tracker.stream(frames, box=BOX, text="dog", max_frames=3))) == 3
    for call in (tracker, tracker.stream):
        with pytest.raises(ValueError, match="`max_frames` must be 1 or more, got 0"):
            call(frames, box=BOX, text="dog", max_frames=0)


def test_part_of_the_results_is_results_of_the_same_video(tracker, frames, tmp_path):
    results = tracker(frames, box=BOX, text="dog", progress=False)
    part = results[1:3]
    assert type(part) is type(results) and list(part) == list(results)[1:3] and part.text == "dog"
    shown = list(read_frames(part.save_video(tmp_path / "part.mp4")))
    assert len(shown) == 2
    for image, index in zip(shown, (1, 2), strict=True):
        distances = [np.abs(image.astype(int) - frame).mean() for frame in frames]
        assert int(np.argmin(distances)) == index
    assert results[-1] == list(results)[-1]


def test_pipeline_says_what_it_is(tracker, checkpoint):
    assert repr(tracker) == f"TrackingPipeline({checkpoint}, cpu)"


OTHER = [40, 20, 16, 12]


def test_several_targets_come_back_by_their_ids_each_as_if_it_were_alone(tracker, frames):
    alone = [tracker(frames, box=b, text=t, progress=False) for b, t in ((BOX, "white dog"), (OTHER, "a ball"))]
    together = tracker(frames, boxes=[BOX, OTHER], texts=["white dog", "a ball"], progress=False)
    named = tracker(frames, boxes={"dog": BOX, "b": OTHER}, texts={"b": "a ball", "dog": "white dog"}, progress=False)
    assert list(together) == ["0", "1"] and list(named) == ["dog", "b"]
    assert [r.text for r in together.values()] == ["white dog", "a ball"]
    for expected, *found in zip(alone, together.values(), named.values(), strict=True):
        for results in found:
            assert [r["frame"] for r in results] == [0, 1, 2, 3]
            for one, other in zip(expected, results, strict=True):
                assert list(other["box"].values()) == pytest.approx(list(one["box"].values()), abs=0.02)
    live = list(tracker.stream(frames, boxes={"dog": BOX, "b": OTHER}, texts="it"))
    assert [list(found) for found in live] == [["dog", "b"]] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"boxes": [BOX], "box": BOX}, "either `box` and `text` for one target, or `boxes` and `texts`"),
        ({"boxes": [BOX, BOX], "texts": ["a"]}, "`texts` has 1 items, but there are 2 boxes"),
        ({"boxes": {"a": BOX}, "texts": {"b": "x"}}, "`texts` names 'b', but the targets are 'a'"),
        ({"boxes": [], "texts": []}, "no target"),
        ({"box": BOX, "frame": [1]}, "`frame` must be one number"),
        ({"box": BOX, "frame": -1}, "counted from 0"),
        ({"box": BOX, "frame": 9}, "ends at frame 3, before frame 9"),
        ({"box": BOX, "frame": 9, "direction": "backward"}, "ends at frame 3, before frame 9"),
        ({"box": BOX, "direction": "up"}, "`direction` must be one of forward, backward, both"),
        ({"box": BOX, "redetect": "yes"}, "`redetect` must be one of None, 'local', 'frame'"),
    ],
)
def test_targets_that_cannot_be_meant_are_refused(tracker, frames, arguments, message):
    with pytest.raises(ValueError, match=message):
        tracker(frames, text=None if "boxes" in arguments else "dog", progress=False, **arguments)


def test_a_box_in_the_middle_is_the_start_of_a_shorter_video(tracker, frames):
    later = tracker(frames, box=BOX, text="dog", frame=2, raw=True, progress=False)
    cut = tracker(frames[2:], box=BOX, text="dog", raw=True, progress=False)
    assert [r["frame"] for r in later] == [2, 3]
    assert [r["box"] for r in later] == [r["box"] for r in cut]
    assert [r["score"] for r in later] == [r["score"] for r in cut]


def test_backward_equals_the_reversed_video_and_both_is_one_and_the_other(tracker, frames):
    backward = tracker(frames, box=BOX, text="dog", frame=2, direction="backward", raw=True, progress=False)
    turned = tracker(frames[2::-1], box=BOX, text="dog", raw=True, progress=False)
    assert [r["frame"] for r in backward] == [0, 1, 2]
    assert [r["box"] for r in backward] == [r["box"] for r in turned][::-1]
    both = tracker(frames, box=BOX, text="dog", frame=2, direction="both", raw=True, progress=False)
    forward = tracker(frames, box=BOX, text="dog", frame=2, raw=True, progress=False)
    assert both == [*backward, *forward[1:]]


def test_targets_given_in_different_frames_join_both_ways(tracker, frames):
    targets = {"boxes": {"a": BOX, "b": OTHER}, "texts": "it", "frame": {"a": 1, "b": 3}, "progress": False}
    assert {i: [r["frame"] for r in found] for i, found in tracker(frames, **targets).items()} == {
        "a": [1, 2, 3], "b": [3],
    }  # fmt: skip
    for direction in ("both", "backward"):
        found = tracker(frames, direction=direction, **targets)
        last = 3 if direction == "both" else 1
        assert [r["frame"] for r in found["a"]] == list(range(last + 1))
        assert [r["frame"] for r in found["b"]] == [0, 1, 2, 3]


def test_frames_that_come_once_cannot_be_tracked_backward(tracker, frames):
    with pytest.raises(ValueError, match="read again"):
        tracker((frame for frame in frames), box=BOX, text="dog", frame=1, direction="both", progress=False)
