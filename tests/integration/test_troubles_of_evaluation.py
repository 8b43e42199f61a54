"""Evaluations that would flatter or keep silent: copies of references, learned images, classes of one side only."""

import shutil

import fiftyone as fo
import numpy as np
import pytest
from fiftyone import ViewField as F
from PIL import Image
from support.app import PanelSession, form, run
from support.pictures import add_pictures
from support.runs import begin_run

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.coco import GroundTruth, Prediction, coco_scores
from fiftyone_ntt.evaluation.fiftyone_matches import last_results
from fiftyone_ntt.references.banks import keep_with_run
from fiftyone_ntt.runs.applied_thresholds import keep, meaning

pytestmark = pytest.mark.pictures(count=4, every_label=True, masks=4)


def predict(dataset, score=0.9, field="ntt"):
    """The truth again, as predictions."""
    for sample in dataset.iter_samples(autosave=True):
        labels = [fo.Detection(label=d.label, bounding_box=d.bounding_box, mask=d.mask, confidence=score)
                  for d in sample.truth.detections]  # fmt: skip
        sample[field] = fo.Detections(detections=labels)


def bank_of(ids, negatives=None, **origin):
    from fiftyone_ntt.method.bank_parts import VectorSet

    if negatives is not None:
        negatives = VectorSet(np.ones((len(negatives), 4), np.float32), (None,) * len(negatives), tuple(negatives))
    vectors = np.ones((len(ids), 4), np.float32)
    return MemoryBank(["square"], vectors, [0] * len(ids), ids, negatives=negatives, origin=origin)


def ran(dataset, bank):
    """As if a run with this bank had labelled the dataset."""
    begin_run(dataset, "ntt", done=len(dataset), failed=0)
    field = dataset.get_field("ntt")
    field.info = {"ntt": {**field.info["ntt"], "bank_hash": bank.content_hash, "classes": ["square"]}}
    field.save()
    keep_with_run(dataset, "ntt_ntt", bank)


def copy_of(dataset, number, folder, **fields):
    """Another sample whose file is a copy of that of a picture."""
    sample = dataset.skip(number).first()
    path = folder / f"copy of {number}.png"
    shutil.copyfile(sample.filepath, path)
    copy = fo.Sample(str(path), truth=sample.truth.copy(), **fields)
    dataset.add_sample(copy)
    return copy


# sartorius-research/LIVECell#26: images twice under other ids; tqwei05/PlantSeg#11: the same bytes in training and test
def test_copies_of_references_are_left_out_by_content(pictures, tmp_path, capsys):
    copy_of(pictures, 0, tmp_path)
    predict(pictures)
    results = ntt.evaluate(pictures, "ntt", "truth")
    assert results.images == 3
    assert any("1 reference sample left out" in note for note in results.notes)
    assert any("1 sample left out, as copies of reference images" in note for note in results.notes)
    assert ntt.evaluate(pictures, "ntt", "truth", include_references=True).images == 5
    assert main(["evaluate", pictures.name, "--gt-field", "truth"]) == 0
    assert "copies of reference images" in capsys.readouterr().out
    result, _ = run("evaluate", pictures, {"label_field": "ntt", "gt_field": "truth"})
    assert "copies of reference images" in result["summary"] and result["images"] == 3
    assert any("copies" in note for note in last_results(pictures)["notes"])


def test_copies_are_left_out_of_semantic_evaluations(pictures, tmp_path):
    copy_of(pictures, 0, tmp_path)
    predict(pictures)
    ntt.to_segmentation(pictures, "ntt", "maps")
    results = ntt.evaluate(pictures, "maps", "truth")
    assert results.images == 3 and any("copies" in note for note in results.notes)


def tag_a_label(dataset, kind):
    """The first image's only reference is a label; what a view shows of the dataset."""
    sample = dataset.first()
    sample.tags = []
    box = fo.Detection(label="hidden", bounding_box=[0, 0, 0.1, 0.1])
    labels = {
        "another field": ("other", fo.Detections(detections=[box])),
        "single label": ("other", box),
        "points": ("other", fo.Keypoints(keypoints=[fo.Keypoint(label="square", points=[[0.1, 0.1]])])),
        "mask": ("other", fo.Segmentation(mask=np.ones((60, 80), np.uint8))),
        "predictions": ("ntt", fo.Detections(detections=[box])),
    }
    name, value = labels.get(kind, ("truth", fo.Detections(detections=[*sample.truth.detections, box])))
    sample[name] = value
    sample.save()
    ids = [box.id] if name == "truth" else None
    (dataset.limit(1) if ids is None else dataset.select_labels(ids=ids)).tag_labels("ntt:reference", name)
    views = {"not in the view": dataset.skip(1), "hidden": dataset.filter_labels("truth", F("label") == "square")}
    return views.get(kind, dataset)


KINDS = ["ground truth", "not in the view", "hidden", "another field", "single label", "points", "mask", "predictions"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_by_a_label_and_its_copies_are_left_out(pictures, tmp_path, kind):
    copy_of(pictures, 0, tmp_path)
    predict(pictures)
    results = ntt.evaluate(tag_a_label(pictures, kind), "ntt", "truth")
    notes = " | ".join(results.notes)
    assert results.images == 3 and "1 sample left out, as copies" in notes
    assert ("1 reference sample left out" in notes) == (kind != "not in the view")


def test_copies_of_what_a_replaced_file_was_are_left_out(pictures, tmp_path):
    from fiftyone_ntt.pixels.images import content_key, read_bytes

    first = pictures.first()
    pictures.untag_samples("ntt:reference")
    copy_of(pictures, 0, tmp_path)
    contents = {first.id: content_key(read_bytes(first.filepath))}
    ran(pictures, bank_of([f"{first.id}/{'6f' * 12}"], contents=contents))
    Image.fromarray(np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)).save(first.filepath)
    predict(pictures)
    assert ntt.evaluate(pictures, "ntt", "truth").images == 3, "neither the image nor what it was"


@pytest.mark.parametrize("keeps", ["content", "nothing"])
def test_a_reference_that_is_not_in_the_dataset(pictures, tmp_path, keeps):
    from fiftyone_ntt.pixels.images import content_key, read_bytes

    pictures.untag_samples("ntt:reference")
    gone = "5f" * 12
    contents = {gone: content_key(read_bytes(pictures.first().filepath))}
    bank = bank_of([f"{gone}/{'6f' * 12}"], **({"contents": contents} if keeps == "content" else {}))
    ran(pictures, bank)
    predict(pictures)
    results = ntt.evaluate(pictures, "ntt", "truth")
    if keeps == "content":
        assert results.images == 3 and any("copies of reference images" in note for note in results.notes)
    else:
        assert results.images == 4 and any("cannot be told" in note for note in results.notes)


# MasterBin-IIAU/UNINEXT#38, open-mmlab/mmfewshot#72, mlfoundations/open_flamingo#153: examples among the test images
def test_learned_and_negative_images_are_left_out(pictures):
    pictures.untag_samples("ntt:reference")
    ids = pictures.values("id")
    label = "6f" * 12
    ran(pictures, bank_of([f"{ids[0]}/{label}", f"learned/{ids[1]}/{label}"], [f"{ids[2]}/image.0"]))
    predict(pictures)
    results = ntt.evaluate(pictures, "ntt", "truth")
    notes = " | ".join(results.notes)
    assert results.images == 1 and "1 reference sample" in notes
    assert "1 sample left out whose labels were learned from" in notes and "1 sample left out, as negatives" in notes
    with pytest.raises(InputError, match="only references .*learned from"):
        ntt.evaluate(pictures.limit(2), "ntt", "truth")


def test_what_learn_adds_is_left_out(pictures, preset, bank, index_dir, tmp_path):
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir)
    sample = pictures.skip(1).first()
    sample.found.detections[0].tags = ["ntt:accepted"]
    sample.save()
    copy_of(pictures, 1, tmp_path)
    before = ntt.evaluate(pictures, "found", "truth").images
    ntt.learn(pictures, "found", preset=preset, apply=True)
    results = ntt.evaluate(pictures, "found", "truth")
    assert (before, results.images) == (4, 2), "the image that was learned from, and its copy"
    assert any("learned from" in note for note in results.notes)


@pytest.mark.parametrize("size", [(0, 0), (0, 60), (80, 0), (-1, -1), (None, 60), (80, None)])
@pytest.mark.parametrize("kind", ["labels", "maps"])
def test_sizes_that_no_image_has_are_looked_up(pictures, size, kind):
    """Importers write 0 for "not known": every object was missed, and nothing said."""
    predict(pictures)
    pictures.set_values("metadata", [fo.ImageMetadata(width=size[0], height=size[1]) for _ in pictures])
    field = ntt.to_segmentation(pictures, "ntt", "maps").out_field if kind == "maps" else "ntt"
    pictures.set_values("metadata", [fo.ImageMetadata(width=size[0], height=size[1]) for _ in pictures])
    results = ntt.evaluate(pictures, field, "truth", include_references=True)
    assert (results.semantic.miou if kind == "maps" else results.box.ap) == 1.0
    assert results.images == 4 and not any("cannot be read" in note for note in results.notes)


@pytest.mark.parametrize("kind", ["labels", "maps"])
def test_sizes_noted_of_other_images_are_not_believed(pictures, kind):
    """Metadata of a thumbnail, or of the file that was there before."""
    predict(pictures)
    for sample in pictures.iter_samples(autosave=True):
        for found in sample.ntt.detections:
            found.mask = np.arange(found.mask.shape[1]) > 2 + 0 * found.mask  # without three columns
    field = ntt.to_segmentation(pictures, "ntt", "maps").out_field if kind == "maps" else "ntt"
    right = ntt.evaluate(pictures, field, "truth")
    for width, height in ((20, 15), (60, 80), (9999, 3)):
        pictures.set_values("metadata", [fo.ImageMetadata(width=width, height=height) for _ in pictures])
        results = ntt.evaluate(pictures, field, "truth")
        assert (results.mask, results.semantic) == (right.mask, right.semantic) and results.notes == right.notes
    assert right.semantic is not None or 0 < right.mask.ap < 1


@pytest.mark.parametrize("field", ["ntt", "maps"])
def test_images_without_any_truth_are_scored_and_counted(pictures, field):
    """Imports leave images without objects so: what is found there is wrong, and somebody may not have looked."""
    predict(pictures)
    ntt.to_segmentation(pictures, "ntt", "maps")
    pictures.set_values("truth", [*pictures.values("truth")[:2], None, None])
    results = ntt.evaluate(pictures, field, "truth")
    assert results.images == 3 and results.presence.micro.precision == pytest.approx(1 / 3)
    assert any(note.startswith("2 of 3 samples with nothing in 'truth' (None)") for note in results.notes)
    annotated = ntt.evaluate(pictures.exists("truth"), field, "truth")
    assert annotated.images == 1 and not any("None" in note for note in annotated.notes)
    ntt.to_segmentation(pictures, "truth", "truth_maps")
    masks = ntt.evaluate(pictures, "maps", "truth_maps")
    assert masks.images == 1 and "2 samples without a mask in 'truth_maps' left out" in masks.notes


# Embassy-of-the-Free-Mind/sourcelibrary-v2#2095: blank pages have one hash, and were taken for the same page
def test_a_picture_of_one_colour_is_nobodys_copy(dataset, tmp_path):
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)
        box = fo.Detection(label="square", bounding_box=[0, 0, 0.5, 0.5])
        tags = ["ntt:reference"] if i == 0 else []
        dataset.add_sample(fo.Sample(str(path), tags=tags, truth=fo.Detections(detections=[box])))
    predict(dataset)
    assert ntt.evaluate(dataset, "ntt", "truth").images == 2


# Thresholds that there are -> which is used. One label of score 0.9 and one of 0.2 an image.
# AlexeyAB/darknet#8655: right and wrong were not counted at the threshold that was asked for.
POINTS = [
    ("given", {"score_threshold": 0.5}, "given", 0.5),
    ("fitted", {}, "fitted", 0.3),
    ("applied", {}, "applied", 0.25),
    ("suggested by the run", {}, "suggested", 0.4),
    ("nothing", {}, "suggested", 0.56),
]


@pytest.mark.parametrize(("there", "options", "basis", "threshold"), POINTS, ids=[point[0] for point in POINTS])
def test_precision_and_recall_at_the_review_threshold(pictures, there, options, basis, threshold):
    pictures.untag_samples("ntt:reference")
    ran(pictures, bank_of(["elsewhere"]))
    predict(pictures)
    for sample in pictures.iter_samples(autosave=True):
        wrong = fo.Detection(label="square", bounding_box=[0.8, 0.8, 0.1, 0.1], mask=np.ones((9, 12), bool))
        wrong.confidence = 0.2
        sample.ntt.detections.append(wrong)
    field = pictures.get_field("ntt")
    record = dict(field.info["ntt"])
    record |= {"applied": {"thresholds": [0.25]}, "suggested by the run": {"suggested": [0.4]}}.get(there, {})
    field.info = {"ntt": record}
    field.save()
    if there == "fitted":
        rows = [{"name": name, "threshold": 0.3} for name in ("all", "square")]
        keep(pictures, "ntt_ntt", {"rows": rows, "fitted_on": meaning(record["bank_hash"], record["match"])})
    results = ntt.evaluate(pictures, "ntt", "truth", **options)
    point = results.review
    assert (point.basis, point.all.precision, point.all.recall) == (basis, 1.0, 1.0)
    assert point.thresholds["square"] == pytest.approx(threshold, abs=0.01)
    row = results.table()[1]
    assert (row["label_precision"], row["label_recall"]) == (1.0, 1.0)
    low = ntt.evaluate(pictures, "ntt", "truth", score_threshold=0.1)
    assert low.review.all.precision == 0.5 and low.table()[0]["label_precision"] == 0.5
    assert str(low.review) in str(low) and str(low.review) in last_results(pictures)["review"]


# voxel51/fiftyone#7423: a crowd that is met twice counts twice
def test_matches_are_those_of_coco_by_hand():
    """A crowd counts neither way, a double counts as wrong, the better of two takes the object."""
    truth = [GroundTruth(0, 0, (0, 0, 10, 10)), GroundTruth(0, 0, (50, 50, 90, 90), crowd=True)]
    boxes = [((0, 0, 10, 9), 0.6), ((0, 0, 10, 10), 0.8), ((55, 55, 60, 60), 0.7), ((30, 30, 40, 40), 0.5)]
    predictions = [Prediction(0, 0, box, score) for box, score in boxes]
    matches = coco_scores(truth, predictions, ["a"], [0], masks=False).matches["a"]
    assert matches.objects == 1 and sorted(matches.scores[matches.right]) == [0.8]
    shares = {t: (matches.above(t).precision, matches.above(t).recall) for t in (0.4, 0.5, 0.6, 0.8)}
    assert shares == {0.4: (1 / 3, 1), 0.5: (1 / 2, 1), 0.6: (1, 1), 0.8: (None, 0)}


# JdeRobot/PerceptionMetrics#385
def test_classes_of_one_side_only_are_named_with_counts(pictures, capsys):
    pictures.untag_samples("ntt:reference")
    predict(pictures)
    ran(pictures, bank_of(["elsewhere"]))
    field = pictures.get_field("ntt")
    field.info = {"ntt": {**field.info["ntt"], "classes": ["square", "fig"]}}
    field.save()
    sample = pictures.first()
    sample.truth.detections += [fo.Detection(label=name, bounding_box=[0, 0, 0.1, 0.1]) for name in ("tree", "tree")]
    sample.save()
    notes = " | ".join(ntt.evaluate(pictures, "ntt", "truth").notes)
    assert "2 objects of 1 class not scored" in notes and "tree (2)" in notes and "fig (0 labels)" in notes
    assert main(["evaluate", pictures.name, "--gt-field", "truth"]) == 0
    assert "tree (2)" in capsys.readouterr().out
    asked = " | ".join(ntt.evaluate(pictures, "ntt", "truth", classes=["square"]).notes)
    assert "tree" not in asked, "left out on purpose"


# cocodataset/cocoapi#584, facebookresearch/detectron2#3359: scores fall, as only 100 are counted
def test_more_labels_than_coco_counts_are_named(pictures):
    predict(pictures)
    sample = pictures.last()
    sample.ntt.detections += [
        fo.Detection(label="square", bounding_box=[0, 0, 0.1, 0.1], confidence=0.1) for _ in range(100)
    ]
    sample.save()
    assert any("more than 100 labels" in note for note in ntt.evaluate(pictures, "ntt", "truth").notes)


def test_the_truth_offered_first_is_one_that_other_images_have(dataset, tmp_path):
    add_pictures(dataset, tmp_path, field="ground_truth")  # references only
    dataset.add_sample_field("checked", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    sample = dataset.last()
    sample["checked"] = dataset.first().ground_truth.copy()
    sample.save()
    properties, _ = form("evaluate", dataset)
    assert properties["gt_field"].default == "checked"
    assert PanelSession(dataset, "evaluate").state["evaluate_gt_field"] == "checked"
    sample["ground_truth"] = sample.checked.copy()
    sample.save()
    assert form("evaluate", dataset)[0]["gt_field"].default == "ground_truth"
