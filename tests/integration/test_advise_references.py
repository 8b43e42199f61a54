"""Advice on the references of a real dataset: words, rows, views, the operator and the panel's button."""

import inspect
from types import SimpleNamespace

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from PIL import Image
from support.app import context, requests_of

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import BadReferenceError, InputError, NttError, WrongTypeError
from fiftyone_ntt.operators.references import _show_next
from fiftyone_ntt.params.review import AdviceParams
from fiftyone_ntt.references.banks import save_bank
from fiftyone_ntt.review.advice import _doubt
from fiftyone_ntt.review.label_rows import ROW

ADVISE = "@fiftyone-ntt/ntt/advise_references"
BOXES = {"square": [10 / 120, 20 / 90, 40 / 120, 40 / 90], "disc": [80 / 120, 65 / 90, 30 / 120, 20 / 90]}


@pytest.fixture
def labelled(dataset, tmp_path):
    """Three reference images with a "square" and a "disc" each, the third the same as the second; three others."""
    for i in range(6):
        image = np.random.default_rng(min(i, 1) if i < 3 else i).integers(0, 90, (90, 120, 3), dtype=np.uint8)
        image[20:60, 10:50] = (200, 40, 40 * min(i, 1))
        image[65:85, 80:110] = (30, 220, 60)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        sample = fo.Sample(str(tmp_path / f"{i}.png"))
        if i < 3:
            labels = [
                fo.Detection(label=name, bounding_box=box, mask=np.ones((4, 4), bool)) for name, box in BOXES.items()
            ]
            sample["truth"], sample.tags = fo.Detections(detections=labels), ["ntt:reference"]
        dataset.add_sample(sample)
    return dataset


@pytest.fixture
def banked(labelled, preset):
    ntt.build_memory_bank(labelled.match_tags("ntt:reference"), "truth", preset=preset, name="bank")
    return labelled


@pytest.fixture
def run(banked, labelled, preset, tmp_path):
    """The three others, labelled; the first label of the first is accepted, that of the second rejected."""
    ntt.segment(labelled, "bank", "found", preset=preset, index_dir=tmp_path / "index")
    for sample, tag in zip(labelled.skip(3), ("ntt:accepted", "ntt:rejected"), strict=False):
        sample.found.detections[0].tags = [tag]
        sample.save()
    return labelled


def test_the_advice_names_twins_and_flaws_of_each_reference(banked, labelled):
    advice = ntt.advise_references(labelled, "bank", "truth")
    samples, labels = labelled.values("id"), labelled.values("truth.detections.id", unwind=True)
    assert [one.label_id for one in advice.references] == labels
    assert [one.name for one in advice.references] == [f"{i}.png" for i in range(3) for _ in BOXES]
    assert [one.sample_id for one in advice.references] == [one for one in samples[:3] for _ in BOXES]
    for one in advice.references[2:]:  # the second and third image are the same
        assert any(twin.split("/")[0] in samples[1:3] for twin in one.twins) and one.change is not None
    assert any("30 x 20" in flaw for flaw in advice.references[1].flaws)  # the disc
    assert not advice.references[0].flaws
    assert {row["class"] for row in advice.class_rows()} == {"square", "disc"}
    assert advice.suggestions == [] and "Label images" in advice.notes[0]
    assert "too small" in str(advice) and len(advice.references_view(labelled)) == 3
    with pytest.raises(InputError, match="label.*images"):
        advice.view(labelled)


def test_a_run_says_more_and_no_model_is_loaded(run, preset, tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "load_segmenters", None)  # all candidates are in the index
    before = run.values("found", _raw=True)
    advice = ntt.advise_references(run, "bank", "truth", reviewed="found", suggest=3, preset=preset)
    assert run.values("found", _raw=True) == before
    assert advice.decided == 2 and advice.notes == []
    names = {label.label for sample in run.skip(3).limit(2) for label in sample.found.detections[:1]}
    assert {one.label for one in advice.references if one.on_reviewed is not None} == names
    shown = advice.view(run)
    ids = shown.values("found.detections.id", unwind=True)
    assert 0 < len(ids) <= 3 and sorted(ids) == sorted(one.label_id for one in advice.suggestions)
    decided = {sample.found.detections[0].id for sample in run.skip(3).limit(2)}
    assert not decided & set(ids)  # nobody is asked twice
    assert shown.values("id") == list(dict.fromkeys(one.sample_id for one in advice.suggestions))
    monkeypatch.undo()
    elsewhere = ntt.advise_references(run, "bank", "truth", reviewed="found", preset=preset, index_dir=tmp_path / "new")
    assert elsewhere.decided == 0 and elsewhere.suggestions == []  # it does not compute what is not in the index
    assert any("candidate cache" in note for note in elsewhere.notes)


def test_uncertainty_ranks_middling_scores_above_clear_cases():
    rows = np.zeros(5, ROW)
    rows["confidence"] = rows["similarity"] = [0.9, 0.5, 0.1, 0.5, 0.5]
    rows["predicted_iou"], rows["alternative_similarity"] = [1, 1, 1, 1, 0.2], [0, 0, 0, 0.4, np.nan]
    doubt = _doubt(rows)
    assert doubt[3] > doubt[1] > max(doubt[0], doubt[2], doubt[4]) and doubt.min() > 0


def test_a_bank_from_elsewhere_is_judged_by_its_vectors_alone(labelled):
    vectors = np.eye(4, 8)[[0, 0, 0, 1, 1, 2]]
    bank = MemoryBank(("a", "b", "c"), vectors, np.array([0, 0, 0, 1, 1, 2]), tuple("uvwxyz"), preset="mine")
    advice = ntt.advise_references(labelled, bank, "truth")
    assert [one.sample_id for one in advice.references] == [None] * 6
    assert [one.name for one in advice.references] == list("uvwxyz")
    assert advice.classes["c"].needs_more and "two or three more" in str(advice)
    save_bank(labelled, "mine", bank)
    assert ntt.advise_references(labelled, "mine", "truth").rows() == advice.rows()


def test_what_cannot_be_used_is_refused(labelled):
    for arguments in ({"bank": "none"}, {"bank": None, "suggest": -1}, {"bank": 3}):
        with pytest.raises(NttError, match="expected|no memory bank"):
            ntt.advise_references(labelled, arguments.pop("bank"), "truth", **arguments)


def test_the_form_has_the_defaults_of_the_function():
    signature = inspect.signature(ntt.advise_references)
    for info in AdviceParams.infos():
        assert signature.parameters[info.name].default == info.default


def test_the_operator_shows_tables_and_opens_what_to_label_next(run, preset, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.candidates.source.resolve_preset", lambda name: preset)
    params = {"bank": "bank", "label_field": "truth", "reviewed": "found", "suggest": 2, "show": "next"}
    ctx = context("advise_references", run, params)
    operator = foo.get_operator(ADVISE)
    form = operator.resolve_input(ctx)
    assert not any(one.invalid for one in form.type.properties.values())
    results = operator.execute(ctx)
    assert len(results["rows"]) == 6 and len(results["classes"]) == 2 and results["suggestions"]
    asked = [name for name, _ in requests_of(ctx)]
    assert asked == ["set_filters", "set_view"]
    empty = context("advise_references", run, {"label_field": "found"})
    run.untag_samples("ntt:reference")
    assert any(field.invalid for field in operator.resolve_input(empty).type.properties.values())


def test_the_selection_is_a_view_that_builds_a_bank(labelled, preset):
    chosen = ntt.select_references(labelled.limit(3), 1, "truth", preset=preset)
    assert sorted(chosen.values("truth.detections.label", unwind=True)) == ["disc", "square"]
    assert ntt.build_memory_bank(chosen, "truth", preset=preset).shots == {"disc": 1, "square": 1}
    labelled.untag_samples("ntt:reference")
    ntt.select_references(labelled.limit(3), 2, "truth", preset=preset, classes=["disc"], tag=True)
    assert labelled.count_label_tags("truth") == {"ntt:reference": 2}
    with pytest.raises(InputError, match="at least 1"):
        ntt.select_references(labelled, 0, "truth", preset=preset)
    with pytest.raises(BadReferenceError, match="no labels"):
        ntt.select_references(labelled.skip(3), 1, "truth", preset=preset)


def test_references_are_chosen_among_patches_too(labelled, preset):
    labelled.untag_samples("ntt:reference")
    chosen = ntt.select_references(labelled.limit(3).to_patches("truth"), 1, "truth", preset=preset, tag=True)
    assert sorted(chosen.values("truth.detections.label", unwind=True)) == ["disc", "square"]
    assert labelled.count_label_tags("truth") == {"ntt:reference": 2}


def test_there_are_no_objects_to_choose_among_in_masks_of_images(labelled, preset):
    """One label a sample, of many classes: nothing of it could be left out."""
    labelled.set_values("maps", [fo.Segmentation(mask=np.ones((90, 120), np.uint8)) for _ in range(6)])
    with pytest.raises(WrongTypeError, match="'maps' with semantic segmentation masks; tag the images yourself"):
        ntt.select_references(labelled, 1, "maps", preset=preset, tag=True)
    assert not labelled.count_label_tags("truth")


def test_a_grid_of_patches_is_left_alone(labelled):
    ctx = context("advise_references", labelled.to_patches("truth"), dataset_name=labelled.name)
    label = labelled.first().truth.detections[0]
    suggestion = SimpleNamespace(sample_id=labelled.first().id, label_id=label.id)
    _show_next(ctx, SimpleNamespace(reviewed_field="truth", suggestions=[suggestion]))
    assert [name for name, _ in requests_of(ctx)] == ["notify"]
