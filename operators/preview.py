"""Operator: a look at what the references find in a few images, before a run over all of them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import REFERENCE_TAG, image_samples, reference_fields
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.operators import forms
from fiftyone_ntt.operators.segment import banks_of
from fiftyone_ntt.params.review import PreviewParams

if TYPE_CHECKING:
    from fiftyone_ntt.runs.preview import PreviewImage

LABEL = "Preview on 4 images"
ICON = "visibility"
SHOWN = ("bank", "label_field", "images", "score_threshold")
NOTHING_WRITTEN = (
    "Nothing has been written. If this looks right, label the rest: **Label images** in the panel, or the operator "
    "**Segment with NTT references**."
)
TAGGED = "the references as they are tagged now"


class Preview(foo.Operator):
    """Labels a few images, shows them, and writes nothing."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "preview",
            LABEL,
            "Shows what your references find in a few images, and writes nothing to the dataset.",
            ICON,
            execute_as_generator=True,
            allow_delegated_execution=False,
            risk_level=types.RiskLevel.LOW,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.grid_button(LABEL, ICON)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        target = image_samples(ctx.target_view())
        banks = {"": TAGGED, **banks_of(ctx.dataset)}
        fields = reference_fields(target)
        forms.add_params(
            inputs, PreviewParams, choices={"bank": banks}, suggestions={"label_field": fields}, only=SHOWN
        )
        inputs.get_property("bank").default = ""
        field = forms.current(ctx, PreviewParams, "label_field")
        if not ctx.params.get("bank") and forms.require_labels(inputs, target, [field]):
            require_references(inputs, ctx.dataset, field)
        rest = [info.name for info in PreviewParams.infos() if info.name not in SHOWN]
        forms.add_advanced(inputs, ctx, PreviewParams, rest)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> Iterator[Any]:
        import fiftyone_ntt as ntt

        params = PreviewParams.from_mapping(ctx.params)
        yield ctx.ops.set_progress(label="Loading the models, looking at the references", progress=0.0)
        preview = ntt.preview(ctx.target_view(), **params.to_mapping())
        shown: list[PreviewImage] = []
        for one in preview:
            shown.append(one)
            label = f"{len(shown)} of {preview.count}: {one}"
            yield ctx.ops.set_progress(label=label, progress=len(shown) / preview.count)
        summary = f"{NOTHING_WRITTEN} **All of them:** {preview.estimate()}"
        yield ctx.ops.show_output(_outputs(shown).to_json(), _results(summary, shown))


def require_references(inputs: types.Object, dataset: Any, field: str) -> None:
    """Refuses the form, at ``bank``, unless something is tagged as a reference."""
    from fiftyone_ntt.operators.build_memory_bank import NO_REFERENCES
    from fiftyone_ntt.references.tagging import tagged_references

    try:
        tagged_references(image_samples(dataset), REFERENCE_TAG, field)
    except InputError:
        forms.refuse(inputs, "bank", NO_REFERENCES)


def _outputs(shown: list[PreviewImage]) -> types.Property:
    outputs = types.Object()
    outputs.str("summary", view=types.MarkdownView())
    for i, one in enumerate(shown):
        outputs.str(f"line_{i}", view=types.MarkdownView())
        if one.picture:
            outputs.str(f"image_{i}", view=types.ImageView(alt=one.name))
    return types.Property(outputs, view=types.View(label="What your references find"))


def _results(summary: str, shown: list[PreviewImage]) -> dict[str, str]:
    results = {"summary": summary}
    for i, one in enumerate(shown):
        results[f"line_{i}"] = str(one)
        if one.picture:
            results[f"image_{i}"] = f"data:image/jpeg;base64,{base64.b64encode(one.picture).decode()}"
    return results
