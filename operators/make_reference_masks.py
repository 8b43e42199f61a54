"""Operator: boxes, points and scribbles -> masks that a person can correct before they count."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import image_samples, reference_fields
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.operators import forms
from fiftyone_ntt.operators.build_memory_bank import NO_REFERENCES
from fiftyone_ntt.params.references import MakeMasksFormParams

LABEL = "Make masks of NTT references"
ICON = "format_shapes"
ADVANCED = ("device", "reference_tag")


class MakeReferenceMasks(foo.Operator):
    """Writes the masks of tagged references into a field that the App can edit."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "make_reference_masks",
            LABEL,
            "Turns boxes, points and scribbles of your references into masks, to be looked at and corrected.",
            ICON,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        from fiftyone_ntt.references.tagging import tagged_references

        inputs = types.Object()
        target = image_samples(ctx.target_view())
        field = forms.current(ctx, MakeMasksFormParams, "label_field")
        fields = list(dict.fromkeys([field, *(forms.current(ctx, MakeMasksFormParams, "more_fields") or ())]))
        usable = reference_fields(target)
        others = [name for name in usable if name != field]
        advanced = ADVANCED if others else ("more_fields", *ADVANCED)
        suggestions = {"label_field": usable, "more_fields": others}
        forms.add_params(inputs, MakeMasksFormParams, suggestions=suggestions, leave_out=advanced)
        if forms.require_labels(inputs, target, fields):
            tag = forms.current(ctx, MakeMasksFormParams, "reference_tag")
            try:
                tagged_references(target, tag, fields)
            except InputError:
                forms.refuse(inputs, "label_field", NO_REFERENCES)
        forms.add_execution_notice(inputs)
        forms.add_advanced(inputs, ctx, MakeMasksFormParams, advanced)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt
        from fiftyone_ntt.references.tagging import tagged_references

        arguments, fields, reference_tag = MakeMasksFormParams.from_mapping(ctx.params).split()
        references = tagged_references(ctx.target_view(), reference_tag, fields)
        report = ntt.make_reference_masks(references, fields, progress=forms.progress_of(ctx), **arguments)
        forms.finished(ctx)
        text = str(report)
        summary = (
            f"{text[0].upper()}{text[1:]}. Open an image and press *Annotate* to correct one, then build the bank "
        )
        return {**asdict(report), "summary": f"{summary}with {report.out_field!r} as the reference labels."}

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)
