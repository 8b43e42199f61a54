"""Thresholds fitted to a review: kept with the run, used by the review tab and the operator."""

import fiftyone as fo
import numpy as np
import pytest
from support.app import PanelSession, context, operator

import fiftyone_ntt as ntt
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.references.banks import keep_with_run
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.runs.record import RunRecord, register

MIDDLES = {"cat": 0.35, "dog": 0.65}  # the score at which a label of the class is as likely right as not
IMAGES = 160


@pytest.fixture
def labelled(dataset):
    """A run that found a cat and a dog in every image; ``truth`` says which of them are right. No bird anywhere."""
    rng = np.random.default_rng(0)
    register(dataset, record())
    samples = []
    for i in range(IMAGES):
        labels = []
        for name, middle in MIDDLES.items():
            score = float(rng.uniform(0.02, 1))
            right = bool(rng.uniform() < 1 / (1 + np.exp(-14 * (score - middle))))
            labels.append(label(name, score, truth=right))
        samples.append(fo.Sample(f"/picture-{i}.png", ntt=fo.Detections(detections=labels)))
    dataset.add_samples(samples)
    one = np.eye(4, dtype=np.float32)
    vectors = np.stack([one[0], one[0] + 0.5 * one[3], one[1], one[1] + 0.5 * one[3], one[2]])
    classes = ("cat", "dog", "bird")
    bank = MemoryBank(classes, vectors, np.array([0, 0, 1, 1, 2]), tuple("abcde"), preset="lite")
    keep_with_run(dataset, "run", bank)
    return dataset


def record(bank_hash="0" * 64):
    return RunRecord("run", "ntt", ["cat", "dog", "bird"], "lite", bank_hash, {}, {"score_threshold": 0.0}, 4)


def label(name, score, **attributes):
    return fo.Detection(label=name, confidence=score, similarity=score, predicted_iou=0.9, bounding_box=[0, 0, 1, 1],
                        **attributes)  # fmt: skip


def decide(dataset, images, classes=("cat", "dog"), sides=(True, False)):
    """A person decides on what is in these images, as the truth says."""
    for side, act in ((True, ntt.accept_labels), (False, ntt.reject_labels)):
        ids = [
            one.id
            for sample in dataset[images]
            for one in sample.ntt.detections
            if one.truth is side and one.label in classes
        ]
        if side in sides and ids:
            act(dataset, label_ids=ids)


def true_figures(dataset, images, name, threshold):
    labels = [one for sample in dataset[images] for one in sample.ntt.detections if one.label == name]
    above = [one.truth for one in labels if one.confidence > threshold]
    return sum(above) / len(above), sum(above) / sum(one.truth for one in labels)


def test_fitted_on_some_images_it_holds_on_the_others(labelled):
    decide(labelled, slice(0, 60))
    fit = ntt.fit_thresholds(labelled, "run")
    assert fit.classes["cat"].threshold < 0.45 < 0.5 < fit.classes["dog"].threshold
    for name in MIDDLES:
        one = fit.classes[name]
        assert (one.basis, one.right + one.wrong, one.labels) == ("decisions", 60, IMAGES)
        precision, recall = true_figures(labelled, slice(60, IMAGES), name, one.threshold)
        assert one.precision == pytest.approx(precision, abs=0.08)
        assert one.recall == pytest.approx(recall, abs=0.08)
    assert fit.calibration_after < 0.75 * fit.calibration_before
    bird = fit.classes["bird"]
    assert (bird.basis, bird.threshold, bird.labels, bird.precision) == ("all classes", fit.overall.threshold, 0, None)


def test_a_precision_that_was_asked_for(labelled):
    decide(labelled, slice(0, 80))
    fit = ntt.fit_thresholds(labelled, "run", precision=0.95)
    for name in MIDDLES:
        assert fit.classes[name].precision >= 0.95
        assert true_figures(labelled, slice(80, IMAGES), name, fit.classes[name].threshold)[0] > 0.88
    assert "at least 0.95" in str(fit)


def test_it_is_kept_and_forgotten_with_what_the_scores_mean(labelled):
    assert ntt.load_thresholds(labelled, "run") is None
    decide(labelled, slice(0, 20))
    fit = ntt.fit_thresholds(labelled, "run")
    assert ntt.load_thresholds(labelled, "run") == fit
    register(labelled, record("1" * 64))
    assert ntt.load_thresholds(labelled, "run") is None, "the run was made again with other references"


@pytest.mark.parametrize(("side", "words"), [(True, "accepted labels and rejected none"), (False, "rejected labels")])
def test_decisions_of_one_kind(labelled, side, words):
    decide(labelled, slice(0, 60), sides=[side])
    fit = ntt.fit_thresholds(labelled, "run")
    assert words in str(fit) and fit.calibration_after is None
    dogs = [one for sample in labelled[:60] for one in sample.ntt.detections if one.label == "dog"]
    scores = [one.confidence for one in dogs if one.truth is side]
    threshold = fit.classes["dog"].threshold
    assert threshold < min(scores) if side else threshold >= max(scores)


@pytest.mark.parametrize(
    ("accepted", "rejected", "guessed", "said"),
    [(0, 1, True, False), (2, 2, True, False), (60, 1, False, False), (60, 4, False, False), (5, 5, False, True)],
)
def test_precision_is_only_spoken_of_from_enough_decisions(accepted, rejected, guessed, said, labelled):
    for side, most, act in ((True, accepted, ntt.accept_labels), (False, rejected, ntt.reject_labels)):
        labels = [one.id for sample in labelled for one in sample.ntt.detections if one.truth is side]
        act(labelled, label_ids=labels[:most])
    fit = ntt.fit_thresholds(labelled, "run")
    assert (fit.guessed, fit.measured) == (guessed, said)
    assert all((one.precision is None) is not said for one in (fit.overall, fit.classes["cat"]))
    needed = f"from 5 accepted and 5 rejected labels on; you have {accepted} and {rejected}."
    assert (needed in str(fit)) is not said and ("expect" in str(fit)) is said and (fit.needed == "") is said
    kept = ntt.load_thresholds(labelled, "run")
    assert (kept.measured, kept.needed) == (fit.measured, fit.needed)
    form = str(
        operator("fit_thresholds").resolve_input(context("fit_thresholds", labelled, {"run_key": "run"})).to_json()
    )
    assert (needed in form) is not said
    session = PanelSession(labelled, "review").send("on_review_fitted")
    assert ("expect" in session.state["review_expected"]) is said


def test_one_class_reviewed_and_few_decisions(labelled):
    decide(labelled, slice(0, 15), classes=["cat"])
    fit = ntt.fit_thresholds(labelled, "run")
    assert "15 decisions" in str(fit)
    assert fit.classes["dog"].basis == "all classes"
    assert fit.classes["dog"].threshold == fit.overall.threshold
    assert 0.05 < fit.classes["cat"].threshold < 0.6


def test_without_decisions_the_references_have_to_do(labelled):
    fit = ntt.fit_thresholds(labelled, "run")
    assert {one.basis for one in fit.classes.values()} == {"references"}
    assert "Nobody has decided" in str(fit) and fit.calibration_before is None
    # References of one class are alike to 0.9, those of others to 0.2 at most: the line is between.
    assert 0.2 < fit.classes["cat"].threshold < 0.9
    assert fit.guessed and fit.classes["cat"].precision is None and fit.overall.recall is None


def test_with_one_reference_each_the_scores_have_to_do(labelled):
    bank = MemoryBank(("cat", "dog"), np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), preset="lite")
    keep_with_run(labelled, "run", bank)
    fit = ntt.fit_thresholds(labelled, "run")
    assert {one.basis for one in fit.classes.values()} == {"scores"} and "the scores alone" in str(fit)
    assert fit.overall.threshold == pytest.approx(0.5, abs=0.12), "scores are spread evenly"


def test_edited_labels_are_right_and_drawn_ones_take_no_part(labelled):
    decide(labelled, slice(0, 30))
    sample = labelled[100:].first()
    sample.ntt.detections[0].tags = ["ntt:edited"]
    sample.ntt.detections.append(fo.Detection(label="cat", bounding_box=[0, 0, 1, 1], tags=["ntt:accepted"]))
    sample.save()
    cat = ntt.fit_thresholds(labelled, "run").classes["cat"]
    assert (cat.labels, cat.right + cat.wrong) == (IMAGES, 31)


def test_is_the_class_in_the_image(labelled):
    decide(labelled, slice(0, 100))
    fit = ntt.fit_thresholds(labelled, "run")
    verdict = fit.presence({"cat": [0.1, 0.9], "dog": [0.3], "lamp": [0.99]})
    assert verdict["cat"].present and verdict["cat"].probability > 0.9
    assert not verdict["dog"].present and verdict["dog"].probability < 0.1
    assert not verdict["bird"].present and verdict["bird"].probability < 0.02
    assert verdict["lamp"].present, "a class that nobody knows counts as an average one"


def test_refusals(labelled):
    for arguments, error, text in [
        (("nothing",), InputError, "labelling run 'nothing'.*'run'"),
        (("run", 1.5), InputError, "'precision'.*1.5"),
        (("run", "high"), WrongTypeError, "'precision'.*number"),
    ]:
        with pytest.raises(error, match=text):
            ntt.fit_thresholds(labelled, arguments[0], precision=(*arguments, None)[1])
    labelled.set_values("ntt", [fo.Detections()] * IMAGES)
    with pytest.raises(InputError, match="no labels"):
        ntt.fit_thresholds(labelled, "run")


def test_the_operator(labelled):
    decide(labelled, slice(0, 30), classes=["cat"])
    fit = operator("fit_thresholds")
    ctx = context("fit_thresholds", labelled, {"run_key": "run", "precision": 0.9})
    form = fit.resolve_input(ctx).to_json()
    for words in ("of 160 labels", "No decision yet on dog", "run (field ntt)", "Least precision"):
        assert words in str(form)
    result = fit.execute(ctx)
    assert [row["name"] for row in result["rows"]] == ["all classes", "cat", "dog", "bird"]
    assert result["rows"][1]["precision"] == "90%" and result["rows"][1]["basis"] == "decisions"
    assert "30 decisions" in result["summary"]
    assert "expected right" in str(fit.resolve_output(ctx).to_json())
    ntt.clear_decisions(labelled)
    assert "guess from the references" in str(fit.resolve_input(ctx).to_json())


def test_in_the_review_tab(labelled):
    decide(labelled, slice(0, 60))
    table_of(labelled, "ntt").refreshed()
    session = PanelSession(labelled, "review")
    assert session.state.get("review_expected") is None
    session.send("on_review_fit")
    assert session.prompts[-1]["params"] == {"run_key": "run"}
    fit = ntt.fit_thresholds(labelled, "run")
    session.send("on_review_fitted")
    assert session.state["review_threshold"] == round(fit.overall.threshold, 3)
    assert "(from 120 decisions)" in session.state["review_expected"]
    assert session.state["review_expected"] in session.drawn
    session.send("on_review_class", value="dog").send("on_review_suggest")
    assert session.state["review_threshold"] == round(fit.classes["dog"].threshold, 3)
    assert f"{fit.classes['dog'].precision:.0%} of the labels above" in session.state["review_expected"]
    session.send("on_review_threshold", value=1.0)
    assert "no label is above" in session.state["review_expected"]


def test_the_tab_after_the_form_without_its_state(labelled):
    fit = ntt.fit_thresholds(labelled, "run")
    session = PanelSession(labelled, "review")
    session.state = {}
    session.send("on_review_fitted", original_params={"run_key": "run"})
    assert session.state["review_field"] == "ntt" and not session.view._stages
    assert session.state["review_threshold"] == round(fit.overall.threshold, 3)
    assert "are a guess" in session.state["review_expected"]
