"""Raw results on disk, in the layout that the public toolkits read, and archives for the evaluation servers.

`NAME.txt` holds a box a line, x,y,w,h; `NAME_time.txt` the seconds of each frame; `NAME.json`, written last, marks
the sequence as finished and records its run.
"""

import json
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..data.converters.sources import read_boxes
from ..files_pjvlt import replacing, write_text

SUBMISSIONS = ("got10k", "trackingnet")


@dataclass(frozen=True)
class Finished:
    """The record of a tracked sequence.

    run: fingerprint of the model, the sentence and its tokens, the first box and the settings. sentence: the one it
    was tracked with. frames: its length. frame_size: height, width. seconds: total time by part.
    """

    run: str
    sentence: str
    frames: int
    frame_size: tuple[int, int]
    seconds: dict[str, float]


def file_stem(name: str) -> str:
    """The name of a sequence as a file name."""
    return name.replace("/", "-").replace("\\", "-")


def _files_of(name: str) -> tuple[str, str, str]:
    """The names of a sequence's files: boxes, times and record."""
    stem = file_stem(name)
    return f"{stem}.txt", f"{stem}_time.txt", f"{stem}.json"


def check_names(names: Iterable[str]) -> None:
    """Raises `ValueError` for sequences whose files would have one name on some system.

    Examples are `Dog` and `dog`, and `dog` and `dog_time`: the times of the first are in `dog_time.txt`.
    """
    seen: dict[str, str] = {}
    for name in names:
        for file in _files_of(name):
            other = seen.setdefault(unicodedata.normalize("NFC", file).casefold(), name)
            if other != name:
                raise ValueError(
                    f"Sequences {other!r} and {name!r} would be written to the same file, {file}: rename one."
                )


def write_result(folder: Path, name: str, boxes: np.ndarray, times: np.ndarray, finished: Finished) -> None:
    """Write the three files of a sequence; boxes (n, 4) with four decimals, times (n,)."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes_file, times_file, finished_file = _files_of(name)
    write_text(folder / boxes_file, _lines(boxes))
    write_text(folder / times_file, "".join(f"{seconds:.6f}\n" for seconds in times))
    write_text(folder / finished_file, json.dumps({"sequence": name, **asdict(finished)}, indent=1))


def _lines(boxes: np.ndarray) -> str:
    return "".join(",".join(f"{value:.4f}" for value in box) + "\n" for box in boxes)


def read_finished(folder: Path, name: str) -> Finished | None:
    """The record of a finished sequence, or None."""
    path = folder / f"{file_stem(name)}.json"
    if not path.is_file():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Finished(
            **{**{k: v for k, v in fields.items() if k != "sequence"}, "frame_size": tuple(fields["frame_size"])}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a record of an evaluation ({error}); delete it to track it again.") from error


def read_results(folder: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """A tracker's boxes, sequence -> (n, 4) float64 xywh: `NAME.txt` or, as GOT-10k has it, `NAME/NAME_001.txt`.

    Commas, semicolons, tabs or spaces, also mixed, separate the numbers. Raises `ValueError` that lists the sequences
    without a file, or names the file and line that is not a box.
    """
    folder, boxes, missing = Path(folder), {}, []
    if not folder.is_dir():
        raise ValueError(f"There is no folder of results at {folder}.")
    for name in names:
        stem = file_stem(name)
        path = next((p for p in (folder / f"{stem}.txt", folder / stem / f"{stem}_001.txt") if p.is_file()), None)
        if path is None:
            missing.append(name)
            continue
        try:
            boxes[name] = read_boxes(path, np.float64)
        except ValueError as error:
            raise ValueError(f"{path.parent}: {error}") from None
    if missing:
        raise ValueError(f"{folder} has no results for {len(missing)} sequences: {missing[:5]}.")
    return boxes


def write_submission(
    path: Path,
    server: str,
    boxes: Mapping[str, np.ndarray],
    times: Mapping[str, np.ndarray],
    lengths: Mapping[str, int],
) -> None:
    """The archive that an evaluation server takes, checked before it is written.

    Args:
        server: `got10k`: NAME/NAME_001.txt with three decimals and NAME/NAME_time.txt, for 180 sequences of the test
            set. `trackingnet`: NAME.txt for 511 sequences, all in one folder.
        boxes: sequence -> (n, 4). times: sequence -> (n,) seconds. lengths: sequence -> number of frames.

    Raises `ValueError` naming sequences that are missing, unknown, of the wrong length, or with a box that no server
    takes.
    """
    if server not in SUBMISSIONS:
        raise ValueError(f"Unknown server {server!r}; known are {', '.join(SUBMISSIONS)}.")
    bad = [f"{name}: no results" for name in lengths if name not in boxes]
    for name, rows in boxes.items():
        if name not in lengths:
            bad.append(f"{name}: not a sequence of this set")
        elif len(rows) != lengths[name]:
            bad.append(f"{name}: {len(rows)} boxes for {lengths[name]} frames")
        elif not np.isfinite(rows).all() or (np.asarray(rows)[:, 2:] <= 0).any():
            bad.append(f"{name}: a box that is not finite or has no area")
    if bad:
        raise ValueError(f"The archive was not written, because of {len(bad)} sequences: {'; '.join(bad[:5])}.")
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(boxes):
            text = "".join(",".join(f"{v:.3f}" for v in box) + "\n" for box in boxes[name])
            if server == "trackingnet":
                archive.writestr(f"{name}.txt", text)
                continue
            archive.writestr(f"{name}/{name}_001.txt", text)
            archive.writestr(f"{name}/{name}_time.txt", "".join(f"{seconds:.8f}\n" for seconds in times[name]))
