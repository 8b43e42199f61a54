"""Operator: labelled reference samples -> a memory bank kept with the dataset."""

from __future__ import annotations

from collections import Counter
from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.config import DEFAULT_BANK_NAME, TaggedBankParams
from fiftyone_ntt.dataset.fields import image_samples
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.operators import forms

LABEL = "Build NTT memory bank"
ICON = "collections_bookmark"
ADVANCED = ("ask_granularity", "device", "reference_tag")
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
        classes = _label_counts(target, label_field)
        forms.add_params(
            inputs,
            TaggedBankParams,
            suggestions={
                "label_field": forms.detections_fields(target),
                "classes": sorted(classes),
                "name": _bank_names(ctx.dataset),
            },
            leave_out=ADVANCED,
        )
        usable = forms.require_detections(inputs, "label_field", target, label_field)
        missing = _describe_references(inputs, target, label_field, tag) if usable else None
        forms.add_execution_notice(inputs)
        forms.add_advanced(inputs, ctx, TaggedBankParams, ADVANCED)
        if missing:
            hidden = inputs.get_property("reference_tag") is None
            forms.refuse(inputs, "label_field" if hidden else "reference_tag", NO_REFERENCES if hidden else missing)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt
        from fiftyone_ntt.dataset.references import tagged_references

        arguments = TaggedBankParams.from_mapping(ctx.params).to_mapping()
        tag = arguments.pop("reference_tag")
        references = tagged_references(ctx.target_view(), tag, arguments["label_field"])
        bank = ntt.build_memory_bank(references, progress=forms.progress_of(ctx), **arguments)
        forms.finished(ctx)
        shots = [{"class": name, "references": count} for name, count in bank.shots.items()]
        return {
            "bank": arguments["name"],
            "preset": bank.preset,
            "shots": shots,
            "summary": f"Memory bank {arguments['name']!r}: {_listed(bank.shots)}. Models: preset {bank.preset!r}.",
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
            label_field: field with the reference detections.
            reference_tag: only samples (or else labels) with this tag are references.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``TaggedBankParams``.
        """
        named = {"label_field": label_field, "reference_tag": reference_tag}
        params = TaggedBankParams.from_mapping({**named, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def _describe_references(inputs: types.Object, target: SampleCollection, label_field: str, tag: str) -> str | None:
    """Says what the references are; returns what is wrong if there are none."""
    from fiftyone_ntt.dataset.references import tagged_references

    try:
        references = tagged_references(target, tag, label_field)
    except InputError as error:
        return str(error)
    counts = _label_counts(references, label_field)
    samples = forms.counted(len(references), "reference sample")
    if not counts:
        forms.notice(inputs, "references", f"{samples}, without labels in {label_field!r}", warning=True)
    else:
        forms.notice(inputs, "references", f"{samples}: {_listed(counts)}")
    return None


def _label_counts(view: SampleCollection, label_field: Any) -> Counter[str]:
    """Labels of each class; counted by the database, masks are not read."""
    if label_field not in forms.detections_fields(view):
        return Counter()
    counts = view.count_values(view._get_label_field_path(label_field, "label")[1])
    return Counter({label: count for label, count in counts.items() if label is not None})


def _bank_names(dataset: Any) -> list[str]:
    from fiftyone_ntt.dataset.banks import list_banks

    return sorted({DEFAULT_BANK_NAME, *list_banks(dataset)})


def _listed(counts: Any, most: int = 12) -> str:
    parts = [f"{count} {name}" for name, count in sorted(counts.items())]
    more = f" and {len(parts) - most} more classes" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
