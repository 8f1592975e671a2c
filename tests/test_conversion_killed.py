"""A conversion that is killed and started again ends with the same rows; nothing half-written stays."""

import os
import signal
import sys

import pyarrow.parquet as pq
import pytest
from miniatures import BUILDERS

from modeling_pjvlt.data.converters import convert

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")


def rows_of(output) -> list[dict]:
    return [row for path in sorted((output / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def convert_and_die(miniature, output, at_event: int) -> bool:
    """Convert in a child process that kills itself (-9) at its n-th file operation; whether it came to that."""
    child = os.fork()
    if child == 0:
        left = at_event

        def die(event, arguments):
            nonlocal left
            if event in EVENTS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        convert(miniature.benchmark, miniature.root, output, sequences_per_shard=1, progress=False)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", ["lasot", "coco"])
def test_killed_conversion_goes_on_to_the_same_rows(name, tmp_path):
    miniature = BUILDERS[name](tmp_path / "raw")
    report = convert(name, miniature.root, tmp_path / "whole", sequences_per_shard=1, progress=False)
    expected = rows_of(tmp_path / "whole")
    killed = 0
    for at_event in range(1, 400, 3):
        output = tmp_path / f"killed-{at_event}"
        if not convert_and_die(miniature, output, at_event):
            break
        killed += 1
        assert convert(name, miniature.root, output, sequences_per_shard=1, progress=False) == report
        assert rows_of(output) == expected
        names = {path.name for path in (output / "data").iterdir()}
        assert names == {path.name for path in (tmp_path / "whole" / "data").iterdir()}
        assert (output / "README.md").read_text() == (tmp_path / "whole" / "README.md").read_text()
    assert killed > 5


def test_conversion_killed_again_and_again_gets_there(tmp_path):
    miniature = BUILDERS["lasot"](tmp_path / "raw")
    convert("lasot", miniature.root, tmp_path / "whole", sequences_per_shard=1, progress=False)
    output = tmp_path / "killed"
    for attempt in range(200):  # noqa: B007
        if not convert_and_die(miniature, output, 25):
            break
    assert 1 < attempt < 199
    assert rows_of(output) == rows_of(tmp_path / "whole")


def test_failure_leaves_finished_files_and_nothing_half_written(tmp_path, monkeypatch):
    miniature = BUILDERS["lasot"](tmp_path / "raw")
    output = tmp_path / "out"
    replaced = []

    def full_disk(source, target):
        replaced.append(target)
        if len(replaced) == 3:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        convert("lasot", miniature.root, output, sequences_per_shard=1, progress=False)
    assert len(list((output / "data").iterdir())) == 2 and not list((output / "data").glob("*.partial"))
