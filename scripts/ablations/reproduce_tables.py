"""Train and score every variant of the paper's ablation tables, and print the tables beside the paper's numbers.

python scripts/ablations/reproduce_tables.py                           with tiny models, two seeds, on the CPU
python scripts/ablations/reproduce_tables.py --table 2 5 --seeds 0     two of the tables, one seed
python scripts/ablations/reproduce_tables.py --print                   the tables from what is finished
python scripts/ablations/reproduce_tables.py --preset base --dataset lasot --num_processes 8
python scripts/ablations/reproduce_tables.py --preset base --dataset got10k --num_processes 8 --dry_run

Tables: 2 fusion mode, 3 number of fused layers, 4 SAIEL and CCPIL, 5 integration operator, 6 CCM and PIM: the paper's
14 variants. With --ours also `residual` (our `fusion_residual` against the literal equations, from the start and added
to a trained no-language model), `modulation` (our initialisation of the words' modulation against the paper's), and
the depths that table 3 leaves out.

The base preset runs `pjvlt-train` and `pjvlt-eval` through `accelerate launch`; the processes share the global batch
of its recipe. LaSOT is scored by `--protocol`. The ground truth of GOT-10k's test set is on its server only, so each
variant writes an archive to submit.

A variant that is in several tables is trained once. When the script is killed and started again with the same
settings, finished variants are kept, and a variant with a checkpoint continues from it.
"""

import argparse
import copy
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from table_launch import (
    PROTOCOLS,
    STARTS,
    command_line,
    evaluate_words,
    launch,
    read_evaluation,
    train_words,
)
from table_plan import Plan, fingerprint, write_json
from table_report import report, write_results
from table_scores import last_loss
from table_variants import (
    BASE_RECIPES,
    PAPERS,
    TABLES,
    TINY,
    TINY_CLIPS,
    TINY_FRAMES,
    Variant,
    build_tables,
)

ROOT = Path(__file__).resolve().parents[2]
PAIR_FIELDS = (
    *("seed", "words_share", "wrong_text_share", "no_text_share", "centre_jitter", "scale_jitter"),
    *("flip_probability", "brightness_jitter"),
)


def training_arguments(plan: Plan, variant: Variant, seed: int, anew: bool = False):
    """TrainArguments of a variant. `anew`: without its starting model and without a checkpoint to resume from."""
    from modeling_pjvlt.run_folders import find_checkpoint
    from modeling_pjvlt.training.arguments import TrainArguments

    settings, folder = plan.settings_of(variant, seed), plan.run_folder(variant, seed)
    settings["output_dir"] = str(folder)
    if plan.preset == "tiny":
        settings["tokenizer_name_or_path"] = find_checkpoint("pjvlt-tiny")
        settings["checkpointing_steps"] = settings["max_train_steps"]
    if variant.start and not anew:
        settings = {name: value for name, value in settings.items() if name not in STARTS}
        settings["model_name_or_path"] = str(plan.run_folder(variant, seed, "starts"))
    if (folder / "checkpoints" / "last").exists() and not anew:
        settings["resume_from_checkpoint"] = "last"
    return TrainArguments(**settings)


def graft(source, target) -> set[str]:
    """Copy every tensor of `source`, a model without language, to the one of the same name in `target`.

    Returns their names. Raises `ValueError` naming tensors that `target` does not have.
    """
    theirs, ours = source.state_dict(), target.state_dict()
    missing = sorted(name for name, value in theirs.items() if name not in ours or ours[name].shape != value.shape)
    if missing:
        raise ValueError(f"the model lacks {len(missing)} tensors of the model it starts from: {missing[:3]}")
    target.load_state_dict(theirs, strict=False)
    return set(theirs)


def write_start(plan: Plan, variant: Variant, seed: int) -> Path:
    """A checkpoint of the variant: vision stream and head of the trained `variant.start`, the rest untrained."""
    import torch
    from accelerate.utils import set_seed

    from modeling_pjvlt import PJVLTModel
    from modeling_pjvlt.files_pjvlt import replacing_folder
    from modeling_pjvlt.training.trainer import build_model

    folder = plan.run_folder(variant, seed, "starts")
    if folder.is_dir():
        return folder
    trained = plan.folder / plan.finished(plan.variants[variant.start], seed)["checkpoint"]
    if not trained.is_dir():
        path = plan.result_path(variant.start, seed)
        raise FileNotFoundError(f"the model of {variant.start}, seed {seed}, is gone: delete {path} to train it again")
    set_seed(seed)
    model, processor = build_model(training_arguments(plan, variant, seed, anew=True))
    graft(PJVLTModel.from_pretrained(trained, dtype=torch.float32), model)
    with replacing_folder(folder) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
    return folder


def pairs_folder(plan: Plan, seed: int) -> Path:
    """The folder of the pairs of one seed."""
    settings = {**plan.settings, "seed": seed}
    sizes = [plan.settings["model_config"][name] for name in ("template_size", "search_size")]
    return plan.folder / "pairs" / fingerprint(["bytes", *(settings.get(name) for name in PAIR_FIELDS), *sizes])


def score(plan: Plan, checkpoint: Path) -> dict[str, float]:
    """Success AUC in [0, 1] of a tiny variant on procedural clips, with the keys of COLUMNS and a few more."""
    import torch

    from modeling_pjvlt import PJVLTModel, PJVLTProcessor
    from modeling_pjvlt.evaluation.procedural import evaluate_procedural

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PJVLTModel.from_pretrained(checkpoint, dtype=torch.float32).to(device)
    aucs = evaluate_procedural(model, PJVLTProcessor.from_pretrained(checkpoint), TINY_CLIPS, TINY_FRAMES)
    scores = {f"{kind}_{s}": aucs.mean(kind, s) for kind in aucs.auc for s in ("right", "wrong")}
    means = {s: statistics.fmean(aucs.mean(kind, s) for kind in aucs.auc) for s in ("right", "wrong")}
    return {**means, **scores}


def train(args, pairs: Path | None = None) -> Path:
    """Train in this process. pairs: the folder that keeps the drawn pairs; None to draw them anew."""
    from table_pairs import DrawnOnce

    from modeling_pjvlt.training.trainer import train

    return train(args, None if pairs is None else lambda drawn: DrawnOnce(drawn, pairs))


def run_variant(plan: Plan, name: str, seed: int) -> dict:
    """Train and score one variant, and write its result. An interrupted training leaves no result."""
    variant, started = plan.variants[name], time.perf_counter()
    if variant.start:
        write_start(plan, variant, seed)
    args = training_arguments(plan, variant, seed)
    checkpoint = Path(args.output_dir) / "checkpoints" / f"{args.max_train_steps:06d}" / "pretrained_model"
    if not checkpoint.is_dir():  # if there is one, the script was killed during scoring
        if plan.preset == "base":
            launch("modeling_pjvlt.cli.train", train_words(args), plan.num_processes)
        else:
            last = train(args, pairs_folder(plan, seed))
            if last.resolve() != checkpoint.resolve():  # a signal makes `train` return early
                raise KeyboardInterrupt(f"{name}, seed {seed}, was interrupted")
    trained = time.perf_counter()
    if plan.preset == "base":
        folder = Path(args.output_dir) / "evaluation"
        launch("modeling_pjvlt.cli.evaluate", evaluate_words(plan, checkpoint, folder), plan.num_processes)
        evaluation = read_evaluation(folder)
    else:
        evaluation = {"scores": score(plan, checkpoint)}
    result = {
        "variant": name,
        "seed": seed,
        "overrides": variant.overrides,
        "start": variant.start,
        "fingerprint": plan.fingerprint(variant, seed),
        "protocol": plan.protocol(),
        "steps": args.max_train_steps,
        "batch_size": args.global_batch_size or args.per_device_train_batch_size,
        **evaluation,
        "scores": {key: round(value, 4) for key, value in evaluation["scores"].items()},
        "loss": round(last_loss(Path(args.output_dir) / "log.jsonl", args.max_train_steps), 4),
        "checkpoint": os.path.relpath(checkpoint, plan.folder),
        "training_seconds": round(trained - started, 1),
        "scoring_seconds": round(time.perf_counter() - trained, 1),
    }
    write_json(plan.result_path(name, seed), result)
    return result


def wanted_variants(plan: Plan, tables: list[str]) -> list[Variant]:
    """The variants of some tables, each once; a variant that another one starts from comes before it."""
    built, variants, names = build_tables(plan.depth, plan.ours), plan.variants, []
    for _, name in (row for table in tables for row in built[table].rows):
        names += [n for n in (variants[name].start, name) if n is not None and n not in names]
    return [variants[name] for name in names]


def set_up_worker() -> None:
    """Set up a worker process: one thread, no reaction to Ctrl-C, and an end when the parent ends."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def run_in_worker(plan: Plan, name: str, seed: int) -> dict:
    """`run_variant` with its output in a log file."""
    path = plan.folder / "logs" / f"{name}-seed{seed}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return run_variant(plan, name, seed)


class Progress:
    """Prints to stderr which variants are done, and about how long the rest takes."""

    def __init__(self, total: int):
        self.total, self.done, self.started = total, 0, time.perf_counter()

    def add(self, name: str, seed: int, outcome: dict | FloatingPointError) -> None:
        self.done += 1
        if isinstance(outcome, dict):
            line = f"{outcome['training_seconds']:.0f} s of training, {outcome['scoring_seconds']:.0f} s of scoring, "
            line += ", ".join([f"loss {outcome['loss']:.3f}", *(f"{k} {v:.4g}" for k, v in outcome["scores"].items())])
            line += f", to submit: {outcome['archive']}" if outcome.get("archive") else ""
        else:
            line = f"failed: {outcome}"
        left = (time.perf_counter() - self.started) / self.done * (self.total - self.done) / 60
        print(f"[{self.done}/{self.total}] {name}, seed {seed}: {line}; about {left:.0f} min left", file=sys.stderr)


def run_all(plan: Plan, tasks: list[tuple[Variant, int]], num_proc: int) -> int:
    """Run the tasks; returns how many failed. A loss that is not finite fails only its own variant."""
    failed, progress = 0, Progress(len(tasks))
    if num_proc == 1:
        for variant, seed in tasks:
            try:
                outcome = run_variant(plan, variant.name, seed) if is_ready(plan, variant, seed) else no_start(variant)
            except FloatingPointError as error:
                outcome = error
            failed += not isinstance(outcome, dict)
            progress.add(variant.name, seed, outcome)
        return failed
    waiting, running = list(tasks), {}
    with ProcessPoolExecutor(num_proc, multiprocessing.get_context("spawn"), set_up_worker) as pool:
        try:
            while waiting or running:
                ready = [task for task in waiting if is_ready(plan, *task)][: num_proc - len(running)]
                for variant, seed in ready:
                    waiting.remove((variant, seed))
                    running[pool.submit(run_in_worker, plan, variant.name, seed)] = (variant, seed)
                if not running:  # the variant that the rest starts from has failed
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    variant, seed = running.pop(future)
                    outcome = future.exception()
                    if outcome is None:
                        outcome = future.result()
                    elif not isinstance(outcome, FloatingPointError):
                        raise outcome
                    failed += not isinstance(outcome, dict)
                    progress.add(variant.name, seed, outcome)
        except BaseException:
            for child in multiprocessing.active_children():
                child.kill()
            raise
    for variant, seed in waiting:
        progress.add(variant.name, seed, no_start(variant))
    return failed + len(waiting)


def is_ready(plan: Plan, variant: Variant, seed: int) -> bool:
    return variant.start is None or plan.finished(plan.variants[variant.start], seed) is not None


def no_start(variant: Variant) -> FloatingPointError:
    return FloatingPointError(f"{variant.start}, from which it starts, has failed")


def dry_run(plan: Plan, tables: list[str], tasks: list[tuple[Variant, int]]) -> str:
    """The variants that would be trained, and their commands, as text."""
    built, lines = build_tables(plan.depth, plan.ours), []
    for variant, seed in tasks:
        places = [key for key in tables if variant.name in dict(built[key].rows).values()]
        changes = ", ".join(f"{name}={value}" for name, value in variant.overrides.items())
        start = f", starts from the trained {variant.start}" if variant.start else ""
        done = "; finished" if plan.finished(variant, seed) else ""
        where = f"table {', '.join(places)}" if places else "to start from"
        lines.append(f"{variant.name}, seed {seed} ({where}{done}): {changes}{start}")
        number = plan.num_processes if plan.preset == "base" else None
        lines.append(f"  {command_line(training_arguments(plan, variant, seed), number)}")
    return "\n".join([*lines, f"{len(tasks)} trainings"])


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="reproduce_tables", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table",
        nargs="+",
        choices=TABLES,
        metavar="TABLE",
        help="2, 3, 4, 5, 6, residual, modulation (default: the first five)",
    )
    parser.add_argument("--ours", action="store_true", help="also our own variants, which are not in the paper")
    parser.add_argument(
        "--preset", choices=("tiny", "base"), default="tiny",
        help="tiny: small models and procedural clips, all of it in about 40 minutes on two CPU cores; base: the "
        "paper's models and LaSOT or GOT-10k, for GPUs (default: tiny)",
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, help="one run for each (default: tiny 0 1, base 0)")
    parser.add_argument("--output", type=Path, default=Path("outputs/tables"), help="folder (default: outputs/tables)")
    parser.add_argument("--max_train_steps", type=int, help="steps of every variant, instead of the preset's")
    parser.add_argument(
        "--config", help="recipe instead of the preset's settings (base: scripts/recipes/pjvlt_base_DATASET.yaml)"
    )
    parser.add_argument(
        "--dataset", choices=BASE_RECIPES, default="lasot", help="base: dataset for training and test (default: lasot)"
    )
    parser.add_argument("--dataset_name", help="base: that dataset as pjvlt-convert wrote it (default: the recipe's)")
    parser.add_argument(
        "--num_processes", type=int, help="base: processes of accelerate launch (default: one for each GPU)"
    )
    defaults = ", ".join(f"{dataset}: {protocol}" for dataset, protocol in PROTOCOLS.items())
    parser.add_argument("--protocol", help=f"base: as for pjvlt-eval (default: {defaults})")
    parser.add_argument(
        "--sentences", metavar="FILE", help="base: as for pjvlt-eval; GOT-10k's test set ships no sentences"
    )
    parser.add_argument(
        "--num_proc", type=int, help="variants trained at a time (default: tiny one for each core, base 1)"
    )
    parser.add_argument("--dry_run", action="store_true", help="only print what would be trained, and the commands")
    parser.add_argument("--print", action="store_true", help="only print the tables from what is finished")
    return parser


def build_plan(args: argparse.Namespace) -> Plan:
    """The plan that the arguments describe. Raises `ValueError` or `FileNotFoundError` for invalid ones."""
    from modeling_pjvlt.training.command_line import read_recipe

    settings = copy.deepcopy(TINY) if args.preset == "tiny" and not args.config else None
    if settings is None:
        path = args.config or BASE_RECIPES[args.dataset]
        settings = read_recipe(path if args.config or Path(path).is_file() else str(ROOT / path))
        if settings.get("model_name_or_path"):
            raise ValueError("--config: a recipe that starts from a checkpoint cannot change its fusion")
    if args.preset == "tiny" and (args.dataset_name or settings.get("dataset_name")):
        raise ValueError("--dataset_name goes with --preset base; the tiny preset draws its own clips")
    if args.preset == "tiny" and "template_size" not in settings.get("model_config", {}):
        raise ValueError("--config: the tiny preset needs a recipe with a model_config")
    if args.dataset_name:
        settings["dataset_name"] = args.dataset_name
    if args.preset == "base" and not settings.get("dataset_name"):
        raise ValueError("--preset base needs --dataset_name: LaSOT or GOT-10k as pjvlt-convert wrote it")
    if args.max_train_steps is not None:
        before = settings.get("max_train_steps", args.max_train_steps)
        settings["max_train_steps"] = args.max_train_steps
        if settings.get("lr_drop_step"):  # stays at the same share of the run
            settings["lr_drop_step"] = max(round(settings["lr_drop_step"] * args.max_train_steps / before), 1)
    if args.preset == "tiny":
        return Plan("tiny", settings, args.output / "tiny", ours=args.ours)
    import torch

    from modeling_pjvlt.training.arguments import TrainArguments, share_batch

    number = args.num_processes or max(torch.cuda.device_count(), 1)
    share_batch(TrainArguments(**{**settings, "output_dir": ""}), number)
    scoring = {"protocol": args.protocol or PROTOCOLS[args.dataset], "sentences": args.sentences}
    return Plan("base", settings, args.output / f"base-{args.dataset}", args.dataset, number, scoring, args.ours)


def main(argv: list[str] | None = None) -> int:
    """Train, score, report. Returns the exit code: 2 for a user's mistake, 1 for a failed variant, 130 for Ctrl-C."""
    args = build_parser().parse_args(argv)
    default = TABLES if args.ours else PAPERS
    tables = [key for key in TABLES if key in (args.table or default)]
    seeds = list(dict.fromkeys(args.seeds or ([0, 1] if args.preset == "tiny" else [0])))
    try:
        for flag in ("num_proc", "num_processes"):
            if getattr(args, flag) is not None and getattr(args, flag) < 1:
                raise ValueError(f"--{flag} must be at least 1, got {getattr(args, flag)}")
        plan = build_plan(args)
        if args.print:
            print(report(plan, tables, args.seeds))
            return 0
        tasks = [(variant, seed) for variant in wanted_variants(plan, tables) for seed in seeds]
        training_arguments(plan, *tasks[0])  # a bad setting is reported before anything starts
        if args.dry_run:
            print(dry_run(plan, tables, tasks))
            return 0
        failed = run_open(plan, tasks, args.num_proc)
        path = write_results(plan)
    except ModuleNotFoundError as error:
        return fail(f"training needs {error.name}: pip install 'pjvlt[train]'")
    except (ValueError, OSError) as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("\nreproduce_tables: interrupted; finished variants are kept, run it again to continue", file=sys.stderr)
        return 130
    print(report(plan, tables, seeds))
    print(f"\nwrote {path}")
    return 1 if failed else 0


def run_open(plan: Plan, tasks: list[tuple[Variant, int]], num_proc: int | None) -> int:
    """Run the tasks that are not finished yet; returns how many failed."""
    from modeling_pjvlt.video_pjvlt import available_cores

    todo = [task for task in tasks if not plan.finished(*task)]
    num_proc = min(num_proc or (available_cores() if plan.preset == "tiny" else 1), max(len(todo), 1))
    line = f"{len(todo)} of {len(tasks)} variants to train, {num_proc} at a time"
    print(line + (f"; their output is in {plan.folder / 'logs'}" if num_proc > 1 else ""), file=sys.stderr)
    failed = run_all(plan, todo, num_proc)
    if not failed:
        shutil.rmtree(plan.folder / "pairs", ignore_errors=True)
    return failed


def fail(message: str) -> int:
    print(f"reproduce_tables: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
