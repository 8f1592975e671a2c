"""The tables that `reproduce_tables.py` prints and writes, from the finished results."""

import json
import statistics
from pathlib import Path

from table_launch import METRICS
from table_plan import Plan, write_json
from table_variants import Table, build_tables

TINY_NOTE = "Tiny preset: this checks only that each variant learns and that the code distinguishes them."
COLUMNS = {  # key of a tiny result's scores -> heading of its column
    "right": "AUC, right sentence",
    "wrong": "AUC, wrong sentence",
    "words_right": "only the sentence: right",
    "words_wrong": "only the sentence: wrong",
}
LABELS = {"auc": "AUC", "normalized_precision": "NP", "precision": "P", "ao": "AO", "sr50": "SR50", "sr75": "SR75"}


def read_results(plan: Plan) -> dict[str, dict[int, dict]]:
    """All finished results: `results[variant][seed]`."""
    results: dict[str, dict[int, dict]] = {}
    for path in sorted((plan.folder / "variants").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        results.setdefault(result["variant"], {})[result["seed"]] = result
    return results


def cell(values: list[float], digits: int = 3) -> str:
    """Mean ± half the range of the seeds; "open" if nothing is finished."""
    if not values:
        return "open"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"


def table_markdown(plan: Plan, key: str, table: Table, results: dict, seeds: list[int] | None) -> str:
    """One table; for the base preset with the paper's three numbers beside ours. seeds: to use; None for all."""
    columns, published, digits = COLUMNS, {}, 3
    if plan.preset == "base":
        from modeling_pjvlt.evaluation.published import published_ablations

        columns = {metric: f"{LABELS[metric]}, here" for metric in METRICS[plan.dataset]}
        published, digits = published_ablations(plan.dataset), 1
    paper = [f"{LABELS[metric]}, paper" for metric in columns] if published else []
    heads = [table.head, *columns.values(), *paper, "last loss", "seeds"]
    lines = [f"**{table.title}**", "", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for label, name in table.rows:
        used = [r for seed, r in sorted(results.get(name, {}).items()) if seeds is None or seed in seeds]
        cells = [cell([r["scores"][c] for r in used if c in r["scores"]], digits) for c in columns]
        cells += [str(published.get(name, {}).get(metric, "-")) for metric in columns] if published else []
        number = str(len(used)) if seeds is None else f"{len(used)} of {len(seeds)}"
        lines.append(f"| {' | '.join([label, *cells, cell([r['loss'] for r in used]), number])} |")
    return "\n".join(lines)


def report(plan: Plan, tables: list[str], seeds: list[int] | None) -> str:
    """The tables, with notes for reading them."""
    results, built = read_results(plan), build_tables(plan.depth, plan.ours)
    names = {name for key in tables for _, name in built[key].rows}
    used = [r for name in sorted(names) for seed, r in results.get(name, {}).items() if seeds is None or seed in seeds]
    notes = [TINY_NOTE] if plan.preset == "tiny" else []
    spread = "± is half the range of the seeds; open: not trained, or not scored yet."
    if plan.preset == "tiny":
        notes.append(f"AUC: success AUC, 0 to 1, by tracking. {spread}")
    else:
        notes.append(f"Percent, on the test set of {plan.dataset}, protocol {plan.scoring['protocol']}. {spread}")
        notes += [f"To submit: {r['variant']}, seed {r['seed']}: {r['archive']}" for r in used if r.get("archive")]
    for steps, batch in sorted({(r["steps"], r["batch_size"]) for r in used}):
        added = (
            "; those added to the trained `none` come after as many steps of `none`" if "residual" in tables else ""
        )
        notes.append(f"{steps} steps of {batch} pairs{added}.")
    if len({r["protocol"] for r in used}) > 1:
        notes.append("Careful: these results were made with different settings, so they cannot be compared.")
    parts = [table_markdown(plan, key, built[key], results, seeds) for key in tables]
    return "\n\n".join([*parts, "\n".join(notes)])


def write_results(plan: Plan) -> Path:
    """Write all finished results to one file; returns its path."""
    results = read_results(plan)
    path = plan.folder / "results.json"
    tables = {key: dict(table.rows) for key, table in build_tables(plan.depth, plan.ours).items()}
    variants = {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in results.items()}
    note = TINY_NOTE if plan.preset == "tiny" else None
    write_json(path, {"preset": plan.preset, "note": note, "tables": tables, "variants": variants})
    return path
