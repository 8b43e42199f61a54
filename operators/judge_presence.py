"""Operator: the labels of a run -> which classes are in each image and which are not."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms
from fiftyone_ntt.operators.fit_thresholds import fields_of_runs
from fiftyone_ntt.params.review import JudgePresenceParams

LABEL = "Say which classes are in each image"
ICON = "fact_check"


class JudgePresence(foo.Operator):
    """Writes which classes are judged to be in the images, and which are not."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "judge_presence",
            LABEL,
            "Writes of each image which classes are in it and which are not, with probabilities, to filter by.",
            ICON,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        fields = list(fields_of_runs(ctx.dataset).values())
        forms.add_params(inputs, JudgePresenceParams, choices={"label_field": {name: name for name in fields}})
        if not fields:
            forms.refuse(inputs, "label_field", "this dataset has no labelling run yet: label some images first")
        else:
            inputs.get_property("label_field").default = fields[0]
            text = "The thresholds are those that you fitted last; without any, a guess from the references."
            forms.notice(inputs, "thresholds", text)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = JudgePresenceParams.from_mapping(ctx.params)
        report = ntt.judge_presence(ctx.target_view(), **params.to_mapping())
        forms.finished(ctx)
        return {"summary": str(report), "rows": report.rows()}

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label="Done", view=types.MarkdownView())
        table = types.TableView()
        for key, label in (("class", "class"), ("present", "images with it"), ("absent", "images without it")):
            table.add_column(key, label=label)
        outputs.list("rows", types.Object(), view=table, label="Classes")
        return types.Property(outputs, view=types.View(label=LABEL))

    def __call__(
        self,
        sample_collection: SampleCollection,
        label_field: str = "ntt",
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
    ) -> Any:
        """Judges a collection from Python, through the operator.

        Args:
            sample_collection: the samples to judge.
            label_field: the field that a run wrote.
            delegate: schedule it instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
        """
        return forms.call(self, sample_collection, JudgePresenceParams(label_field), delegate, delegation_target)
