"""Operators that show pycocotools' scores in FiftyOne's own Model Evaluation panel, a row each.

``evaluate`` hands them the values it has computed; where someone chooses them in FiftyOne's own evaluation, they
compute them from the evaluated samples.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection

LABELS = {
    "box_ap": "Box AP (pycocotools)",
    "mask_ap": "Mask AP (pycocotools)",
    "mask_ap50": "Mask AP50 (pycocotools)",
    "ar100": "AR100 (pycocotools)",
}
_computed: WeakKeyDictionary[Any, dict[str, float | None]] = WeakKeyDictionary()


class _CocoMetric(foo.EvaluationMetric):
    """One score of an evaluation of detections."""

    score = ""

    @property
    def config(self) -> foo.EvaluationMetricConfig:
        config = foo.EvaluationMetricConfig(
            name=f"metric_{self.score}",
            label=LABELS[self.score],
            description="COCO score from pycocotools, which counts ties as they are.",
            eval_types=["detection"],
            aggregate_key=f"ntt_{self.score}",
            lower_is_better=False,
            unlisted=True,
            risk_level=foo.types.RiskLevel.LOW,
        )
        config.kwargs["lower_is_better"] = False  # FiftyOne 1.22 looks for it here
        return config

    def compute(self, samples: SampleCollection, results: Any, value: float | None = None) -> float | None:
        """The score.

        Args:
            samples: the samples that were evaluated.
            results: FiftyOne's results of that evaluation.
            value: the score where it is known already.
        """
        if value is not None:
            return value
        if results not in _computed:
            _computed[results] = _scores(samples, results.config)
        return _computed[results][self.score]


def _scores(samples: SampleCollection, config: Any) -> dict[str, float | None]:
    from fiftyone_ntt.evaluation.evaluate import score_view
    from fiftyone_ntt.evaluation.fiftyone_matches import scores_shown

    return scores_shown(score_view(samples, config.pred_field, config.gt_field))


class BoxAP(_CocoMetric):
    """AP by box overlap, averaged over IoU 0.5 to 0.95."""

    score = "box_ap"


class MaskAP(_CocoMetric):
    """AP by mask overlap, averaged over IoU 0.5 to 0.95."""

    score = "mask_ap"


class MaskAP50(_CocoMetric):
    """AP by mask overlap at IoU 0.5."""

    score = "mask_ap50"


class AR100(_CocoMetric):
    """Recall with 100 labels an image, by mask overlap where there are masks."""

    score = "ar100"


METRIC_OPERATORS = (BoxAP, MaskAP, MaskAP50, AR100)
