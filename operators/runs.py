"""What the operators about labelling runs share: who asks for a run, and which runs there are to choose from."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_ntt.operators import forms
from fiftyone_ntt.params.base import Params
from fiftyone_ntt.runs.workers import Origin

if TYPE_CHECKING:
    from fiftyone_ntt.runs.segment import SegmentReport


def origin_of(ctx: Any) -> Origin:
    """Where a run that this operator starts comes from; a scheduled one is given up by marking it as failed."""
    user = {"user": str(ctx.user_id)} if ctx.user_id else {}
    operation = ctx.request_params.get("run_doc") if ctx.delegated else None
    if operation is None:
        return Origin("app", **user)
    return Origin("delegated", **user, operation=str(operation), stopped=_given_up(operation))


def _given_up(operation: Any) -> Callable[[], bool]:
    from fiftyone.operators.delegated import DelegatedOperationService
    from fiftyone.operators.executor import ExecutionRunState

    service = DelegatedOperationService()

    def given_up() -> bool:
        try:
            return bool(service.get(operation).run_state == ExecutionRunState.FAILED)
        except ValueError:  # it has been deleted
            return True

    return given_up


def choose_run(inputs: types.Object, ctx: Any, params: type[Params], states: Collection[str], what: str) -> None:
    """Adds the form of ``params`` with the runs in one of ``states`` to choose from, the newest first.

    Args:
        inputs: the form.
        ctx: the context.
        params: parameters with a ``run_key``.
        states: see ``list_runs``.
        what: completes "this dataset has no labelling run ...".
    """
    from fiftyone_ntt.runs.listing import list_runs

    found = [run for run in reversed(list_runs(ctx.dataset)) if run["state"] in states]
    runs = {run["run_key"]: _named(run) for run in found}
    forms.add_params(inputs, params, choices={"run_key": runs})
    chosen = forms.current(ctx, params, "run_key")
    if not runs:
        forms.refuse(inputs, "run_key", f"this dataset has no labelling run {what}")
    elif chosen and chosen not in runs:
        known = ", ".join(runs)
        forms.refuse(inputs, "run_key", f"no labelling run {chosen!r} {what}; there is: {known}")


def _named(run: dict[str, Any]) -> str:
    left = run["counts"]["left"]
    return f"{run['run_key']} (field {run['label_field']}, {run['state']}, {forms.counted(left, 'image')} left)"


def report_of(report: SegmentReport) -> dict[str, Any]:
    """A run's report as an operator returns it."""
    return {
        "run_key": report.run_key,
        "label_field": report.label_field,
        "labelled": report.labelled,
        "empty": report.empty,
        "failed": report.failed,
        "resumed": report.resumed,
        "by_others": report.by_others,
        "references_skipped": report.references_skipped,
        "instances": report.instances,
        "from_index": report.from_index,
        "indexed": report.indexed,
        "seconds": round(report.seconds, 1),
        "errors": forms.error_rows(report.errors),
        "notes": report.notes,
        "summary": str(report),
    }
