"""Decide which form of the fusion to train for 300 epochs, from one epoch of each and a fixed rule.

python scripts/ablations/probe.py --num_processes 1                          the probe itself, on one GPU
python scripts/ablations/probe.py --config scripts/recipes/probe_tiny.yaml   minutes on a CPU, as a test

Trains three models on the same pairs: `literal` (the paper's equations), `residual` (`fusion_residual`) and `none` (no
language: the backbone alone). At initialisation the literal form makes all search tokens nearly equal, so a pretrained
backbone must be learned again, at a rate of 1e-5.

The rule compares the last fifth of the steps: `overlap`, the mean IoU of the predicted boxes, as the difference from
`none` on the same pairs, and the last `token_similarity` of `health.jsonl`. A form keeps up if its overlap is below
that of `none` by at most the margin, the larger of 0.01 and two standard errors, and if its tokens differ enough (mean
cosine at most 0.9).
1. If `none` has not gained two standard errors since the first fifth, the probe was too short: use more steps.
2. If the literal form keeps up, train it: it is the paper.
3. Otherwise, if the residual form keeps up, train that one, and say so beside every number.
4. Otherwise train neither yet: repeat the probe with three times the steps.
Finished runs are kept: if the probe is killed, start it again, and it continues.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path

from table_launch import launch, train_words

from modeling_pjvlt.files_pjvlt import write_text

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "probe_base.yaml"
FORMS = {"literal": {"fusion_residual": False}, "residual": {"fusion_residual": True}, "none": {"fusion": "none"}}
MARGIN, ALIKE = 0.01, 0.9
SHARE = 0.2  # of the steps, at the end and at the beginning


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error. Raises `ValueError` for fewer than three values."""
    if len(values) < 3:
        raise ValueError(
            f"the log has {len(values)} lines in a fifth of the steps; it needs 3: choose a smaller logging_steps"
        )
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def measure(folders: dict[str, Path], steps: int) -> dict[str, dict[str, float]]:
    """The measures that the rule uses, by form.

    Each form has `overlap`, `behind` (mean overlap minus that of `none`), its standard `error`, and `similarity`.
    `none` also has what it `gained` since the first fifth; its `error` is that of the gain.
    """
    logs = {name: [x for x in read_lines(folder / "log.jsonl") if "overlap" in x] for name, folder in folders.items()}
    late = {
        name: {x["step"]: x["overlap"] for x in log if x["step"] > (1 - SHARE) * steps} for name, log in logs.items()
    }
    measured = {}
    for name, folder in folders.items():
        behind, error = mean_and_error([value - late["none"][step] for step, value in late[name].items()])
        similarity = read_lines(folder / "health.jsonl")[-1]["token_similarity"]
        overlap = statistics.fmean(late[name].values())
        measured[name] = {"overlap": overlap, "behind": behind, "error": error, "similarity": similarity}
    early = mean_and_error([x["overlap"] for x in logs["none"] if x["step"] <= SHARE * steps])
    end = mean_and_error(list(late["none"].values()))
    measured["none"] |= {"gained": end[0] - early[0], "error": math.hypot(early[1], end[1])}
    return measured


def decide(measured: dict[str, dict[str, float]]) -> tuple[str, str]:
    """The form to train (or `none yet`), and the reason, by the rule of this module."""

    def verdict(name: str) -> tuple[bool, str]:
        form = measured[name]
        margin = max(MARGIN, 2 * form["error"])
        finding = f"{name}: overlap {form['behind']:+.3f} against none's (margin {margin:.3f}), "
        finding += f"mean cosine of the tokens {form['similarity']:.2f}"
        return form["behind"] >= -margin and form["similarity"] <= ALIKE, finding

    none = measured["none"]
    if none["gained"] < 2 * none["error"]:
        gain = f"{none['gained']:+.3f} ± {none['error']:.3f}"
        return "none yet", f"too short: none's overlap gained {gain}; use more steps"
    (literal, first), (residual, second) = verdict("literal"), verdict("residual")
    if literal:
        return "literal", f"it keeps up. {first}"
    if residual:
        return "residual", f"the literal form does not keep up, this one does. {first}; {second}"
    return "none yet", f"neither keeps up; repeat with three times the steps. {first}; {second}"


def run_form(settings: dict, name: str, folder: Path, num_processes: int) -> None:
    """Train one form, or continue it, unless it is finished."""
    from modeling_pjvlt.training.arguments import TrainArguments

    config = {**(settings.get("model_config") or {}), **FORMS[name]}
    settings = {**settings, "model_config": config, "output_dir": str(folder)}
    checkpoints = folder / "checkpoints"
    if (checkpoints / f"{settings['max_train_steps']:06d}").is_dir():
        return
    if (checkpoints / "last").exists():
        settings["resume_from_checkpoint"] = "last"
    launch("modeling_pjvlt.cli.train", train_words(TrainArguments(**settings)), num_processes)


def main(argv: list[str] | None = None) -> int:
    """Train, decide and print. Returns the exit code: 2 for a user's mistake, 1 for a failed run, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, default=RECIPE, help="recipe (default: scripts/recipes/probe_base.yaml)"
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/probe"), help="folder (default: outputs/probe)")
    parser.add_argument("--max_train_steps", type=int, help="steps of each form (default: the recipe's)")
    parser.add_argument("--num_processes", type=int, default=1, help="processes of accelerate launch (default: 1)")
    args = parser.parse_args(argv)
    from modeling_pjvlt.training.command_line import read_recipe

    try:
        settings = read_recipe(str(args.config))
        settings["max_train_steps"] = args.max_train_steps or settings["max_train_steps"]
        folders = {name: args.output / name for name in FORMS}
        for name, folder in folders.items():
            run_form(settings, name, folder, args.num_processes)
        measured = measure(folders, settings["max_train_steps"])
    except (ValueError, OSError) as error:
        print(f"probe: error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"probe: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprobe: interrupted; run it again to continue", file=sys.stderr)
        return 130
    form, reason = decide(measured)
    for name, values in measured.items():
        print(f"{name:<8}  " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    print(f"Train: {form} ({reason})")
    record = {"train": form, "why": reason, "measured": measured}
    write_text(args.output / "probe.json", json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
