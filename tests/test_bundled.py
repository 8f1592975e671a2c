"""The checkpoint that ships with the package, and the main job that runs on it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor, pipeline

from modeling_pjvlt import DEFAULT_CHECKPOINT, PJVLTConfig, PJVLTModel, PJVLTProcessor
from modeling_pjvlt.cli.track import main
from modeling_pjvlt.data.synthetic.procedural import ProceduralClip
from modeling_pjvlt.data.synthetic.procedural_text import vocabulary
from modeling_pjvlt.evaluation import procedural
from modeling_pjvlt.evaluation.procedural import evaluate_procedural

FOLDER = Path(DEFAULT_CHECKPOINT)
FOLDERS = sorted(FOLDER.parent.iterdir())
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bundled():
    return PJVLTModel.from_pretrained(FOLDER), PJVLTProcessor.from_pretrained(FOLDER)


def test_two_checkpoints_ship():
    assert [folder.name for folder in FOLDERS] == ["pjvlt-small", "pjvlt-tiny"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folder_is_small_and_holds_safetensors(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 20e6


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_folder_names_no_path_of_a_machine(folder):
    for path in folder.glob("*.json"):
        if path.name != "tokenizer.json":
            assert not re.search(r'"/\w|\\\\|/home|/tmp', path.read_text(encoding="utf-8")), path.name


def test_auto_classes_load_it(bundled):
    assert type(AutoModel.from_pretrained(FOLDER)) is type(bundled[0])
    assert type(AutoProcessor.from_pretrained(FOLDER)) is type(bundled[1])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_all_parts_of_the_paper_are_there(folder):
    config = PJVLTConfig.from_pretrained(folder)
    images = PJVLTProcessor.from_pretrained(folder).image_processor
    scales = images.search_size / images.search_factor, images.template_size / images.template_factor
    assert scales[0] == pytest.approx(scales[1], rel=1e-3)  # the target is as large in both crops
    assert config.fusion == "progressive" and config.use_saiel and config.use_ccm and config.use_pim


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_tokenizer_can_write_every_procedural_word(folder):
    tokenizer = PJVLTProcessor.from_pretrained(folder).tokenizer
    pieces = {word: tokenizer.tokenize(word) for word in vocabulary()}
    assert not [word for word, tokens in pieces.items() if tokenizer.unk_token in tokens or len(tokens) > 3]


def test_pipeline_without_arguments_uses_it():
    clip = ProceduralClip(3, num_frames=5)
    tracker = pipeline("vision-language-tracking", device="cpu")
    results = tracker([clip.frame(i) for i in range(5)], box=clip.boxes[0], text=clip.text, progress=False)
    assert len(results) == 5
    json.dumps(results)


@pytest.mark.slow
def test_main_job_without_a_video_overlaps_its_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seed = re.search(r"pjvlt-track --seed (\d+)", (ROOT / "Makefile").read_text()).group(1)
    main(["--seed", seed])
    printed = capsys.readouterr().out
    assert float(re.search(r"mean overlap (\d\.\d+)", printed).group(1)) > 0.7
    assert {path.suffix for path in (tmp_path / "outputs").iterdir()} == {".mp4", ".json", ".png"}


@pytest.mark.slow
def test_words_decide_where_only_they_can_and_cost_little_elsewhere(bundled):
    scores = evaluate_procedural(*bundled, num_clips=12, num_frames=20)
    assert scores.mean("words", "right") - scores.mean("words", "wrong") > 0.25
    assert scores.mean("words", "right") > scores.mean("words", "none")
    assert scores.mean("appearance", "right") - scores.mean("appearance", "wrong") < 0.2


def test_worst_clips_are_drawn_worst_first(bundled, tmp_path, monkeypatch):
    monkeypatch.setattr(procedural, "contact_sheet", lambda *args, **kwargs: drawn.append(args))
    drawn, auc = [], {kind: {"right": np.array([0.9, 0.1, 0.5])} for kind in procedural.KINDS}
    scores = procedural.ProceduralScores(auc)
    procedural.draw_worst(*bundled, scores, tmp_path / "worst.png", num_frames=3, per_kind=2)
    (rows, path, captions), first = drawn[0], procedural.FIRST_SEED
    assert path == tmp_path / "worst.png" and [len(row) for row in rows] == [3] * 4
    seeds_kinds = [(first + 2, "appearance"), (first + 4, "appearance"), (first + 3, "words"), (first + 5, "words")]
    assert [texts[0] for texts in captions] == [ProceduralClip(seed, 3, kind=kind).text for seed, kind in seeds_kinds]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["otb/Football1", "davis/dog"])
def test_main_job_runs_on_real_video(folder, tmp_path, capsys):
    data = ROOT.parent / "shared" / "data" / folder
    if not data.is_dir():
        pytest.skip(f"the development data {folder} is not on this machine")
    first = (data / "groundtruth_rect.txt").read_text().splitlines()[0]
    text = (data / "language.txt").read_text().strip()
    box = re.split(r"[,\s]+", first.strip())
    main([str(data / "img"), "--box", *box, "--text", text, "--output", str(tmp_path / "out.mp4")])
    frames = json.loads((tmp_path / "out.json").read_text())["frames"]
    assert len(frames) == len(list((data / "img").iterdir()))
