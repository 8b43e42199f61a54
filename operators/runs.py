"""Operators about the labelling runs of a dataset: resume, cancel, undo."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.operators.base import NttOperator, progress_of
from fiftyone_ntt.operators.forms import Form, as_markdown, as_sentence, counted
from fiftyone_ntt.operators.labelling import report_of
from fiftyone_ntt.params.labelling import CancelParams, LowerThresholdParams, ResumeParams, UndoParams

_ASKED_FOR = ("queued", "starting")  # so is a run in the process that is to resume it, which checks its form again
RESUMABLE = ("running", "interrupted", "cancelled", "failed", "completed", *_ASKED_FOR)
CANCELLABLE = ("running", "interrupted", *_ASKED_FOR)


class CancelRun(NttOperator):
    """Stops the workers of a run; what they wrote stays."""

    NAME, LABEL, ICON = "cancel_run", "NTT: Cancel run", "cancel"
    DESCRIPTION = "Stops a labelling run within seconds. What it has written stays; it can be resumed or undone."
    PARAMS = CancelParams
    # Scheduled, it would wait behind the run that it is to stop.
    OPTIONS = {"allow_delegated_execution": False, "risk_level": types.RiskLevel.LOW}
    CHANGES = False

    def fill(self, form: Form) -> None:
        _choose_run(form, CANCELLABLE, "that is at work or interrupted")

    def perform(self, ctx: Any, params: CancelParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        workers = ntt.cancel_run(ctx.dataset, params.run_key)
        told = f"{counted(workers, 'worker')} told to stop"
        summary = as_markdown(f"Run {params.run_key!r} cancelled, {told}.")
        return {"run_key": params.run_key, "workers": workers, "summary": summary}


class ResumeRun(NttOperator):
    """Goes on with a run, on its samples and with its settings; joins it if it is at work."""

    NAME, LABEL, ICON = "resume_run", "NTT: Resume run", "replay"
    DESCRIPTION = "Goes on with a labelling run where it stopped, and tries again what failed."
    PARAMS = ResumeParams
    LONG = True

    def fill(self, form: Form) -> None:
        _choose_run(form, RESUMABLE, "to go on with")
        form.notice("scope", "The run goes on with the samples it was started for, whatever the view.")

    def perform(self, ctx: Any, params: ResumeParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        return report_of(ntt.resume_run(ctx.dataset, params.run_key, progress=progress_of(ctx)))


class LowerThreshold(NttOperator):
    """Writes what a run has left out since it looked too little like the references."""

    NAME, LABEL, ICON = "lower_threshold", "NTT: Bring weaker labels back", "vertical_align_bottom"
    DESCRIPTION = "Brings the weak labels that a run left out back from the candidate cache; decisions stay."
    PARAMS = LowerThresholdParams
    LONG = True

    def fill(self, form: Form) -> None:
        _choose_run(form, ("completed",), "that is done")
        form.notice("scope", "Labels that are there stay as they are; 'NTT: Undo run' takes the new ones back.")

    def perform(self, ctx: Any, params: LowerThresholdParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        return report_of(ntt.lower_threshold(ctx.dataset, **params.to_mapping(), progress=progress_of(ctx)))


class UndoRun(NttOperator):
    """Takes a labelling run of the dataset back."""

    NAME, LABEL, ICON = "undo_run", "NTT: Undo run", "undo"
    DESCRIPTION = "Removes what a labelling run wrote and puts back what it replaced; what people decided can stay."
    PARAMS = UndoParams
    OPTIONS = {"risk_level": types.RiskLevel.HIGH}

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.runs.listing import list_runs

        runs = {run["run_key"]: f"field {run['label_field']}, {run['started']}" for run in list_runs(form.ctx.dataset)}
        _offer(form, runs, "", ", so there is nothing to undo")
        if form.value("run_key") in runs:
            from fiftyone_ntt.runs.listing import last_layer

            layer = last_layer(form.ctx.dataset, form.value("run_key"))
            form.notice("scope", f"Takes back {layer}. All of it, whatever the view or selection.", warning=True)

    def perform(self, ctx: Any, params: UndoParams) -> dict[str, Any]:
        from fiftyone_ntt.runs.undo import undo_last_layer

        undone = undo_last_layer(ctx.dataset, **params.to_mapping())
        return {"run_key": params.run_key, "removed": undone.removed, "summary": as_sentence(undone)}

    def writes(self, ctx: Any, params: UndoParams) -> str | None:
        from fiftyone_ntt.runs.record import fields_of_runs

        return fields_of_runs(ctx.dataset).get(params.run_key)  # labels of before, where there are some


def _choose_run(form: Form, states: Collection[str], what: str) -> None:
    """Adds the form's fields with the runs in one of ``states`` to choose from.

    Args:
        form: it asks for a ``run_key``.
        states: see ``list_runs``.
        what: completes "this dataset has no labelling run ...".
    """
    from fiftyone_ntt.runs.listing import list_runs

    runs = {}
    for run in list_runs(form.ctx.dataset):
        if run["state"] in states:
            left = f", {counted(run['counts']['left'], 'image')} left" if run["counts"] else ""
            runs[run["run_key"]] = f"field {run['label_field']}, {run['state']}{left}"
    _offer(form, runs, f" {what}", "")


def _offer(form: Form, runs: dict[str, str], what: str, remark: str) -> None:
    """Run key -> what to say of the run, the oldest first, as the choices of the form; the newest comes first there."""
    labels = {key: f"{key} ({text})" for key, text in reversed(runs.items())}
    form.add(choices={"run_key": labels})
    unknown = f"no labelling run {{!r}}{what or ' in this dataset'}"
    form.require_choice("run_key", labels, unknown, f"this dataset has no labelling run{what}{remark}")
