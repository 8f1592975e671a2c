"""Converters: from a benchmark's folder, as its authors distribute it, to a tracking dataset on disk or on the Hub."""

import hashlib
import json
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import active_children, get_context
from pathlib import Path

from tqdm.auto import tqdm

from ...files_pjvlt import remove_partial, write_text
from ...signals import Stopped, stopped_by_signals
from ..benchmarks import BENCHMARK_FILE, BENCHMARK_PROTOCOLS, benchmark_yaml
from ..dataset_card import dataset_card
from ..text import read_sentences
from .folders import FOLDERS, OTB99, TNL2K
from .got10k import GOT10K
from .lasot import LASOT, LASOTEXT
from .photographs import COCO, YOLO
from .shards import CHECKS, ConversionReport, Shard, benchmark_of, finished_report, row_features, write_shard
from .sources import Reference
from .trackingnet import TRACKINGNET

BENCHMARKS = {
    "lasot": LASOT,
    "lasotext": LASOTEXT,
    "got10k": GOT10K,
    "trackingnet": TRACKINGNET,
    "coco": COCO,
    "tnl2k": TNL2K,
    "otb99": OTB99,
    "folders": FOLDERS,
    "yolo": YOLO,
}
REPORT_FILE = "conversion_report.json"


def convert(
    benchmark: str,
    root: str | Path,
    output: str | Path,
    splits: Sequence[str] | None = None,
    num_proc: int = 1,
    sequences_per_shard: int | None = None,
    class_map: str | Path | None = None,
    check: str = "fast",
    license: str = "unknown",
    progress: bool = True,
    sentences: str | Path | None = None,
) -> dict[str, ConversionReport]:
    """Write a benchmark's folder as a tracking dataset: `output/data/{split}-00000-of-00012.parquet` and a card.

    A conversion that was killed can be started again: it continues and ends with the same files. It knows sequences by
    their names only: after a change inside `root`, convert into an empty folder.

    Args:
        benchmark: one of `BENCHMARKS`.
        root: the folder, as the benchmark's authors distribute it.
        output: where the dataset goes.
        splits: by default all that `root` holds. A folder without splits (`one_split`) becomes one, by default the
            first.
        num_proc: processes that write files.
        sequences_per_shard: sequences in a file; by default as many as make a few hundred megabytes.
        class_map: file of the classes that the benchmark does not ship: by sequence (the training parts of
            TrackingNet need it) or by number (YOLO). The others take none.
        check: `"fast"` looks at the beginning and the end of every JPEG and PNG, and decodes one only if they look
            wrong; `"full"` decodes every image.
        license: for the card.
        progress: show a bar.
        sentences: a file of lines `sequence<TAB>sentence`, used instead of the benchmark's own where it names a
            sequence.

    Returns a report for each split. Raises `FileNotFoundError` or `ValueError` for a folder that is not of this
    benchmark, for an unknown benchmark or split, for a `class_map` or `sentences` that cannot be used, and for an
    `output` that holds something else.
    """
    _check_known("benchmark", benchmark, BENCHMARKS)
    _check_known("check", check, CHECKS)
    kind = BENCHMARKS[benchmark]
    for split in splits or ():
        _check_known(f"split of {benchmark}", split, kind.splits)
    wanted = splits or (kind.splits[:1] if kind.one_split else kind.splits)
    if kind.one_split and len(wanted) > 1:
        raise ValueError(f"{benchmark}: a folder is one split, got {', '.join(wanted)}.")
    root, output = Path(root).expanduser().resolve(), Path(output).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{benchmark}: no folder at {root}")
    if output.exists() and output.samefile(root):
        raise ValueError(f"{benchmark}: {output} is the folder to read; choose another one for the dataset.")
    class_map = None if class_map is None else Path(class_map)
    if class_map is not None and not kind.takes_class_map:
        takers = " and ".join(name for name, other in BENCHMARKS.items() if other.takes_class_map)
        raise ValueError(f"--class_map is for {takers}; {benchmark} brings its classes: leave it out.")
    if class_map is not None and not class_map.is_file():
        raise FileNotFoundError(f"--class_map: no file at {class_map}")
    sentences = None if sentences is None else Path(sentences)
    if sentences is not None:
        read_sentences(sentences)  # so that a mistake in it is reported now
    try:
        references = {split: kind.find(root, split, class_map) for split in wanted}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{benchmark}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{benchmark}: {error}") from error
    references = {split: of_split for split, of_split in references.items() if of_split}
    _check_names(benchmark, references)
    if not references:
        raise ValueError(f"{benchmark}: {root} holds no sequence of {', '.join(wanted)}.")
    data = (output / "data").absolute()  # pyarrow would take the part of a relative path before a colon for a protocol
    size = sequences_per_shard or kind.sequences_per_shard
    shards = {
        split: _plan(data, benchmark, split, of_split, size, check, class_map, sentences)
        for split, of_split in references.items()
    }
    try:
        _check_output(benchmark, data, shards)
    except ValueError as error:
        raise ValueError(f"{benchmark}: {error}") from error
    data.mkdir(parents=True, exist_ok=True)
    reports = _write_all(benchmark, shards, num_proc, progress)
    _write_card(benchmark, output, license, reports)
    return reports


def _check_known(what: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise ValueError(f"Unknown {what} {value!r}; known are {', '.join(known)}.")


def _plan(
    data: Path,
    benchmark: str,
    split: str,
    references: list[Reference],
    size: int,
    check: str,
    class_map: Path | None,
    sentences: Path | None,
) -> list[Shard]:
    """The files of a split. The sequences in each depend on the list and the size alone."""
    if size < 1:
        raise ValueError(f"sequences_per_shard must be at least 1, got {size}.")
    if class_map is not None:
        check = f"{check} {hashlib.sha256(class_map.read_bytes()).hexdigest()}"
    if sentences is not None:
        check = f"{check} sentences {hashlib.sha256(sentences.read_bytes()).hexdigest()}"
    total = -(-len(references) // size)
    return [
        Shard(
            data / f"{split}-{number:05d}-of-{total:05d}.parquet",
            benchmark,
            tuple(references[number * size : (number + 1) * size]),
            check,
            sentences,
        )
        for number in range(total)
    ]


def _check_names(benchmark: str, references: dict[str, list[Reference]]) -> None:
    """Raises `ValueError` if a benchmark was unpacked twice: rows of one name would be in several places."""
    for of_split in references.values():
        folders: dict[str, Path] = {}
        for reference in of_split:
            if reference.name in folders:
                places = f"{folders[reference.name]} and {reference.folder}"
                raise ValueError(f"{benchmark}: two sequences are called {reference.name}: {places}; remove one.")
            folders[reference.name] = reference.folder


def _check_output(benchmark: str, data: Path, shards: dict[str, list[Shard]]) -> None:
    """Delete the partial files of a killed run. Raises `ValueError` for files of another conversion."""
    if not data.is_dir():
        return
    remove_partial(data)
    for name in (REPORT_FILE, "README.md"):
        remove_partial(data.parent, name)
    planned = {shard.path for split in shards.values() for shard in split}
    for path in sorted(data.glob("*.parquet")):
        if path not in planned and (path.name.split("-")[0] in shards or benchmark_of(path) != benchmark):
            raise ValueError(f"{path} belongs to another conversion; convert into an empty folder.")
    for split in shards.values():
        for shard in split:
            finished_report(shard)


def _write_all(
    benchmark: str, shards: dict[str, list[Shard]], num_proc: int, progress: bool
) -> dict[str, ConversionReport]:
    written: dict[Path, ConversionReport] = {}
    planned = [shard for split in shards.values() for shard in split]
    with tqdm(total=sum(len(s.references) for s in planned), unit="seq", disable=not progress, desc=benchmark) as bar:
        missing = []
        for shard in planned:
            report = finished_report(shard)
            if report is None:
                missing.append(shard)
            else:
                written[shard.path] = report
                bar.update(len(shard.references))
        if num_proc == 1 or len(missing) < 2:
            for shard in missing:
                written[shard.path] = write_shard(shard, BENCHMARKS[benchmark], bar.update)
        else:
            _write_in_processes(benchmark, missing, min(num_proc, len(missing)), written, bar)
    reports = {split: ConversionReport() for split in shards}
    for split, of_split in shards.items():
        for shard in of_split:
            reports[split].add(written[shard.path])
    return reports


def _write_in_processes(benchmark: str, missing: list[Shard], num_proc: int, written: dict, bar) -> None:
    others = active_children()
    with ProcessPoolExecutor(num_proc, get_context("spawn")) as pool:
        running = {pool.submit(_write_named, benchmark, shard): shard for shard in missing}
        try:
            for future in as_completed(running):
                shard = running[future]
                written[shard.path] = future.result()
                bar.update(len(shard.references))
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, Stopped):  # workers get a Ctrl-C themselves, but not these signals
                _terminate(set(active_children()) - set(others))
            raise


def _terminate(workers: set) -> None:
    """End processes, each after it has deleted its partial file. Repeats, because a worker may begin another one."""
    for worker in workers:
        worker.terminate()
    for worker in workers:
        while worker.is_alive():
            worker.join(0.5)
            worker.terminate()


def _write_named(benchmark: str, shard: Shard) -> ConversionReport:
    """`write_shard` in another process, where the benchmark is looked up by name because it cannot be pickled."""
    with stopped_by_signals():
        return write_shard(shard, BENCHMARKS[benchmark])


def _write_card(benchmark: str, output: Path, license: str, reports: dict[str, ConversionReport]) -> None:
    """Write the card and the report; splits that an earlier run converted stay in both."""
    kind, path = BENCHMARKS[benchmark], output / REPORT_FILE
    counts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    counts |= {split: asdict(report) for split, report in reports.items()}
    counts = {split: counts[split] for split in kind.splits if split in counts}
    write_text(path, json.dumps(counts, indent=2) + "\n")
    features = row_features(kind.has_cover)
    card = dataset_card(kind.title, counts, features, license, kind.homepage, kind.citation)
    write_text(output / "README.md", str(card))
    if benchmark in BENCHMARK_PROTOCOLS and "test" in counts:
        write_text(output / BENCHMARK_FILE, benchmark_yaml(benchmark, kind.title))


__all__ = ["BENCHMARKS", "ConversionReport", "convert"]
