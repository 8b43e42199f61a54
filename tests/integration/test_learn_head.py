"""A head learned from decisions on a real dataset: kept with the run, undone, refused where it is no better."""

import numpy as np
import pytest
from support.app import operator
from support.pictures import Shape

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.references.banks import HEAD_IMAGES, bank_of_run, contents_of, seen_images
from fiftyone_ntt.review import head_fit
from fiftyone_ntt.review.learn import last_outcome, learn
from fiftyone_ntt.review.lessons import ReviewedRun, decided_labels
from fiftyone_ntt.review.teaching import decided_of, done_images

SHAPES = [Shape(), Shape("disc", left=80, top=65, width=30, height=20, step=0, colour=(30, 220, 60))]
pytestmark = pytest.mark.pictures(count=12, shapes=SHAPES)


@pytest.fixture
def reviewed(pictures, preset, tmp_path):
    """Twelve images, labelled from one reference of each class: in ten, somebody decided on the labels and is done.

    Random models find one label in each, of the whole image: in six it is right, in four it is wrong.
    """
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset)
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=tmp_path / "index")
    ntt.accept_labels(pictures.skip(1).limit(6), "found", above=0.0)
    ntt.reject_labels(pictures.skip(7).limit(4), "found", above=0.0)
    ntt.mark_done(pictures.skip(1).limit(10))
    return pictures


@pytest.fixture
def better(monkeypatch):
    """Whatever a head comes to counts as better: random models leave little to learn."""
    monkeypatch.setattr(head_fit, "BETTER", -1.0)


def confidences(dataset, number):
    sample = dataset.skip(number).first()
    return {tuple(np.round(label.bounding_box, 6)): label.confidence for label in sample.found.detections}


def test_a_head_is_written_kept_with_the_run_and_undone(reviewed, preset, better, monkeypatch, tmp_path):
    before, bank = confidences(reviewed, 11), bank_of_run(reviewed, "ntt_found")
    decided = [label.to_dict() for label in reviewed.skip(1).first().found.detections]
    monkeypatch.setattr(candidates, "load_segmenters", None)  # all candidates are in the cache
    shown = learn(reviewed, "found", method="head", preset=preset, threshold=0.0)
    assert bank_of_run(reviewed, "ntt_found").content_hash == bank.content_hash, "nothing is written yet"
    assert str(shown).startswith("Learned from")
    assert shown.head.used and shown.bank.head is not None and (shown.head.objects, shown.head.images) == (6, 10)
    report = learn(reviewed, "found", method="head", preset=preset, threshold=0.0, apply=True)
    kept = bank_of_run(reviewed, "ntt_found")
    assert report.changes == shown.changes and report.bank.content_hash == kept.content_hash != bank.content_hash
    np.testing.assert_array_equal(kept.head.weights, report.bank.head.weights)
    assert (kept.vectors == bank.vectors).all() and kept.negatives is None, "a head alone leaves references alone"
    assert ntt.load_bank(reviewed, "found_learned").content_hash == kept.content_hash
    assert str(report.head) in str(report) and str(report.head) in last_outcome(reviewed, "found")["summary"]
    assert [label.to_dict() for label in reviewed.skip(1).first().found.detections] == decided
    assert confidences(reviewed, 11) != before
    again = learn(reviewed, "found", method="head", preset=preset, threshold=0.0)
    assert again.bank.content_hash == kept.content_hash and not again.changed, "learning twice is learning once"
    ntt.segment(reviewed.skip(11), kept, "again", preset=preset, index_dir=tmp_path / "index")
    again = {tuple(np.round(one.bounding_box, 6)): one.confidence for one in reviewed.skip(11).first().again.detections}
    assert again == confidences(reviewed, 11), "the bank carries its head to any view"
    ntt.undo_run(reviewed, "ntt_found")
    assert confidences(reviewed, 11) == before
    assert bank_of_run(reviewed, "ntt_found").content_hash == bank.content_hash


def test_images_that_a_head_has_seen_are_known(reviewed, preset, better):
    bank = learn(reviewed, "found", method="head", preset=preset).bank
    ids = reviewed.skip(1).limit(10).values("id")
    assert sorted(bank.origin[HEAD_IMAGES]) == sorted(ids)
    assert {name for name, what in seen_images(bank).items() if what == "learned"} == set(ids) <= set(contents_of(bank))


def test_auto_adds_a_head_to_the_references(reviewed, preset, better):
    references = learn(reviewed, "found", preset=preset).bank
    both = learn(reviewed, "found", method="auto", preset=preset)
    assert both.bank.head is not None and both.bank.changed(head=None).content_hash == references.content_hash
    assert references.head is None and len(references.vectors) == 2 + 6
    learn(reviewed, "found", method="auto", preset=preset, apply=True)
    assert learn(reviewed, "found", method="auto", preset=preset).bank.content_hash == both.bank.content_hash
    assert learn(reviewed, "found", preset=preset).bank.content_hash == references.content_hash


def test_a_head_that_is_no_better_is_not_used(reviewed, preset, monkeypatch):
    references, bank = learn(reviewed, "found", preset=preset).bank, bank_of_run(reviewed, "ntt_found")
    monkeypatch.setattr(head_fit, "BETTER", 2.0)
    auto, alone = (learn(reviewed, "found", method=method, preset=preset) for method in ("auto", "head"))
    assert auto.bank.content_hash == references.content_hash and alone.bank.content_hash == bank.content_hash
    for report in (auto, alone):
        assert not report.head.used and "not used" in str(report) and f"{report.head.matcher:.3f}" in str(report)
    assert not alone.changed
    assert str(alone).startswith("Learned nothing from") and str(auto).startswith("Learned from")


def test_few_decisions_train_no_head(reviewed, preset):
    ntt.clear_decisions(reviewed.skip(3), "found", classes=["square", "disc"])
    report = learn(reviewed, "found", method="head", preset=preset)
    assert report.bank.head is None and report.head.matcher is None and "not trained" in str(report)
    assert str(report).startswith("Learned nothing from 2 accepted"), "whoever reads on past it would believe it"


def test_a_done_image_without_a_decision_teaches_too(reviewed, preset, better):
    first = learn(reviewed, "found", method="head", preset=preset)
    ntt.mark_done(reviewed.skip(11))
    report = learn(reviewed, "found", method="head", preset=preset)
    assert report.head.images == first.head.images + 1
    assert (report.bank.head.weights != first.bank.head.weights).any()
    assert len(report.bank.origin[HEAD_IMAGES]) == 11
    ntt.mark_done(reviewed.limit(1))
    again = learn(reviewed, "found", method="head", preset=preset)
    assert again.bank.content_hash == report.bank.content_hash, "a reference was not for the run to label"


def test_a_class_that_only_a_person_knows_gets_its_row(reviewed, preset, better):
    for sample in reviewed.skip(1).limit(6):
        sample.found.detections[0].label = "lamp"
        sample.save()
    bank = learn(reviewed, "found", method="head", preset=preset).bank
    assert bank.classes == ("disc", "square", "lamp") and bank.head.weights.shape[0] == 4
    assert bank.shots == {"disc": 1, "square": 1, "lamp": 6}


def box_only(label):
    label.mask, label.tags = None, ["ntt:accepted"]


def nameless(label):
    label.label, label.tags = None, ["ntt:accepted"]


def renamed(label):
    label.label, label.tags = "disc" if label.label == "square" else "square", []


# What is known to be there is no example of what is not.
@pytest.mark.parametrize("change", [box_only, nameless, renamed])
def test_an_object_that_teaches_nothing_is_still_there(reviewed, preset, change):
    """A person is done with the image: its other candidates are wrong, unless one of them may be this object's."""
    sample = reviewed.skip(6).first()
    change(sample.found.detections[0])
    sample.save()
    view = reviewed.select(sample.id)
    review = ReviewedRun.of(view, "found", None, preset)
    done = done_images(view, review.targets, "found")
    decided = decided_labels(view, "found")
    labels = decided[sample.id][1] if decided else []
    size = (sample.metadata.height, sample.metadata.width) if sample.metadata else (90, 120)
    assert not decided_of(labels, size, ["disc", "square"], sample.id in done).done


def test_form_and_command_line_know_the_methods(reviewed, preset, better, monkeypatch, capsys):
    monkeypatch.setattr("fiftyone_ntt.candidates.source.resolve_preset", lambda name: preset)
    from support.app import context

    form = operator("learn").resolve_input(context("learn", reviewed, {"label_field": "found"})).to_json()
    choices = form["type"]["properties"]["method"]["type"]["values"]
    assert choices == ["auto", "references", "head"]
    assert main(["learn", reviewed.name, "--label-field", "found", "--method", "head"]) == 0
    assert "A trained head takes part" in capsys.readouterr().out
    with pytest.raises(InputError, match="method"):
        learn(reviewed, "found", method="magic", preset=preset)
