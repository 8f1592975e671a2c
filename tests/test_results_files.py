"""The list of results that a tracker returns: its files in every format, its table and its plot."""

import copy
import csv
import errno
import json
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from tqdm import tqdm

from modeling_pjvlt import TargetsResults, TrackingPipeline, TrackingResults
from modeling_pjvlt.data.converters.sources import read_boxes
from modeling_pjvlt.results_pjvlt import make_result, pick_format, xywh
from modeling_pjvlt.video_pjvlt import read_frames
from modeling_pjvlt.video_writer_pjvlt import VideoWriter

BOXES = np.array([[10.0, 12.0, 20.0, 16.0], [11.5, 12.25, 20.125, 16.0], [-3.0, 0.0, 1e3, 7.0625]])
SCORES = [1.0, 0.5, 0.1234]
COLUMNS = ["frame", "x", "y", "w", "h", "score", "time", "lost", "redetected"]
FOUND = {"lost": False, "redetected": False}


@pytest.fixture
def results():
    rows = [make_result(i, box, score) for i, (box, score) in enumerate(zip(BOXES, SCORES, strict=True))]
    return TrackingResults(rows, fps=12.5, text="größerer Hund", source="clip.mp4", model="bundled")


def many(count):
    return TrackingResults([make_result(i, (i, 2, 3, 4), 0.5) for i in range(count)], fps=25.0, text="dog")


def test_it_is_the_list_it_holds(results):
    assert isinstance(results, list) and results == list(results) and len(results) == 3
    assert results[0] == {"frame": 0, "box": {"xmin": 10, "ymin": 12, "xmax": 30, "ymax": 28}, "score": 1.0} | FOUND
    assert json.loads(json.dumps(results)) == results
    for again in (copy.deepcopy(results), pickle.loads(pickle.dumps(results))):
        assert again == results and (again.fps, again.text, again.source) == (12.5, "größerer Hund", "clip.mp4")


def test_json_round_trip(results, tmp_path):
    path = results.save(tmp_path / "new" / "boxes.json")
    assert path.read_text(encoding="utf-8") == (
        '{"video": "clip.mp4", "model": "bundled", "text": "größerer Hund", "fps": 12.5, "frames": [\n'
        '{"frame": 0, "box": [10.0, 12.0, 20.0, 16.0], "score": 1.0},\n'
        '{"frame": 1, "box": [11.5, 12.25, 20.125, 16.0], "score": 0.5},\n'
        '{"frame": 2, "box": [-3.0, 0.0, 1000.0, 7.062], "score": 0.1234}\n'
        "]}\n"
    )
    told = json.loads(path.read_text(encoding="utf-8"))
    again = TrackingResults([make_result(f["frame"], f["box"], f["score"]) for f in told["frames"]])
    again.save(tmp_path / "again.csv")
    results.save(tmp_path / "first.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "first.csv").read_bytes()


def test_video_whose_name_is_not_utf8_is_named_in_json(results, tmp_path):
    results.source = os.fsdecode(b"caf\xe9.mp4")
    content = results.save(tmp_path / os.fsdecode(b"caf\xe9.json")).read_bytes()
    assert os.fsencode(json.loads(content.decode("utf-8"))["video"]) == b"caf\xe9.mp4"


def test_csv_round_trip(results, tmp_path):
    with results.save(tmp_path / "boxes.CSV").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [row["frame"] for row in rows] == ["0", "1", "2"]
    np.testing.assert_allclose([[float(row[k]) for k in "xywh"] for row in rows], BOXES, atol=6e-4)
    assert [float(row["score"]) for row in rows] == SCORES


def test_txt_is_what_the_evaluation_reads(results, tmp_path):
    path = results.save(tmp_path / "boxes.txt")
    assert path.read_bytes().startswith(b"10.000,12.000,20.000,16.000\n11.500,")
    np.testing.assert_allclose(read_boxes(path, np.float64), BOXES, atol=6e-4)


def test_mot_counts_frames_from_1(results, tmp_path):
    rows = np.loadtxt(results.save(tmp_path / "boxes.txt", format="mot"), delimiter=",")
    assert rows.shape == (3, 10)
    assert rows[:, 0].tolist() == [1, 2, 3] and (rows[:, 1] == 1).all() and (rows[:, 7:] == -1).all()
    np.testing.assert_allclose(rows[:, 2:6], BOXES, atol=6e-4)
    assert rows[:, 6].tolist() == SCORES


def test_no_results_are_files_without_rows(tmp_path):
    empty = TrackingResults()
    assert json.loads(empty.save(tmp_path / "a.json").read_text())["frames"] == []
    assert empty.save(tmp_path / "a.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert empty.save(tmp_path / "a.txt").read_text() == empty.save(tmp_path / "b", "mot").read_text() == ""


@pytest.mark.parametrize("name", ["boxes.xls", "boxes", "boxes.mot"])
def test_unknown_suffix_is_refused(results, tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name}: boxes are written as \.json, \.csv or \.txt"):
        results.save(tmp_path / name)
    with pytest.raises(ValueError, match="'xls' is not a format of boxes; choose one of json, csv, txt, mot"):
        results.save(tmp_path / "boxes.csv", format="xls")
    assert list(tmp_path.iterdir()) == []
    assert pick_format("boxes.csv", "mot") == "mot"


@pytest.mark.parametrize("broken", ["write_text", "replace"])
def test_error_while_writing_keeps_the_old_file(results, tmp_path, monkeypatch, broken):
    def full_disk(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "boxes.json"
    path.write_text("precious")
    monkeypatch.setattr("pathlib.Path.write_text" if broken == "write_text" else "os.replace", full_disk)
    with pytest.raises(OSError, match=r"boxes\.json: cannot be written \(No space left on device\)"):
        results.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["boxes.json"] and path.read_text() == "precious"


def test_unwritable_place_is_one_error(results, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"boxes\.csv: cannot be written"):
        results.save(tmp_path / "file" / "boxes.csv")


def test_table_is_short(results):
    lines = repr(many(500)).splitlines()
    assert lines[0] == 'TrackingResults: 500 frames, 25 fps, "dog"'
    assert lines[1].split() == ["frame", "x", "y", "w", "h", "score"]
    assert [line.split()[0] for line in lines[2:8]] == ["0", "1", "2", "…", "498", "499"]
    assert lines[2].split() == ["0", "0.0", "2.0", "3.0", "4.0", "0.500"]
    assert lines[8] == "mean score 0.500" and len(lines) == 9
    assert "…" not in repr(results) and "clip.mp4" in repr(results)
    assert repr(TrackingResults()) == "TrackingResults: no frames" and "1 frame," in repr(many(1))


def test_data_frame(results, monkeypatch):
    pytest.importorskip("pandas")
    frame = results.to_pandas()
    assert list(frame.columns) == COLUMNS and len(frame) == 3
    np.testing.assert_allclose(frame[["x", "y", "w", "h"]].to_numpy(), BOXES)
    assert len(TrackingResults().to_pandas()) == 0
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        results.to_pandas()


def test_plot_shows_score_and_size_over_time(results, monkeypatch):
    pytest.importorskip("matplotlib")
    results.lost_score = 0.3
    figure = results.plot()
    score, size = (axes.lines[0].get_xydata() for axes in figure.axes)
    given = [np.nan, *SCORES[1:]]  # the first box was given: its score says nothing
    np.testing.assert_allclose(score, np.stack([np.arange(3) / 12.5, given], axis=1))
    for shown in (figure, results[1:].plot()):
        assert SCORES[0] == 1 and list(shown.axes[0].lines[1].get_ydata()) == [0.3, 0.3]
    assert len(many(3).plot().axes[0].lines) == 1  # nobody knows when its target is lost
    np.testing.assert_allclose(size[:, 1], np.sqrt(BOXES[:, 2] * BOXES[:, 3]))
    assert figure.axes[1].get_xlabel() == "seconds"
    assert TrackingResults().plot().axes[1].get_xlabel() == "frame"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        results.plot()


def test_pipeline_returns_it(tiny_model, tiny_processor, tmp_path):
    from PIL import Image

    for index in range(3):
        Image.new("RGB", (80, 60), (40 * index, 0, 0)).save(tmp_path / f"{index}.png")
    tracker = TrackingPipeline(model=tiny_model(), processor=tiny_processor)
    results = tracker(tmp_path, box=[20, 12, 10, 14], text="white dog", progress=False)
    assert type(results) is TrackingResults and len(results) == 3
    assert (results.fps, results.text, results.source) == (30.0, "white dog", str(tmp_path))
    assert xywh(results[0]) == (20, 12, 10, 14)
    frames = [np.zeros((60, 80, 3), np.uint8)] * 2
    from_memory = tracker(frames, box=[20, 12, 10, 14], progress=False)
    assert from_memory.source is None and from_memory.text == "the target"


def test_shows_itself_as_a_video_where_the_frames_can_be_read_again(tmp_path):
    frames = [np.full((80, 120, 3), 30 * i, np.uint8) for i in range(4)]
    results = TrackingResults(
        [make_result(i, [10 + i, 8, 80, 60], 0.5) for i in range(4)], 10.0, "a <dog>", frames=frames
    )
    html = results._repr_html_()
    assert 'src="data:video/mp4;base64,' in html and "a &lt;dog&gt;" in html and results._repr_html_() is html
    shown = list(read_frames(results.save_video(tmp_path / "shown.mp4")))
    assert len(shown) == 4 and all(frame.shape == (80, 120, 3) for frame in shown)
    for index, frame in enumerate(shown):
        inside, border = frame[40:60, 30:70].astype(int), frame[8:10, 40:80].astype(int)
        assert border[..., 0].mean() > inside[..., 0].mean() + 60 and abs(inside.mean() - 30 * index) < 12
    live = TrackingResults(list(results), 10.0, "a dog")
    assert "<video" not in live._repr_html_()
    with pytest.raises(ValueError, match="cannot be read again"):
        live.save_video(tmp_path / "live.mp4")
    assert not (tmp_path / "live.mp4").exists()


def test_pipeline_keeps_frames_that_can_be_read_again(tiny_model, tiny_processor):
    tracker = TrackingPipeline(model=tiny_model(), processor=tiny_processor)
    frames = [np.full((40, 60, 3), 30 * i, np.uint8) for i in range(3)]
    box = [10, 8, 20, 12]
    results = tracker(frames, box=box, text="dog", progress=False)
    assert "<video" in results._repr_html_()
    assert pickle.loads(pickle.dumps(results)) == results
    assert "<video" not in tracker((f for f in frames), box=box, text="dog", progress=False)._repr_html_()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_written_into_and_not_replaced(results, tmp_path):
    os.mkfifo(tmp_path / "boxes.csv")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "boxes.csv").read_text(encoding="utf-8")))
    reader.start()
    results.save(tmp_path / "boxes.csv")
    reader.join(10)
    assert read[0].count("\n") == 4 and (tmp_path / "boxes.csv").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["boxes.csv"]


def test_times_are_kept_in_every_table_and_set_the_pace_of_the_video(tmp_path):
    times, numbers = [0.0, 0.5, 0.54], [0, 13, 14]  # a live source dropped twelve frames
    results = TrackingResults(
        [make_result(n, [10, 8, 20, 12], 0.5, at) for n, at in zip(numbers, times, strict=True)],
        fps=25.0,
        frames=[np.zeros((40, 60, 3), np.uint8)] * 15,
    )
    told = json.loads(results.save(tmp_path / "a.json").read_text())["frames"]
    assert [(row["frame"], row["time"]) for row in told] == list(zip(numbers, times, strict=True))
    rows = results.save(tmp_path / "a.csv").read_text().splitlines()
    place = COLUMNS.index("time")
    assert rows[0].split(",") == COLUMNS and [float(row.split(",")[place]) for row in rows[1:]] == times
    shown = list(read_frames(results.save_video(tmp_path / "a.mp4")).timed())
    assert [frame.time for frame in shown] == pytest.approx(times, abs=1e-4)
    pytest.importorskip("pandas")
    assert results.to_pandas()["time"].tolist() == times
    pytest.importorskip("matplotlib")
    assert results.plot().axes[0].lines[0].get_xdata().tolist() == times


def test_video_without_a_number_of_frames_in_its_header_is_saved(tiny_model, tiny_processor, tmp_path):
    tracker = TrackingPipeline(model=tiny_model(), processor=tiny_processor)
    with VideoWriter(tmp_path / "clip.mkv", 12.5) as writer:
        for level in (30, 60, 90):
            writer.write(np.full((40, 60, 3), level, np.uint8))
    results = tracker(tmp_path / "clip.mkv", box=[10, 8, 20, 12], text="dog", progress=False)
    assert len(list(read_frames(results.save_video(tmp_path / "out.mp4")))) == 3
    assert "<video" in results._repr_html_()


def test_frames_that_are_gone_are_told_and_no_short_video_stays(tmp_path):
    used_up = tqdm(iter([np.zeros((40, 60, 3), np.uint8)]), total=3, disable=True)  # has a length, and runs once
    results = TrackingResults([make_result(i, [10, 8, 20, 12], 0.5) for i in range(3)], frames=used_up)
    with pytest.raises(ValueError, match="Only 1 of the 3 frames could be read again"):
        results.save_video(tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())
    html = results._repr_html_()
    assert "no video: " in html and "<pre>TrackingResults: 3 frames" in html


def test_results_never_replace_their_video(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    frames = [np.full((40, 60, 3), 30 * i, np.uint8) for i in range(3)]
    with VideoWriter("clip.mp4") as writer:
        for frame in frames:
            writer.write(frame)
    (tmp_path / "images").mkdir()
    Image.fromarray(frames[0]).save("images/1.png")
    before = (tmp_path / "clip.mp4").read_bytes()
    results = TrackingResults(
        [make_result(i, [10, 8, 20, 12], 0.5) for i in range(3)], source="clip.mp4", frames=frames
    )
    for write in (results.save_video, lambda path: results.save(path, "csv")):
        with pytest.raises(ValueError, match=r"clip\.mp4 is the video to read"):
            write(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=r"2\.png would be an image of images"):
        TrackingResults(results, source="images").save("images/2.png", "csv")
    assert (tmp_path / "clip.mp4").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "images"]


@pytest.fixture
def two():
    """Two targets of one video: a lost one, and one whose name has a comma and which is given later."""
    frames = [np.zeros((120, 180, 3), np.uint8)] * 3
    dog = [make_result(i, [10, 8, 40, 40], 0.5, i / 25, lost=i == 1, redetected=i == 2) for i in range(3)]
    ball = [make_result(2, [90, 60, 40, 40], 1.0, 2 / 25)]
    about = {"fps": 25.0, "source": "clip.mp4", "model": "bundled", "frames": frames}
    return TargetsResults(
        {"dog": TrackingResults(dog, text="a dog", **about), "ball, red": TrackingResults(ball, text="it", **about)}
    )


def test_several_targets_share_a_file(two, tmp_path):
    told = json.loads(two.save(tmp_path / "a.json").read_text())
    assert [(t["id"], t["text"], len(t["frames"])) for t in told["targets"]] == [
        ("dog", "a dog", 3),
        ("ball, red", "it", 1),
    ]
    assert [frame.get("lost", False) for frame in told["targets"][0]["frames"]] == [False, True, False]
    assert told["targets"][0]["frames"][2]["redetected"] is True and told["fps"] == 25.0
    with two.save(tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["id"], r["frame"], r["lost"], r["redetected"]) for r in rows] == [
        ("dog", "0", "0", "0"), ("dog", "1", "1", "0"), ("dog", "2", "0", "1"), ("ball, red", "2", "0", "0"),
    ]  # fmt: skip
    mot = np.loadtxt(two.save(tmp_path / "a.txt", "mot"), delimiter=",")
    assert mot[:, 0].tolist() == [1, 2, 3, 3] and mot[:, 1].tolist() == [1, 1, 1, 2]
    with pytest.raises(ValueError, match="txt holds one target only"):
        two.save(tmp_path / "b.txt")
    pytest.importorskip("pandas")
    table = two.to_pandas()
    assert list(table.columns) == ["id", *COLUMNS] and table["id"].tolist() == ["dog"] * 3 + ["ball, red"]


def test_several_targets_are_drawn_in_one_video_in_their_own_colours(two, tmp_path):
    last = list(read_frames(two.save_video(tmp_path / "a.mp4")))[2].astype(int)
    dog, ball = last[47, 40], last[99, 120]  # on the lower edges
    assert dog[0] > dog[2] + 40 and ball[2] > ball[0] + 40
