"""The memory bank of the references as they are tagged now: when it is built again, and what a run leaves alone."""

from __future__ import annotations

import os

import fiftyone as fo
import numpy as np
import pytest
from support.pictures import Shape

import fiftyone_ntt as ntt
from fiftyone_ntt.core import ReferenceItem
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.params.references import TaggedBankParams
from fiftyone_ntt.references import tagged_bank
from fiftyone_ntt.references.banks import LEARNED, bank_of_run, build_tagged_bank, save_bank
from fiftyone_ntt.references.tagged_bank import plan_bank, plan_or_kept

TAG = "ntt:reference"
TWO = (Shape(), Shape("bar", top=70, width=60, height=12, colour=(20, 180, 60)))
pytestmark = pytest.mark.pictures(count=4, references=2, masks=2, every_label=True, shapes=TWO)


@pytest.fixture
def settings(preset, index_dir):
    return {"preset": preset, "points_per_side": 3, "index_dir": index_dir, "device": "cpu"}


def labels_of(dataset, field="ntt"):
    return {label.id: label for sample in dataset if sample[field] for label in sample[field].detections}


def change(dataset, number, **changes):
    """Changes the first label of a sample."""
    sample = dataset.skip(number).first()
    for name, value in changes.items():
        sample.truth.detections[0][name] = value
    sample.save()


def test_a_call_without_a_bank_builds_one_once(pictures, settings, monkeypatch):
    first = ntt.segment(pictures, **settings)
    assert (first.labelled + first.empty, first.references_skipped) == (2, 2)
    assert ntt.list_banks(pictures) == ["ntt_bank"]
    monkeypatch.setattr(tagged_bank, "build_memory_bank", None)
    again = ntt.segment(pictures, **settings)
    assert (again.resumed, again.done) == (2, 0)
    assert plan_bank(pictures, preset=settings["preset"]).fresh


@pytest.mark.parametrize(
    ("edit", "fresh"),
    [
        (lambda data: change(data, 0, ntt_eval="tp", note="nice"), True),
        (lambda data: change(data, 3, bounding_box=[0, 0, 0.1, 0.1]), True),
        (lambda data: data.limit(1).tag_samples("mine"), True),
        (lambda data: data.skip(3).tag_samples("ntt:accepted"), True),
        (lambda data: change(data, 0, bounding_box=[0, 0, 0.1, 0.1]), False),
        (lambda data: change(data, 0, label="block"), False),
        (lambda data: change(data, 0, mask=None), False),
        (lambda data: change(data, 0, tags=["ntt:negative"]), False),
        (lambda data: data.skip(1).limit(1).untag_samples(TAG), False),
        (lambda data: data.skip(2).limit(1).tag_samples(TAG), False),
        (lambda data: data.skip(3).tag_samples("ntt:negative"), False),
        (lambda data: os.utime(data.first().filepath, (1, 1)), False),
    ],
)
def test_what_makes_another_bank(edit, fresh, pictures, preset):
    plan_bank(pictures, preset=preset).bank("cpu")
    edit(pictures)
    plan = plan_bank(pictures, preset=preset)
    assert plan.fresh is fresh
    assert ("is built first" in str(plan)) is not fresh


def test_a_new_class_with_one_box_just_works(pictures, settings):
    ntt.segment(pictures, **settings)
    right, wrong, *_ = labels_of(pictures)
    ntt.accept_labels(pictures, label_ids=[right])
    ntt.reject_labels(pictures, label_ids=[wrong])
    drawn = fo.Detection(label="mine", bounding_box=[0.8, 0.8, 0.1, 0.1])
    sample = pictures.skip(3).first()
    sample.ntt.detections.append(drawn)
    sample.save()
    before = set(labels_of(pictures))
    sample = pictures.first()
    sample.truth.detections.append(fo.Detection(label="corner", bounding_box=[0.7, 0, 0.3, 0.3]))
    sample.save()
    report = ntt.segment(pictures, **settings)
    assert report.failed == 0 and report.labelled + report.empty == 2
    after = labels_of(pictures)
    assert {right, wrong, drawn.id} <= set(after), "what a person decided or drew stays"
    assert "corner" in bank_of_run(pictures, report.run_key).classes
    assert "corner" in {label.label for label in after.values()}
    ntt.undo_run(pictures, report.run_key)
    assert set(labels_of(pictures)) == before, "the labels of before come back"


def test_what_was_learned_is_not_forgotten(pictures, settings):
    ntt.segment(pictures, **settings)
    right, wrong, *_ = labels_of(pictures)
    ntt.accept_labels(pictures, label_ids=[right])
    ntt.reject_labels(pictures, label_ids=[wrong])
    learned = ntt.learn(pictures, apply=True, index_dir=settings["index_dir"], preset=settings["preset"])
    known = [key for key in learned.bank.reference_ids + learned.bank.negative_ids if key.startswith(LEARNED)]
    assert known
    again = ntt.segment(pictures, **settings)
    assert (again.resumed, again.done) == (2, 0), "nothing is new"
    pictures.skip(1).limit(1).untag_samples(TAG)
    report = ntt.segment(pictures, **settings)
    now = bank_of_run(pictures, report.run_key)
    assert set(known) <= {*now.reference_ids, *now.negative_ids} and report.done == 3


def test_only_labels_of_the_same_run_are_replaced_unasked(pictures, settings):
    ntt.segment(pictures, **settings, run_key="mine")
    with pytest.raises(InputError, match="run 'mine' already"):
        ntt.segment(pictures, **settings)
    with pytest.raises(InputError, match="no run of this plugin wrote"):
        ntt.segment(pictures, None, "truth", **settings)
    change(pictures, 0, label="block")
    assert ntt.segment(pictures, **settings, run_key="mine").done == 2


def test_a_bank_that_someone_made_by_hand_is_not_replaced(pictures, preset):
    mine = ntt.build_memory_bank(pictures.limit(1), "truth", preset=preset, name="ntt_bank")
    plan = plan_bank(pictures, preset=preset)
    assert not plan.fresh and plan.name == "ntt_bank_2"
    plan.bank("cpu")
    assert ntt.load_bank(pictures, "ntt_bank").content_hash == mine.content_hash
    change(pictures, 0, label="block")
    assert plan_bank(pictures, preset=preset).name == "ntt_bank_2", "this one is ours"


def test_one_is_as_good_as_another_of_the_same_references(pictures, preset):
    ntt.build_memory_bank(pictures.match_tags(TAG), "truth", preset=preset, name="by_hand")
    assert (plan_bank(pictures, preset=preset).name, plan_bank(pictures, preset=preset).fresh) == ("by_hand", True)
    save_bank(pictures, "older", ntt.load_bank(pictures, "by_hand"))  # as learning does: nobody noted of what it is
    assert plan_bank(pictures, preset=preset).name == "by_hand"
    pictures.delete_run("by_hand")
    assert not plan_bank(pictures, preset=preset).fresh, "equal counts do not make the same references"
    assert not plan_bank(pictures, preset="tiny").fresh, "other models"


def test_the_last_bank_tells_what_to_ask_for(pictures, preset, monkeypatch):
    monkeypatch.setattr(TaggedBankParams, "__post_init__", lambda self: None)  # presets of a test's own have no name
    build_tagged_bank(pictures, TaggedBankParams("truth", ("bar",), preset, "ntt_bank", device="cpu"))
    plan = plan_bank(pictures, preset=preset)
    assert plan.fresh and plan.shots == {"bar": 2}
    change(pictures, 0, label="block")
    plan = plan_bank(pictures, preset=preset)
    assert plan.made_from.classes == ("bar", "block"), "squares were left out, blocks are new"
    assert plan.name == "ntt_bank"


def test_labels_that_are_tagged_count_whatever_their_field(pictures, preset):
    sample = pictures.skip(2).first()
    sample["drafts"] = fo.Detections(detections=[
        fo.Detection(label="mug", bounding_box=[0, 0, 0.5, 0.5], tags=[TAG]),
        fo.Detection(label="cup", bounding_box=[0, 0, 0.5, 0.5]),
    ])  # fmt: skip
    sample.save()
    assert plan_bank(pictures, preset=preset).shots == {"bar": 2, "mug": 1, "square": 2}


def test_without_references_the_last_bank_is_taken(pictures, preset):
    with pytest.raises(InputError, match="Use as reference"):
        pictures.untag_samples(TAG)
        plan_or_kept(pictures)
    ntt.build_memory_bank(pictures.limit(1), "truth", preset=preset, name="kept")
    assert plan_or_kept(pictures).name == "kept"


def test_reference_samples_do_for_a_bank(pictures, settings):
    report = ntt.segment(pictures.skip(2), pictures.limit(2), reference_field="truth", **settings)
    assert report.done == 2 and ntt.list_banks(pictures) == []


# voxel51/fiftyone#1910, of what is noted of a field that is renamed
@pytest.mark.parametrize("change", ["renamed", "deleted"])
def test_a_field_that_went_is_not_asked_for_again(pictures, preset, change):
    """The bank was made of its labels; what is tagged now lies elsewhere."""
    plan_bank(pictures, preset=preset).bank("cpu")
    field = "truth"
    if change == "renamed":
        pictures.rename_sample_field(field, "gt")
    else:
        pictures.clone_sample_field(field, "gt")
        pictures.delete_sample_field(field)
    assert plan_bank(pictures, preset=preset).bank("cpu").classes
    with pytest.raises(InputError, match=f"no field '{field}'"):
        plan_bank(pictures, field, preset=preset)


def test_a_bank_from_elsewhere_is_kept_and_found_by_name(pictures, preset, tmp_path):
    """Built from arrays alone: no sample of the dataset is one of its references."""
    image = np.full((96, 128, 3), 30, np.uint8)
    mask = np.zeros((96, 128), bool)
    mask[30:60, 40:80] = True
    image[mask] = (220, 60, 30)
    segmenter = load_preset(preset, "cpu").segmenter()
    segmenter.build_bank([ReferenceItem(image, mask, label="block", reference_id="a.jpg")]).save(tmp_path / "bank")
    ntt.save_bank(pictures, "elsewhere", ntt.MemoryBank.load(tmp_path / "bank"))
    assert ntt.list_banks(pictures) == ["elsewhere"] and "save_bank" in ntt.__all__
    report = ntt.segment(pictures, "elsewhere", "found", preset=preset, index_dir=tmp_path / "index", device="cpu")
    assert report.failed == 0 and report.labelled and pictures.distinct("found.detections.label") == ["block"]
    with pytest.raises(WrongTypeError, match="expected a MemoryBank to keep as 'other', got str"):
        ntt.save_bank(pictures, "other", "elsewhere")
    with pytest.raises(InputError, match="choose another name for the bank"):
        ntt.save_bank(pictures, report.run_key, ntt.load_bank(pictures, "elsewhere"))


def test_a_dataset_without_images_is_not_about_references(settings):
    dataset = fo.Dataset()
    with pytest.raises(InputError, match="the dataset holds no images"):
        ntt.segment(dataset, **settings)
    dataset.delete()
