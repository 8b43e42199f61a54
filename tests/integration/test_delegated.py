"""Scheduled runs: queued by FiftyOne, run by the real ``fiftyone delegated launch`` in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionRunState
from PIL import Image

import fiftyone_ntt as ntt

SEGMENT = "@fiftyone-ntt/ntt/segment"
LAUNCH = [sys.executable, "-c", "from fiftyone.core.cli import main; main()", "delegated", "launch"]
OVER = (ExecutionRunState.COMPLETED, ExecutionRunState.FAILED)
DEADLINE_SECONDS = 300


@pytest.fixture
def pictures(dataset, tmp_path):
    """Four pictures of a bright square; the first is a reference with a mask."""
    for i in range(4):
        image = np.random.default_rng(i).integers(90, 110, (160, 200, 3), dtype=np.uint8)
        image[30:110, 20 + 25 * i : 100 + 25 * i] = (220, 60, 20)
        path = tmp_path / f"{i}.png"
        Image.fromarray(image).save(path)
        box = [(20 + 25 * i) / 200, 30 / 160, 80 / 200, 80 / 160]
        label = fo.Detection(label="square", bounding_box=box, mask=np.ones((80, 80), bool))
        truth = fo.Detections(detections=[label])
        dataset.add_sample(fo.Sample(str(path), ground_truth=truth, tags=["ntt:reference"] if i == 0 else []))
    return dataset


@pytest.fixture
def worker(database, tmp_path):
    """FiftyOne's own launcher, stopped with TERM (started from a script it ignores SIGINT)."""
    log = tmp_path / "launcher.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(LAUNCH, stdout=output, stderr=subprocess.STDOUT, cwd=tmp_path, env=os.environ)
    yield log
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def follow(operation_id, log):
    """Waits for the end of a scheduled run; returns its record and every (progress, label) seen meanwhile."""
    service, seen = DelegatedOperationService(), []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        record = service.get(operation_id)
        if record.status is not None and (record.status.progress, record.status.label) not in seen:
            seen.append((record.status.progress, record.status.label))
        if record.run_state in OVER:
            return record, seen
        time.sleep(0.1)
    pytest.fail(f"not over after {DEADLINE_SECONDS} s; the launcher said:\n{log.read_text()[-3000:]}")


@pytest.mark.slow
def test_a_scheduled_run_labels_the_dataset(pictures, lite, worker):
    ntt.build_memory_bank(pictures.match_tags("ntt:reference"), name="squares", device="cpu")
    queued = foo.execute_operator(
        SEGMENT,
        {"dataset": pictures, "params": {"bank": "squares", "points_per_side": 4, "device": "cpu"}},
        request_delegation=True,
    )
    assert queued.delegated
    record, seen = follow(queued.result["id"], worker)

    assert record.run_state == ExecutionRunState.COMPLETED, record.result and record.result.error
    fractions = [fraction for fraction, _ in seen if fraction is not None]
    assert len(fractions) >= 2, "progress was seen while it ran"
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert seen[-1][1] == "labelled 3 of 3, 0 failed"
    result = record.result.result
    assert (result["labelled"] + result["empty"], result["failed"], result["references_skipped"]) == (3, 0, 1)

    pictures.reload()
    assert pictures.count("ntt.detections") == result["instances"] > 0
    assert pictures.first().ntt is None, "the reference is left alone"
    assert pictures.count_values("ntt_status.state")[None] == 1
    assert [run["run_key"] for run in ntt.list_runs(pictures)] == ["ntt_ntt"]
    best = max(pictures.last().ntt.detections, key=lambda label: label.confidence)
    assert best.label == "square" and best.has_mask


def test_scheduled_from_python_and_run_by_a_worker_of_ones_own(pictures):
    """Without the launcher, and without models: what was queued is what was asked for, and scores come back."""
    evaluate = foo.get_operator("@fiftyone-ntt/ntt/evaluate")
    copies = [
        fo.Detections(detections=[label.copy() for label in truth.detections])
        for truth in pictures.values("ground_truth")
    ]
    pictures.set_values("found", copies)
    queued = evaluate(pictures.skip(1), "found", eval_key="scheduled", delegate=True)
    assert queued.delegated and not pictures.has_evaluation("scheduled")

    service = DelegatedOperationService()
    service.execute_operation(service.get(queued.result["id"]))
    record = service.get(queued.result["id"])
    assert record.run_state == ExecutionRunState.COMPLETED, record.result and record.result.error
    assert record.result.result["mask"]["ap"] == pytest.approx(1.0)
    assert record.result.result["images"] == 3
    assert record.status.progress == 1.0
    pictures.reload()
    assert pictures.has_evaluation("scheduled")


def test_a_failed_run_carries_our_message(pictures):
    """The form was right when the run was scheduled; the field has gone since."""
    pictures.clone_sample_field("ground_truth", "found")
    evaluate = foo.get_operator("@fiftyone-ntt/ntt/evaluate")
    queued = evaluate(pictures, "found", delegate=True)
    pictures.clear_sample_field("ground_truth")

    service = DelegatedOperationService()
    service.execute_operation(service.get(queued.result["id"]))
    record = service.get(queued.result["id"])
    assert record.run_state == ExecutionRunState.FAILED
    assert "label in 'ground_truth'" in record.result.error
