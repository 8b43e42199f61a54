"""Operators around references: tag them, look at them, make masks of them, build a memory bank from them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import detections_fields, image_samples, map_fields, reference_fields
from fiftyone_ntt.errors import InputError, NttError
from fiftyone_ntt.operators.base import (
    GRID,
    NttOperator,
    Table,
    progress_of,
    show_in_grid,
    show_samples,
    shows_whole_images,
)
from fiftyone_ntt.operators.forms import Form, as_markdown, counted, listed
from fiftyone_ntt.params.base import DEFAULT_BANK_NAME
from fiftyone_ntt.params.references import MakeMasksFormParams, TaggedBankParams
from fiftyone_ntt.params.review import AdviceFormParams

TAGGED = "the references as they are tagged now"
"""What it is called to choose no memory bank."""
_AFTERWARDS = {
    "nothing": "leave the images as they are",
    "next": "the labels to decide on next",
    "look": "the references to look at",
}
"""What the grid can show when advice was given."""
_MEANING = (
    "**For the others**: how much clearer the other references are told apart with it than without it, in points of "
    "similarity; **for your review**: the same for what you accepted and rejected. Below zero it does harm."
)


class _ChangeReferences(NttOperator):
    """What is selected becomes references or stops being some: at once, without a form."""

    OUTPUTS = None
    CHANGES = False  # what changed is loaded again below
    OPTIONS = {"allow_delegated_execution": False, "risk_level": types.RiskLevel.LOW, "view_target": False}
    ADD = True

    def perform(self, ctx: Any, params: Any) -> dict[str, Any]:
        return change_references(ctx, add=self.ADD)


class UseAsReference(_ChangeReferences):
    """Tags the selected labels, or else the selected samples."""

    NAME, LABEL, ICON = "use_as_reference", "NTT: Use as reference", "bookmark_add"
    DESCRIPTION = "Makes the selected labels (or else all labels of the selected images) examples of what to find."
    BUTTON = GRID


class RemoveReference(_ChangeReferences):
    """Untags the selected labels, or else the selected samples with their labels."""

    NAME, LABEL, ICON = "remove_reference", "NTT: Remove from references", "bookmark_remove"
    DESCRIPTION = "The selected labels (or else the selected images) stop being examples of what to find."
    ADD = False


def selected_labels(ctx: Any) -> list[tuple[str, str]]:
    """Field and id of each label that is selected in the App."""
    return [(label["field"], label["label_id"]) for label in ctx.selected_labels or []]


def change_references(ctx: Any, *, add: bool, label_field: str | None = None) -> dict[str, Any]:
    """Makes what is selected references, or stops it being some, and says so in the App."""
    from fiftyone_ntt.references.tagging import NOTHING_SELECTED, change_selected

    change = change_selected(ctx.view, ctx.selected, selected_labels(ctx), add=add, label_field=label_field)
    if change is None:
        ctx.ops.notify(NOTHING_SELECTED, variant="warning")
        return {"samples": 0, "labels": 0, "summary": NOTHING_SELECTED}
    summary = _sentence(change)
    ctx.ops.clear_selected_samples()
    ctx.ops.clear_selected_labels()
    ctx.ops.reload_samples()
    ctx.ops.notify(summary, variant="warning" if change.unlabelled or change.left_out else "success")
    return {**asdict(change), "summary": summary}


class BuildMemoryBank(NttOperator):
    """Turns tagged samples into a memory bank under a name."""

    NAME, LABEL, ICON = "build_memory_bank", "NTT: Build memory bank", "collections_bookmark"
    DESCRIPTION = "Learns what your classes look like from a few labelled reference samples; nothing is trained."
    PARAMS = TaggedBankParams
    OUTPUTS = (Table("shots", "References", {"class": "class", "references": "references"}),)
    BUTTON = GRID
    CALL_DEFAULTS = {"reference_tag": ""}  # unlike the form, a call takes every sample of the collection

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.references.banks import list_banks
        from fiftyone_ntt.references.tagging import count_labels

        target = image_samples(form.ctx.target_view())
        fields, others = _fields_of_references(form, target)
        suggestions = {
            "label_field": reference_fields(target),
            "more_fields": others,
            "classes": sorted(count_labels(target, fields)),
            "name": sorted({DEFAULT_BANK_NAME, *list_banks(form.ctx.dataset)}),
        }
        form.add("label_field", *(["more_fields"] if others else []), "classes", "preset", "name",
                 suggestions=suggestions)  # fmt: skip
        if form.require_labels(target, fields):
            _describe_references(form, target, fields)

    def perform(self, ctx: Any, params: TaggedBankParams) -> dict[str, Any]:
        from fiftyone_ntt.references.banks import build_tagged_bank, notes_of

        bank = build_tagged_bank(ctx.target_view(), params, progress_of(ctx))
        negative = f" Negatives: {len(bank.negative_ids)}." if bank.negative_ids else ""
        summary = f"Memory bank {params.name!r}: {listed(bank.shots)}.{negative} Models: preset {bank.preset!r}."
        return {
            "bank": params.name,
            "preset": bank.preset,
            "shots": [{"class": name, "references": count} for name, count in bank.shots.items()],
            "notes": notes_of(bank),
            "summary": "\n\n".join(map(as_markdown, [summary, *notes_of(bank)])),
        }


class MakeReferenceMasks(NttOperator):
    """Writes the masks of tagged references into a field that the App can edit."""

    NAME, LABEL, ICON = "make_reference_masks", "NTT: Make reference masks", "format_shapes"
    DESCRIPTION = "Turns boxes, points and scribbles of your references into masks, to be looked at and corrected."
    PARAMS = MakeMasksFormParams

    def fill(self, form: Form) -> None:
        target = image_samples(form.ctx.target_view())
        fields, others = _fields_of_references(form, target)
        suggestions = {"label_field": reference_fields(target), "more_fields": others}
        form.add("label_field", *(["more_fields"] if others else []), "out_field", "classes", "preset", "overwrite",
                 suggestions=suggestions)  # fmt: skip
        if form.require_labels(target, fields):
            require_references(form, target, fields, form.value("reference_tag"), "label_field")

    def perform(self, ctx: Any, params: MakeMasksFormParams) -> dict[str, Any]:
        from fiftyone_ntt.references.editable_masks import make_tagged_masks

        report = make_tagged_masks(ctx.target_view(), params, progress_of(ctx))
        advice = "Open an image and press *Annotate* to correct one, then build the bank with"
        done, field = as_markdown(_sentence(report)), as_markdown(repr(report.out_field))
        return {**asdict(report), "summary": f"{done} {advice} {field} as reference labels."}


class AdviseReferences(NttOperator):
    """Shows what each reference does to the others, and writes nothing."""

    NAME, LABEL, ICON = "advise_references", "NTT: Check references", "tips_and_updates"
    DESCRIPTION = "Says which references help and which do not, which classes need more, and what to label next."
    PARAMS = AdviceFormParams
    OUTPUTS = (
        Table("classes", "Classes", {
            "class": "class", "references": "references", "recognised": "recognised", "advice": "what to do",
        }),
        Table("rows", "References", {
            "class": "class", "reference": "reference", "assessment": "assessment", "change": "for the others",
            "on_reviewed": "for your review", "advice": "what to do",
        }),
    )  # fmt: skip
    OPTIONS = {"risk_level": types.RiskLevel.LOW}
    CHANGES = False

    def fill(self, form: Form) -> None:
        dataset = form.ctx.dataset
        suggestions = {"label_field": reference_fields(dataset), "reviewed": detections_fields(dataset)}
        form.offer_banks(TAGGED)
        form.add("bank", "label_field", "reviewed", "suggest", "show", suggestions=suggestions,
                 choices={"show": _AFTERWARDS})  # fmt: skip
        require_bank_or_references(form)

    def perform(self, ctx: Any, params: AdviceFormParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        arguments = params.to_mapping()
        show = arguments.pop("show")
        advice = ntt.advise_references(ctx.target_view(), progress=progress_of(ctx), **arguments)
        if not ctx.delegated and show == "next" and advice.suggestions:
            _show_next(ctx, advice)
        elif not ctx.delegated and show == "look":
            show_samples(ctx, advice.references_view(ctx.dataset))
        return {
            "summary": _summary_of_advice(advice),
            "rows": advice.rows(),
            "classes": advice.class_rows(),
            "suggestions": [suggestion.label_id for suggestion in advice.suggestions],
        }


def _show_next(ctx: Any, advice: Any) -> None:
    """The grid shows the labels to decide on next, the most helpful image first."""
    from fiftyone_ntt.review.ranking import Grid

    if not shows_whole_images(ctx):
        return
    grid = Grid(ctx.dataset, ctx.request_params, advice.reviewed_field)
    images = list(dict.fromkeys(suggestion.sample_id for suggestion in advice.suggestions))
    grid.show(grid.samples().select(images, ordered=True))
    grid.filter(label_ids=[suggestion.label_id for suggestion in advice.suggestions], images=images)
    show_in_grid(ctx, grid)


def require_references(form: Form, target: SampleCollection, fields: list[str], tag: str, name: str = "bank") -> None:
    """Refuses the form, at the field of a parameter, unless something is tagged as a reference."""
    from fiftyone_ntt.references.tagging import NO_REFERENCES, tagged_references

    try:
        tagged_references(target, tag, fields)
    except InputError:
        form.refuse(name, NO_REFERENCES)


def require_bank_or_references(form: Form) -> None:
    """Refuses the form unless a memory bank is chosen, or the dataset has references to build one from.

    Args:
        form: it asks for ``bank`` and ``label_field``.
    """
    from fiftyone_ntt.references.tagged_bank import plan_bank

    if form.ctx.params.get("bank"):
        return
    field = form.value("label_field") or None
    try:
        form.notice("bank", str(plan_bank(form.ctx.dataset, field)))
    except NttError as error:
        form.refuse("label_field" if form.has("label_field") or field else "bank", str(error))


def _fields_of_references(form: Form, target: SampleCollection) -> tuple[list[str], list[str]]:
    """The fields of references that the form names, and the others that there are."""
    first = form.value("label_field")
    fields = list(dict.fromkeys([first, *(form.value("more_fields") or ())]))
    return fields, [name for name in reference_fields(target) if name != first]


def _describe_references(form: Form, target: SampleCollection, fields: list[str]) -> None:
    """Says what the references are, or refuses the form if there are none."""
    from fiftyone_ntt.references.tagging import NO_REFERENCES, count_labels, tagged_references

    try:
        references = tagged_references(target, form.value("reference_tag"), fields)
    except InputError as error:
        shown = form.is_changed("reference_tag")  # whoever chose a tag is told about the tag
        form.refuse("reference_tag" if shown else "label_field", str(error) if shown else NO_REFERENCES)
        return
    counts = count_labels(references, fields)
    samples = counted(len(references), "reference sample")
    if counts:
        form.notice("references", f"{samples}: {listed(counts)}")
    elif set(fields) & set(map_fields(target)):
        form.notice("references", f"{samples}, with semantic segmentation masks")
    else:
        form.notice("references", f"{samples}, without labels in {', '.join(map(repr, fields))}", warning=True)


def _summary_of_advice(advice: Any) -> str:
    worth_a_look = sum(bool(reference.words) for reference in advice.references)
    references = counted(len(advice.references), "reference")
    classes = counted(len(advice.classes), "class", "classes")
    summary = [f"{references} of {classes}; {worth_a_look} to look at.", _MEANING, *map(as_markdown, advice.notes)]
    if advice.suggestions:
        summary.append(f"{counted(len(advice.suggestions), 'label')} would help if you decided on them.")
    return "\n\n".join(summary)


def _sentence(report: Any) -> str:
    text = str(report)
    return f"{text[0].upper()}{text[1:]}."
