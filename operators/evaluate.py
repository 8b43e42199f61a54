"""Operators of the evaluation: scores of labels, and those of FiftyOne's own Model Evaluation panel.

``Evaluate`` hands the metrics the values it has computed; where someone chooses them in FiftyOne's own evaluation, they
compute them from the evaluated samples.
"""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import detections_fields, image_samples, map_fields
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.operators.base import NttOperator, Table, progress_of
from fiftyone_ntt.operators.forms import Form, as_markdown, as_sentence, counted
from fiftyone_ntt.params.labelling import EvaluateParams

_computed: WeakKeyDictionary[Any, dict[str, float | None]] = WeakKeyDictionary()


class Evaluate(NttOperator):
    """Scores a field of labels against ground truth."""

    NAME, LABEL, ICON = "evaluate", "NTT: Evaluate labels", "query_stats"
    DESCRIPTION = (
        "Scores labels against ground truth: AP of boxes and masks or IoU of semantic segmentation masks, and which "
        "classes were found."
    )
    PARAMS = EvaluateParams
    SUMMARY = "Scores"
    OUTPUTS = (Table("table", "Per class"),)

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.evaluation.evaluate import to_score
        from fiftyone_ntt.references.tagging import truth_field
        from fiftyone_ntt.runs.record import labelled_fields

        target = image_samples(form.ctx.target_view())
        maps = map_fields(target)
        fields = [*detections_fields(target), *maps]
        others = [name for name in fields if name not in labelled_fields(form.ctx.dataset)]
        likely = truth_field(target, sorted(others, key=lambda name: name == form.value("label_field")))
        suggestions = {"label_field": fields, "gt_field": sorted(fields, key=lambda name: name != likely)}
        form.add("label_field", "gt_field", "eval_key", suggestions=suggestions)
        if likely is not None:
            form.set_default("gt_field", likely)
        form.notice("target", f"{counted(len(target), 'image')} in the target")
        for name in ("label_field", "gt_field"):
            if form.value(name) not in maps and not form.require_detections(name, target):
                return
        options = {name: form.value(name) or None for name in ("eval_key", "classes")}
        fields = [form.value("label_field"), form.value("gt_field")]
        try:
            to_score(target, *fields, **options, include_references=form.value("include_references"), notes=[])
        except NttError as error:
            form.refuse("gt_field", str(error))

    def perform(self, ctx: Any, params: EvaluateParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        results = ntt.evaluate(ctx.target_view(), progress=progress_of(ctx), **params.to_mapping())
        rows = [{key: _rounded(value) for key, value in row.items()} for row in results.table()]
        return {
            **results.to_dict(),
            "table": rows,
            "summary": "\n\n".join([as_markdown(_headline(results)), *map(as_sentence, results.notes)]),
        }


class _CocoMetric(foo.EvaluationMetric):
    """One score of an evaluation of detections.

    Attributes:
        SCORE: its name, see ``fiftyone_matches.scores_shown``.
        LABEL: what FiftyOne's panel calls it.
    """

    SCORE: ClassVar[str]
    LABEL: ClassVar[str]

    @property
    def config(self) -> foo.EvaluationMetricConfig:
        config = foo.EvaluationMetricConfig(
            name=f"metric_{self.SCORE}",
            label=self.LABEL,
            description="COCO score from pycocotools, which counts ties as they are.",
            eval_types=["detection"],
            aggregate_key=f"ntt_{self.SCORE}",
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
        if results not in _computed:  # all scores come from one reading of the samples
            _computed[results] = _scores(samples, results.config)
        return _computed[results][self.SCORE]


class BoxAP(_CocoMetric):
    """AP by box overlap, averaged over IoU 0.5 to 0.95."""

    SCORE, LABEL = "box_ap", "Box AP (pycocotools)"


class MaskAP(_CocoMetric):
    """AP by mask overlap, averaged over IoU 0.5 to 0.95."""

    SCORE, LABEL = "mask_ap", "Mask AP (pycocotools)"


class MaskAP50(_CocoMetric):
    """AP by mask overlap at IoU 0.5."""

    SCORE, LABEL = "mask_ap50", "Mask AP50 (pycocotools)"


class AR100(_CocoMetric):
    """Recall with 100 labels an image, by mask overlap where there are masks."""

    SCORE, LABEL = "ar100", "AR100 (pycocotools)"


def _scores(samples: SampleCollection, config: Any) -> dict[str, float | None]:
    from fiftyone_ntt.evaluation.evaluate import score_view
    from fiftyone_ntt.evaluation.fiftyone_matches import scores_shown

    return scores_shown(score_view(samples, config.pred_field, config.gt_field))


def _headline(results: Any) -> str:
    if results.semantic is not None:
        return "; ".join(results.headlines())
    images, classes = counted(results.images, "image"), counted(len(results.classes), "class", "classes")
    head = f"{images}, {classes}: box AP {_rounded(results.box.ap)}, mask AP {_rounded(results.mask.ap)}"
    if results.boundary is not None:
        head += f", boundary AP {_rounded(results.boundary.ap)}"
    return head if results.review is None else f"{head}; {results.review}"


def _rounded(value: Any) -> Any:
    """Three digits for a score, a dash where it is not defined."""
    return "-" if value is None else round(value, 3) if isinstance(value, float) else value
