"""Operator: goes on with a labelling run that stopped."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.operators import forms, runs
from fiftyone_ntt.params.labelling import ResumeParams
from fiftyone_ntt.runs.workers import through

LABEL = "Resume an NTT run"
STATES = ("running", "interrupted", "cancelled", "failed", "completed")


class ResumeRun(foo.Operator):
    """Goes on with a run, on its samples and with its settings; joins it if it is at work."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "resume_run",
            LABEL,
            "Goes on with a labelling run where it stopped, and tries again what failed.",
            "replay",
            default_choice_to_delegated=forms.can_schedule(),
        )

    def resolve_input(self, ctx: Any) -> types.Property:
        inputs = types.Object()
        runs.choose_run(inputs, ctx, ResumeParams, STATES, "to go on with")
        forms.notice(inputs, "scope", "The run goes on with the samples it was started for, whatever the view.")
        forms.add_execution_notice(inputs)
        return types.Property(inputs, view=types.View(label=LABEL))

    def execute(self, ctx: Any) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        params = ResumeParams.from_mapping(ctx.params)
        with through(runs.origin_of(ctx)):
            report = ntt.resume_run(ctx.dataset, params.run_key, progress=forms.progress_of(ctx))
        forms.finished(ctx)
        return runs.report_of(report)

    def resolve_output(self, ctx: Any) -> types.Property:
        return forms.summary_and_errors(ctx, LABEL)

    def __call__(
        self,
        sample_collection: SampleCollection,
        run_key: str,
        *,
        delegate: bool = False,
        delegation_target: str | None = None,
    ) -> Any:
        """Resumes a run from Python, through the operator.

        Args:
            sample_collection: the dataset, or any view of it: the run goes on with its own samples.
            run_key: key of the run.
            delegate: schedule it instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
        """
        return forms.call(self, sample_collection, ResumeParams(run_key), delegate, delegation_target)
