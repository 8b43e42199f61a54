"""Semantic segmentation masks from labels in a real dataset, and the mIoU of what is in the database."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from fiftyone import ViewField as F
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.runs.record import MAPS

SIZE = (61, 83)
CLASSES = ["bolt", "nut"]


def box_mask(x1, y1, x2, y2):
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def label(name, x1, y1, x2, y2, score=None, tags=(), predicted_iou=0.9):
    extra = {} if score is None else {"confidence": score, "predicted_iou": predicted_iou}
    return fo.Detection.from_mask(box_mask(x1, y1, x2, y2), label=name, tags=list(tags), **extra)


def add(dataset, folder: Path, labels, **fields):
    path = folder / f"{len(dataset)}.png"
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)
    found = None if labels is None else fo.Detections(detections=labels)
    sample = fo.Sample(str(path), ntt=found, **fields)
    dataset.add_sample(sample)
    return sample


def of_run(dataset, classes=CLASSES):
    field = dataset.get_field("ntt")
    field.info = {"ntt": {"run_key": "ntt_ntt", "classes": list(classes), "bank_hash": "h"}}
    field.save()


@pytest.fixture
def labelled(dataset, tmp_path):
    """Overlapping labels, one rejected; an image in which nothing was found; one that was never labelled."""
    add(
        dataset, tmp_path,
        [label("nut", 10, 10, 30, 30, 0.9), label("bolt", 20, 10, 40, 30, 0.4),
         label("bolt", 50, 40, 60, 50, 0.95, ["ntt:rejected"]), label("washer", 0, 0, 5, 5, 0.2)],
    )  # fmt: skip
    add(dataset, tmp_path, [])
    add(dataset, tmp_path, None)
    of_run(dataset)
    return dataset


def map_of(dataset, index=0, field="ntt_semantic"):
    found = dataset.skip(index).first()[field]
    return None if found is None else found.mask


def test_maps_show_the_surest_label_and_have_mask_targets(labelled):
    seen = []
    report = ntt.to_segmentation(labelled, progress=lambda done, total, text: seen.append((done, total)))
    assert (report.maps, report.unlabelled, report.errors) == (2, 1, {})
    assert report.classes == ("bolt", "nut", "washer"), "the run's classes first"
    expected = np.zeros(SIZE, np.uint8)
    expected[10:30, 20:40], expected[10:30, 10:30], expected[:5, :5] = 1, 2, 3
    painted = map_of(labelled)
    assert painted.dtype == np.uint8 and (painted == expected).all()
    assert not map_of(labelled, 1).any() and map_of(labelled, 2) is None
    labelled.reload()
    assert labelled.mask_targets["ntt_semantic"] == {1: "bolt", 2: "nut", 3: "washer"}
    assert labelled.get_field("ntt_semantic").info[MAPS]["run"]["run_key"] == "ntt_ntt"
    assert seen == [(3, 3)] and "2 segmentation masks of 3 classes" in str(report)


def test_thresholds_classes_and_review_decide_what_is_painted(labelled):
    sample = labelled.first()
    sample["ntt"].detections[1].tags = ["ntt:accepted"]
    sample.save()
    ntt.to_segmentation(labelled, out_field="strict", score_threshold=0.95, classes=["nut", "bolt"])
    assert set(np.unique(map_of(labelled, field="strict"))) == {0, 2}, "an accepted label counts at any score"
    ntt.to_segmentation(labelled, out_field="both", classes=["nut", "bolt"])
    assert map_of(labelled, field="both")[15, 25] == 2, "a person's word lies above a higher score"
    report = ntt.to_segmentation(labelled, out_field="mine", only="accepted")
    assert (report.maps, report.unlabelled) == (1, 2)
    assert set(np.unique(map_of(labelled, field="mine"))) == {0, 1} and map_of(labelled, 1, "mine") is None


def test_again_after_a_review_and_maps_go_with_their_labels(labelled):
    ntt.to_segmentation(labelled)
    sample = labelled.first()
    sample["ntt"].detections[0].tags = ["ntt:rejected"]
    sample.save()
    assert ntt.to_segmentation(labelled).kept == 0
    assert set(np.unique(map_of(labelled))) == {0, 1, 3}
    labelled.set_field("ntt", None).save("ntt")
    of_run(labelled, ["bolt", "nut", "washer"])
    assert ntt.to_segmentation(labelled).unlabelled == 3
    assert map_of(labelled) is None


VIEWS = {
    "filtered": (lambda d: d.filter_labels("ntt", F("label") == "nut"), {0, 2}),
    "filtered, all samples": (lambda d: d.filter_labels("ntt", F("label") == "nut", only_matches=False), {0, 2}),
    "selected": (lambda d: d.select_labels(ids=[d.first().ntt.detections[1].id]), {0, 1}),
    "most certain": (lambda d: d.limit_labels("ntt", 1), {0, 2}),
    "renamed": (lambda d: d.map_labels("ntt", {"nut": "screw"}).limit(1), {0, 1, 3, 4}),
    "of another stage": (lambda d: d.mongo([{"$match": {}}]).filter_labels("ntt", F("confidence") < 0.5), {0, 1, 3}),
    "other labels hidden": (lambda d: d.filter_labels("truth", F("label") == "bolt"), {0, 1, 2, 3}),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_painted_as_it_shows_the_labels(labelled, name):
    """Values mean the same in every call, and a map that a view hides is there nevertheless."""
    sample = labelled.first()
    sample["truth"] = fo.Detections(detections=[label("bolt", 0, 0, 9, 9)])
    sample.save()
    ntt.to_segmentation(labelled)
    view, values = VIEWS[name]
    report = ntt.to_segmentation(view(labelled))
    assert set(np.unique(map_of(labelled))) == values and report.kept == 0
    assert report.classes == ("bolt", "nut", "washer", *(["screw"] if name == "renamed" else []))
    assert list(labelled.mask_targets["ntt_semantic"].values()) == list(report.classes)


def test_a_changed_map_stays_where_a_view_hides_it(labelled):
    ntt.to_segmentation(labelled)
    sample = labelled.first()
    sample["ntt_semantic"].mask = np.ones(SIZE, np.uint8)
    sample.save()
    hides = labelled.filter_field("ntt_semantic", F("written") == "nothing", only_matches=False)
    assert ntt.to_segmentation(hides).kept == 1 and map_of(labelled).all()


def test_a_map_that_a_person_changed_stays_unless_asked(labelled):
    ntt.to_segmentation(labelled)
    sample = labelled.first()
    drawn = sample["ntt_semantic"].mask.copy()
    drawn[50:, 70:] = 1
    sample["ntt_semantic"].mask = drawn
    sample.save()
    report = ntt.to_segmentation(labelled)
    assert (report.kept, report.maps) == (1, 1) and (map_of(labelled) == drawn).all()
    sample = labelled.first()
    sample["ntt_semantic"].mask = drawn.copy()  # saved again as it was: still the person's
    sample.save()
    assert ntt.to_segmentation(labelled, overwrite=True).kept == 0
    assert not map_of(labelled)[50:, 70:].any()
    sample = labelled.first()
    sample["ntt_semantic"].export_mask(sample.filepath + ".map.png", update=True)
    sample.save()
    assert ntt.to_segmentation(labelled).kept == 0, "moved to a file, pixel for pixel the same"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"out_field": "drawn"}, InputError, "out_field"),
        ({"out_field": "ntt"}, WrongTypeError, "semantic segmentation masks"),
        ({"out_field": "a b"}, InputError, "letters.*underscores"),
        ({"label_field": "none"}, InputError, "field 'none'"),
        ({"only": "good"}, InputError, "all, accepted"),
        ({"classes": "bolt"}, InputError, "list.*class names"),
        ({"classes": ["wing"]}, InputError, "classes.*wing.*there is: bolt"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(labelled, options, error, text):
    sample = labelled.first()
    sample["drawn"] = fo.Segmentation(mask=np.full(SIZE, 7, np.uint8))
    sample.save()
    with pytest.raises(error, match=text):
        ntt.to_segmentation(labelled, **options)
    assert not labelled.has_field("ntt_semantic") and (map_of(labelled, field="drawn") == 7).all()


def test_mask_values_keep_the_meaning_that_other_maps_rely_on(labelled):
    ntt.to_segmentation(labelled)
    with pytest.raises(InputError, match=r"\['bolt', 'nut', 'washer'\].*\['nut'\]"):
        ntt.to_segmentation(labelled, classes=["nut"])
    with pytest.raises(InputError, match="1 more mask.*view"):
        ntt.to_segmentation(labelled.limit(1), classes=["nut"], overwrite=True)
    ntt.to_segmentation(labelled, classes=["nut"], overwrite=True)
    assert set(np.unique(map_of(labelled))) == {0, 1}
    assert labelled.mask_targets["ntt_semantic"] == {1: "nut"}
    ntt.to_segmentation(labelled.limit(1), classes=["nut", "bolt"])  # more classes change no value


def test_many_classes_and_boxes_without_masks(dataset, tmp_path):
    boxed = fo.Detection(label="c299", bounding_box=[0, 0, 0.5, 0.5], confidence=0.5)
    add(dataset, tmp_path, [boxed, label("c000", 70, 50, 80, 60, 0.5)])
    report = ntt.to_segmentation(dataset, classes=[f"c{i:03}" for i in range(300)])
    painted = map_of(dataset)
    assert painted.dtype == np.uint16 and painted[10, 10] == 300 and painted[55, 75] == 1 and report.boxes == 1


def test_one_bad_label_costs_one_label(labelled):
    sample = labelled.first()
    sample["ntt"].detections[0].bounding_box = [0, 0, float("nan"), 1]
    sample.save()
    report = ntt.to_segmentation(labelled)
    assert report.maps == 2 and "relative box" in report.errors[sample.id], "its other labels are painted"


def scene(dataset, folder):
    """Two images with predictions beside the truth; ``expected`` from full masks."""
    rng = np.random.default_rng(3)
    matrix = np.zeros((4, 4), np.int64)
    for _ in range(4):
        truth, found, true, claimed = [], [], np.zeros(SIZE, int), np.zeros(SIZE, int)
        for k in range(2):
            x, y = rng.integers(0, 50), rng.integers(0, 30)
            truth.append(label([*CLASSES, "washer"][k], x, y, x + 20, y + 20 + k))
            found.append(label([*CLASSES, "washer"][k], x + 4, y, x + 24, y + 20, 0.9 - k / 10))
        for k, one in list(enumerate(truth)):
            true[truth_mask(one)] = k + 1  # the second is larger; the smaller lies on top
        true[truth_mask(truth[0])] = 1
        for k, one in reversed(list(enumerate(found))):
            claimed[truth_mask(one)] = k + 1
        add(dataset, folder, found, truth=fo.Detections(detections=truth))
        np.add.at(matrix, (true.ravel(), claimed.ravel()), 1)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return [float(np.diag(matrix)[k] / union[k]) for k in range(3)]


def truth_mask(one):
    full = np.zeros(SIZE, bool)
    x, y, w, h = (round(v) for v in np.array(one.bounding_box) * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    full[y : y + h, x : x + w] = one.mask
    return full


def test_miou_equals_full_masks_however_the_fields_are_kept(dataset, tmp_path):
    background, bolt, nut = scene(dataset, tmp_path)
    of_run(dataset, [*CLASSES, "washer"])
    ntt.to_segmentation(dataset)
    ntt.to_segmentation(dataset, "truth", "truth_map", classes=[*CLASSES, "washer"])
    for predicted, truth in (("ntt_semantic", "truth_map"), ("ntt", "truth_map"), ("ntt_semantic", "truth")):
        results = ntt.evaluate(dataset, predicted, truth)
        scores = results.semantic
        assert scores.per_class == {"bolt": pytest.approx(bolt), "nut": pytest.approx(nut), "washer": None}
        assert scores.miou == pytest.approx((bolt + nut) / 2)
        assert scores.miou_with_background == pytest.approx((background + bolt + nut) / 3)
        assert any(note.startswith("washer: no pixel") for note in results.notes)
        assert results.table()[0]["iou"] == scores.miou and results.mask.ap is None
        assert "mIoU" in str(results) and results.to_dict()["semantic"]["miou"] == scores.miou
    only = ntt.evaluate(dataset, "ntt_semantic", "truth_map", classes=["nut"]).semantic
    assert only.per_class == {"nut": pytest.approx(nut)} and only.background > background
    plain = ntt.evaluate(dataset, "ntt", "truth")
    assert plain.semantic is None and plain.mask.ap is not None


def test_missing_maps_void_pixels_sizes_and_references(labelled, tmp_path):
    ntt.to_segmentation(labelled)
    truth = map_of(labelled).copy()
    truth[truth == 3], truth[40:, :] = 0, 255
    for i, sample in enumerate(labelled):
        if i == 2:
            big = np.zeros((2 * SIZE[0], 2 * SIZE[1]), np.uint8)
            big[:20, :20] = 1
            Image.fromarray(big).save(tmp_path / "truth.png")
        masks = [fo.Segmentation(mask=truth), None, fo.Segmentation(mask_path=str(tmp_path / "truth.png"))]
        sample["gt"] = masks[i]
        sample.save()
    with pytest.raises(InputError, match=r"mask_targets\['gt'\]"):
        ntt.evaluate(labelled, "ntt_semantic", "gt")
    labelled.mask_targets = {**labelled.mask_targets, "gt": {1: "bolt", 2: "nut"}}
    labelled.save()
    results = ntt.evaluate(labelled, "ntt_semantic", "gt")
    notes = " | ".join(results.notes)
    assert results.images == 2 and "1 sample without a mask in 'gt'" in notes
    assert "1 of 2 samples" in notes and "mask target" in notes
    bolts = 200 / (200 + 400)  # all of the first image's, none of the second's 20 x 20
    assert results.semantic.per_class == {"bolt": pytest.approx(bolts), "nut": 1.0}
    sample = labelled.last()
    sample.tags.append("ntt:reference")
    sample.save()
    assert ntt.evaluate(labelled, "ntt_semantic", "gt").semantic.per_class["bolt"] == 1.0
    with pytest.raises(InputError, match="no scores"):
        ntt.evaluate(labelled, "ntt_semantic", "gt", score_threshold=0.5)
    assert ntt.evaluate(labelled, "ntt", "gt", score_threshold=0.5).semantic.per_class["bolt"] == 0


# What a person said of the label, whether a run wrote the field, and whether the label is a person's.
SAID = [
    ({"tags": ["ntt:accepted"]}, True, True),
    ({"tags": ["ntt:edited"]}, False, True),
    ({"predicted_iou": None}, True, True),
    ({"predicted_iou": None}, False, False),
    ({}, True, False),
]


@pytest.mark.parametrize(("said", "by_run", "by_person"), SAID)
def test_labels_are_compared_as_they_are_painted(dataset, tmp_path, said, by_run, by_person):
    """A weak label that a person accepted, edited or (in a run's field) drew, below a strong one of another class."""
    weak, strong = label("bolt", 5, 5, 30, 25, 0.1, **said), label("nut", 5, 5, 40, 25, 0.9)
    truth = fo.Detections(detections=[label("bolt", 5, 5, 30, 25)])
    add(dataset, tmp_path, [weak, strong], truth=truth)
    if by_run:
        of_run(dataset)
    ntt.to_segmentation(dataset, "truth", "truth_map")
    for threshold in (None, 0.3):
        ntt.to_segmentation(dataset, score_threshold=threshold)
        painted = ntt.evaluate(dataset, "ntt_semantic", "truth", classes=["bolt", "nut"])
        compared = ntt.evaluate(dataset, "ntt", "truth_map", classes=["bolt", "nut"], score_threshold=threshold)
        assert compared.semantic.per_class == painted.semantic.per_class
        assert (painted.semantic.per_class["bolt"] == 1.0) == by_person


def test_an_eval_key_leaves_fiftyones_own_evaluation(dataset, tmp_path):
    scene(dataset, tmp_path)
    ntt.to_segmentation(dataset)
    ntt.to_segmentation(dataset, "truth", "truth_map")
    results = ntt.evaluate(dataset, "ntt_semantic", "truth_map", eval_key="maps")
    assert results.eval_key == "maps" and dataset.list_evaluations() == ["maps"]
    assert all(0 < value < 1 for value in dataset.values("maps_accuracy"))
    theirs = dataset.load_evaluation_results("maps").pixel_confusion_matrix
    assert theirs.sum() == results.semantic.pixels
    with pytest.raises(InputError, match="eval_key"):
        ntt.evaluate(dataset, "ntt", "truth_map", eval_key="other")


def numbers(values):
    return {"mask": values}


def grey_in_colour(values, folder):
    """A picture with four equal channels but for opacity, as many a program saves greys."""
    path = folder / "grey.png"
    Image.fromarray(np.dstack([values] * 3 + [np.full_like(values, 255)])).save(path)
    return {"mask_path": str(path)}


ODD = {
    "one channel": lambda values, folder: {"mask": values[..., None]},
    "file with four channels": grey_in_colour,
}
"""Maps that FiftyOne takes for colours, and we do not."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["truth", "found"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_map_with_channels_costs_only_fiftyones_evaluation(dataset, tmp_path, odd, field, count):
    values = np.where(np.arange(24)[:, None] < 12, 0, 1).astype(np.uint8).repeat(20, axis=1)
    for i in range(count):
        maps = {name: fo.Segmentation(**(ODD[odd](values, tmp_path) if i == 0 and name == field else numbers(values)))
                for name in ("truth", "found")}  # fmt: skip
        dataset.add_sample(fo.Sample(str(tmp_path / f"{i}.png"), **maps))
    dataset.default_mask_targets = {1: "car"}
    results = ntt.evaluate(dataset, "found", "truth", eval_key="ev")
    dataset.reload()
    assert results.semantic.miou == 1.0 and results.images == count
    assert any(note.startswith("1 sample not in FiftyOne's evaluation 'ev'") for note in results.notes)
    assert results.eval_key == ("ev" if count > 1 else None)
    assert dataset.list_evaluations() == (["ev"] if count > 1 else [])
    if count > 1:
        assert dataset.values("ev_accuracy") == [None, 1.0, 1.0]


def test_an_evaluation_stays_until_the_next_one_is_there(dataset, tmp_path, monkeypatch):
    scene(dataset, tmp_path)
    for field, out in (("ntt", "ntt_semantic"), ("truth", "truth_map")):
        ntt.to_segmentation(dataset, field, out)
    ntt.evaluate(dataset, "ntt_semantic", "truth_map", eval_key="maps")
    before = dataset.values("maps_accuracy")
    with monkeypatch.context() as patch:
        patch.setattr("fiftyone.utils.eval.segmentation._compute_pixel_confusion_matrix", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ntt.evaluate(dataset, "ntt_semantic", "truth_map", eval_key="maps")
    dataset.reload()
    assert dataset.list_evaluations() == ["maps"] and dataset.values("maps_accuracy") == before
    assert not [name for name in dataset.get_field_schema() if "being" in name]
    ntt.evaluate(dataset, "ntt_semantic", "truth_map", eval_key="maps")
    assert dataset.list_evaluations() == ["maps"] and dataset.values("maps_accuracy") == before
    assert dataset.load_evaluation_results("maps").key == "maps"


def test_operators_and_commands(dataset, tmp_path, capsys):
    scene(dataset, tmp_path)
    uri = "@fiftyone-ntt/ntt/"
    result = foo.execute_operator(uri + "to_segmentation", {"dataset": dataset}, params={"label_field": "ntt"}).result
    assert result["maps"] == 4 and "1 = bolt" in result["summary"]
    assert cli.main(["to-segmentation", dataset.name, "--label-field", "truth", "--out-field", "truth_map"]) == 0
    assert cli.main(["evaluate", dataset.name, "--label-field", "ntt_semantic", "--gt-field", "truth_map"]) == 0
    shown = capsys.readouterr().out
    assert "2 = nut" in shown and "mIoU" in shown and "with background" in shown
    params = {"label_field": "ntt_semantic", "gt_field": "truth_map"}
    result = foo.execute_operator(uri + "evaluate", {"dataset": dataset}, params=params).result
    assert "mIoU" in result["summary"] and result["table"][0]["iou"] == round(result["semantic"]["miou"], 3)
