"""A run that is gone on with on another machine keeps the precision that it began with."""

from __future__ import annotations

from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.runs.mending import as_begun
from fiftyone_ntt.runs.record import METHOD


def test_a_run_goes_on_in_its_own_precision(dataset):
    for key, facts in (("ntt_a", {"precision": "bf16", "large_images": "auto"}), ("ntt_old", {})):
        record = {"run_key": key, "label_field": key, **facts}
        dataset.register_run(key, dataset.init_run(method=METHOD, record=record))
    auto = StageOneSettings(precision="auto")
    assert as_begun(auto, dataset, "ntt_a") == auto.changed(precision="bf16")
    assert as_begun(auto, dataset, "ntt_old") == auto.changed(precision="fp32", large_images="off")
    assert as_begun(auto, dataset, None) is auto and as_begun(auto, dataset, "ntt_new") is auto
    chosen = auto.changed(precision="fp16")
    assert as_begun(chosen, dataset, "ntt_a") == chosen, "what somebody chose is another run's, and refused as such"
