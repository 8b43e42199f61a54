"""Operator: stops a labelling run."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms, runs
from fiftyone_ntt.params.labelling import CancelParams

LABEL = "Cancel an NTT run"


class CancelRun(foo.Operator):
    """Stops the workers of a run; what they wrote stays."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "cancel_run",
            LABEL,
            "Stops a labelling run within seconds. What it has written stays; it can be resumed or undone.",
            "cancel",
            risk_level=types.RiskLevel.LOW,
            allow_delegated_execution=False,  # it would wait behind the run that it is to stop
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        runs.choose_run(inputs, ctx, CancelParams, ("running", "interrupted"), "that is at work or interrupted")
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = CancelParams.from_mapping(ctx.params)
        workers = ntt.cancel_run(ctx.dataset, params.run_key)
        told = f"{forms.counted(workers, 'worker')} told to stop"
        return {"run_key": params.run_key, "workers": workers, "summary": f"Run {params.run_key!r} cancelled, {told}."}

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(self, sample_collection: SampleCollection, run_key: str) -> Any:
        """Cancels a run from Python, through the operator.

        Args:
            sample_collection: the dataset, or any view of it.
            run_key: key of the run.
        """
        return forms.call(self, sample_collection, CancelParams(run_key), False, None)
