"""Scores where the Hub looks for them: `model-index` in a model's card, and `.eval_results/*.yaml` beside it.

The card takes scores on any dataset. A file in `.eval_results` names a dataset repository on the Hub and a task of its
`eval.yaml` (see `data/benchmarks.py`). Format: https://huggingface.co/docs/hub/eval-results.
"""

from collections.abc import Mapping

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, eval_result_entries_to_yaml

from ..data.benchmarks import SCORES
from ..pipeline_pjvlt import TASK

TASK_NAME = "Vision-language tracking"
PIPELINE_TAG = "other"  # the Hub has no task for tracking
TAGS = ["object-tracking", "visual-object-tracking", "single-object-tracking", TASK, "video", "pjvlt"]


def eval_results(dataset: str, split: str | None, protocol: str, scores: Mapping[str, float]) -> list[EvalResult]:
    """The scores of one evaluation (percent, by the names of `score_benchmark`) as entries of a card.

    dataset: a Hub id, or the name of a folder, which gets no file in `.eval_results`.
    """
    return [
        EvalResult(
            task_type=TASK,
            task_name=TASK_NAME,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=f"{protocol}_{score}",
            metric_name=f"{SCORES[score]}, protocol {protocol}",
            metric_value=round(float(value), 2),
        )
        for score, value in scores.items()
    ]


def result_files(card: ModelCard) -> dict[str, str]:
    """The files of `.eval_results` that belong to a card: path -> YAML, one for each dataset on the Hub."""
    entries: dict[str, list[EvalResultEntry]] = {}
    for result in card.data.eval_results or []:
        if is_repository(result.dataset_type):
            entry = EvalResultEntry(
                dataset_id=result.dataset_type,
                task_id=result.metric_type,
                value=result.metric_value,
                dataset_revision=result.dataset_revision,
            )
            entries.setdefault(result.dataset_type, []).append(entry)
    return {
        f".eval_results/{dataset.replace('/', '--')}.yaml": yaml.safe_dump(
            eval_result_entries_to_yaml(rows), sort_keys=False
        )
        for dataset, rows in entries.items()
    }


def is_repository(dataset: str) -> bool:
    """Whether a name is that of a dataset repository on the Hub, user/name; `lasot` without a user is not."""
    return dataset.count("/") == 1 and all(dataset.split("/"))


def merged(old: list[EvalResult], new: list[EvalResult]) -> list[EvalResult]:
    """Old and new results; a new one replaces the old one of the same dataset, split and metric."""
    replaced = {_key(result) for result in new}
    return [*(result for result in old if _key(result) not in replaced), *new]


def _key(result: EvalResult) -> tuple:
    return result.dataset_type, result.dataset_split, result.metric_type


__all__ = ["PIPELINE_TAG", "TAGS", "TASK_NAME", "eval_results", "is_repository", "merged", "result_files"]
