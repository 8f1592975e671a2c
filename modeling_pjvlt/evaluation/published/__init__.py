"""The scores in the paper, in percent: Table I as `trackers.json`, Tables II to VI (ablations) as `ablations.json`.

A row of the first names its tracker, source and dataset; the second is indexed by variant (`progressive` is the whole
model, and `last-9` its last nine layers fused), then by dataset, each trained on that dataset alone. The paper does
not say which toolkit scored.
"""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent
DATASETS = ("lasotext", "lasot", "got10k", "tnl2k")  # longer names first


def dataset_key(name: str) -> str | None:
    """Which of the paper's datasets a name means, or None.

    >>> dataset_key("me/LaSOT_ext"), dataset_key("converted/got10k"), dataset_key("GOT-10k"), dataset_key("clips")
    ('lasotext', 'got10k', 'got10k', None)
    """
    last = re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower())
    return next((key for key in DATASETS if key in last), None)


def published_trackers(dataset: str | None = None) -> list[dict]:
    """Rows of Table I, those of one dataset (a key of `DATASETS`) or all."""
    rows = json.loads((FOLDER / "trackers.json").read_text(encoding="utf-8"))
    return [row for row in rows if dataset in (None, row["dataset"])]


def published_ablations(dataset: str) -> dict[str, dict[str, float]]:
    """Scores of each variant of Tables II to VI on `lasot` or `got10k`, by metric."""
    variants = json.loads((FOLDER / "ablations.json").read_text(encoding="utf-8"))
    return {name: scores[dataset] for name, scores in variants.items()}
