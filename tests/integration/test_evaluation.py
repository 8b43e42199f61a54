"""``evaluate`` on real datasets: the scores of what is in the database equal the scores of what was put there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from support.scenes import CLASSES, SIZES, Scene, assert_equal_scores

from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.dataset import parts
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.evaluation.evaluate import evaluate
from fiftyone_ntt.references.banks import save_bank


@pytest.fixture
def scene(dataset, tmp_path) -> Scene:
    return Scene(dataset, tmp_path)


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


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_parts_in_threads_say_what_all_at_once_do(scene, monkeypatch, at_once):
    for i, sample in enumerate(scene.dataset.iter_samples(autosave=True)):
        for name in ("ground_truth", "ntt"):  # some of everything that is counted or named
            labels = sample[name].detections
            for label in labels[:1]:
                label.tags = ["ntt:rejected"] if i == 1 else []
                label["difficult"] = i == 2
                label.bounding_box = [0.0, 0.0, 900.0, 900.0] if i in (0, 3, 5) else label.bounding_box
        if i == 4:
            sample["ntt"] = None
    whole, seen = evaluate(scene.dataset), []
    monkeypatch.setattr(parts, "_AT_ONCE", at_once)
    results = evaluate(scene.dataset, progress=lambda done, total, message: seen.append((done, total)))
    assert results == whole and len(whole.notes) >= 3 and results.to_dict() == whole.to_dict()
    assert seen == [(i + 1, len(SIZES)) for i in range(len(SIZES))]


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
    with pytest.raises(InputError, match="holds only references"):
        evaluate(scene.dataset.select([first, second]))


def test_the_bank_tells_untagged_references(scene):
    bank = MemoryBank(
        classes=tuple(CLASSES), vectors=np.ones((3, 4), np.float32), class_index=np.arange(3),
        reference_ids=tuple(f"{scene.ids[0]}/{i}" for i in range(3)), center=None, preset="lite", weights={},
        preprocessing={},
    )  # fmt: skip
    save_bank(scene.dataset, "my_bank", bank)
    field = scene.dataset.get_field("ntt")
    field.info = {"ntt": {"run_key": "ntt_found", "classes": CLASSES[::-1], "bank_hash": bank.content_hash}}
    field.save()
    results = evaluate(scene.dataset)
    assert results.notes == ("1 reference sample left out",)
    assert results.mask.ap == pytest.approx(scene.scores(scene.ids[1:])[0].mask.ap)
    assert results.classes == tuple(CLASSES[::-1]), "the classes and their order are the run's"


def test_classes_asked_for(scene):
    results = evaluate(scene.dataset, classes=["nut"])
    everything = scene.scores()[0]
    assert results.mask == everything.mask_per_class["nut"]
    assert results.classes == ("nut",)


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


def test_a_broken_label_is_named_and_costs_one_label(scene):
    sample = scene.dataset[scene.ids[1]]
    label = sample["ground_truth"].detections[0]
    label.bounding_box = [0.1, 0.1, float("nan"), 0.2]
    sample.save()
    results = evaluate(scene.dataset, eval_key="ev")
    (note,) = [note for note in results.notes if "cannot be used" in note]
    assert note.startswith("1 label") and sample.id in note and label.id in note and "relative box" in note
    label = scene.dataset[sample.id]["ground_truth"].detections[0]
    assert label.get_attribute_value("ev", None) is None, "it has not been matched"


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
