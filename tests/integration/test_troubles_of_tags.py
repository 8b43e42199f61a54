"""Labels whose tags are ``null``, or not there, as other tools write them: tagging one leaves its neighbours alone."""

from __future__ import annotations

import fiftyone as fo
import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.fields import is_patches
from fiftyone_ntt.dataset.storage import database_collection

DOORS = {
    "reference": lambda labels: ntt.use_as_references(
        labels, "truth", label_ids=None if is_patches(labels) else labels.values("truth.detections.id", unwind=True)
    ),
    "accept": lambda labels: ntt.accept_labels(labels, "truth"),
    "reject": lambda labels: ntt.reject_labels(labels, "truth"),
}
# voxel51/fiftyone#3546, #4351: tags that are null make tagging fail
WITHOUT = {"null": {"$set": {"truth.detections.0.tags": None}}, "absent": {"$unset": {"truth.detections.0.tags": ""}}}


@pytest.fixture(params=WITHOUT)
def images(request, dataset):
    """Two images of three labels each; the first of each has no list of tags."""
    for name in ("a", "b"):
        labels = [fo.Detection(label=kind, bounding_box=[0.1, 0.1, 0.2, 0.2], confidence=0.5) for kind in "xyz"]
        dataset.add_sample(fo.Sample(f"/{name}.png", truth=fo.Detections(detections=labels)))
    database_collection(dataset).update_many({}, WITHOUT[request.param])
    dataset.reload()
    return dataset


@pytest.mark.parametrize("view", ["labels", "patches", "images"])
@pytest.mark.parametrize("door", DOORS)
def test_no_label_is_lost(images, door, view):
    ids = [sample.truth.detections[0].id for sample in images]
    before = sorted(images.values("truth.detections.id", unwind=True))
    views = {
        "labels": lambda: images.select_labels(ids=ids, fields="truth"),
        "patches": lambda: images.to_patches("truth").select_labels(ids=ids, fields="truth"),
        "images": lambda: images.view(),
    }
    DOORS[door](views[view]())
    assert sorted(images.values("truth.detections.id", unwind=True)) == before
    tagged = images.match_labels(tags=["ntt:reference", "ntt:accepted", "ntt:rejected"], fields="truth")
    assert len(tagged) == 2
