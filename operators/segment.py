"""Operator: a memory bank and a target -> detections with masks on every image of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import REFERENCE_TAG, image_samples
from fiftyone_ntt.operators import forms, runs
from fiftyone_ntt.params.base import DEFAULT_BANK_NAME
from fiftyone_ntt.params.labelling import SegmentParams
from fiftyone_ntt.runs.workers import through

LABEL = "Segment with NTT references"
ICON = "auto_awesome"
SHOWN = ("bank", "label_field", "score_threshold")
"""What an annotator decides; the rest is behind a switch."""


class Segment(foo.Operator):
    """Labels a view with a memory bank kept with the dataset."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "segment",
            LABEL,
            "Finds instances of your references' classes in every image of the target, with masks and scores.",
            ICON,
            default_choice_to_delegated=forms.can_schedule(),
            # Each task of a distributed run labels its own part of the target under the same run key.
            allow_distributed_execution=True,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.grid_button(LABEL, ICON)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        target = image_samples(ctx.target_view())
        banks = banks_of(ctx.dataset)
        fields = sorted({"ntt", *forms.detections_fields(target)})
        shown = [*SHOWN, "overwrite"] if ctx.dataset.has_field(_label_field(ctx)) else list(SHOWN)
        shown += ["thresholds"] if _are_fitted(ctx.dataset, banks, ctx.params.get("bank")) else []
        choices, suggestions = {"bank": banks}, {"label_field": fields}
        forms.add_params(inputs, SegmentParams, choices=choices, suggestions=suggestions, only=shown)
        _check_bank(inputs, banks, ctx.params.get("bank"))
        _describe_target(inputs, ctx, target)
        forms.add_execution_notice(inputs)
        rest = [info.name for info in SegmentParams.infos() if info.name not in shown]
        forms.add_advanced(inputs, ctx, SegmentParams, rest)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = SegmentParams.from_mapping(ctx.params)
        with through(runs.origin_of(ctx)):
            report = ntt.segment(ctx.target_view(), progress=forms.progress_of(ctx), **params.to_mapping())
        forms.finished(ctx)
        return runs.report_of(report)

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(
        self,
        sample_collection: SampleCollection,
        bank: str,
        label_field: str = "ntt",
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Labels a collection from Python, through the operator.

        An immediate operator run is cut off after FiftyOne's operator timeout; ``fiftyone_ntt.segment`` is not.

        Args:
            sample_collection: the samples to label.
            bank: name of a memory bank kept with the dataset.
            label_field: field to write.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``SegmentParams``.
        """
        params = SegmentParams.from_mapping({"bank": bank, "label_field": label_field, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def banks_of(dataset: Any) -> dict[str, str]:
    """Name of each bank kept with the dataset -> what to call it in the form."""
    from fiftyone_ntt.references.banks import list_banks

    banks = {}
    for name in list_banks(dataset):
        config = dataset.get_run_info(name).config
        banks[name] = f"{name} ({forms.counted(len(config.classes), 'class', 'classes')}, preset {config.preset})"
    return banks


def _are_fitted(dataset: Any, banks: dict[str, str], chosen: str | None) -> bool:
    """Whether thresholds were fitted to labels of the chosen bank: otherwise there is nothing to choose."""
    from fiftyone_ntt.method.config import MatchConfig
    from fiftyone_ntt.runs.applied_thresholds import kept_of_bank

    if not banks or (chosen and chosen not in banks):
        return False
    config = dataset.get_run_info(chosen or _default_bank(banks)).config
    return kept_of_bank(dataset, config.content_hash, asdict(MatchConfig())) is not None


def _default_bank(banks: dict[str, str]) -> str:
    return DEFAULT_BANK_NAME if DEFAULT_BANK_NAME in banks else list(banks)[-1]


def _check_bank(inputs: types.Object, banks: dict[str, str], chosen: str | None) -> None:
    if not banks:
        message = "this dataset has no memory bank yet: run the operator 'Build NTT memory bank' first"
        forms.refuse(inputs, "bank", message)
    elif chosen and chosen not in banks:
        forms.refuse(inputs, "bank", f"no memory bank {chosen!r} with this dataset; there is: {', '.join(banks)}")
    else:
        inputs.get_property("bank").default = _default_bank(banks)


def _label_field(ctx: Any) -> str:
    return str(forms.current(ctx, SegmentParams, "label_field"))


def _describe_target(inputs: types.Object, ctx: Any, target: SampleCollection) -> None:
    tagged = 0
    if not forms.current(ctx, SegmentParams, "include_references"):
        tagged = len(target.match_tags(REFERENCE_TAG))
        target = target.match_tags(REFERENCE_TAG, bool=False)
    if tagged:
        forms.notice(inputs, "references", f"{forms.counted(tagged, 'image')} with references left out.")
    name = ctx.params.get("bank") or inputs.get_property("bank").default
    if name in banks_of(ctx.dataset):
        forms.add_estimate(inputs, target, ctx.dataset.get_run_info(name).config.preset, ctx.params)
