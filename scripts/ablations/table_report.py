"""The tables that `reproduce_tables.py` prints and writes, made of the results that are finished."""

import json
import statistics
from pathlib import Path

from table_plan import Plan, write_json
from table_variants import PAPER, Table, build_tables

TINY_NOTE = "Tiny preset: this checks that each variant learns and that the code tells them apart, and no more."
COLUMNS = {  # key of a result's scores, and what its column is called
    "tiny": {
        "right": "AUC, right sentence",
        "wrong": "AUC, wrong sentence",
        "words_right": "only words tell: right",
        "words_wrong": "only words tell: wrong",
    },
    "base": {"right": "AUC, own sentence", "wrong": "AUC, another's sentence"},
}


def read_results(plan: Plan) -> dict[str, dict[int, dict]]:
    """All finished results: `results[variant][seed]`."""
    results: dict[str, dict[int, dict]] = {}
    for path in sorted((plan.folder / "variants").glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        results.setdefault(result["variant"], {})[result["seed"]] = result
    return results


def cell(values: list[float]) -> str:
    """Mean ± half of what lies between the lowest and the highest; "open" where nothing is finished."""
    if not values:
        return "open"
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.3f}"


def table_markdown(plan: Plan, key: str, table: Table, results: dict, seeds: list[int] | None) -> str:
    """One table. seeds: those that count; None is all that are there."""
    columns = COLUMNS[plan.preset]
    lines = [
        f"**{table.title}**",
        "",
        f"| {table.head} | {' | '.join(columns.values())} | last loss | seeds | paper |",
    ]
    lines.append("|---|" + "---:|" * (len(columns) + 3))
    for label, name in table.rows:
        found = [r for seed, r in sorted(results.get(name, {}).items()) if seeds is None or seed in seeds]
        cells = [cell([r["scores"][column] for r in found]) for column in columns] + [cell([r["loss"] for r in found])]
        number = str(len(found)) if seeds is None else f"{len(found)} of {len(seeds)}"
        lines.append(f"| {label} | {' | '.join(cells)} | {number} | {PAPER.get(key, {}).get(name, '-')} |")
    return "\n".join(lines)


def report(plan: Plan, tables: list[str], seeds: list[int] | None) -> str:
    """The tables, and what to know when reading them."""
    results, built = read_results(plan), build_tables(plan.depth)
    names = {name for key in tables for _, name in built[key].rows}
    used = [r for name in names for seed, r in results.get(name, {}).items() if seeds is None or seed in seeds]
    notes = [TINY_NOTE] if plan.preset == "tiny" else []
    notes.append("AUC: success AUC, 0 to 1, by tracking. ± is half of what lies between the seeds; open: not trained.")
    for steps, batch in sorted({(r["steps"], r["batch_size"]) for r in used}):
        notes.append(
            f"{steps} steps of {batch} pairs; those added to the trained `none` come after as many of its own."
        )
    if len({r["protocol"] for r in used}) > 1:
        notes.append("Careful: these results were made with different settings; they must not be compared.")
    parts = [table_markdown(plan, key, built[key], results, seeds) for key in tables]
    return "\n\n".join([*parts, "\n".join(notes)])


def write_results(plan: Plan) -> Path:
    """All finished results in one file."""
    results = read_results(plan)
    path = plan.folder / "results.json"
    tables = {key: dict(table.rows) for key, table in build_tables(plan.depth).items()}
    found = {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in results.items()}
    note = TINY_NOTE if plan.preset == "tiny" else None
    write_json(path, {"preset": plan.preset, "note": note, "tables": tables, "variants": found})
    return path
