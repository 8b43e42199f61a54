"""A label without a confidence is certain: whatever has a score threshold keeps it."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from support.exports import picture

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError

SCORES = {"null": None, "absent": "absent", "weak": 0.3, "strong": 0.9, "one": 1.0}


@pytest.fixture
def scored(dataset, tmp_path):
    """Five objects side by side, each predicted where it is."""
    boxes = [[0.2 * k, 0.25, 0.15, 0.5] for k in range(len(SCORES))]
    mask = np.ones((30, 12), bool)
    truth = [fo.Detection(label="a", bounding_box=box, mask=mask) for box in boxes]
    found = [
        fo.Detection(label="a", bounding_box=box, mask=mask, confidence=None if score == "absent" else score, name=name)
        for box, (name, score) in zip(boxes, SCORES.items(), strict=True)
    ]
    path = picture(tmp_path / "a.png")
    dataset.add_sample(
        fo.Sample(path, found=fo.Detections(detections=found), truth=fo.Detections(detections=truth)), dynamic=True
    )
    dataset._sample_collection.update_many({}, {"$unset": {"found.detections.1.confidence": ""}})
    dataset.reload()
    return dataset


KEPT = {  # threshold -> labels with a score above it, those without being certain
    0.0: ["null", "absent", "weak", "strong", "one"],
    0.5: ["null", "absent", "strong", "one"],
    0.95: ["null", "absent", "one"],
}


@pytest.mark.parametrize("threshold", KEPT)
def test_thresholds_keep_labels_without_a_score(scored, tmp_path, threshold):
    names = KEPT[threshold]
    out = tmp_path / "out"
    report = ntt.export_labels(scored, out, "found", only="all", score_threshold=threshold, format="fiftyone")
    back = fo.Dataset.from_dir(str(out), dataset_type=fo.types.FiftyOneDataset)
    exported = back.values("found.detections.name", unwind=True)
    back.delete()
    assert exported == names and report.labels == len(names)

    ntt.to_segmentation(scored, "found", "maps", score_threshold=threshold)
    assert (scored.first().maps.get_mask() > 0).sum() == len(names) * 30 * 12

    results = ntt.evaluate(scored, "found", gt_field="truth", eval_key="ev", score_threshold=threshold)
    scored.reload()
    matched = dict(zip(SCORES, scored.values("found.detections.ev", unwind=True), strict=True))
    assert [name for name, outcome in matched.items() if outcome == "tp"] == names
    assert scored.values("ev_fn") == [len(SCORES) - len(names)]
    assert "2 labels with no confidence, taken as certain" in " ".join(results.notes)


def test_nothing_is_above_certain(scored, tmp_path):
    with pytest.raises(InputError, match="nothing to export"):
        ntt.export_labels(scored, tmp_path / "out", "found", only="all", score_threshold=1.0)
