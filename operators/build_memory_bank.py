"""Operator: labelled reference samples -> a memory bank kept with the dataset."""

from __future__ import annotations

from collections import Counter
from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import image_samples, is_map_field, label_path, reference_fields
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.base import DEFAULT_BANK_NAME
from fiftyone_ntt.params.references import TaggedBankParams

LABEL = "Build NTT memory bank"
ICON = "collections_bookmark"
ADVANCED = ("ask_granularity", "device", "reference_tag", "negative_tag")
NO_REFERENCES = (
    "there are no references here yet: select images (or single labels) that show what you want, and press 'Use as NTT "
    "reference' above the grid"
)


class BuildMemoryBank(foo.Operator):
    """Turns tagged samples into a memory bank under a name."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "build_memory_bank",
            LABEL,
            "Learns what your classes look like from a few labelled reference samples; nothing is trained.",
            ICON,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.grid_button(LABEL, ICON)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        target = image_samples(ctx.target_view())
        label_field = forms.current(ctx, TaggedBankParams, "label_field")
        tag = forms.current(ctx, TaggedBankParams, "reference_tag")
        fields = list(dict.fromkeys([label_field, *(forms.current(ctx, TaggedBankParams, "more_fields") or ())]))
        classes = _label_counts(target, fields)
        others = [name for name in reference_fields(target) if name != label_field]
        advanced = ADVANCED if others else ("more_fields", *ADVANCED)
        forms.add_params(
            inputs,
            TaggedBankParams,
            suggestions={
                "label_field": reference_fields(target),
                "more_fields": others,
                "classes": sorted(classes),
                "name": _bank_names(ctx.dataset),
            },
            leave_out=advanced,
        )
        usable = forms.require_labels(inputs, target, fields)
        missing = _describe_references(inputs, target, fields, tag) if usable else None
        forms.add_execution_notice(inputs)
        forms.add_advanced(inputs, ctx, TaggedBankParams, advanced)
        if missing:
            hidden = inputs.get_property("reference_tag") is None
            forms.refuse(inputs, "label_field" if hidden else "reference_tag", NO_REFERENCES if hidden else missing)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt
        from fiftyone_ntt.references.tagging import tagged_negatives, tagged_references

        arguments, fields, tag, negative_tag = TaggedBankParams.from_mapping(ctx.params).split()
        target = ctx.target_view()
        references, negatives = tagged_references(target, tag, fields), tagged_negatives(target, fields, negative_tag)
        bank = ntt.build_memory_bank(
            references, fields, negatives=negatives, progress=forms.progress_of(ctx), **arguments
        )
        forms.finished(ctx)
        shots = [{"class": name, "references": count} for name, count in bank.shots.items()]
        negative = f" Negatives: {len(bank.negative_ids)}." if bank.negative_ids else ""
        return {
            "bank": arguments["name"],
            "preset": bank.preset,
            "shots": shots,
            "summary": f"Memory bank {arguments['name']!r}: {_listed(bank.shots)}.{negative} Models: preset "
            f"{bank.preset!r}.",
        }

    def resolve_output(self, ctx: Any) -> types.Property:
        outputs = types.Object()
        outputs.str("summary", label="Done", view=types.MarkdownView())
        table = types.TableView()
        table.add_column("class", label="class")
        table.add_column("references", label="references")
        outputs.list("shots", types.Object(), view=table, label="References")
        return types.Property(outputs, view=types.View(label=LABEL))

    def __call__(
        self,
        sample_collection: SampleCollection,
        label_field: str = "ground_truth",
        *,
        reference_tag: str = "",
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Builds a memory bank from Python, through the operator.

        Unlike the form, this takes every sample of the collection as a reference unless ``reference_tag`` is given.

        Args:
            sample_collection: the references.
            label_field: field with the reference labels.
            reference_tag: only samples (or else labels) with this tag are references.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``TaggedBankParams``.
        """
        named = {"label_field": label_field, "reference_tag": reference_tag}
        params = TaggedBankParams.from_mapping({**named, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def _describe_references(inputs: types.Object, target: SampleCollection, fields: list[str], tag: str) -> str | None:
    """Says what the references are; returns what is wrong if there are none."""
    from fiftyone_ntt.references.tagging import tagged_references

    try:
        references = tagged_references(target, tag, fields)
    except InputError as error:
        return str(error)
    counts = _label_counts(references, fields)
    samples = forms.counted(len(references), "reference sample")
    if counts:
        forms.notice(inputs, "references", f"{samples}: {_listed(counts)}")
    elif any(is_map_field(target, name) for name in fields):
        forms.notice(inputs, "references", f"{samples}, with segmentation maps")
    else:
        listed = ", ".join(map(repr, fields))
        forms.notice(inputs, "references", f"{samples}, without labels in {listed}", warning=True)
    return None


def _label_counts(view: SampleCollection, fields: list[str]) -> Counter[str]:
    """Labels of each class; counted by the database, neither masks nor maps are read."""
    found: Counter[str] = Counter()
    for name in fields:
        if name in reference_fields(view) and not is_map_field(view, name):
            counts = view.count_values(label_path(view, name, "label"))
            found.update({label: count for label, count in counts.items() if label is not None})
    return found


def _bank_names(dataset: Any) -> list[str]:
    from fiftyone_ntt.references.banks import list_banks

    return sorted({DEFAULT_BANK_NAME, *list_banks(dataset)})


def _listed(counts: Any, most: int = 12) -> str:
    parts = [f"{count} {name}" for name, count in sorted(counts.items())]
    more = f" and {len(parts) - most} more classes" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
