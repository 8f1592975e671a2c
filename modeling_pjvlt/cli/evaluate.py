"""`pjvlt-eval`: one-pass evaluation on tracking datasets by the rules of a benchmark, with a report."""

import argparse
import json
import math
import re
import sys
from pathlib import Path

from .. import DEFAULT_CHECKPOINT
from ..command_parser import CommandParser, silent_when_piped
from ..signals import exit_code, stopped_by_signals
from . import print_any_name

PROTOCOL_NAMES = ("otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot", "got10k")
TEXT_KINDS = ("own", "shuffled", "empty", "class")
SERVERS = ("got10k", "trackingnet")
DEFAULT_PROTOCOL = "pytracking"
BENCHMARKS = {  # part of the name of a benchmark's data -> its protocol
    r"lasot": "lasot",
    r"got[-_ ]?10k": "got10k",
    r"tnl[-_ ]?2k": "tnl2k",
    r"(?<![a-z])otb(?![a-z])": "otb",
}


def build_parser() -> CommandParser:
    parser = CommandParser(
        prog="pjvlt-eval",
        usage="pjvlt-eval --dataset_name NAME [--model PATH_OR_REPO] [options]",
        description="Track every sequence of one or several datasets from its first box, score the boxes by the\n"
        "rules of a benchmark, and write a report (HTML, Markdown, JSON) beside the raw results. Finished sequences\n"
        "are kept: if the command is killed, repeat it, and it continues where it stopped. With several processes:\n"
        "accelerate launch -m modeling_pjvlt.cli.evaluate --dataset_name NAME [options]",
        epilog="examples:\n"
        "  pjvlt-eval --dataset_name my-name/lasot --protocol lasot --text own shuffled empty\n"
        "  pjvlt-eval --dataset_name my-name/got10k --protocol got10k --submission got10k\n"
        "  pjvlt-eval --dataset_name clips --others CSRT=results/csrt\n"
        "    (a folder of sequences: clips/NAME/{img, groundtruth.txt, language.txt})",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        default=DEFAULT_CHECKPOINT,
        help="checkpoint: folder, Hub id, or folder of a run (its last checkpoint) (default: bundled)",
    )
    parser.add_argument(
        "--dataset_name",
        nargs="+",
        required=True,
        metavar="NAME",
        help="Hub id or folder of a tracking dataset, a folder with a folder of images for each sequence, or "
        "`procedural`: 200 fixed clips",
    )
    parser.add_argument("--split", help="split of the datasets (default: test, or the only one)")
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="names of the datasets' columns: box=bbox"
    )
    parser.add_argument("--revision", help="revision of the datasets on the Hub")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOL_NAMES,
        help="scoring rules (default: those of the benchmark that the data are named after, else `pytracking`); most "
        "papers report `pytracking` for TNL2K and others, and `pytracking_lasot` for LaSOT. `otb`, `lasot` and "
        "`tnl2k` expect coordinates from 1: where the ground truth has an x or y of 0 or less, the success curve "
        "counts the frame as missed, whatever the tracker predicts",
    )
    parser.add_argument(
        "--text",
        nargs="+",
        choices=TEXT_KINDS,
        default=["own"],
        metavar="KIND",
        help='sentences to track with: own, shuffled (another sequence\'s), empty ("the target"), class; own and '
        "others give a table of differences with 95 %% intervals (default: own)",
    )
    parser.add_argument(
        "--sentences",
        metavar="FILE",
        help="lines SEQUENCE<TAB>SENTENCE, used instead of the dataset's own sentences; GOT-10k's test set has none",
    )
    parser.add_argument(
        "--lost_score",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="also track with a search for lost targets (those whose score stays below SCORE), and report both "
        "results if they differ; a tracking session's default is 0.2 (default: 0, no second run, as in the paper)",
    )
    parser.add_argument(
        "--output_dir",
        help="folder for reports (in DATASET/PROTOCOL) and raw results (in DATASET/raw) (default: evaluations/MODEL)",
    )
    parser.add_argument("--max_sequences", type=int, metavar="N", help="only the first N sequences of each dataset")
    parser.add_argument(
        "--attributes",
        metavar="FILE",
        help="JSON file, attribute -> list of sequence names: also score each attribute",
    )
    parser.add_argument(
        "--others", nargs="+", default=[], metavar="NAME=FOLDER", help="also score the results of other trackers"
    )
    parser.add_argument(
        "--published",
        nargs="?",
        const="",
        metavar="FILE",
        help="also print the paper's scores for this dataset, or those of a JSON file: a list of objects with "
        "tracker, source, protocol, scores and optionally the dataset",
    )
    parser.add_argument("--submission", choices=SERVERS, help="also write the archive for this evaluation server")
    parser.add_argument(
        "--push_to_hub",
        metavar="REPO",
        help="also add the scores with own sentences to this model on the Hub: to its card (model-index) and, if the "
        "data are a Hub repository, to .eval_results",
    )
    parser.add_argument("--device", help="cpu, cuda, … (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        default="float32",
        help="of the model (default: float32)",
    )
    return parser


def choose_protocol(given: str | None, name: str) -> tuple[str, str]:
    """The protocol for a dataset, and a sentence that says why."""
    if given is not None:
        return given, f"Protocol `{given}`, as given by --protocol."
    for pattern, protocol in BENCHMARKS.items():
        if re.search(pattern, _short(name).lower()):
            return protocol, f"Protocol `{protocol}`, because the data are called {_short(name)!r}."
    return DEFAULT_PROTOCOL, (
        f"Protocol `{DEFAULT_PROTOCOL}`, because the data {_short(name)!r} are not named after a benchmark: it scores "
        "boxes that begin at x or y 0 like all others, and leaves out frames that do not show the target."
    )


@silent_when_piped
def main(argv: list[str] | None = None) -> int:
    """Evaluate and report. Returns the exit code: 2 for a user's mistake, 128 + its number for a signal."""
    print_any_name()
    args = build_parser().parse_args(argv)
    try:
        if not 0 <= args.lost_score < 1:
            raise ValueError(f"--lost_score must lie between 0 and 1, got {args.lost_score}.")
        if args.push_to_hub:
            _check_push(args)
        with stopped_by_signals():
            _run(args)
    except ModuleNotFoundError as error:
        return _fail(f"evaluation needs {error.name}: pip install 'pjvlt[eval]'")
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        return _fail("interrupted; finished sequences are kept, repeat the command to continue", exit_code(stop))
    return 0


def _run(args: argparse.Namespace) -> None:
    import torch
    from accelerate import PartialState

    from .. import PJVLTModel, PJVLTProcessor
    from ..evaluation.sequences import load_split
    from ..run_folders import checkpoint_name, find_checkpoint

    others = dict(_split_pair(word, "--others takes NAME=FOLDER") for word in args.others)
    attributes = {} if args.attributes is None else _read_json(args.attributes)
    published = [] if args.published is None else _read_published(args.published)
    columns = dict(_split_pair(word, "--columns takes OURS=THEIRS, such as box=bbox") for word in args.columns)
    args.model = find_checkpoint(args.model)
    # `cpu` also where there is no accelerator: otherwise each of several processes would act as the only one.
    state = PartialState(cpu=args.device == "cpu" or not torch.accelerator.is_available())
    model = PJVLTModel.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device or state.device)
    processor = PJVLTProcessor.from_pretrained(args.model)
    output = Path(args.output_dir or f"evaluations/{checkpoint_name(args.model).replace('/', '--')}")
    folders = {name: output / _short(name).replace("/", "--") for name in args.dataset_name}
    if len(set(folders.values())) < len(folders):
        raise ValueError(f"Two datasets would be written to the same folder of {output}; evaluate them one by one.")
    for name, folder in folders.items():
        sequences, split = load_split(name, args.split, args.revision, columns, args.sentences)
        protocol, reason = choose_protocol(args.protocol, name)
        dataset_args = argparse.Namespace(**{**vars(args), "protocol": protocol, "reason": reason, "split": split})
        sequences = sequences[: args.max_sequences]
        _evaluate(dataset_args, model, processor, state, name, sequences, folder, others, attributes, published)


def _check_push(args: argparse.Namespace) -> None:
    """Raises `ValueError` for scores that do not belong in a card, `OSError` for a model that is not on the Hub."""
    from ..hub.publishing import find_model

    if args.max_sequences is not None:
        raise ValueError("--push_to_hub takes scores on all sequences only: leave --max_sequences out.")
    if "own" not in args.text:
        raise ValueError("--push_to_hub adds the scores with own sentences: add own to --text.")
    find_model(args.push_to_hub)


def _evaluate(args, model, processor, state, name, sequences, folder, others, attributes, published) -> None:
    """Evaluate on one dataset: track with each kind of sentence, then score and report in the main process."""
    from ..evaluation.result_files import read_results
    from ..evaluation.runner import Evaluation, ground_truth, lost_sequences, result_of, score, worst_sequences
    from ..evaluation.sequences import warn_of_one_sentence
    from ..run_folders import checkpoint_name

    runs, notes, uses_language = {}, [], model.config.uses_language
    for text in sorted(set(args.text), key=TEXT_KINDS.index):  # own first
        runs[text] = Evaluation(model, processor, sequences, text, folder / "raw" / text, state, args.protocol)
        warning = warn_of_one_sentence(sequences, runs[text].texts) if text == "own" and uses_language else None
        if warning and state.is_main_process:
            print(f"pjvlt-eval: warning: {folder.name}: {warning}", file=sys.stderr)
        notes += [warning] if warning else []
        runs[text].run(label=f"{folder.name}, {text} sentences" if len(args.text) > 1 else folder.name)
    first = next(iter(runs.values()))
    with_search = None
    if args.lost_score:
        with_search = Evaluation(
            model, processor, sequences, first.text, folder / "raw" / f"{first.text}-lost-{args.lost_score:g}", state,
            args.protocol, args.lost_score,
        )  # fmt: skip
        with_search.run(label=f"{folder.name}, with a search for lost targets")
    if not state.is_main_process:
        return
    truth = ground_truth(sequences, attributes)
    if args.submission:
        _submit(args.submission, first, folder)
    if not truth.known:
        print(f"{folder.name}: the ground truth is not public, so nothing is scored; the boxes are in {first.folder}")
        return
    sizes = {key: done.frame_size for key, done in first.finished().items()}
    results = [result_of(run, text, truth, checkpoint_name(args.model)) for text, run in runs.items()]
    from ..evaluation.report import EvaluationReport, TrackerResult, write_report

    if with_search is not None:
        changed = lost_sequences(with_search, first)
        search = f"The search for lost targets (score below {args.lost_score:g}) changes"
        notes.append(
            f"{search} {len(changed)} of {len(sequences)} sequences{': ' + ', '.join(changed[:5]) if changed else ''}."
        )
        if changed:
            results.append(result_of(with_search, None, truth, f"{results[0].name}, lost below {args.lost_score:g}"))
    for other, path in others.items():
        results.append(TrackerResult(other, score(args.protocol, read_results(path, truth.boxes), truth, sizes)))
    report = EvaluationReport(
        dataset=_short(name),
        split=args.split,
        model=checkpoint_name(args.model),
        results=results,
        worst=worst_sequences(sequences, first.texts, first.predictions(), results[0].scores),
        published=_rows_of(published, name),
        notes=[*notes, *_notes(args, truth)],
        environment=_environment(model, state),
    )
    paths = write_report(report, folder / args.protocol)
    _print(report, paths)
    if args.push_to_hub:
        from ..hub.eval_results import eval_results
        from ..hub.publishing import push_results

        pushed = eval_results(report.dataset, args.split, args.protocol, results[0].scores)
        print(f"  pushed to {push_results(args.push_to_hub, pushed)}")


def _submit(server: str, run, folder: Path) -> None:
    import numpy as np

    from ..evaluation.result_files import file_stem, write_submission

    lengths = {sequence.name: len(sequence) for sequence in run.sequences}
    times = {name: np.loadtxt(run.folder / f"{file_stem(name)}_time.txt", ndmin=1) for name in lengths}
    path = folder / f"{server}.zip"
    write_submission(path, server, run.predictions(), times, lengths)
    print(f"{folder.name}: {len(lengths)} sequences for the {server} server in {path}")


def _notes(args, truth) -> list[str]:
    notes = [args.reason]
    if args.max_sequences is not None:
        notes.append(f"Only the first {len(truth.boxes)} sequences.")
    border = truth.at_border() if args.protocol in ("otb", "lasot", "tnl2k") else 0
    if border:
        notes.append(
            f"{border} frames have a target whose x or y is not positive. `{args.protocol}` expects coordinates that "
            "begin at 1: its success curve counts these frames as missed, and its precision curves count them as "
            "found, whatever the tracker predicts. `pytracking` scores them like all others."
        )
    if args.dtype != "float32":
        notes.append(f"The model ran in {args.dtype}.")
    return notes


def _environment(model, state) -> dict[str, str]:
    import platform

    import torch
    import transformers

    from .. import __version__
    from ..threads_pjvlt import tracking_threads

    device = str(model.device)
    if model.device.type == "cuda":
        device = torch.cuda.get_device_name(model.device)
    return {
        "pjvlt": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": f"{device}, {tracking_threads(model)} threads" if model.device.type == "cpu" else device,
        "processes": str(state.num_processes),
    }


def _print(report, paths: dict[str, Path]) -> None:
    """Print the overall scores, the notes, the effect of the sentences, and the report's path."""
    from ..evaluation.language import language_table

    print(f"\n{report.dataset} ({len(report.results[0].scores.sequences)} sequences, protocol {report.protocol})")
    width = max(len(name) for name in [r.label for r in report.results] + [r["tracker"] for r in report.published])
    for result in report.results:
        scores = "  ".join(f"{key} {value:.1f}" for key, value in result.scores.items())
        speed = f"  {result.fps:.0f} FPS" if result.fps else ""
        print(f"  {result.label:<{width}}  {scores}{speed}")
    for row in report.published:
        scores = "  ".join(f"{key} {row[key]:.1f}" for key in (*report.metrics, "fps") if key in row)
        print(f"  {row['tracker']:<{width}}  {scores}  ({row.get('source', 'published')})")
    for note in report.notes:
        print(f"  {note}")
    for row in language_table(report.results):
        interval = f"95 % interval {row['low']:+.1f} to {row['high']:+.1f}"
        if math.isnan(row["low"]):
            interval = f"{row['sequences']} sequences are too few for an interval"
        print(f"  own minus {row['text']} sentences: {row['difference']:+.1f} {row['metric']} ({interval})")
    print(f"  report: {paths['html']}")


def _read_published(path: str) -> list[dict]:
    """The paper's rows, or those of a file. Raises `ValueError` for rows without a tracker."""
    from ..evaluation.published import published_trackers

    rows = _read_json(path) if path else published_trackers()
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "tracker" in row for row in rows):
        raise ValueError(f"--published: {path} must be a list of objects, each with a `tracker`.")
    return rows


def _rows_of(published: list[dict], name: str) -> list[dict]:
    """The rows about this dataset, and those that name no dataset."""
    from ..evaluation.published import dataset_key

    rows = [row for row in published if row.get("dataset") in (None, name, dataset_key(name))]
    if published and not rows:
        known = ", ".join(dict.fromkeys(row["dataset"] for row in published))
        print(f"--published: no scores for {_short(name)}; there are some for {known} (by the dataset's name).")
    return rows


def _short(name: str) -> str:
    """A Hub id as it is, and the last part of a folder's path."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _split_pair(word: str, expected: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{expected}, got {word!r}.")
    return name, value


def _read_json(path: str):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def _fail(message: str, code: int = 2) -> int:
    print(f"pjvlt-eval: error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
