"""How far runs are, how fast they go, and which ones wait for a worker."""

from __future__ import annotations

from typing import Any

import fiftyone as fo
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState

from fiftyone_ntt.dataset.leases import live_workers
from fiftyone_ntt.dataset.states import COMPLETED, INTERRUPTED, QUEUED, RUNNING, count_left, state_of

SEGMENT_OPERATOR = "@fiftyone-ntt/ntt/segment"


def figures_of(dataset: fo.Dataset, run_key: str, status: str) -> dict[str, Any]:
    """State, speed and origin of a run that has begun, as ``list_runs`` tells them."""
    state = state_of(dataset, run_key)
    if state is None:  # of an earlier version, or of a dataset that was copied without it
        unknown = dict.fromkeys(("throughput", "eta_seconds", "started_by", "door", "error", "ended"))
        return {"state": COMPLETED, "left": 0, "workers": 0, "options": {}, **unknown}
    workers = live_workers(dataset, run_key)
    left = count_left(dataset, state, status, run_key)
    running = state["state"] == RUNNING and bool(workers)
    parts = [job["progress"] for job in workers if job["progress"]] if running else []
    throughput = sum(map(_speed, parts)) or _speed(state["worked"])
    return {
        "state": INTERRUPTED if state["state"] == RUNNING and not workers else state["state"],
        "left": left,
        "throughput": throughput or None,
        "eta_seconds": left / throughput if running and throughput else None,
        "workers": len(workers),
        "options": state["options"],
        "started_by": state["user"],
        "door": state["door"],
        "error": state["error"],
        "ended": state["ended"],
    }


def queued_runs(dataset: fo.Dataset) -> dict[str, dict[str, Any]]:
    """Runs that were scheduled and that no worker has begun: run key -> what is known of them."""
    queued: dict[str, dict[str, Any]] = {}
    for waiting in (ExecutionRunState.SCHEDULED, ExecutionRunState.QUEUED):
        operations = DelegatedOperationService().list_operations(
            operator=SEGMENT_OPERATOR, dataset_id=dataset._doc.id, run_state=waiting
        )
        for operation in operations:
            params = dict((operation.context.request_params if operation.context else {}).get("params") or {})
            field = params.get("label_field") or "ntt"
            key = params.get("run_key") or f"ntt_{field}"
            queued[key] = {
                "run_key": key,
                "label_field": field,
                "state": QUEUED,
                "started": str(operation.queued_at),
                "door": "delegated",
                "operation": str(operation.id),
                "configuration": params,
                "counts": {},
                "states": {},
            }
    return queued


def _speed(figures: dict[str, float] | None) -> float:
    return figures["done"] / figures["seconds"] if figures and figures["seconds"] else 0.0
