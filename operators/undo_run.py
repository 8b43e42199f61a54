"""Operator: a labelling run -> the dataset as it was before."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.labelling import UndoParams

LABEL = "Undo an NTT run"


class UndoRun(foo.Operator):
    """Takes a labelling run of the dataset back."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "undo_run",
            LABEL,
            "Removes what a labelling run wrote and puts back what it replaced; what people decided can stay.",
            "undo",
            risk_level=types.RiskLevel.HIGH,
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        runs = _runs(ctx.dataset)
        forms.add_params(inputs, UndoParams, choices={"run_key": runs})
        chosen = forms.current(ctx, UndoParams, "run_key")
        if not runs:
            forms.refuse(inputs, "run_key", "this dataset has no labelling run, so there is nothing to undo")
        elif chosen and chosen not in runs:
            known = ", ".join(runs)
            forms.refuse(inputs, "run_key", f"no labelling run {chosen!r} in this dataset; there is: {known}")
        forms.notice(inputs, "scope", "The whole run is undone, whatever the view or selection.", warning=True)
        forms.add_execution_notice(inputs)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = UndoParams.from_mapping(ctx.params)
        removed = ntt.undo_run(ctx.dataset, **params.to_mapping())
        forms.finished(ctx)
        summary = f"Undid run {params.run_key!r}: {forms.counted(removed, 'label')} removed."
        return {"run_key": params.run_key, "removed": removed, "summary": summary}

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(
        self,
        sample_collection: SampleCollection,
        run_key: str,
        *,
        keep_edited: bool = True,
        delegate: bool = False,
        delegation_target: str | None = None,
    ) -> Any:
        """Takes a run back from Python, through the operator.

        Args:
            sample_collection: the dataset, or any view of it: the whole run is undone.
            run_key: key of the run.
            keep_edited: leave what a person has accepted or edited.
            delegate: schedule it instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
        """
        params = UndoParams(run_key=run_key, keep_edited=keep_edited)
        return forms.call(self, sample_collection, params, delegate, delegation_target)


def _runs(dataset: Any) -> dict[str, str]:
    """Key of each labelling run, the newest first -> what to call it in the form."""
    from fiftyone_ntt.runs.listing import list_runs

    runs = reversed(list_runs(dataset))
    return {run["run_key"]: f"{run['run_key']} (field {run['label_field']}, {run['started']})" for run in runs}
