"""Work that the App asked for, in a process of its own: the App goes on at once, and its page may be loaded again.

Such work is an operation in FiftyOne's queue, as scheduled work is, with a worker that does this one and ends. So its
progress, its result and its error lie where those of scheduled work lie, and whoever follows these follows it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import fiftyone as fo
import psutil
from bson import ObjectId
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionResult, ExecutionRunState

from fiftyone_ntt.dataset.storage import JsonStore, store
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.runs.processes import has_died, process_facts

logger = logging.getLogger(__name__)

CANCELLED = "RunCancelledError: it was cancelled"
"""The error of an operation that was cancelled: FiftyOne's queue knows no other end than to have failed."""
_OPEN = (ExecutionRunState.SCHEDULED, ExecutionRunState.QUEUED, ExecutionRunState.RUNNING)
_NICE = 5
"""How far the process stands back behind the App, which is to stay quick."""
_ROOT = Path(__file__).resolve().parents[2]
# Appended, not inserted: nothing beside the package may hide an installed one.
_CODE = (
    f"import sys; sys.path.append({str(_ROOT)!r}); "
    "from fiftyone_ntt.runs.background import main; main(sys.argv[1], sys.argv[2])"
)
_OF_THE_SERVER = ("FIFTYONE_SERVER", "FIFTYONE_DISABLE_SERVICES", "FIFTYONE_PRIVATE_DATABASE_PORT")
"""Variables with which FiftyOne's server takes part in its parent's database; the worker may outlive both."""


def start(dataset: fo.Dataset, operator: str, request: Mapping[str, Any]) -> str:
    """Starts an operator in a process of its own.

    Args:
        dataset: the dataset.
        operator: address of the operator.
        request: what the App asked for, see FiftyOne's ``ExecutionContext``.

    Returns:
        Id of the operation in FiftyOne's queue.
    """
    service = DelegatedOperationService()
    context = {"request_params": {**request, "delegated": True}}
    operation = service.queue_operation(operator=operator, context=context)
    # What is queued is for workers of the whole queue; if one has taken it already, that is as good.
    if service.set_scheduled(operation.id, required_state=ExecutionRunState.QUEUED) is None:
        return str(operation.id)
    log = Path(tempfile.gettempdir(), f"fiftyone-ntt-{operation.id}.log")
    variables = {name: value for name, value in os.environ.items() if name not in _OF_THE_SERVER}
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(operation.id), str(log)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
    except OSError as error:
        service.set_failed(operation.id, ExecutionResult(error=str(error)))
        raise NttError(f"expected to start a process for this, and the machine refuses: {error}") from error
    _workers(dataset).set(str(operation.id), {"owner": process_facts(process.pid), "log": str(log)})
    threading.Thread(target=process.wait, name="ntt-background", daemon=True).start()  # or it stays as a zombie
    return str(operation.id)


def main(operation: str, log: str) -> None:
    """What the process does: this operation, and nothing else."""
    service, number = DelegatedOperationService(), ObjectId(operation)
    if service.set_queued(number, required_state=ExecutionRunState.SCHEDULED) is None:
        return  # cancelled meanwhile
    if hasattr(os, "nice"):
        os.nice(_NICE)
    described = service.get(number)
    if service.execute_operation(described) is None:  # a worker of the whole queue was quicker
        _workers(fo.load_dataset(described.context.dataset.name)).delete(operation)
    Path(log).unlink(missing_ok=True)


def mend(dataset: fo.Dataset) -> None:
    """Ends operations whose process is gone without having said how they ended."""
    kept, service = _workers(dataset), DelegatedOperationService()
    for operation in kept.list_keys():
        noted = kept.get(operation)
        if noted is None or not has_died(noted["owner"]):
            continue
        result = ExecutionResult(error=_last_words(noted["log"]))
        for state in _OPEN:
            service.set_failed(ObjectId(operation), result, required_state=state)
        kept.delete(operation)


def cancel(dataset: fo.Dataset, operation: str) -> bool:
    """Cancels an operation that waits, or is at work: its process ends, what it has written stays.

    Args:
        dataset: the dataset.
        operation: its id.

    Returns:
        Whether there was something to cancel.
    """
    service, cancelled = DelegatedOperationService(), False
    result = ExecutionResult(error=CANCELLED)
    for state in _OPEN:
        cancelled = service.set_failed(ObjectId(operation), result, required_state=state) is not None or cancelled
    noted = _workers(dataset).get(operation)
    if noted is not None:
        _workers(dataset).delete(operation)
        if not has_died(noted["owner"]) and noted["owner"]["machine"] == process_facts()["machine"]:
            with suppress(psutil.NoSuchProcess):  # it ended by itself a moment ago
                psutil.Process(noted["owner"]["pid"]).terminate()
    return cancelled


def is_alive(dataset: fo.Dataset, operation: str | None) -> bool:
    """Whether the process of an operation in the background is there: it may have something to write still."""
    noted = _workers(dataset).get(operation) if operation else None
    return noted is not None and not has_died(noted["owner"])


def is_in_background(dataset: fo.Dataset, operation: str) -> bool:
    """Whether an operation has a process of its own: nobody has to start a worker for it."""
    return bool(_workers(dataset).has(operation))


def _workers(dataset: fo.Dataset) -> JsonStore:
    """Of each operation in the background its process, and the file that holds what this process said."""
    return store(dataset, "ntt_background")


def _last_words(log: str) -> str:
    """The last line that a process wrote before it ended."""
    path = Path(log)
    lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else "its process was ended from outside, or ran out of memory"
