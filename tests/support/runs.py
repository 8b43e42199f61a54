"""Runs that wrote nothing: their records and the states of their samples, as a run would have left them."""

from __future__ import annotations

import fiftyone as fo

from fiftyone_ntt.core import MatchConfig
from fiftyone_ntt.runs import states
from fiftyone_ntt.runs.record import RunRecord, register
from fiftyone_ntt.runs.workers import Origin


def begin_run(dataset, name="found", done=4, failed=1, state=states.RUNNING, error=None):
    """A run that has been at some samples, the last ones of which failed."""
    config = vars(MatchConfig())
    record = RunRecord(f"ntt_{name}", name, ["fig"], "lite", "0" * 64, {"sam": "1" * 64}, dict(config), 4)
    register(dataset, record)
    states.open_run(dataset.view(), record, Origin("sdk"), {}, True)
    documents = {
        sample_id: fo.DynamicEmbeddedDocument(run_key=f"ntt_{name}", state="ok" if i < done - failed else "error")
        for i, sample_id in enumerate(dataset.limit(done).values("id"))
    }
    done_ids = list(documents)[
        : done - failed
    ]  # a sample without a list of labels is not done, whatever its status says
    dataset.set_values(name, {sample_id: fo.Detections() for sample_id in done_ids}, key_field="id")
    dataset.set_values(f"{name}_status", documents, key_field="id")
    states.change_state(dataset, f"ntt_{name}", lambda old: {**old, "state": state, "error": error})
