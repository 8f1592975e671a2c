"""The results of `tracking.py`: the table, MACs by part, ratios with their goals, JSON."""

import json
from pathlib import Path

import numpy as np
import torch
from tracking_cases import EXPORTED

from modeling_pjvlt.files_pjvlt import write_text

STAGES = ("decode", "crop", "network", "box", "end to end")
PAIRS = (("fast", "baseline"), ("compiled", "compiled-baseline"))  # a path, and the same without language
NETWORK_SHARE = {"fp32": 0.75, "bf16": 0.60}  # goals on a CPU


def _spread(values) -> dict[str, float]:
    q25, median, q75 = np.quantile(np.asarray(values), [0.25, 0.5, 0.75]).tolist()
    return {"median": median, "q25": q25, "q75": q75}


def build_rows(contestants, peaks: dict[str, float]) -> dict[tuple, dict]:
    """The measurements by case; for each model, cases with few targets first."""
    rows, models = {}, list(dict.fromkeys(c.case.model for c in contestants))
    for contestant in sorted(contestants, key=lambda c: (models.index(c.case.model), c.case.targets)):
        case = contestant.case
        ms = {stage: _spread(np.array(s) * 1000) for stage, s in contestant.seconds.items()}
        share = 2 * contestant.macs / (ms["network"]["median"] / 1000) / peaks[case.precision]
        rows[case] = {
            **case._asdict(),
            "milliseconds": ms,
            "fps": 1000 / ms["end to end"]["median"],
            "macs": contestant.macs,
            "share_of_peak": share,
            "compile_seconds": contestant.compile_seconds,
            "visits": len(contestant.visits),
            "frames": len(contestant.seconds["network"]),
        }
    return rows


def build_ratios(contestants, rows: dict[tuple, dict], on_gpu: bool) -> list[dict]:
    """Every comparison whose two cases were measured, with its goal if there is one."""
    visits = {c.case: c.visits for c in contestants}
    ratios = []

    def add(case, what: str, spread: dict, goal: str | None, unit: str = "x") -> None:
        row = {**case._asdict(), "what": what, **spread, "unit": unit, "goal": goal}
        if goal is not None:
            bound = float(goal.split()[-1])
            row["met"] = spread["median"] <= bound if goal.startswith("at most") else spread["median"] >= bound
        ratios.append(row)

    def compare(case, other, what: str, goal: str | None) -> None:
        if case in visits and other in visits:  # visit by visit, because those of one round share disturbances
            add(case, what, _spread([a / b for a, b in zip(visits[case], visits[other], strict=False)]), goal)

    for case, row in rows.items():
        base_on_cpu = case.model == "base" and not on_gpu
        if case.path in EXPORTED:
            compare(case._replace(path="fast"), case, f"time of fast over {case.path}", None)
            _add_single(case, row, False, on_gpu, add)
        for path, baseline in PAIRS:
            if case.path != path:
                continue
            without = case._replace(path=baseline)
            compare(case, without, f"time of {path} over {baseline}", "at most 1.40" if base_on_cpu else None)
            for slower in ("text", "plain"):
                goal = "at least 1.0" if slower == "text" else None
                compare(case._replace(path=slower), case, f"time of {slower} over {path}", goal)
            if case.precision != "fp32":
                in_fp32 = case._replace(precision="fp32")
                bf16_on_cpu = base_on_cpu and case.precision == "bf16"
                goal = "at least 2.5" if bf16_on_cpu else None
                compare(in_fp32, case, f"time of {path} in fp32 over {case.precision}", goal)
                other, goal = without._replace(precision="fp32"), "at most 0.42" if bf16_on_cpu else None
                compare(case, other, f"time of {path} in {case.precision} over {baseline} in fp32", goal)
            _add_single(case, row, base_on_cpu, on_gpu, add)
    return ratios


def _add_single(case, row: dict, base_on_cpu: bool, on_gpu: bool, add) -> None:
    """Add the figures of a case alone, without comparison."""
    ms = row["milliseconds"]
    goal = NETWORK_SHARE.get(case.precision) if base_on_cpu else None
    shares = {  # a short time is a large share
        name: row["share_of_peak"] * ms["network"]["median"] / ms["network"][of]
        for name, of in (("median", "median"), ("q25", "q75"), ("q75", "q25"))
    }
    add(case, f"{case.path} network's share of the matmul peak", shares, goal and f"at least {goal}", "")
    if "box" in ms:
        around = {q: (ms["crop"][q] + ms["box"][q]) / ms["network"]["median"] for q in ("median", "q25", "q75")}
        add(case, f"{case.path}: crop and box over network", around, "at most 0.03" if base_on_cpu else None, "")
    rates = _rates(ms["end to end"])
    goal = "at least 300" if (case.model, case.targets, on_gpu) == ("base", 1, True) else None
    add(case, f"{case.path} end to end", rates, goal, "FPS")
    if "decoded ahead" in ms:
        goal = "at least 75" if (case.model, case.targets) == ("tiny", 1) else None
        add(case, f"{case.path} end to end, decoded ahead", _rates(ms["decoded ahead"]), goal, "FPS")
    if case.targets > 1:
        goal = "at least 3000" if on_gpu and case.model == "base" and case.targets == 32 else None
        many = {q: rate * case.targets for q, rate in rates.items()}
        add(case, f"{case.path} end to end", many, goal, "target-frames/s")


def _rates(ms: dict[str, float]) -> dict[str, float]:
    """Frames per second; the lower quartile of the times is the upper one of the rates."""
    return {q: 1000 / ms[p] for q, p in (("median", "median"), ("q25", "q75"), ("q75", "q25"))}


def table(rows: dict[tuple, dict]) -> str:
    """The cases as a Markdown table, with times in ms; end to end has its quartiles."""
    lines = [
        "| model | targets | precision | path | decode | crop | network | box | end to end (quartiles) | FPS | GMACs "
        "| of peak | frames |",
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case, row in rows.items():
        ms = row["milliseconds"]
        times = [f"{ms[stage]['median']:.2f}" if stage in ms else "-" for stage in STAGES]
        times[-1] += f" ({ms['end to end']['q25']:.2f} to {ms['end to end']['q75']:.2f})"
        lines.append(
            f"| {case.model} | {case.targets} | {case.precision} | {case.path} | {' | '.join(times)} | "
            f"{row['fps']:.1f} | {row['macs'] / 1e9:.2f} | {row['share_of_peak']:.0%} | {row['frames']} |"
        )
    return "\n".join(lines)


def macs_table(parts: dict[str, dict[str, tuple[int, int, int]]]) -> str:
    """The MACs of the plain model by part, as a Markdown table."""
    lines = ["| model | part | GMACs per sentence | GMACs per frame | without language |", "|---|---|---:|---:|---:|"]
    for model, counts in parts.items():
        for part, numbers in counts.items():
            lines.append(f"| {model} | {part} | {' | '.join(f'{number / 1e9:.2f}' for number in numbers)} |")
    return "\n".join(lines)


def ratio_line(ratio: dict) -> str:
    digits = 2 if ratio["unit"] in ("x", "") else 1
    median, q25, q75 = (f"{ratio[name]:.{digits}f}" for name in ("median", "q25", "q75"))
    targets = f"{ratio['targets']} target{'s' if ratio['targets'] > 1 else ''}"
    goal = f"; goal {ratio['goal']}: {'met' if ratio['met'] else 'missed'}" if ratio["goal"] else ""
    of_one = ratio["what"] if " in fp32" in ratio["what"] else f"{ratio['precision']}, {ratio['what']}"
    return f"- {ratio['model']}, {targets}, {of_one}: {median} {ratio['unit']}".rstrip() + f" ({q25} to {q75}){goal}"


def report(
    contestants, peaks: dict[str, float], parts: dict, machine: dict, device: torch.device, output: Path | None
) -> None:
    """Print all measurements and, with `output`, write them as JSON."""
    rows = build_rows(contestants, peaks)
    ratios = build_ratios(contestants, rows, device.type == "cuda")
    print(
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, torch {machine['torch']}"
    )
    if "gpu" in machine:
        print(f"{machine['gpu']}, CUDA {machine['cuda']}")
    print("matmul peak: " + ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items()))
    print(f"\nMedian milliseconds per frame:\n\n{table(rows)}\n\n{macs_table(parts)}\n")
    print("Median (quartiles):\n\n" + "\n".join(map(ratio_line, ratios)))
    for case, row in rows.items():
        if row["compile_seconds"]:
            print(f"- {', '.join(map(str, case))}: compiled in {row['compile_seconds']:.0f} s")
    if output is not None:
        report = {
            "machine": machine,
            "peak_flops": peaks,
            "macs_by_part": {
                model: {
                    part: dict(zip(("per_sentence", "per_frame", "without_language"), numbers, strict=True))
                    for part, numbers in counts.items()
                }
                for model, counts in parts.items()
            },
            "cases": list(rows.values()),
            "ratios": ratios,
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, json.dumps(report, indent=2) + "\n")
