"""Signals that end a command leave nothing half written, and the exit code that shells expect."""

import os
import signal
import zipfile
from functools import partial

import numpy as np
import pytest
from miniatures import BUILDERS

from modeling_pjvlt.cli import convert as convert_command
from modeling_pjvlt.cli import evaluate, export
from modeling_pjvlt.data.converters import convert
from modeling_pjvlt.evaluation.result_files import write_submission
from modeling_pjvlt.files_pjvlt import write_text
from modeling_pjvlt.signals import Stopped, exit_code, stopped_by_signals, terminations

NAMES = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def default_handlers():
    """As in a terminal, whatever started the tests."""
    before = {name: signal.signal(getattr(signal, name), signal.SIG_DFL) for name in NAMES}
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def raise_now(number, *args, **options):
    signal.raise_signal(number)


@pytest.mark.parametrize("name", NAMES)
def test_signals_are_raised_and_handlers_come_back(name):
    number = getattr(signal, name)
    with pytest.raises(Stopped) as caught, stopped_by_signals():
        signal.raise_signal(number)
    assert exit_code(caught.value) == 128 + number and exit_code(KeyboardInterrupt()) == 130
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ignored_signals_stay_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with stopped_by_signals():
        signal.raise_signal(signal.SIGTERM)
        assert signal.SIGTERM not in terminations()


@pytest.mark.parametrize("name", NAMES)
def test_commands_say_that_they_were_stopped(name, tmp_path, monkeypatch, capsys):
    number = getattr(signal, name)
    monkeypatch.setattr(evaluate, "_run", partial(raise_now, number))
    monkeypatch.setattr("modeling_pjvlt.onnx.export.export", partial(raise_now, number))
    monkeypatch.setattr("modeling_pjvlt.data.converters.convert", partial(raise_now, number))
    assert evaluate.main(["--dataset_name", "clips"]) == 128 + number
    assert "repeat the command to continue" in capsys.readouterr().err
    assert export.main(["--output_dir", str(tmp_path / "out")]) == 128 + number
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert convert_command.main(["lasot", str(tmp_path)]) == 128 + number
    assert "run it again to continue" in capsys.readouterr().err


def test_a_conversion_that_is_stopped_leaves_nothing_half_written(tmp_path, monkeypatch):
    miniature = BUILDERS["lasot"](tmp_path / "raw")
    monkeypatch.setattr(os, "replace", partial(raise_now, signal.SIGTERM))
    with pytest.raises(Stopped), stopped_by_signals():
        convert("lasot", miniature.root, tmp_path / "out", sequences_per_shard=1, progress=False)
    assert not list((tmp_path / "out" / "data").iterdir())


def test_a_conversion_in_processes_that_is_stopped_leaves_nothing_half_written(tmp_path, monkeypatch):
    miniature = BUILDERS["lasot"](tmp_path / "raw")
    monkeypatch.setattr("modeling_pjvlt.data.converters.as_completed", partial(raise_now, signal.SIGTERM))
    with pytest.raises(Stopped), stopped_by_signals():
        convert("lasot", miniature.root, tmp_path / "out", num_proc=2, sequences_per_shard=1, progress=False)
    assert not list((tmp_path / "out" / "data").glob(".*"))


def test_texts_and_archives_that_are_stopped_leave_nothing_half_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", partial(raise_now, signal.SIGTERM))
    boxes, lengths = {"a": np.ones((2, 4))}, {"a": 2}
    monkeypatch.setattr(zipfile.ZipFile, "writestr", partial(raise_now, signal.SIGTERM))
    for write in (
        lambda: write_text(tmp_path / "text.json", "{}"),
        lambda: write_submission(tmp_path / "a.zip", "trackingnet", boxes, {}, lengths),
    ):
        with pytest.raises(Stopped), stopped_by_signals():
            write()
    assert not list(tmp_path.iterdir())
