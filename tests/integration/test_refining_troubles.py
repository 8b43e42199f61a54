"""Refining masks when something goes wrong or others are at it: no old mask is lost. The mask model is a stub."""

from __future__ import annotations

from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from PIL import Image
from support.labelled import PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.labels import OF_REFINED, fingerprint
from fiftyone_ntt.dataset.storage import JsonStore
from fiftyone_ntt.errors import InputError, LeaseLostError, NttError
from fiftyone_ntt.method.options.refine import Refined
from fiftyone_ntt.pixels.packed_masks import PackedMask
from fiftyone_ntt.review import refine_history, refining
from fiftyone_ntt.runs import history as run_history
from fiftyone_ntt.runs import session
from fiftyone_ntt.runs.history import get_large, set_large
from fiftyone_ntt.runs.workers import Worker

pytestmark = pytest.mark.pictures(**PICTURES)
BOX = [0.1, 0.1, 0.1, 0.1]
REFINED = "ntt.detections.refined"


@pytest.fixture(autouse=True)
def stub(monkeypatch, tmp_path):
    """A mask model that gives another mask each time, unless ``kept`` says why not; ``loaded`` counts its makings."""
    monkeypatch.setenv("FIFTYONE_NTT_MASKS", str(tmp_path / "masks"))
    state = SimpleNamespace(asked=0, loaded=0, kept=lambda mask: None)
    features = SimpleNamespace(name="features", weights_hash="0")
    model = SimpleNamespace(proposal_model=SimpleNamespace(name="stub"), feature_model=features)

    def load(*arguments, **options):
        state.loaded += 1
        return SimpleNamespace(segmenter=lambda: model)

    def refine(model, image, mask, **options):
        state.asked += 1
        if (kept := state.kept(mask)) is not None:
            return Refined(mask, None, kept)
        crop = mask.crop().copy()
        crop[0, : state.asked % 5 + 1] ^= True
        return Refined(PackedMask.from_crop(crop, mask.extent[1], mask.extent[0]), 0.9)

    monkeypatch.setattr(refining, "load_preset", load)
    monkeypatch.setattr(refining, "refine", refine)
    return state


def label(name="fig", **others):
    mask = np.ones((24, 32), bool)
    mask[3, 3] = False
    written = fingerprint(name, BOX, mask)
    facts = {"mask": mask, "confidence": 0.5, "predicted_iou": 0.7, "written": written, "tags": ["ntt:accepted"]}
    return fo.Detection(label=name, bounding_box=BOX, **facts | others)


def add(dataset, tmp_path, *labels, field="ntt", dynamic=True):
    path = tmp_path / f"{len(dataset)}.png"
    Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(path)
    dataset.add_sample(fo.Sample(str(path), **{field: fo.Detections(detections=list(labels))}), dynamic=dynamic)
    return dataset


def add_on_disk(dataset, tmp_path):
    values = np.where(label().mask, 255, 0).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    return add(dataset, tmp_path, label(mask=None, mask_path=str(tmp_path / "mask.png")))


def documents(dataset, field="ntt"):
    """The labels as they are in the database, in the order of their attributes."""
    values = [refine_history.labels_in(sample, field) for sample in dataset._sample_collection.find()]
    return [list(each.items()) for labels in values for each in labels]


def ids_of(dataset):
    return [str(dict(each)["_id"]) for each in documents(dataset)]


def raising(error):
    def fail(*arguments, **options):
        raise error

    return fail


def first_call(monkeypatch, place, name, before):
    """Calls ``before`` right before the first call of ``place.name``."""
    real, pending = getattr(place, name), [before]

    def called(*arguments, **options):
        if pending:
            pending.pop()()
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, called)


def test_undoing_what_is_being_refined_is_refused(dataset, tmp_path, monkeypatch):
    add_on_disk(dataset, tmp_path)
    before = documents(dataset)

    def undo():
        with pytest.raises(InputError, match="being refined.*wait"):
            ntt.undo_refinement(dataset)

    first_call(monkeypatch, refining, "rewrite", undo)
    assert ntt.refine_labels(dataset, progress=False).refined == 1
    assert fo.Detection.from_dict(dict(documents(dataset)[0])).mask_path != dict(before[0])["mask_path"]
    assert ntt.undo_refinement(dataset) == 1 and documents(dataset) == before


def test_a_second_refinement_meanwhile_is_refused(dataset, tmp_path, monkeypatch):
    add(dataset, tmp_path, label(), label("nut"))
    before, ids = documents(dataset), ids_of(dataset)

    def other():
        with pytest.raises(InputError, match="being refined.*wait"):
            ntt.refine_labels(dataset, label_ids=ids[1:], progress=False)

    first_call(monkeypatch, refine_history.RefineHistory, "_set", other)
    ntt.refine_labels(dataset, label_ids=ids[:1], progress=False)
    assert ntt.refine_labels(dataset, label_ids=ids[1:], progress=False).refined == 1, "the first is through"
    assert ntt.undo_refinement(dataset) == 2 and documents(dataset) == before


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), NttError("others write all the time")], ids=["killed", "gave up"]
)
def test_a_second_refinement_that_ends_early(dataset, tmp_path, monkeypatch, error):
    add(dataset, tmp_path, label())
    before = documents(dataset)
    ntt.refine_labels(dataset, progress=False)
    refined = documents(dataset)
    with monkeypatch.context() as patch:
        patch.setattr(refining, "rewrite", raising(error))
        if isinstance(error, NttError):
            assert ntt.refine_labels(dataset, progress=False).errors
        else:
            with pytest.raises(KeyboardInterrupt):
                ntt.refine_labels(dataset, progress=False)
    assert documents(dataset) == refined
    assert ntt.undo_refinement(dataset) == 1 and documents(dataset) == before


def test_refining_stops_where_its_lease_is_lost(dataset, tmp_path, monkeypatch):
    for _ in range(2):
        add(dataset, tmp_path, label())
    before, renewed = documents(dataset), []

    def renew(self):
        renewed.append(1)
        if len(renewed) > 3:  # before what is replaced is kept, and before it is written
            raise LeaseLostError("another one took over")

    monkeypatch.setattr(Worker, "_beat", lambda self: None)
    monkeypatch.setattr(Worker, "renew", renew)
    with pytest.raises(LeaseLostError, match="call this again"):
        ntt.refine_labels(dataset, progress=False)
    assert [each == old for each, old in zip(documents(dataset), before, strict=True)] == [False, True]
    monkeypatch.undo()
    assert ntt.undo_refinement(dataset) == 1 and documents(dataset) == before


def test_killed_while_what_is_replaced_is_noted(dataset, tmp_path, monkeypatch):
    """In each gap between two writes of it."""
    monkeypatch.setattr(run_history, "_PART_SIZE", 600)
    add(add(dataset, tmp_path, label(), label("nut")), tmp_path, label())
    before, ids = documents(dataset), ids_of(dataset)
    real, killed = JsonStore.set, []
    for last in range(8):
        ntt.refine_labels(dataset, label_ids=[ids[0], ids[2]], progress=False)
        writes = []

        def dying(self, key, value, *arguments, writes=writes, last=last, **options):
            writes.append(key)
            if key.startswith(("part:", "sample:")) and len(writes) > last:
                raise KeyboardInterrupt
            real(self, key, value, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(JsonStore, "set", dying)
            try:
                ntt.refine_labels(dataset, label_ids=[ids[1]], progress=False)
            except KeyboardInterrupt:
                killed.append(writes[-1].split(":")[0])
        assert ntt.undo_refinement(dataset) >= 2 and documents(dataset) == before
    assert {"part", "sample"} <= set(killed), "before a part, and before the key"


def test_what_is_kept_stays_whole_until_the_new_is(dataset, monkeypatch):
    monkeypatch.setattr(run_history, "_PART_SIZE", 4)
    kept = JsonStore("ntt_test", refine_history.store(dataset, "ntt_test")._store_service)
    kept.set("part:key:0", b"0.1.")
    kept.set("part:key:1", b"0")
    kept.set("key", 2)
    assert get_large(kept, ["key"]) == {"key": b"0.1.0"}, "as version 0.1.0 wrote it"
    real, left = JsonStore.set, [2]

    def dying(self, key, value, *arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(self, key, value, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(JsonStore, "set", dying)
        with pytest.raises(KeyboardInterrupt):
            set_large(kept, "key", b"something longer")
    assert get_large(kept, ["key"]) == {"key": b"0.1.0"}
    set_large(kept, "key", b"something longer")
    assert get_large(kept, ["key"]) == {"key": b"something longer"}
    run_history.delete_large(kept, "key")
    assert kept.list_keys() == [], "the parts of the write that was interrupted are gone, too"


def test_what_is_kept_of_one_sample_is_damaged(dataset, tmp_path):
    add(add(dataset, tmp_path, label()), tmp_path, label())
    before = documents(dataset)
    ntt.refine_labels(dataset, progress=False)
    sample_id = dataset.first().id
    set_large(refine_history.store(dataset, "ntt_refined"), f"sample:ntt:{sample_id}", b"damaged")
    damaged = documents(dataset)[0]
    with pytest.raises(NttError, match=f"1 mask as before refining; 1 sample could not.*{sample_id}"):
        ntt.undo_refinement(dataset)
    assert documents(dataset) == [damaged, before[1]]
    report = ntt.refine_labels(dataset, progress=False)
    assert report.refined == 1 and list(report.errors) == [sample_id] and documents(dataset)[0] == damaged


def test_two_fields_with_labels_of_the_same_ids(dataset, tmp_path):
    add(dataset, tmp_path, label())
    dataset.clone_sample_field("ntt", "other")
    before = documents(dataset), documents(dataset, "other")
    for name in ("ntt", "other"):
        assert ntt.refine_labels(dataset, name, progress=False).refined == 1
    assert ntt.undo_refinement(dataset, "ntt") == 1
    assert documents(dataset) == before[0] and documents(dataset, "other") != before[1]
    assert ntt.undo_refinement(dataset, "other") == 1 and documents(dataset, "other") == before[1]


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
def test_refined_masks_of_a_renamed_field(dataset, tmp_path, again):
    add(dataset, tmp_path, label())
    before = documents(dataset)
    ntt.refine_labels(dataset, progress=False)
    dataset.rename_sample_field("ntt", "fruit")
    if again:
        sample = dataset.first()
        sample["ntt"] = fo.Detections(detections=[label()])
        sample.save()
        assert ntt.undo_refinement(dataset, "ntt") == 0, "the label is not in it"
    assert ntt.undo_refinement(dataset, "fruit") == 1 and documents(dataset, "fruit") == before


OTHERS = {
    "text": ({"refined": "by Anna, 3 May"}, True),
    "declared": ({"refined": True}, True),
    "not declared": ({"refined": False}, False),
    "of a run": ({"similarity": "much"}, True),
}


@pytest.mark.parametrize("what", OTHERS)
def test_an_attribute_of_that_name_is_somebody_elses(dataset, tmp_path, stub, what):
    attributes, dynamic = OTHERS[what]
    add(dataset, tmp_path, label(**attributes), label("nut", tags=[], **attributes), dynamic=dynamic)
    before, declared = documents(dataset), dataset.get_field(REFINED)
    with pytest.raises(InputError, match=f"'{next(iter(attributes))}'.*rename_sample_field"):
        ntt.refine_labels(dataset, progress=False)
    assert documents(dataset) == before and stub.loaded == 0
    assert ntt.undo_refinement(dataset) == 0 and documents(dataset) == before
    assert type(dataset.get_field(REFINED)) is type(declared)


def test_undoing_leaves_an_attribute_of_somebody_else(dataset, tmp_path):
    add(dataset, tmp_path, label())
    dataset.add_sample_field(REFINED, fo.StringField, description="who looked at it")
    ntt.undo_refinement(dataset)
    assert dataset.get_field(REFINED).description == "who looked at it"
    assert dataset.get_field(REFINED).description != OF_REFINED["refined"][1]


def test_labels_in_a_field_of_a_field(dataset, tmp_path):
    add(dataset, tmp_path, label("nut"), field="plain")
    dataset.add_sample_field("preds", fo.EmbeddedDocumentField, embedded_doc_type=fo.DynamicEmbeddedDocument)
    sample = dataset.first()
    labels = fo.Detections(detections=[label(), label("nut", tags=[])])
    sample["preds"] = fo.DynamicEmbeddedDocument(ntt=labels, note="mine")
    sample.save()
    dataset.add_dynamic_sample_fields()
    before = dataset._sample_collection.find_one()["preds"]
    assert ntt.refine_labels(dataset, "preds.ntt", progress=False).refined == 1
    after = dataset._sample_collection.find_one()["preds"]
    assert [each.get("refined") for each in after["ntt"]["detections"]] == ["stub", None]
    assert after["note"] == "mine"
    assert ntt.undo_refinement(dataset, "preds.ntt") == 1
    assert dataset._sample_collection.find_one()["preds"] == before


@pytest.mark.parametrize("estimate", ["high", float("nan"), True])
def test_a_quality_that_is_none_costs_nothing(dataset, tmp_path, estimate):
    add(dataset, tmp_path, label(), label("nut"))
    change = {"$set": {"ntt.detections.1.predicted_iou": estimate}}
    dataset._sample_collection.update_one({}, change)
    before = documents(dataset)
    report = ntt.refine_labels(dataset, progress=False)
    assert report.refined == 2 and not report.errors
    assert repr(dict(documents(dataset)[1])["predicted_iou"]) == repr(estimate), "it is not ours to mend"
    assert ntt.undo_refinement(dataset) == 2 and repr(documents(dataset)) == repr(before)


def test_a_label_that_goes_wrong_costs_one_label(dataset, tmp_path, stub):
    add(dataset, tmp_path, label(), label("nut"))
    stub.kept = lambda mask: raising(RuntimeError("boom"))() if stub.asked == 2 else None
    report = ntt.refine_labels(dataset, progress=False)
    assert report.refined == 1
    (text,) = report.errors.values()
    assert ids_of(dataset)[1] in text and "boom" in text
    assert dict(documents(dataset)[0])["refined"] == "stub"


def test_a_label_that_is_rejected_meanwhile_stays(dataset, tmp_path, monkeypatch):
    add(dataset, tmp_path, label(), label("nut"))
    first, ids = documents(dataset)[0], ids_of(dataset)
    first_call(monkeypatch, refining, "read_image", lambda: ntt.reject_labels(dataset, label_ids=ids[:1]))
    report = ntt.refine_labels(dataset, progress=False)
    assert (report.refined, report.kept.total()) == (1, 0)
    assert dict(documents(dataset)[0]) == dict(first) | {"tags": ["ntt:rejected"]}
    assert ntt.undo_refinement(dataset) == 1


def test_a_refused_second_time_leaves_what_is_said_of_the_first(dataset, tmp_path, stub):
    add(dataset, tmp_path, label())
    before = documents(dataset)
    ntt.refine_labels(dataset, progress=False)
    refined = documents(dataset)
    stub.kept = lambda mask: "area"
    report = ntt.refine_labels(dataset, progress=False)
    assert (report.refined, report.kept) == (0, {"area": 1})
    assert documents(dataset) == refined and dict(refined[0])["refined"] == "stub"
    assert ntt.undo_refinement(dataset) == 1 and documents(dataset) == before


def test_calls_that_begin_at_once_get_folders_of_their_own(dataset, monkeypatch):
    history, folders = refine_history.RefineHistory(dataset, "ntt"), []
    for _ in range(2):  # the first call of all, and a later one

        def other():
            folders.append(refine_history.RefineHistory(dataset, "other").begin())

        with monkeypatch.context() as patch:
            first_call(patch, JsonStore, "set_if_absent" if not folders else "compare_and_set", other)
            folders.append(history.begin())
    assert len(set(folders)) == 4 and set(history.folders()) == set(folders)


def test_files_of_refined_labels_that_a_run_replaced(pictures, bank, preset, other_bank, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "COMFORTABLE_DOCUMENT", 10)
    ntt.segment(pictures, bank, "found", preset=preset)
    first = {dict(each)["_id"]: each for each in documents(pictures, "found")}
    assert ntt.refine_labels(pictures, "found", only="all", progress=False).refined == len(first)
    refined = {dict(each)["_id"]: each for each in documents(pictures, "found")}
    ntt.segment(pictures, other_bank, "found", preset=preset, overwrite=True, run_key="second")
    assert ntt.undo_refinement(pictures, "found") == 0, "a run has replaced them"
    ntt.undo_run(pictures, "second")
    assert {dict(each)["_id"]: each for each in documents(pictures, "found")} == refined
    assert all(fo.Detection.from_dict(dict(each)).get_mask() is not None for each in refined.values())
    assert ntt.undo_refinement(pictures, "found") == len(first)
    assert {dict(each)["_id"]: each for each in documents(pictures, "found")} == first
    assert not list((tmp_path / "masks").rglob("ntt_refined"))


def test_files_of_a_refined_label_that_two_histories_hold(pictures, bank, preset, other_bank, monkeypatch):
    """Accepted, so the second run leaves it there, and keeps it: its undoing may put it back as it was then."""
    monkeypatch.setattr(session, "COMFORTABLE_DOCUMENT", 10)
    ntt.segment(pictures, bank, "found", preset=preset)
    ntt.accept_labels(pictures, "found")
    ntt.refine_labels(pictures, "found", progress=False)
    refined = {dict(each)["_id"]: dict(each) for each in documents(pictures, "found")}
    ntt.segment(pictures, other_bank, "found", preset=preset, overwrite=True, run_key="second")
    assert ntt.undo_refinement(pictures, "found") == len(refined)
    ntt.undo_run(pictures, "second", keep_edited=False)
    back = {dict(each)["_id"]: dict(each) for each in documents(pictures, "found")}
    assert back == refined
    assert all(fo.Detection.from_dict(each).get_mask() is not None for each in back.values())


def test_undoing_a_run_leaves_files_that_may_come_back(pictures, bank, preset, monkeypatch):
    monkeypatch.setattr(session, "COMFORTABLE_DOCUMENT", 10)
    run = ntt.segment(pictures, bank, "found", preset=preset)
    ntt.accept_labels(pictures, "found")
    before = documents(pictures, "found")
    ntt.refine_labels(pictures, "found", progress=False)
    ntt.undo_run(pictures, run.run_key)
    assert ntt.undo_refinement(pictures, "found") == len(before) > 0
    assert documents(pictures, "found") == before
    assert all(fo.Detection.from_dict(dict(each)).get_mask() is not None for each in before)


def test_an_entry_that_is_no_label_stays(dataset, tmp_path):
    add(dataset, tmp_path, label())
    dataset._sample_collection.update_one({}, {"$push": {"ntt.detections": {"$each": ["text"], "$position": 0}}})
    ntt.refine_labels(dataset, progress=False)
    there = dataset._sample_collection.find_one({"_id": ObjectId(dataset.values("id")[0])})["ntt"]["detections"]
    assert there[0] == "text" and there[1]["refined"] == "stub"
