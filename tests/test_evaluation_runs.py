"""Evaluations on disk: what is finished stays, however it ends, and all processes together give what one gives."""

import copy
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from PIL import Image
from test_training_runs import subprocess_environment
from transformers import BertTokenizer

from modeling_pjvlt import DEFAULT_CHECKPOINT, PJVLTModel
from modeling_pjvlt.cli.evaluate import PROTOCOL_NAMES, SERVERS, TEXT_KINDS, choose_protocol, main
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.evaluation.protocols import PROTOCOLS
from modeling_pjvlt.evaluation.result_files import SUBMISSIONS, check_names, file_stem, read_results, write_submission
from modeling_pjvlt.evaluation.runner import Evaluation, ground_truth, shares
from modeling_pjvlt.evaluation.sequences import TEXTS, load_sequences, sentences
from modeling_pjvlt.run_folders import checkpoint_name, find_checkpoint

LENGTHS = {"cat": 5, "dog & <cat>": 3, "a, b": 8}


@pytest.fixture
def clips(tmp_path):
    """A folder of sequences as images; the second one is absent in its last frame."""
    root = tmp_path / "clips"
    for seed, (name, length) in enumerate(LENGTHS.items()):
        clip, folder = ProceduralClip(seed, length, size=(60, 80)), root / name
        (folder / "img").mkdir(parents=True)
        boxes = clip.boxes.copy()
        if name.startswith("dog"):
            boxes[-1] = 0
        for index in range(length):
            Image.fromarray(clip.frame(index)).save(folder / "img" / f"{index:04d}.png")
        np.savetxt(folder / "groundtruth_rect.txt", boxes, "%.2f", ",")
        (folder / "language.txt").write_text(clip.text, encoding="utf-8")
    return root


@pytest.fixture
def checkpoint(tiny_model, tiny_processor, tmp_path):
    folder = tmp_path / "tiny"
    tiny_model(stirred=True).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def command(clips, checkpoint, tmp_path):
    """Arguments of `pjvlt-eval` on the clips."""
    return ["--model", str(checkpoint), "--dataset_name", str(clips), "--output_dir", str(tmp_path / "out")]


def raw(folder: Path, text: str = "own") -> dict[str, str]:
    """Boxes on disk, as they are written."""
    return {p.name: p.read_text() for p in (folder / "clips" / "raw" / text).glob("*.txt") if "_time" not in p.name}


def test_help_and_checks_know_the_same_names():
    assert tuple(PROTOCOLS) == PROTOCOL_NAMES and TEXTS == TEXT_KINDS and SUBMISSIONS == SERVERS


def test_one_command_tracks_scores_and_reports(command, tmp_path, capsys):
    assert main([*command, "--text", "own", "shuffled", "empty"]) == 0
    told = capsys.readouterr().out
    assert (
        "3 sequences, protocol pytracking" in told and "own minus shuffled sentences" in told and "report.html" in told
    )
    folder = tmp_path / "out" / "clips"
    report = json.loads((folder / "pytracking" / "report.json").read_text(encoding="utf-8"))
    assert report["protocol"] == "pytracking" and len(report["results"]) == 3
    boxes = read_results(folder / "raw" / "own", LENGTHS)
    assert {name: len(found) for name, found in boxes.items()} == LENGTHS
    sequences = load_sequences(str(tmp_path / "clips"))
    for sequence in sequences:
        np.testing.assert_allclose(boxes[sequence.name][0], sequence.boxes[0], atol=1e-4)
        times = np.loadtxt(folder / "raw" / "own" / f"{file_stem(sequence.name)}_time.txt")
        assert times[0] == 0 and (times[1:] > 0).all() and len(times) == len(sequence)
    assert "dog &amp; &lt;cat&gt;" in (folder / "pytracking" / "report.html").read_text(encoding="utf-8")


def test_finished_sequences_are_not_tracked_again(command, tmp_path, monkeypatch):
    assert main(command) == 0
    whole = raw(tmp_path / "out")
    folder = tmp_path / "out" / "clips" / "raw" / "own"
    (folder / "cat.json").unlink()  # as if killed before it was finished
    (folder / "cat.txt").write_text("half a li")
    (folder / ".cat.json.abc.partial").write_text("{")
    calls = []
    step = Evaluation._track
    monkeypatch.setattr(Evaluation, "_track", lambda self, n, bar: (calls.append(n), step(self, n, bar)))
    assert main(command) == 0
    assert len(calls) == 1 and raw(tmp_path / "out") == whole and not list(folder.glob(".*"))


def test_a_killed_run_goes_on_to_the_same_end(command, tmp_path):
    elsewhere = [*command[:-1], str(tmp_path / "whole")]
    assert main(elsewhere) == 0
    script = [sys.executable, "-m", "modeling_pjvlt.cli.evaluate", *command]
    running = subprocess.Popen(script, env=subprocess_environment(), stderr=subprocess.DEVNULL)
    folder, deadline = tmp_path / "out" / "clips" / "raw" / "own", time.monotonic() + 120
    while not list(folder.glob("*.json")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert list(folder.glob("*.json"))
    assert main(command) == 0
    assert raw(tmp_path / "out") == raw(tmp_path / "whole")
    assert not list(folder.glob(".*"))


def test_two_processes_give_what_one_gives(command, tmp_path):
    elsewhere = [*command[:-1], str(tmp_path / "alone")]
    environment = {**subprocess_environment(), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "modeling_pjvlt.cli.evaluate", *elsewhere, "--device", "cpu"],
        env=environment, check=True, timeout=300, capture_output=True,
    )  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["-m", "modeling_pjvlt.cli.evaluate", *command]  # without --device, where there is only the CPU
    launch += ["--device", "cpu"] if torch.accelerator.is_available() else []
    together = subprocess.run(launch, env=environment, timeout=300, capture_output=True, text=True)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("report: ") == 1
    assert raw(tmp_path / "out") == raw(tmp_path / "alone")
    reports = [
        json.loads((tmp_path / name / "clips" / "pytracking" / "report.json").read_text()) for name in ("out", "alone")
    ]
    assert reports[0]["results"][0]["scores"] == reports[1]["results"][0]["scores"]
    assert reports[0]["environment"]["processes"] == "2"


def test_results_of_another_model_are_not_mixed_in(command, tmp_path, tiny_model, capsys):
    assert main(command) == 0
    tiny_model(seed=1, stirred=True).save_pretrained(command[1])
    assert main(command) == 2
    assert "another model" in capsys.readouterr().err


@pytest.mark.parametrize(("setting", "value"), [("window_weight", 0.5), ("size_smoothing", 0.5)])
def test_results_of_other_tracking_settings_are_not_mixed_in(
    setting, value, command, tmp_path, tiny_processor, capsys
):
    assert main(command) == 0
    changed = copy.copy(tiny_processor)
    setattr(changed, setting, value)
    changed.save_pretrained(command[1])
    assert main(command) == 2
    assert "another model" in capsys.readouterr().err


def test_results_of_another_vocabulary_are_not_mixed_in(command, tmp_path, tiny_tokenizer, monkeypatch, capsys):
    """The weights are the same, but the sentences become other tokens."""
    assert main(command) == 0
    boxes, calls = raw(tmp_path / "out"), []
    words = sorted(tiny_tokenizer.get_vocab(), key=tiny_tokenizer.get_vocab().get)
    special = len(tiny_tokenizer.all_special_tokens)
    turned = [*words[:special], *reversed(words[special:])]
    other = BertTokenizer(vocab={word: i for i, word in enumerate(turned)}, do_lower_case=True, model_max_length=40)
    other.save_pretrained(command[1])
    assert main(command) == 2
    assert "another model" in capsys.readouterr().err
    tiny_tokenizer.save_pretrained(command[1])
    tiny_tokenizer("used", truncation=True, max_length=3)  # what a tokenizer did before does not count
    monkeypatch.setattr(Evaluation, "_track", lambda self, number, bar: calls.append(number))
    assert main(command) == 0
    assert not calls and raw(tmp_path / "out") == boxes


def test_running_sequences_one_by_one_changes_nothing(checkpoint, tiny_processor, clips, tmp_path):
    sequences = load_sequences(str(clips))
    run = Evaluation(
        PJVLTModel.from_pretrained(checkpoint), tiny_processor, sequences, "own", tmp_path, PartialState()
    )
    run.run()
    (alone,) = [s for s in sequences if s.name == "cat"]
    other = Evaluation(run.model, tiny_processor, [alone], "own", tmp_path / "alone", run.state)
    other.run()
    assert np.array_equal(other.predictions()["cat"], run.predictions()["cat"])
    assert other.finished()["cat"].frames == 5


def test_every_sequence_has_one_process_and_the_longest_come_first():
    shared = shares([5, 100, 7, 60, 50, 1], 3)
    assert sorted(number for one in shared for number in one) == list(range(6))
    assert [one[0] for one in shared] == [1, 3, 4] and shares([3], 2) == [[0], []]


def test_sentences_of_each_kind(clips):
    sequences = load_sequences(str(clips))
    own = sentences(sequences, "own")
    assert sentences(sequences, "empty") == ["the target"] * 3
    shuffled = sentences(sequences, "shuffled")
    assert all(a != b for a, b in zip(own, shuffled, strict=True)) and set(shuffled) <= set(own)
    assert shuffled == sentences(sequences, "shuffled")
    with pytest.raises(ValueError, match="3 sequences have no class"):
        sentences(sequences, "class")
    with pytest.raises(ValueError, match="nothing to shuffle"):
        sentences(sequences[:1], "shuffled")
    clip = ProceduralClip(3, 2)
    assert sentences([clip], "shuffled") == [clip.wrong_text]


def test_other_trackers_are_ranked_beside(command, tmp_path, clips, capsys):
    perfect, lost = tmp_path / "perfect", tmp_path / "lost"
    for folder in (perfect, lost):
        folder.mkdir()
    for sequence in load_sequences(str(clips)):
        boxes = np.where(sequence.boxes[:, 2:].all(axis=1)[:, None], sequence.boxes, [1, 1, 5, 5])
        np.savetxt(perfect / f"{sequence.name}.txt", boxes, "%.3f", "\t")
        (lost / sequence.name).mkdir()
        np.savetxt(lost / sequence.name / f"{sequence.name}_001.txt", np.full_like(boxes, 1), "%.3f", ",")
    assert main([*command, "--others", f"Perfect={perfect}", f"Lost={lost}"]) == 0
    report = json.loads((tmp_path / "out" / "clips" / "pytracking" / "report.json").read_text(encoding="utf-8"))
    scores = {result["name"]: result["scores"]["auc"] for result in report["results"]}
    assert scores["Perfect"] > 80 > scores["Lost"]
    (perfect / "cat.txt").write_text("1,2,3\n")
    assert main([*command, "--others", f"Perfect={perfect}"]) == 2
    assert "cat.txt, line 1: expected four numbers" in capsys.readouterr().err
    (perfect / "cat.txt").unlink()
    assert main([*command, "--others", f"Perfect={perfect}"]) == 2
    assert "no results for 1 sequences: ['cat']" in capsys.readouterr().err


def test_result_files_may_be_mixed_and_hold_polygons(tmp_path):
    (tmp_path / "a.txt").write_text("1,2,3,4\r\n5 6\t7;8\n10,20,30,20,30,40,10,40\nNaN,NaN,NaN,NaN\n")
    boxes = read_results(tmp_path, ["a"])["a"]
    assert boxes[:3].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [10, 20, 20, 20]] and np.isnan(boxes[3]).all()


def test_sentences_of_a_file_replace_the_datasets_own(command, clips, tmp_path, capsys):
    for name in LENGTHS:
        (clips / name / "language.txt").unlink()
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "warning: clips: All 3 sequences have the same sentence, 'the target'" in printed.err
    assert "All 3 sequences" in json.loads((tmp_path / "out/clips/pytracking/report.json").read_text())["notes"][0]
    path = tmp_path / "sentences.tsv"
    path.write_text("cat\tsmall cat\na, b\ta thing, or two\n")
    assert main([*command[:-1], str(tmp_path / "own"), "--sentences", str(path)]) == 0
    assert "same sentence" not in capsys.readouterr().err
    told = {p.stem: json.loads(p.read_text())["sentence"] for p in (tmp_path / "own/clips/raw/own").glob("*.json")}
    assert told == {"cat": "small cat", "a, b": "a thing, or two", "dog & <cat>": "the target"}
    path.write_text("nobody\tsmall cat\n")
    assert main([*command, "--sentences", str(path)]) == 2
    assert "names none of the 3 sequences" in capsys.readouterr().err


def test_what_the_paper_reports_for_the_dataset_stands_beside(command, clips, tmp_path, capsys):
    lasot = clips.rename(clips.with_name("LaSOT-converted"))
    arguments = [str(lasot) if word == str(clips) else word for word in command]
    assert main([*arguments, "--published"]) == 0
    printed = capsys.readouterr().out
    row = r"PJVLT +auc 69.0  precision 74.8  normalized_precision 78.4  fps 54.0  \(the paper, Table I\)"
    assert re.search(row, printed)
    rows = json.loads((tmp_path / "out/LaSOT-converted/lasot/report.json").read_text())["published"]
    assert {row["dataset"] for row in rows} == {"lasot"} and len(rows) == 5
    other = clips.with_name("mine")
    lasot.rename(other)
    arguments = [str(other) if word == str(clips) else word for word in command]
    assert main([*arguments, "--published"]) == 0
    assert (
        "--published: no scores for mine; there are some for lasot, lasotext, got10k, tnl2k" in capsys.readouterr().out
    )


def test_lost_targets_are_searched_again_only_when_asked_and_both_numbers_are_reported(command, tmp_path, capsys):
    assert main(command) == 0
    plain = raw(tmp_path / "out")
    assert main([*command, "--lost_score", "0.9"]) == 0  # the untrained model is never that sure
    report = json.loads((tmp_path / "out/clips/pytracking/report.json").read_text())
    assert [r["name"] for r in report["results"]] == ["tiny", "tiny, lost below 0.9"]
    assert raw(tmp_path / "out") == plain and raw(tmp_path / "out", "own-lost-0.9") != plain
    assert any(
        note.startswith("The search for lost targets (score below 0.9) changes 1 of 3") for note in report["notes"]
    )
    assert main([*command, "--lost_score", "1e-9"]) == 0
    report = json.loads((tmp_path / "out/clips/pytracking/report.json").read_text())
    assert len(report["results"]) == 1 and any("changes 0 of 3 sequences" in note for note in report["notes"])
    assert main([*command, "--lost_score", "1.5"]) == 2


@pytest.mark.parametrize("server", SUBMISSIONS)
def test_archive_for_a_server(server, command, tmp_path):
    assert main([*command, "--submission", server]) == 0
    with zipfile.ZipFile(tmp_path / "out" / "clips" / f"{server}.zip") as archive:
        names = set(archive.namelist())
        path = "cat/cat_001.txt" if server == "got10k" else "cat.txt"
        lines = archive.read(path).decode().splitlines()
    assert path in names and len(lines) == 5 and all(len(line.split(",")) == 4 for line in lines)
    assert len(names) == (6 if server == "got10k" else 3)


def test_an_archive_that_a_server_would_refuse_is_not_written(tmp_path):
    boxes, path = {"a": np.ones((3, 4)), "b": np.array([[1, 1, 0, 1], [1, 1, 1, 1]])}, tmp_path / "x.zip"
    with pytest.raises(ValueError, match=r"a: 3 boxes for 4 frames; b: .* no area; c: not") as error:
        write_submission(path, "trackingnet", {**boxes, "c": boxes["a"]}, {}, {"a": 4, "b": 2})
    assert "3 sequences" in str(error.value) and not list(tmp_path.iterdir())


def test_test_sets_without_ground_truth_give_boxes_and_no_scores(command, clips, tmp_path, capsys):
    for name in LENGTHS:
        path = clips / name / "groundtruth_rect.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *["0,0,0,0"] * (len(lines) - 1)]))
    assert main([*command, "--submission", "got10k", "--protocol", "got10k"]) == 0
    assert "not public" in capsys.readouterr().out
    assert (tmp_path / "out" / "clips" / "got10k.zip").exists()
    assert not list((tmp_path / "out").rglob("report.*"))


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_every_protocol_reports(command, protocol, tmp_path):
    assert main([*command, "--protocol", protocol]) == 0
    report = (tmp_path / "out" / "clips" / protocol / "report.md").read_text(encoding="utf-8")
    assert protocol in report and "a, b" in report


@pytest.mark.parametrize(
    ("asked", "name", "protocol"),
    [
        (None, "my-videos", "pytracking"),
        (None, "procedural", "pytracking"),
        (None, "footballs", "pytracking"),
        (None, "me/LaSOT_ext", "lasot"),
        (None, "me/got-10k", "got10k"),
        (None, "TNL2K_test", "tnl2k"),
        (None, "otb99", "otb"),
        ("lasot", "my-videos", "lasot"),
    ],
)
def test_protocol_is_that_of_the_benchmark_or_one_that_hits_boxes_at_0(asked, name, protocol):
    chosen, reason = choose_protocol(asked, name)
    assert chosen == protocol and reason.startswith(f"Protocol `{protocol}`, ")
    assert ("not named after a benchmark" in reason) == (protocol == "pytracking")


def test_report_of_another_protocol_goes_beside_and_each_says_why(command, tmp_path, capsys):
    assert main(command) == 0
    first = (tmp_path / "out" / "clips" / "pytracking" / "report.md").read_bytes()
    assert "not named after a benchmark: it scores boxes that begin at x or y 0" in first.decode()
    assert main([*command, "--protocol", "otb"]) == 0
    assert (tmp_path / "out" / "clips" / "pytracking" / "report.md").read_bytes() == first
    assert "as given by --protocol" in (tmp_path / "out" / "clips" / "otb" / "report.md").read_text()
    assert "Protocol `otb`, as given by --protocol." in capsys.readouterr().out


def test_model_is_found_in_the_folder_of_a_run_and_named_by_run_and_step(command, checkpoint, tmp_path, monkeypatch):
    run = tmp_path / "my-run"
    shutil.copytree(checkpoint, run / "checkpoints" / "000012" / "pretrained_model")
    (run / "checkpoints" / "last").symlink_to("000012")
    monkeypatch.chdir(tmp_path)
    assert main(["--model", "my-run", *command[2:4]]) == 0
    report = json.loads(
        (tmp_path / "evaluations" / "my-run-000012" / "clips" / "pytracking" / "report.json").read_text()
    )
    assert report["model"] == report["results"][0]["name"] == "my-run-000012"


def test_checkpoints_are_found_and_named(checkpoint, tmp_path, monkeypatch):
    run, monkey = tmp_path / "my-run", monkeypatch
    monkey.chdir(tmp_path)
    inside = run / "checkpoints" / "000012" / "pretrained_model"
    shutil.copytree(checkpoint, inside)
    (run / "checkpoints" / "last").symlink_to("000012")
    for name in ("my-run", "my-run/checkpoints", "my-run/checkpoints/last", "my-run/checkpoints/000012", str(inside)):
        assert Path(find_checkpoint(name)).resolve() == inside
        assert checkpoint_name(find_checkpoint(name)) == "my-run-000012"
    assert find_checkpoint("tiny") == "tiny" == checkpoint_name("tiny")
    assert find_checkpoint("pjvlt-small") == DEFAULT_CHECKPOINT
    assert find_checkpoint("me/tracker") == "me/tracker" == checkpoint_name("me/tracker")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"^empty: there is no checkpoint in this folder"):
        find_checkpoint("empty")
    with pytest.raises(FileNotFoundError, match=r"^\./my-rum: no such checkpoint folder\. Did you mean my-run"):
        find_checkpoint("./my-rum")


def test_broken_frame_is_named_and_the_others_are_kept(command, clips, tmp_path, capsys):
    (clips / "cat" / "img" / "0003.png").write_bytes(b"no image")
    assert main(command) == 2
    assert "Sequence 'cat', frame 3" in capsys.readouterr().err
    assert "a, b.txt" in raw(tmp_path / "out")  # the longest is tracked first


def test_targets_at_the_border_are_noted_where_they_cannot_be_hit(command, clips, tmp_path):
    (clips / "cat" / "groundtruth_rect.txt").write_text("9,9,9,9\n" + "0,5,9,9\n" * 4)
    for protocol, noted in (("otb", True), ("pytracking", False)):
        assert main([*command, "--protocol", protocol]) == 0
        report = (tmp_path / "out" / "clips" / protocol / "report.md").read_text(encoding="utf-8")
        assert ("4 frames have a target whose x or y is not positive" in report) == noted


def test_wrong_arguments_are_said(command, clips, capsys, tmp_path):
    assert main([*command, "--others", "noname"]) == 2
    assert "NAME=FOLDER" in capsys.readouterr().err
    (tmp_path / "attributes.json").write_text("{")
    assert main([*command, "--attributes", str(tmp_path / "attributes.json")]) == 2
    assert "is not JSON" in capsys.readouterr().err
    (clips / "cat" / "groundtruth_rect.txt").write_text("0,0,0,0\n" * 5)
    assert main(command) == 2
    assert "no box in their first frame: ['cat']" in capsys.readouterr().err


def test_sequences_of_one_name_are_refused(clips):
    sequences = load_sequences(str(clips))
    with pytest.raises(ValueError, match="more than once"):
        ground_truth([*sequences, sequences[0]])


@pytest.mark.parametrize(
    ("first", "second", "file"),
    [
        ("dog", "dog_time", "dog_time.txt"),
        ("dog_time", "dog", "dog_time.txt"),
        ("Dog", "dog", "dog.txt"),
        ("a/b", "a-b", "a-b.txt"),
        ("caf\u00e9", "cafe\u0301", "cafe\u0301.txt"),  # one name to some file systems
    ],
)
def test_sequences_that_would_share_a_file_are_refused(first, second, file):
    with pytest.raises(ValueError, match=f"{first!r} and {second!r} would be written to the same file, {file}"):
        check_names([first, "other", second])
    check_names(["dog", "dog_times", "time", "dog-time"])


def test_metric_of_the_evaluate_library_scores_the_same(isolated_cache, monkeypatch):
    import evaluate

    from modeling_pjvlt.evaluation import METRIC, score_benchmark

    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", isolated_cache)
    rng = np.random.default_rng(0)
    truth = {name: rng.uniform(5, 40, (n, 4)) for name, n in LENGTHS.items()}
    boxes = {name: b + rng.normal(0, 3, b.shape) for name, b in truth.items()}
    absent = {name: rng.random(len(b)) < 0.3 for name, b in truth.items()}

    def rows(kind):
        return [
            {"sequence": n, "boxes": kind[n].tolist(), **({"absent": absent[n].tolist()} if kind is truth else {})}
            for n in LENGTHS
        ]

    metric = evaluate.load(METRIC)
    metric.add(prediction=rows(boxes)[0], reference=rows(truth)[0])
    metric.add_batch(predictions=rows(boxes)[1:], references=rows(truth)[1:])
    assert metric.compute(protocol="tnl2k") == pytest.approx(dict(score_benchmark(boxes, truth, absent, "tnl2k")))
    # Two processes, of which the first one computes.
    said = {}

    def process(number: int, chosen: slice) -> None:
        part = evaluate.load(METRIC, num_process=2, process_id=number, experiment_id="both")
        part.add_batch(predictions=rows(boxes)[chosen], references=rows(truth)[chosen])
        said[number] = part.compute()

    other = threading.Thread(target=process, args=(1, slice(0, 1)))
    other.start()
    process(0, slice(1, None))
    other.join()
    assert said[1] is None and said[0] == pytest.approx(dict(score_benchmark(boxes, truth, absent, "lasot")))


def test_metric_of_the_evaluate_library_refuses_what_does_not_belong_together(isolated_cache, monkeypatch):
    import evaluate

    from modeling_pjvlt.evaluation import METRIC

    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", isolated_cache)
    metric, box = evaluate.load(METRIC), [[1.0, 1.0, 1.0, 1.0]]
    reference = {"sequence": "cat", "boxes": box * 2, "absent": []}
    for bad in ({"sequence": "other", "boxes": box * 2}, {"sequence": "cat", "boxes": box}):
        metric.add(prediction=bad, reference=reference)
        with pytest.raises(ValueError):
            metric.compute()
