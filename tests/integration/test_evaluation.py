"""``evaluate`` on real datasets: the scores of what is in the database equal the scores of what was put there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from PIL import Image
from pycocotools import mask as mask_utils
from support.oracles import encode_mask

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores, presence_scores
from fiftyone_ntt.evaluation.evaluate import evaluate
from fiftyone_ntt.evaluation.fiftyone_matches import last_results
from fiftyone_ntt.references.banks import save_bank

# Widths whose inverse is no short binary fraction, so that relative boxes do not come back exactly.
SIZES = [(61, 83), (97, 131), (70, 49), (53, 107), (66, 66), (45, 71)]
CLASSES = ["bolt", "nut", "washer"]


def blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A ring: not convex, so that a mask differs from its box."""
    y, x = np.mgrid[: size[0], : size[1]]
    radius = rng.uniform(5, 12)
    cy, cx = (rng.uniform(0, side) for side in size)
    distance = np.hypot(y - cy, (x - cx) * rng.uniform(0.7, 1.4))
    mask = (distance < radius) & (distance > radius / 3)
    return mask if mask.sum() > 20 else blob(rng, size)


def boxed(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


class Scene:
    """The same objects twice: as FiftyOne labels in a dataset, and as plain metrics input from full-size masks."""

    def __init__(self, dataset: fo.Dataset, folder: Path, seed: int = 0) -> None:
        self.dataset, self.rng = dataset, np.random.default_rng(seed)
        self.truth: list[GroundTruth] = []
        self.found: list[Prediction] = []
        self.ids: list[str] = []
        for i, size in enumerate(SIZES):
            path = folder / f"{i}.png"
            Image.fromarray(self.rng.integers(0, 255, (*size, 3), np.uint8)).save(path)
            self._add(fo.Sample(str(path)), size, objects=0 if i == 2 else 4)

    def _add(self, sample: fo.Sample, size: tuple[int, int], objects: int) -> None:
        truth, found = [], []
        for _ in range(objects):
            mask, label, crowd = blob(self.rng, size), int(self.rng.integers(0, 3)), self.rng.random() < 0.2
            truth.append((mask, label, bool(crowd)))
            near = np.roll(mask, int(self.rng.integers(-1, 2)), int(self.rng.integers(0, 2)))
            found.append((near, label if self.rng.random() < 0.8 else (label + 1) % 3, float(self.rng.random())))
        found.append((blob(self.rng, size), int(self.rng.integers(0, 3)), float(self.rng.random())))
        sample["ground_truth"] = fo.Detections(
            detections=[fo.Detection.from_mask(m, label=CLASSES[k], iscrowd=int(c)) for m, k, c in truth]
        )
        sample["ntt"] = fo.Detections(
            detections=[fo.Detection.from_mask(m, label=CLASSES[k], confidence=s) for m, k, s in found]
        )
        self.dataset.add_sample(sample)
        self.ids.append(sample.id)
        self.truth += [GroundTruth(sample.id, k, boxed(m), encode_mask(m), c) for m, k, c in truth]
        self.found += [Prediction(sample.id, k, boxed(m), s, encode_mask(m)) for m, k, s in found]

    def scores(self, ids: list[str] | None = None, **options):
        ids = self.ids if ids is None else ids
        truth = [item for item in self.truth if item.image_id in ids]
        found = [item for item in self.found if item.image_id in ids]
        return coco_scores(truth, found, CLASSES, ids, **options), presence_scores(truth, found, CLASSES, ids)


@pytest.fixture
def scene(dataset, tmp_path) -> Scene:
    return Scene(dataset, tmp_path)


def assert_equal_scores(results, expected) -> None:
    coco, presence = expected
    assert (results.box, results.mask, results.presence) == (coco.box, coco.mask, presence)
    for row in results.per_class:
        assert (row.box, row.mask) == (coco.box_per_class[row.name], coco.mask_per_class[row.name])


def test_equals_the_scores_of_the_full_masks(scene):
    seen = []
    results = evaluate(scene.dataset, progress=lambda done, total, message: seen.append((done, total)))
    assert_equal_scores(results, scene.scores())
    assert 0.1 < results.mask.ap < 0.9 and results.mask != results.box
    assert results.classes == tuple(CLASSES) and results.images == len(SIZES) and results.notes == ()
    assert seen == [(i + 1, len(SIZES)) for i in range(len(SIZES))]
    assert not scene.dataset.list_evaluations()


def test_perfect_labels_score_one(scene):
    for sample in scene.dataset.iter_samples(autosave=True):
        sample["ntt"] = fo.Detections(
            detections=[
                fo.Detection(label=d.label, bounding_box=d.bounding_box, mask=d.mask, confidence=0.5)
                for d in sample["ground_truth"].detections
            ]
        )
    results = evaluate(scene.dataset)
    assert (results.box.ap, results.mask.ap, results.mask.ar100) == pytest.approx((1, 1, 1))
    assert results.presence.micro.f1 == 1


def test_masks_on_disk(scene, tmp_path):
    for sample in scene.dataset.iter_samples(autosave=True):
        for name in ("ntt", "ground_truth"):
            for label in sample[name].detections:
                label.export_mask(str(tmp_path / f"{label.id}.png"), update=True)
    assert scene.dataset.first()["ntt"].detections[0].mask is None
    assert_equal_scores(evaluate(scene.dataset), scene.scores())


def test_report(scene):
    results = evaluate(scene.dataset)
    assert json.loads(json.dumps(results.to_dict()))["mask"]["ap"] == results.mask.ap
    rows = results.table()
    assert [row["class"] for row in rows] == ["all", *CLASSES]
    assert rows[0]["objects"] == len(scene.truth) and rows[0]["mask_ap"] == results.mask.ap
    text = str(results)
    assert f"{results.mask.ap:.3f}" in text and "washer" in text and "AR100" in text


def strip_masks(dataset: fo.Dataset, name: str, every: int = 1) -> None:
    count = 0
    for sample in dataset.iter_samples(autosave=True):
        for label in sample[name].detections:
            if count % every == 0:
                label.mask = None
            count += 1


@pytest.mark.parametrize(("stripped", "says"), [("ground_truth", "ground truth has"), ("ntt", "predictions have")])
def test_boxes_only_give_box_scores_and_a_note(scene, stripped, says):
    strip_masks(scene.dataset, stripped)
    results = evaluate(scene.dataset, eval_key="ev")
    assert results.box == scene.scores()[0].box
    assert results.mask.ap is None and results.per_class[0].mask.ap is None
    assert any(says in note for note in results.notes)
    assert scene.dataset.get_evaluation_info("ev").config.use_masks is False


def test_some_masks_missing(scene):
    strip_masks(scene.dataset, "ground_truth", every=2)
    results = evaluate(scene.dataset)
    full = scene.scores()[0]
    assert results.box == full.box and results.mask.ap not in (None, full.mask.ap)
    assert any("filled box" in note for note in results.notes)


def test_references_are_left_out(scene):
    first, second = scene.ids[:2]
    sample = scene.dataset[first]
    sample.tags = ["ntt:reference"]
    sample.save()
    scene.dataset.select(second).tag_labels("ntt:reference", label_fields="ground_truth")
    results = evaluate(scene.dataset)
    assert_equal_scores(results, scene.scores(scene.ids[2:]))
    assert results.notes == ("2 reference samples left out",)
    assert_equal_scores(evaluate(scene.dataset, include_references=True), scene.scores())
    with pytest.raises(InputError, match="all 2 samples"):
        evaluate(scene.dataset.select([first, second]))


def test_the_bank_tells_untagged_references(scene):
    bank = MemoryBank(
        classes=tuple(CLASSES), vectors=np.ones((3, 4), np.float32), class_index=np.arange(3),
        reference_ids=tuple(f"{scene.ids[0]}/{i}" for i in range(3)), center=None, preset="lite", weights={},
        preprocessing={},
    )  # fmt: skip
    save_bank(scene.dataset, "my_bank", bank)
    field = scene.dataset.get_field("ntt")
    field.info = {"ntt": {"classes": CLASSES[::-1], "bank_hash": bank.content_hash}}
    field.save()
    results = evaluate(scene.dataset)
    assert results.notes == ("1 reference samples left out",)
    assert results.mask.ap == pytest.approx(scene.scores(scene.ids[1:])[0].mask.ap)
    assert results.classes == tuple(CLASSES[::-1]), "the classes and their order are the run's"


def test_classes_asked_for(scene):
    results = evaluate(scene.dataset, classes=["nut"])
    everything = scene.scores()[0]
    assert results.mask == everything.mask_per_class["nut"]
    assert results.classes == ("nut",)


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


def test_threshold_is_for_presence_not_for_ap(scene):
    plain, strict = evaluate(scene.dataset), evaluate(scene.dataset, score_threshold=0.6)
    assert plain.mask == strict.mask
    assert strict.presence.micro.claimed < plain.presence.micro.claimed and strict.presence.threshold == 0.6


def test_unlabelled_samples_and_labels_without_score(scene):
    dataset = scene.dataset
    dataset.select(scene.ids[0]).clear_sample_field("ntt")
    dataset.select(scene.ids[1]).set_field("ntt.detections.confidence", None).save("ntt")
    found = [replace(p, score=1.0) if p.image_id == scene.ids[1] else p for p in scene.found]
    scene.found = [p for p in found if p.image_id != scene.ids[0]]
    results = evaluate(dataset)
    assert_equal_scores(results, scene.scores())
    assert any("1 of 6 samples" in note for note in results.notes)
    assert any("no confidence" in note for note in results.notes)


def test_image_sizes_are_computed_once_without_unreadable_images(scene):
    assert scene.dataset.count("metadata.width") == 0
    Path(scene.dataset[scene.ids[0]].filepath).unlink()
    results = evaluate(scene.dataset)
    assert_equal_scores(results, scene.scores(scene.ids[1:]))
    assert any("cannot be read" in note for note in results.notes)
    assert scene.dataset.count("metadata.width") == len(SIZES) - 1


def test_labels_without_area_match_nothing(scene):
    sample = scene.dataset[scene.ids[0]]
    odd = [[0.2, 0.2, 0.0, 0.1], [1.5, 0.2, 0.1, 0.1]]
    sample["ntt"].detections += [
        fo.Detection(label="nut", bounding_box=box, mask=np.ones((4, 4), bool), confidence=0.001) for box in odd
    ]
    sample.save()
    results = evaluate(scene.dataset)
    assert results.mask == scene.scores()[0].mask, "two wrong labels below all others change nothing"


def test_a_view_counts_as_what_it_is(scene):
    view = scene.dataset.select(scene.ids[3:])
    assert_equal_scores(evaluate(view), scene.scores(scene.ids[3:]))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"label_field": "nope"}, InputError, "field 'nope'.*'ground_truth'"),
        ({"gt_field": "nope"}, InputError, "field 'nope'"),
        ({"gt_field": "filepath"}, WrongTypeError, "'filepath'"),
        ({"label_field": "kind"}, WrongTypeError, "got Classification"),
        ({"gt_field": "ntt"}, InputError, "different fields"),
        ({"gt_field": "empty"}, InputError, "'empty'"),
        ({"classes": ["cow"]}, InputError, r"ground truth.*\['cow'\].*'bolt'"),
        ({"classes": "nut"}, InputError, "list.*class names"),
        ({"classes": []}, InputError, "list.*class names"),
        ({"eval_key": "not a key"}, InputError, "expected a name"),
    ],
)
def test_clear_errors(scene, arguments, error, says):
    dataset = scene.dataset
    dataset.add_sample_field("empty", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    dataset.add_sample_field("kind", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    with pytest.raises(error, match=says):
        evaluate(dataset, **arguments)


def test_an_empty_view_is_an_error(scene):
    with pytest.raises(InputError, match="empty view"):
        evaluate(scene.dataset.match_tags("nobody"))


def test_a_broken_label_is_named(scene):
    sample = scene.dataset[scene.ids[1]]
    label = sample["ground_truth"].detections[0]
    label.bounding_box = [0.1, 0.1, float("nan"), 0.2]
    sample.save()
    with pytest.raises(InputError, match=f"{sample.id}.*{label.id}.*'ground_truth'.*relative box"):
        evaluate(scene.dataset)


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


@pytest.mark.parametrize(
    ("attributes", "counts"),
    [
        ({"iscrowd": 1}, False),
        ({"iscrowd": True}, False),
        ({"iscrowd": 0}, True),
        ({"difficult": 1}, False),  # Pascal VOC
        ({"difficult": "0"}, True),  # text, as it lies in XML files
        ({"difficult": "true"}, False),
        ({"ignore": True}, False),
    ],
)
def test_crowd_difficult_and_ignore_are_not_missed(dataset, attributes, counts):
    """Attributes known on one side only: none of these objects is a miss."""
    masks = np.zeros((2, 40, 40), bool)
    masks[0, 2:12, 2:12] = masks[1, 20:38, 20:38] = True
    truth = [fo.Detection.from_mask(masks[0], label="a"), fo.Detection.from_mask(masks[1], label="a", **attributes)]
    labels = [fo.Detection.from_mask(masks[0], label="a", confidence=0.9)]
    sample = fo.Sample("/a.png", metadata=fo.ImageMetadata(width=40, height=40))
    sample["ground_truth"], sample["ntt"] = fo.Detections(detections=truth), fo.Detections(detections=labels)
    dataset.add_sample(sample)
    results = evaluate(dataset)
    assert results.mask.ar100 == (0.5 if counts else 1.0)
    assert bool(results.notes) == (not counts and "iscrowd" not in attributes)
