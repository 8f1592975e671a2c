"""From a benchmark's folder to a model that others load: convert, train, kill, resume, evaluate, push, track."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import run_python
from miniatures import BUILDERS
from test_model_publishing import WITHOUT_PACKAGE

from modeling_pjvlt import PJVLTModel, PJVLTProcessor
from modeling_pjvlt.cli.convert import main as convert
from modeling_pjvlt.cli.train import main as train
from modeling_pjvlt.evaluation.procedural import evaluate_procedural


@pytest.mark.slow
def test_from_a_benchmark_to_somebody_elses_tracker(hub, recipe, isolated_cache, tmp_path, capsys):
    miniature = BUILDERS["otb99"](tmp_path / "raw")
    data, run = "tester/end-to-end-data", tmp_path / "run"
    assert convert(["otb99", str(miniature.root), "--output", str(tmp_path / "data"), "--push_to_hub", data]) == 0

    arguments = ["--config", str(recipe), "--output_dir", str(run), "--dataset_name", data, "--max_train_steps", "24"]
    arguments += ["--checkpointing_steps", "1", "--checkpoints_total_limit", "3"]
    arguments += [
        "--validation_steps",
        "12",
        "--validation_dataset_name",
        data,
        "--validation_split",
        "test",
        "--max_validation_frames",
        "4",
    ]
    environment = {
        **os.environ,
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "modeling_pjvlt.cli.train", *arguments]
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said, chunk = b"", b"the progress bar"
    while chunk and not (run / "checkpoints" / "000002").exists():
        chunk = child.stderr.read1()
        said += chunk
    child.kill()
    child.communicate()
    assert 2 <= int((run / "checkpoints" / "last").resolve().name) < 24, said.decode()

    more = ["--resume_from_checkpoint", "last", "--push_to_hub", "true", "--hub_model_id", "tester/end-to-end"]
    assert train([*arguments, *more]) == 0
    assert "Pushed to" in capsys.readouterr().out
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 25))

    model = PJVLTModel.from_pretrained("tester/end-to-end")
    scores = evaluate_procedural(model, PJVLTProcessor.from_pretrained("tester/end-to-end"), num_clips=2, num_frames=4)
    trained = PJVLTModel.from_pretrained(run / "checkpoints/last/pretrained_model")
    here = evaluate_procedural(trained, PJVLTProcessor.from_pretrained("tester/end-to-end"), num_clips=2, num_frames=4)
    assert scores.mean("words", "right") == here.mean("words", "right")
    card = hub.files("tester/end-to-end")["README.md"].decode()
    assert data in card and "auc_shuffled" in card
    done = run_python(hub, WITHOUT_PACKAGE, "tester/end-to-end", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])["results"]) == 4
