"""What this package keeps in FiftyOne's execution store: only what the App's server can tell its clients as JSON."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta, timezone

import fiftyone as fo
import fiftyone.core.odm as foo
import pytest
from bson import ObjectId
from fiftyone.operators import ExecutionStore
from fiftyone.operators.store.notification_service import MongoChangeStreamNotificationService
from fiftyone.operators.store.transient_jobs import TransientJobCoordinator
from support.runs import begin_run

from fiftyone_ntt.dataset.storage import dataset_id, store
from fiftyone_ntt.runs.history import Pass
from fiftyone_ntt.runs.workers import Origin, Worker, live_workers, run_store

VALUES = {
    "date": datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone.utc),
    "date_without_zone": datetime(2026, 3, 1),
    "id": ObjectId(),
    "bytes": b"\x00\xff" * 100,
    "nested": {"list": [{"at": datetime(2026, 1, 1, tzinfo=timezone.utc)}, None, 1.5, "text", True]},
    "nothing": None,
    "looks_like_ours": {"ntt_kind": "date"},
}


@pytest.fixture
def samples(dataset):
    dataset.add_samples([fo.Sample(f"/data/{i}.png") for i in range(4)])
    return dataset


def kept(dataset):
    """Key -> value, as the database holds it, of all stores of the dataset."""
    documents = foo.get_db_conn()["execution_store"].find(
        {"dataset_id": dataset_id(dataset), "key": {"$ne": "__store__"}}
    )
    return {f"{document['store_name']}/{document['key']}": document["value"] for document in documents}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_kept_is_json_and_comes_back_as_it_was(samples, name):
    kept_in = store(samples, "ntt_test")
    kept_in.set("key", VALUES[name])
    assert kept_in.get("key") == VALUES[name]
    json.dumps(list(kept(samples).values()), allow_nan=False)


def test_runs_leases_and_replaced_labels_are_json(samples):
    begin_run(samples)
    worker = Worker(samples, "ntt_found", Origin("sdk"))
    worker.renew()
    assert worker.claim("7")
    replaced = Pass(samples, "ntt_found", 0)
    replaced.begin(overwrites=True)
    labels = fo.Detections(detections=[fo.Detection(label="fig", bounding_box=[0, 0, 1, 1])]).to_dict()
    replaced.keep(samples.first().id, labels, None)
    replaced.keep_statuses({samples.first().id: {"at": VALUES["date"]}})
    documents = kept(samples)
    assert len(documents) >= 5
    for key, value in documents.items():
        assert json.dumps(value), key
    worker.end()
    assert replaced.kept([samples.first().id])[samples.first().id][0]["detections"][0]["label"] == "fig"
    assert list(replaced.statuses()) == [samples.first().id]


def test_the_server_can_tell_of_a_lease(samples, caplog):
    """FiftyOne's own poller, as the App's server runs it where MongoDB has no change streams."""
    begin_run(samples)
    told = []

    class Notifier:
        async def broadcast_to_store(self, store_name, message):
            told.append((store_name, json.loads(message)["key"]))

    async def poll():
        service = MongoChangeStreamNotificationService("execution_store", remote_notifier=Notifier())
        service._async_db = foo.get_async_db_conn()
        service._collection_async = service._async_db["execution_store"]
        await service._poll()
        worker = await asyncio.to_thread(Worker, samples, "ntt_found", Origin("sdk"))
        await service._poll()
        await asyncio.gather(*service._background_tasks)
        await asyncio.to_thread(worker.end)
        return worker.id

    worker_id = asyncio.run(poll())
    assert ("ntt_runs", worker_id) in told


def test_leases_of_an_earlier_version_are_still_read(samples):
    """They hold dates: whoever holds one is seen, a dead one is shut out, and its claims can be taken."""
    begin_run(samples)
    plain = ExecutionStore.create("ntt_runs", dataset_id=dataset_id(samples))
    before = TransientJobCoordinator(plain, lease_seconds=60)
    owner = {"machine": "elsewhere", "pid": 1, "born": 0.0}
    before.create(owner=owner, scope="ntt_found", payload=None, job_id="ntt_found/old")
    before.claim("ntt_found/old")
    assert [job["id"] for job in live_workers(samples, "ntt_found")] == ["ntt_found/old"]

    store(samples, "ntt_claims_ntt_found").set("7", {"worker": "ntt_found/old"})
    worker = Worker(samples, "ntt_found", Origin("sdk"))
    assert not worker.claim("7"), "its holder is alive"
    expired = {**plain.get("ntt_found/old"), "lease_expires_at": datetime.now(timezone.utc) - timedelta(seconds=5)}
    plain.set("ntt_found/old", expired)
    assert worker.claim("7")
    assert run_store(samples).get("ntt_found/old")["state"] == "failed"
    worker.end()
