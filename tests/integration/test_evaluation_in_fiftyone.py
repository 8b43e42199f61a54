"""What ``evaluate`` and FiftyOne tell each other: imported ground truth, matches of objects, decisions, its panel."""

from __future__ import annotations

import json
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from PIL import Image
from pycocotools import mask as mask_utils
from support.oracles import encode_mask
from support.scenes import CLASSES, Scene, boxed

from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores
from fiftyone_ntt.evaluation.evaluate import evaluate
from fiftyone_ntt.evaluation.fiftyone_matches import last_results


@pytest.fixture
def scene(dataset, tmp_path) -> Scene:
    return Scene(dataset, tmp_path)


def test_matches_of_single_objects(scene):
    results = evaluate(scene.dataset, eval_key="ev", classes=["bolt", "nut"], score_threshold=0.3)
    assert results.eval_key == "ev"
    dataset = scene.dataset
    dataset.reload()
    info = dataset.get_evaluation_info("ev").config
    assert info.use_masks is True and info.compute_mAP is False
    strong = dataset.filter_labels("ntt", F("label").is_in(["bolt", "nut"]) & (F("confidence") > 0.3))
    counts = strong.count_values("ntt.detections.ev")
    assert counts.get("tp", 0) > 3 and counts.get("fp", 0) > 0 and None not in counts
    weak = dataset.filter_labels("ntt", (F("label") == "washer") | (F("confidence") <= 0.3))
    assert set(weak.count_values("ntt.detections.ev")) == {None}
    assert dataset.sum("ev_tp") == counts["tp"] and dataset.sum("ev_fp") == counts["fp"]
    assert dataset.count("ntt.detections") == len(scene.found), "labels that were not matched are still there"
    evaluate(dataset, eval_key="ev")
    assert set(dataset.count_values("ntt.detections.ev")) == {"tp", "fp"}


def test_fiftyones_panel_gets_our_scores(scene):
    results = evaluate(scene.dataset, eval_key="scored")
    shown = scene.dataset.load_evaluation_results("scored").custom_metrics
    mask = results.mask
    expected = {"box_ap": results.box.ap, "mask_ap": mask.ap, "mask_ap50": mask.ap50, "ar100": mask.ar100}
    assert {row["key"]: row["value"] for row in shown.values()} == {f"ntt_{k}": v for k, v in expected.items()}
    assert not any(row["lower_is_better"] for row in shown.values())


def test_a_metric_chosen_in_fiftyones_own_evaluation_is_computed(scene):
    uri = "@fiftyone-ntt/ntt/metric_mask_ap"
    found = scene.dataset.evaluate_detections(
        "ntt", gt_field="ground_truth", eval_key="theirs", use_masks=True, custom_metrics=[uri], progress=False
    )
    assert found.custom_metrics[uri]["value"] == evaluate(scene.dataset).mask.ap


def test_evaluation_without_the_plugin_has_its_matches(scene, monkeypatch):
    monkeypatch.setattr("fiftyone.operators.operator_exists", lambda uri: False)
    assert evaluate(scene.dataset, eval_key="scored").eval_key == "scored"
    assert scene.dataset.count("ntt.detections.scored") > 0
    assert not scene.dataset.load_evaluation_results("scored").custom_metrics


def test_the_last_results_stay_with_the_dataset(scene):
    assert last_results(scene.dataset) is None
    results = evaluate(scene.dataset, eval_key="scored")
    kept = last_results(fo.load_dataset(scene.dataset.name))
    assert kept["table"] == results.table()
    assert (kept["label_field"], kept["gt_field"], kept["eval_key"]) == ("ntt", "ground_truth", "scored")
    assert kept["mask_ap"] == results.mask.ap


def test_rejected_labels_do_not_count_and_accepted_ones_do(scene):
    """A person's word goes first: what was rejected is no prediction, in the scores and in the matches."""
    view = scene.dataset
    rejected = [label.id for sample in view for label in sample.ntt.detections[::3]]
    view.select_labels(ids=rejected).tag_labels("ntt:rejected", "ntt")
    view.filter_labels("ntt", ~F("tags").contains("ntt:rejected")).tag_labels("ntt:accepted", "ntt")
    assert 0 < len(rejected) < view.count("ntt.detections")

    results = evaluate(view, eval_key="reviewed", include_references=True)
    without = fo.Dataset()
    without.add_samples(view.filter_labels("ntt", ~F("tags").contains("ntt:rejected"), only_matches=False).clone())
    expected = evaluate(without)
    without.delete()
    assert (results.box, results.mask) == (expected.box, expected.mask)
    assert any(f"{len(rejected)} rejected labels" in note for note in results.notes)
    for sample in view:
        for label in sample.ntt.detections:
            assert (label.get_attribute_value("reviewed", None) is None) == ("ntt:rejected" in label.tags)


def test_ground_truth_imported_from_coco_scores_as_the_json_does(dataset, tmp_path):
    """FiftyOne's importer stores fractional boxes and masks cropped to them: both must come back as they were."""
    rng, size, truth, found, annotations, images = np.random.default_rng(5), (90, 121), [], [], [], []
    for image_id in range(1, 6):
        name = f"{image_id}.png"
        Image.new("RGB", size[::-1]).save(tmp_path / name)
        images.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        for _ in range(4):
            centre, radii = rng.uniform(15, 75, 2), rng.uniform(4, 14, 2)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 14))
            points = (centre + radii * np.stack([np.cos(angles), np.sin(angles)], 1)).round(2)
            box = [*points.min(0), *(points.max(0) - points.min(0))]
            polygon = [points.ravel().tolist()]
            crowd = int(len(annotations) % 7 == 0)
            rle = mask_utils.merge(mask_utils.frPyObjects(polygon, *size))
            counts = {"size": list(size), "counts": _runs(mask_utils.decode(rle))}
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": 1 + len(annotations) % 2,
                "iscrowd": crowd, "bbox": box, "area": 1.0, "segmentation": counts if crowd else polygon,
            })  # fmt: skip
            x, y, w, h = box
            truth.append(GroundTruth(image_id, len(truth) % 2, (x, y, x + w, y + h), rle, bool(crowd)))
            near = np.roll(mask_utils.decode(rle).astype(bool), int(rng.integers(-2, 3)), 1)
            found.append((image_id, near, truth[-1].label, float(rng.random())))
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES[:2])]
    (tmp_path / "labels.json").write_text(json.dumps(content))
    dataset.add_dir(
        dataset_type=fo.types.COCODetectionDataset, data_path=str(tmp_path), labels_path=str(tmp_path / "labels.json"),
        label_types="segmentations", label_field="ground_truth",
    )  # fmt: skip
    for sample in dataset.iter_samples(autosave=True):
        mine = [item for item in found if item[0] == int(Path(sample.filepath).stem)]
        sample["ntt"] = fo.Detections(
            detections=[fo.Detection.from_mask(m, label=CLASSES[k], confidence=s) for _, m, k, s in mine]
        )
    predictions = [Prediction(i, k, boxed(m), s, encode_mask(m)) for i, m, k, s in found]
    expected = coco_scores(truth, predictions, CLASSES[:2], list(range(1, 6)))
    results = evaluate(dataset, eval_key="ev")
    assert results.box == expected.box
    assert 0.1 < results.mask.ap < 0.95
    assert results.mask.ap == pytest.approx(expected.mask.ap, abs=0.01)
    assert results.mask.ar100 == pytest.approx(expected.mask.ar100, abs=0.01)
    assert dataset.get_evaluation_info("ev").config.use_masks is True


def _runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths of a mask that does not touch its first pixel."""
    borders = np.flatnonzero(np.diff(np.pad(mask.astype(bool).ravel(order="F"), 1)))
    return np.diff([0, *borders, mask.size]).tolist()
