"""References of every kind, negatives, and the masks made from them: a real database, and small made-up models."""

from __future__ import annotations

from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.fake_models import FakeFeatures, FakeProposals

import fiftyone_ntt as ntt
from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.core import Segmenter
from fiftyone_ntt.dataset.fields import NEGATIVE_TAG, REFERENCE_TAG
from fiftyone_ntt.dataset.geometry import full_mask
from fiftyone_ntt.errors import BadReferenceError, InputError, WrongTypeError
from fiftyone_ntt.models import PRESETS
from fiftyone_ntt.references import banks as references
from fiftyone_ntt.references import editable_masks as made_masks
from fiftyone_ntt.references.banks import notes_of
from fiftyone_ntt.references.label_kinds import ClassValues, objects_in
from fiftyone_ntt.references.tagging import tagged_negatives, tagged_references

SIZE = (60, 80)
NAN = float("nan")


class Proposals(FakeProposals):
    """Boxes have their own shape as mask."""

    def decode_boxes(self, embedding, boxes):
        import torch

        masks = torch.full((len(boxes), 256, 256), -1.0)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        return masks, torch.ones(len(boxes))


def segmenter():
    return Segmenter(Proposals(), FakeFeatures(), target_via=None)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    loaded = SimpleNamespace(preset=PRESETS["lite"], segmenter=segmenter)
    for module in (references, made_masks):
        monkeypatch.setattr(module, "load_preset", lambda *_: loaded)


def add(dataset, folder, tags=(REFERENCE_TAG,), **labels):
    path = folder / f"{len(dataset)}.png"
    pixels = np.random.default_rng(len(dataset)).integers(60, 255, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    sample = fo.Sample(str(path), tags=list(tags), **labels)
    dataset.add_sample(sample)
    return sample


def box(label="fig", **more):
    return fo.Detection(label=label, bounding_box=[0.25, 0.25, 0.5, 0.5], **more)


def point(*points, label="fig", **more):
    return fo.Keypoint(label=label, points=list(points), **more)


def line(*points, label="fig", **more):
    return fo.Polyline(label=label, points=[list(points)], **more)


CORNERS = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


@pytest.mark.parametrize(
    ("label", "kind", "area", "points"),
    [
        (box(), "box", None, 2),
        (box(mask=np.ones((30, 40), bool)), "mask", 0.25, None),
        (point((0.5, 0.5)), "point", None, 1),
        (point((0.5, 0.5), (NAN, NAN), (0.6, 0.5)), "point", None, 2),
        (line((0.2, 0.5), (0.8, 0.5)), "scribble", None, 5),
        (line(*CORNERS, closed=True, filled=True), "mask", 0.25, None),
        (line(*CORNERS, closed=True), "mask", 0.25, None),
    ],
)
def test_what_a_label_shows(label, kind, area, points):
    (shown,) = objects_in(label, SIZE)
    assert (shown.kind, shown.label) == (kind, "fig")
    if area is None:
        assert shown.mask is None and len(shown.prompt.points) == points
    else:
        assert shown.prompt is None and shown.mask.mean() == pytest.approx(area, abs=0.02)


@pytest.mark.parametrize("marks", [[1, 0, 1], [True, False, True], ["positive", "negative", "positive"]])
def test_points_beside_the_object(marks):
    (shown,) = objects_in(point((0.5, 0.5), (0.9, 0.9), (NAN, NAN), point_labels=marks), SIZE)
    assert shown.prompt.positive.tolist() == [True, False]
    assert shown.prompt.beside_object.tolist() == [[72, 54]]


def test_every_part_of_a_class_in_a_map_is_an_instance():
    classes = np.zeros((30, 40), np.uint8)
    classes[2:10, 2:10], classes[20:28, 2:10], classes[5:20, 25:35], classes[29, 39] = 1, 1, 2, 1
    shown = list(objects_in(fo.Segmentation(mask=classes), SIZE, ClassValues({1: "fig", 2: "date"})))
    assert [one.label for one in shown] == ["fig", "fig", "date"], "a speck is none"
    assert [int(one.mask.sum()) for one in shown] == [4 * 64, 4 * 64, 4 * 150], "stretched to the image"
    assert len({one.label_id for one in shown}) == 3


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (point((0.5, 0.5), (0.1, 0.1), point_labels=[1]), "1.*object.*0.*beside"),
        (point((0.5, 0.5), point_labels=["maybe"]), "maybe"),
        (point((NAN, NAN)), "1 point:.*1.*missing"),
        (point((0.5, 0.5), point_labels=[0]), "1 marked.*beside"),
        (point((50, 40)), "outside the image.*relative"),
        (line((50, 40), (20, 20)), "outside the image"),
        (fo.Polyline(label="fig", points=[]), "line of points"),
        (fo.Segmentation(mask=np.ones((3, 4, 3), np.uint8)), "number.*pixel"),
        (fo.Segmentation(mask=np.full((3, 4), 7, np.uint8)), "value 7.*segmentation mask.*name"),
        (fo.Segmentation(mask_path="/nowhere.png"), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(label, text):
    with pytest.raises(BadReferenceError, match=text) as caught:
        list(objects_in(label, SIZE, ClassValues({1: "fig"})))
    assert label.id in str(caught.value)


def test_one_bank_mixes_kinds(dataset, tmp_path):
    add(dataset, tmp_path, boxes=fo.Detections(detections=[box(), box("date", mask=np.ones((30, 40), bool))]))
    add(dataset, tmp_path, clicks=fo.Keypoints(keypoints=[point((0.5, 0.5)), point((0.3, 0.3), label="nut")]))
    add(dataset, tmp_path, lines=fo.Polylines(polylines=[line((0.3, 0.5), (0.7, 0.5))]))
    classes = np.zeros(SIZE, np.uint8)
    classes[10:30, 10:40] = 4
    add(dataset, tmp_path, maps=fo.Segmentation(mask=classes))
    fields = ["boxes", "clicks", "lines", "maps"]
    with pytest.raises(BadReferenceError, match="value 4.*name"):
        ntt.build_memory_bank(dataset, fields)
    assert ntt.build_memory_bank(dataset, fields, classes=["fig"]).shots == {"fig": 3}, "what has no name is not wanted"
    dataset.mask_targets = {"maps": {4: "date"}}
    steps = []
    bank = ntt.build_memory_bank(dataset, fields, progress=lambda done, total, _: steps.append((done, total)))
    assert bank.shots == {"date": 2, "fig": 3, "nut": 1}
    assert steps == [(i, 8) for i in range(1, 9)]
    assert {one.split("/")[0] for one in bank.reference_ids} == set(dataset.values("id"))
    with pytest.raises(WrongTypeError, match="'filepath'.*'boxes'"):
        ntt.build_memory_bank(dataset, ["boxes", "filepath"])
    with pytest.raises(InputError, match="distinct names"):
        ntt.build_memory_bank(dataset, ["boxes", "boxes"])


def test_a_point_gives_the_features_under_it(dataset, tmp_path):
    sample = add(dataset, tmp_path, clicks=fo.Keypoints(keypoints=[point((0.1, 0.1))]))
    pixels = np.full((*SIZE, 3), (250, 20, 20), np.uint8)
    pixels[:, 40:] = (20, 20, 250)
    Image.fromarray(pixels).save(sample.filepath)
    red, _, blue = ntt.build_memory_bank(dataset, "clicks").vectors[0]
    assert red > 3 * blue


def test_tagged_labels_of_any_kind(dataset, tmp_path):
    add(dataset, tmp_path, (), clicks=fo.Keypoints(keypoints=[point((0.5, 0.5)), point((0.2, 0.2), label="no")]))
    add(dataset, tmp_path, (), lines=fo.Polylines(polylines=[line((0.3, 0.5), (0.7, 0.5), label="nut")]))
    add(dataset, tmp_path, (), boxes=fo.Detections(detections=[box()]))
    click, scribble = dataset.values("clicks.keypoints.id")[0][0], dataset.values("lines.polylines.id")[1][0]
    assert ntt.use_as_references(dataset, "clicks", label_ids=[click]).labels == 1
    assert ntt.use_as_references(dataset, "lines", label_ids=[scribble]).labels == 1
    fields = ["clicks", "lines", "boxes"]
    found = tagged_references(dataset, REFERENCE_TAG, fields)
    assert ntt.build_memory_bank(found, fields).shots == {"fig": 1, "nut": 1}
    assert ntt.use_as_references(dataset, "boxes", sample_ids=[dataset.last().id]).samples == 1
    found = tagged_references(dataset, REFERENCE_TAG, fields)
    assert ntt.build_memory_bank(found, fields).shots == {"fig": 2, "nut": 1}
    assert [card.kind for card in ntt.describe_references(dataset, "clicks")] == ["point"]


def test_a_tagged_map_is_a_reference(dataset, tmp_path):
    sample = add(dataset, tmp_path, (), maps=fo.Segmentation(mask=np.ones(SIZE, np.uint8), tags=[REFERENCE_TAG]))
    dataset.default_mask_targets = {1: "fig"}
    assert ntt.build_memory_bank(tagged_references(dataset, REFERENCE_TAG, "maps"), "maps").shots == {"fig": 1}
    (card,) = ntt.describe_references(dataset, "maps")
    assert (card.kind, card.sample_id, card.pending) == ("map", sample.id, False) and card.thumbnail()


# Value 0 has this name -> whether it is the name of a class, which is said then
AT_ZERO = {"road": True, "Building 0": True, "background": False, "Back-ground": False, "__background__": False,
           "Void": False, "unlabeled": False, "": False}  # fmt: skip


@pytest.mark.parametrize("name", AT_ZERO)
def test_a_class_at_value_0_is_no_reference_and_not_scored(dataset, tmp_path, name):
    values = np.zeros(SIZE, np.uint8)
    values[10:30, 10:40] = 1
    add(dataset, tmp_path, (), maps=fo.Segmentation(mask=values), found=fo.Segmentation(mask=values))
    dataset.default_mask_targets = {0: name, 1: "car"}
    bank = ntt.build_memory_bank(dataset, "maps")
    results = ntt.evaluate(dataset, "found", "maps")
    assert bank.shots == {"car": 1} and results.classes == ("car",)
    for notes, fields in ((notes_of(bank), ["maps"]), (results.notes, ["maps", "found"])):
        said = [note for note in notes if note.startswith("value 0")]
        assert len(said) == (len(fields) if AT_ZERO[name] else 0)
        assert all(repr(field) in note and repr(name) in note for field, note in zip(fields, said, strict=False))
    if AT_ZERO[name]:
        with pytest.raises(BadReferenceError, match=f"value 0 .*{name!r}"):
            ntt.build_memory_bank(dataset, "maps", classes=[name])
        asked = ntt.evaluate(dataset, "found", "maps", classes=[name, "car"])
        assert asked.classes == (name, "car") and not any("value 0" in note for note in asked.notes)


def test_negatives_by_label_and_by_sample(dataset, tmp_path):
    not_fig = box("fig", tags=[NEGATIVE_TAG])
    add(dataset, tmp_path, truth=fo.Detections(detections=[box(), box("date"), not_fig]))
    add(dataset, tmp_path, (), truth=fo.Detections(detections=[box("stone", tags=[NEGATIVE_TAG]), box("fig")]))
    empty = add(dataset, tmp_path, (NEGATIVE_TAG,))
    chosen = tagged_references(dataset, REFERENCE_TAG, "truth")
    alone = ntt.build_memory_bank(chosen, "truth")
    assert alone.shots == {"date": 1, "fig": 1}, "a negative is no reference"
    assert alone.negatives.labels == (alone.classes[1],) and alone.negative_ids[0].endswith(f"/{not_fig.id}")
    bank = ntt.build_memory_bank(chosen, "truth", negatives=tagged_negatives(dataset, "truth"))
    assert bank.shots == alone.shots
    assert bank.negatives.labels[:2] == (bank.classes[1], None), "of a class that is not wanted: none of them"
    assert set(bank.negatives.labels[2:]) == {None} and len(bank.negatives) > 3
    assert all(one.startswith(f"{empty.id}/") for one in bank.negative_ids[2:])
    assert tagged_negatives(dataset, "truth", "") is None
    plain = ntt.build_memory_bank(chosen, "truth", negatives=dataset.match_tags(NEGATIVE_TAG))
    assert set(plain.negatives.labels[1:]) == {None}


def test_only_negatives_are_no_references(dataset, tmp_path):
    add(dataset, tmp_path, truth=fo.Detections(detections=[box("fig", tags=[NEGATIVE_TAG])]))
    with pytest.raises(BadReferenceError, match="labels.*class name"):
        ntt.build_memory_bank(dataset, "truth")


def test_masks_that_a_call_is_not_about_stay(dataset, tmp_path):
    two = [box("cat"), box("dog")]
    add(dataset, tmp_path, truth=fo.Detections(detections=two))
    ntt.make_reference_masks(dataset, "truth")
    report = ntt.make_reference_masks(dataset, "truth", classes=["cat"], overwrite=True)
    assert (report.kinds, report.kept) == ({"box": 1}, 0)
    assert sorted(one.label for one in dataset.first().ntt_references.detections) == ["cat", "dog"]
    dataset.delete_labels(ids=[two[1].id], fields="truth")
    ntt.make_reference_masks(dataset, "truth")
    assert [one.label for one in dataset.first().ntt_references.detections] == ["cat"], "of a label that is gone"


def test_what_others_call_a_source_makes_no_label_ours(dataset, tmp_path):
    of_others = fo.Detections(detections=[box("car", source="cvat"), box("bus", reference_kind="far")])
    add(dataset, tmp_path, truth=fo.Detections(detections=[box("cat")]), mine=of_others)
    ntt.make_reference_masks(dataset, "truth", "mine")
    report = ntt.make_reference_masks(dataset, "truth", "mine", overwrite=True)
    assert (report.kinds, report.kept) == ({"box": 1}, 2)
    assert [one.label for one in dataset.first().mine.detections] == ["car", "bus", "cat"]


def test_masks_are_not_made_in_patches(dataset, tmp_path):
    add(dataset, tmp_path, truth=fo.Detections(detections=[box("cat")]))
    with pytest.raises(WrongTypeError, match="patches"):
        ntt.make_reference_masks(dataset.to_patches("truth"), "truth")
    assert not dataset.has_field("ntt_references")


def test_masks_can_be_seen_and_corrected_before_they_count(dataset, tmp_path):
    add(dataset, tmp_path, truth=fo.Detections(detections=[box()]), clicks=fo.Keypoints(keypoints=[point((0.5, 0.5))]))
    add(dataset, tmp_path, lines=fo.Polylines(polylines=[line((0.3, 0.5), (0.7, 0.5), label="nut")]))
    fields = ["truth", "clicks", "lines"]
    report = ntt.make_reference_masks(dataset, fields)
    assert report.kinds == {"box": 1, "point": 1, "scribble": 1} and report.samples == 2
    assert "ntt_references" in dataset.active_label_schemas
    made = dataset.first().ntt_references.detections
    assert [one.reference_kind for one in made] == ["box", "point"]
    assert made[0].source == dataset.first().truth.detections[0].id
    np.testing.assert_array_equal(full_mask(made[0], SIZE)[15:45, 20:60], True)
    assert ntt.build_memory_bank(dataset, "ntt_references").shots == {"fig": 2, "nut": 1}

    sample = dataset.first()
    sample.ntt_references.detections[1].mask[:] = True  # a person paints over it
    sample.ntt_references.detections.append(box("drawn", mask=np.ones((30, 40), bool)))
    sample.save()
    again = ntt.make_reference_masks(dataset, fields)
    assert (again.kinds, again.kept) == ({"box": 1, "scribble": 1}, 2)
    labels = {one.get_attribute_value("source", None): one for one in dataset.first().ntt_references.detections}
    assert labels[made[1].source].mask.all() and None in labels
    anew = ntt.make_reference_masks(dataset, fields, overwrite=True)
    assert (anew.kinds, anew.kept) == ({"box": 1, "point": 1, "scribble": 1}, 1)
    with pytest.raises(InputError, match="another field"):
        ntt.make_reference_masks(dataset, ["truth"], "truth")


def test_the_command_line_makes_masks_too(dataset, tmp_path, capsys):
    add(dataset, tmp_path, truth=fo.Detections(detections=[box()]), clicks=fo.Keypoints(keypoints=[point((0.5, 0.5))]))
    add(dataset, tmp_path, (), truth=fo.Detections(detections=[box()]))  # no reference
    assert cli.main(["bank", "masks", dataset.name, "--label-field", "truth", "--more-fields", "clicks"]) == 0
    assert "1 from a box, 1 from a point" in capsys.readouterr().out
    assert [one.reference_kind for one in dataset.first().ntt_references.detections] == ["box", "point"]
    assert dataset.last().ntt_references is None


def test_tags_of_labels_go_with_their_masks(dataset, tmp_path):
    clicks = [point((0.5, 0.5), tags=[REFERENCE_TAG]), point((0.2, 0.2), tags=[NEGATIVE_TAG, "mine"])]
    add(dataset, tmp_path, (), clicks=fo.Keypoints(keypoints=clicks))
    ntt.make_reference_masks(dataset, "clicks")
    assert [one.tags for one in dataset.first().ntt_references.detections] == [[REFERENCE_TAG], [NEGATIVE_TAG]]
    bank = ntt.build_memory_bank(dataset, "ntt_references")
    assert bank.shots == {"fig": 1} and bank.negatives.labels == ("fig",)


def test_the_gallery_shows_the_mask_that_was_made(dataset, tmp_path):
    add(dataset, tmp_path, clicks=fo.Keypoints(keypoints=[point((0.5, 0.5))]))
    (before,) = ntt.describe_references(dataset, "clicks")
    ntt.make_reference_masks(dataset, "clicks")
    (after,) = ntt.describe_references(dataset, "clicks")
    assert before.kind == after.kind == "point"
    made = dataset.first().ntt_references.detections[0]
    assert after.area == pytest.approx(full_mask(made, SIZE).mean()) and after.area != before.area


def test_no_mask_that_holds_the_point_is_an_error_that_names_it(dataset, tmp_path):
    beside = point((0.5, 0.5), (0.51, 0.5), point_labels=[1, 0])
    add(dataset, tmp_path, clicks=fo.Keypoints(keypoints=[beside]))
    with pytest.raises(BadReferenceError, match=f"{beside.id}.*no mask.*points"):
        ntt.build_memory_bank(dataset, "clicks")
