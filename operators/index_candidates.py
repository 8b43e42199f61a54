"""Operator: a target -> the candidates of its images, kept for every memory bank to come."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import image_samples
from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.labelling import IndexParams

LABEL = "Index candidates for NTT"
ICON = "inventory_2"


class IndexCandidates(foo.Operator):
    """Runs the heavy part ahead of time; it needs no references."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "index_candidates",
            LABEL,
            "Finds all objects of every image of the target ahead of time, so that labelling takes seconds later.",
            ICON,
            default_choice_to_delegated=forms.can_schedule(),
            # Each task of a distributed run indexes its own part of the target.
            allow_distributed_execution=True,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.grid_button(LABEL, ICON)

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        forms.add_params(inputs, IndexParams, only=["preset"])
        forms.add_estimate(
            inputs, image_samples(ctx.target_view()), forms.current(ctx, IndexParams, "preset"), ctx.params
        )
        forms.add_execution_notice(inputs)
        rest = [info.name for info in IndexParams.infos() if info.name != "preset"]
        forms.add_advanced(inputs, ctx, IndexParams, rest)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        from fiftyone_ntt.runs.precompute import index

        params = IndexParams.from_mapping(ctx.params)
        report = index(ctx.target_view(), progress=forms.progress_of(ctx), **params.to_mapping())
        return {
            "computed": report.computed,
            "found": report.found,
            "failed": report.failed,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 1),
            "errors": forms.error_rows(report.errors),
            "notes": report.notes,
            "summary": str(report),
        }

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(
        self,
        sample_collection: SampleCollection,
        preset: str = "lite",
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Indexes a collection from Python, through the operator.

        An immediate operator run is cut off after FiftyOne's operator timeout; ``fiftyone_ntt.index`` is not.

        Args:
            sample_collection: the samples to index.
            preset: name of the preset.
            delegate: schedule the run instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other fields of ``IndexParams``.
        """
        params = IndexParams.from_mapping({"preset": preset, **arguments})
        return forms.call(self, sample_collection, params, delegate, delegation_target)
