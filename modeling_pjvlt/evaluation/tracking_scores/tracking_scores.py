"""Scores of single-object tracking as a metric of the `evaluate` library."""

import datasets
import evaluate
import numpy as np

from modeling_pjvlt.evaluation.protocols import PROTOCOLS, score_benchmark

_DESCRIPTION = """\
Scores of single-object tracking by the rules of a benchmark's own toolkit (OTB, LaSOT, TNL2K, pytracking, GOT-10k).
"""
_CITATION = """\
@inproceedings{fan2019lasot,
  title={LaSOT: A High-quality Benchmark for Large-scale Single Object Tracking},
  author={Fan, Heng and Lin, Liting and Yang, Fan and Chu, Peng and Deng, Ge and Yu, Sijia and Bai, Hexin and Xu, Yong
    and Liao, Chunyuan and Ling, Haibin},
  booktitle={CVPR}, year={2019}
}
"""
_INPUTS_DESCRIPTION = """
Args:
    predictions: a list of {"sequence": name, "boxes": n boxes x, y, w, h in frame pixels}, in any order.
    references: for each of them {"sequence": name, "boxes": n boxes, "absent": n flags, empty if never}.
    protocol: `lasot` (default), `otb`, `tnl2k`, `pytracking`, `pytracking_lasot` or `got10k`.
    frame_sizes: for `got10k`, sequence -> (height, width).
Returns:
    Scores in percent: `auc`, `precision`, `normalized_precision`, `op50`, `op75`; of got10k `ao`, `sr50`, `sr75`.
Examples:
    >>> import evaluate, modeling_pjvlt.evaluation
    >>> metric = evaluate.load(modeling_pjvlt.evaluation.METRIC)
    >>> boxes = [[10.0, 10.0, 10.0, 10.0], [15.0, 10.0, 10.0, 10.0]]
    >>> truth = [[10.0, 10.0, 10.0, 10.0], [10.0, 10.0, 10.0, 10.0]]
    >>> reference = {"sequence": "a", "boxes": truth, "absent": []}
    >>> metric.add(prediction={"sequence": "a", "boxes": boxes}, reference=reference)
    >>> round(metric.compute(protocol="otb")["auc"], 2)
    64.29
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class TrackingScores(evaluate.Metric):
    """`score_benchmark` for `evaluate`: in batches, and in distributed runs."""

    def _info(self) -> evaluate.MetricInfo:
        boxes = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {"sequence": datasets.Value("string"), "boxes": boxes},
                    "references": {
                        "sequence": datasets.Value("string"),
                        "boxes": boxes,
                        "absent": datasets.Sequence(datasets.Value("bool")),
                    },
                }
            ),
        )

    def _compute(self, predictions, references, protocol: str = "lasot", frame_sizes=None) -> dict[str, float]:
        truth, flags = {}, {}
        for prediction, reference in zip(predictions, references, strict=True):
            name = reference["sequence"]
            if prediction["sequence"] != name:
                raise ValueError(
                    f"The prediction of {prediction['sequence']!r} was given with the reference of {name!r}."
                )
            if name in truth:
                raise ValueError(f"Sequence {name!r} was added twice.")
            truth[name] = np.array(reference["boxes"], np.float64).reshape(-1, 4)
            flags[name] = np.array(reference["absent"] or [False] * len(truth[name]), bool)
        boxes = {one["sequence"]: np.array(one["boxes"], np.float64).reshape(-1, 4) for one in predictions}
        given = {"absent": flags, "frame_sizes": frame_sizes}
        known = PROTOCOLS[protocol].takes if protocol in PROTOCOLS else ()
        taken = {name: value for name, value in given.items() if name in known}
        return dict(score_benchmark(boxes, truth, protocol=protocol, **taken))
