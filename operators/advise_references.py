"""Operator: which references help, which do not, and what to label next."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import reference_fields
from fiftyone_ntt.operators import forms
from fiftyone_ntt.operators.preview import TAGGED, require_references
from fiftyone_ntt.operators.segment import banks_of
from fiftyone_ntt.params.review import AdviceParams

LABEL = "Which references help?"
ICON = "tips_and_updates"
SHOWN = ("bank", "label_field", "reviewed", "suggest")
SHOW = "show"
NEXT, LOOK, NOTHING = "next", "look", "nothing"
AFTERWARDS = {
    NOTHING: "leave the images as they are",
    NEXT: "the labels to decide on next",
    LOOK: "the references to look at",
}
"""What to show in the grid when it is done."""
COLUMNS = {
    "class": "class", "reference": "reference", "verdict": "verdict", "change": "for the others",
    "on_reviewed": "for your review", "advice": "what to do",
}  # fmt: skip
CLASS_COLUMNS = {"class": "class", "references": "references", "recognised": "recognised", "advice": "what to do"}
MEANING = (
    "**For the others**: how much clearer the other references are told apart with it than without it, in points of "
    "similarity; **for your review**: the same for what you accepted and rejected. Below zero it does harm."
)


class AdviseReferences(foo.Operator):
    """Shows what each reference does to the others, and writes nothing."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "advise_references",
            LABEL,
            "Says which references help and which do not, which classes need more, and what to label next.",
            ICON,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        fields = forms.detections_fields(ctx.dataset)
        banks = {"": TAGGED, **banks_of(ctx.dataset)}
        suggestions = {"label_field": reference_fields(ctx.dataset), "reviewed": fields}
        forms.add_params(inputs, AdviceParams, choices={"bank": banks}, suggestions=suggestions, only=SHOWN)
        inputs.get_property("bank").default = ""
        field = forms.current(ctx, AdviceParams, "label_field")
        if not ctx.params.get("bank") and forms.require_labels(inputs, ctx.dataset, [field]):
            require_references(inputs, ctx.dataset, field)
        view = types.DropdownView()
        for value, label in AFTERWARDS.items():
            view.add_choice(value, label=label)
        inputs.enum(SHOW, view.values(), view=view, label="Then show", default=NOTHING, required=False)
        rest = [info.name for info in AdviceParams.infos() if info.name not in SHOWN]
        forms.add_advanced(inputs, ctx, AdviceParams, rest)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        given = dict(ctx.params)
        show = given.pop(SHOW, None)
        params = AdviceParams.from_mapping(given)
        advice = ntt.advise_references(ctx.target_view(), progress=forms.progress_of(ctx), **params.to_mapping())
        if not ctx.delegated and show == NEXT and advice.suggestions:
            ctx.ops.set_view(advice.view(ctx.dataset))
        elif not ctx.delegated and show == LOOK:
            ctx.ops.set_view(advice.references_view(ctx.dataset))
        odd = sum(bool(one.words) for one in advice.references)
        summary = [
            f"{forms.counted(len(advice.references), 'reference')} of "
            f"{forms.counted(len(advice.classes), 'class', 'classes')}; {odd} to look at.",
            MEANING,
            *advice.notes,
        ]
        if advice.suggestions:
            summary.append(f"{forms.counted(len(advice.suggestions), 'label')} would help if you decided on them.")
        return {
            "summary": "\n\n".join(summary),
            "rows": advice.rows(),
            "classes": advice.class_rows(),
            "suggestions": [one.label_id for one in advice.suggestions],
        }

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label="Done", view=types.MarkdownView())
        for name, columns, label in (("classes", CLASS_COLUMNS, "Classes"), ("rows", COLUMNS, "References")):
            table = types.TableView()
            for key, heading in columns.items():
                table.add_column(key, label=heading)
            outputs.list(name, types.Object(), view=table, label=label)
        return types.Property(outputs, view=types.View(label=LABEL))

    def __call__(
        self,
        sample_collection: SampleCollection,
        bank: str | None = None,
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Asks for advice from Python, through the operator.

        Args:
            sample_collection: a dataset or view.
            bank: name of a memory bank kept with the dataset; the tagged references where ``None``.
            delegate: schedule it instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``AdviceParams``.
        """
        params = AdviceParams.from_mapping({"bank": bank, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)
