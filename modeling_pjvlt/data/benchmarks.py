"""What pjvlt-eval measures on the benchmarks, in the form that the Hub reads.

Tasks are called PROTOCOL_SCORE, such as `lasot_auc`, and are listed in the file `eval.yaml` of a dataset repository.
Such a dataset gets a leaderboard once the Hub lists it as a benchmark. Format:
https://huggingface.co/docs/hub/eval-results.
"""

import yaml

BENCHMARK_FILE = "eval.yaml"
SCORES = {  # of each protocol, by the names of `score_benchmark`
    "auc": "success AUC",
    "precision": "precision at 20 pixels",
    "normalized_precision": "normalised precision",
    "op50": "share of frames with an overlap above 0.5",
    "op75": "share of frames with an overlap above 0.75",
    "ao": "average overlap",
    "sr50": "success rate at 0.5",
    "sr75": "success rate at 0.75",
}
OPE_SCORES = ("auc", "precision", "normalized_precision", "op50", "op75")
PROTOCOL_SCORES = {
    **dict.fromkeys(("otb", "lasot", "tnl2k", "pytracking", "pytracking_lasot"), OPE_SCORES),
    "got10k": ("ao", "sr50", "sr75"),
}
BENCHMARK_PROTOCOLS = {  # of the datasets that `pjvlt-convert` writes and that have an official evaluation
    "lasot": ("lasot", "pytracking_lasot"),
    "lasotext": ("lasot", "pytracking_lasot"),
    "got10k": ("got10k",),
    "trackingnet": ("pytracking",),
    "tnl2k": ("tnl2k", "pytracking"),
    "otb99": ("otb", "pytracking"),
}


def benchmark_yaml(benchmark: str, title: str) -> str:
    """`eval.yaml` of a benchmark's dataset repository: its tasks, one for each score of each protocol.

    It names no `evaluation_framework`, because the Hub accepts only those of a list, and this package is not on it.
    """
    tasks = [
        {"id": f"{protocol}_{score}", "config": "default", "split": "test"}
        for protocol in BENCHMARK_PROTOCOLS[benchmark]
        for score in PROTOCOL_SCORES[protocol]
    ]
    about = (
        f"Single-object tracking on {title}: one pass from the first box. A task is a protocol and one of its scores, "
        "in percent, as pjvlt-eval computes them."
    )
    return yaml.safe_dump({"name": title, "description": about, "tasks": tasks}, sort_keys=False, allow_unicode=True)


__all__ = ["BENCHMARK_FILE", "BENCHMARK_PROTOCOLS", "PROTOCOL_SCORES", "SCORES", "benchmark_yaml"]
