"""Accepting and rejecting labels: exclusive tags, on exactly the labels that were meant, masks untouched."""

import fiftyone as fo
import numpy as np
import pytest
from support.app import context, operator, requests_of

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.errors import InputError, WrongTypeError, counted

NAMES = ("accept_labels", "reject_labels", "clear_decisions")
SCORES = (0.2, 0.5, 0.8)


@pytest.fixture
def labelled(dataset):
    """Four pictures, each with a cat at every score and a dog at 0.8."""
    for i in range(4):
        labels = [label("cat", score) for score in SCORES] + [label("dog", 0.8)]
        truth = fo.Detections(detections=[label("cat", 0.8)])
        dataset.add_sample(fo.Sample(f"/picture-{i}.png", ntt=fo.Detections(detections=labels), ground_truth=truth))
    return dataset


def label(name, score):
    mask = np.eye(3, dtype=bool)
    return fo.Detection(label=name, confidence=score, bounding_box=[0.1, 0.1, 0.4, 0.4], mask=mask, predicted_iou=0.9)


def tags(dataset, field="ntt"):
    """(class, score) -> set of tags, for each picture."""
    return [{(one.label, one.confidence): set(one.tags) for one in sample[field].detections} for sample in dataset]


def ids(dataset, name="cat", score=0.8):
    return [one.id for s in dataset for one in s.ntt.detections if (one.label, one.confidence) == (name, score)]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ({}, {("cat", 0.2), ("cat", 0.5), ("cat", 0.8), ("dog", 0.8)}),
        ({"classes": ["cat"]}, {("cat", 0.2), ("cat", 0.5), ("cat", 0.8)}),
        ({"classes": "dog"}, {("dog", 0.8)}),
        ({"above": 0.5}, {("cat", 0.8), ("dog", 0.8)}),
        ({"below": 0.5}, {("cat", 0.2), ("cat", 0.5)}),
        ({"above": 0.2, "below": 0.5, "classes": ["cat"]}, {("cat", 0.5)}),
        ({"classes": ["bird"]}, set()),
    ],
)
@pytest.mark.parametrize("decide", NAMES)
def test_what_is_meant_and_nothing_else(labelled, decide, choice, chosen):
    before = [{key: {"ntt:accepted"} for key in row} for row in tags(labelled)]
    assert ntt.accept_labels(labelled) == 16
    assert tags(labelled) == before
    changed = getattr(ntt, decide)(labelled.limit(2), **choice)
    after = {"accept_labels": {"ntt:accepted"}, "reject_labels": {"ntt:rejected"}, "clear_decisions": set()}[decide]
    expected = [{key: after if key in chosen else old for key, old in row.items()} for row in before[:2]]
    assert tags(labelled) == expected + before[2:]
    assert changed == (0 if decide == "accept_labels" else 2 * len(chosen))
    assert all(value == set() for row in tags(labelled, "ground_truth") for value in row.values())
    np.testing.assert_array_equal(labelled.last().ntt.detections[0].mask, np.eye(3, dtype=bool))


def test_labels_by_id_keep_their_other_tags(labelled):
    labelled.tag_labels(["mine"], label_fields="ntt")
    chosen = ids(labelled)[:3]
    assert ntt.reject_labels(labelled, label_ids=chosen) == 3
    assert ntt.reject_labels(labelled, label_ids=chosen) == 0
    assert labelled.count_label_tags("ntt") == {"mine": 16, "ntt:rejected": 3}
    assert ntt.accept_labels(labelled, label_ids=chosen[:1]) == 1
    assert labelled.count_label_tags("ntt") == {"mine": 16, "ntt:rejected": 2, "ntt:accepted": 1}


@pytest.mark.parametrize(
    "change", [{"$set": {"ntt.detections.0.tags": None}}, {"$unset": {"ntt.detections.0.tags": 1}}]
)
def test_a_label_without_tags_keeps_no_other_from_its_decision(labelled, change):
    """FiftyOne tags no label of a sample of which one has ``null`` for tags, and says nothing."""
    database_collection(labelled).update_one({"ntt.detections.0": {"$exists": True}}, change)
    assert ntt.accept_labels(labelled) == 16
    assert labelled.count_label_tags("ntt") == {"ntt:accepted": 16}
    assert ntt.clear_decisions(labelled) == 16


def test_patches(labelled):
    patches = labelled.to_patches("ntt")
    chosen = ids(labelled)[1:3]
    assert ntt.accept_labels(patches, label_ids=chosen) == 2
    assert [row[("cat", 0.8)] for row in tags(labelled)] == [set(), {"ntt:accepted"}, {"ntt:accepted"}, set()]
    assert ntt.reject_labels(patches, classes=["cat"], above=0.5) == 4
    assert labelled.count_label_tags("ntt") == {"ntt:rejected": 4} == patches.count_label_tags("ntt")


def test_labels_that_a_view_hides_are_left_alone(labelled):
    hidden = labelled.filter_labels("ntt", fo.ViewField("label") == "dog")
    assert ntt.reject_labels(hidden) == 4
    assert labelled.count_values("ntt.detections.label") == {"cat": 12, "dog": 4}


@pytest.mark.parametrize(
    ("field", "arguments", "error", "text"),
    [
        ("nope", {}, InputError, "field 'nope'"),
        ("filepath", {}, WrongTypeError, "Detections"),
        ("ntt", {"label_ids": ["x"]}, InputError, "ids of labels"),
    ],
)
def test_refusals(labelled, field, arguments, error, text):
    with pytest.raises(error, match=text):
        ntt.accept_labels(labelled, field, **arguments)


def execute(name, view, params=None, **request):
    """The form's fields (none: it runs at once), then what it did, and what it asks the App to do."""
    ctx = context(name, view, params, **request)
    form = operator(name).resolve_input(ctx)
    result = operator(name).execute(ctx)
    fields = None if form is None else set(form.type.properties)
    return fields, result, {name for name, _ in requests_of(ctx)}


def selected(labelled, field="ntt", number=0):
    sample = labelled.skip(number).first()
    return [{"field": field, "label_id": one.id, "sample_id": sample.id} for one in sample[field].detections[:2]]


@pytest.mark.parametrize("name", NAMES)
def test_operators_act_on_selected_labels_at_once(labelled, name):
    ntt.reject_labels(labelled) if name != "reject_labels" else ntt.accept_labels(labelled)
    fields, result, requests = execute(name, labelled.view(), selected_labels=selected(labelled))
    assert fields is None and result["changed"] == 2
    assert {"reload_samples", "clear_selected_labels", "notify"} <= requests


def test_in_an_open_image_they_ask_for_one_confirmation(labelled):
    """A button there opens a form in any case, and stays empty for ever where there is none."""
    sample = labelled.first()
    request = {"selected_labels": selected(labelled), "current_sample": sample.id}
    fields, result, _ = execute("reject_labels", labelled.view(), **request)
    assert fields == {"_selected"} and result["changed"] == 2


def test_operators_act_on_selected_patches(labelled):
    patches = labelled.to_patches("ntt")
    chosen = patches.skip(4).limit(3).values("id")
    assert execute("accept_labels", patches, selected=chosen)[1]["changed"] == 3
    assert [sum(len(value) for value in row.values()) for row in tags(labelled)] == [0, 3, 0, 0]


@pytest.mark.parametrize(("request_of", "changed"), [("nothing", 12), ("images", 6), ("open image", 3)])
def test_operators_ask_where_no_label_is_selected(labelled, request_of, changed):
    images = labelled.values("id")
    request = {"images": {"selected": images[:2]}, "open image": {"current_sample": images[0]}}.get(request_of, {})
    fields, result, _ = execute("accept_labels", labelled.view(), {"classes": ["cat"]}, **request)
    assert {"label_field", "classes", "above", "below"} < fields and "label_ids" not in fields
    assert result["changed"] == changed
    assert result["summary"] == f"{changed} labels accepted."


@pytest.mark.parametrize(
    ("arguments", "words", "decided"),
    [
        (["accept"], "16 labels accepted", 16),
        (["accept", "--classes", "dog"], "4 labels accepted", 4),
        (["reject", "--below", "0.2", "--tag", "checked"], "1 label rejected", 1),
        (["accept", "--above", "0.5", "--classes", "cat", "--saved-view", "two"], "2 labels accepted", 2),
        (["accept", "--field", "ground_truth", "--above", "0.9"], "0 labels accepted", 0),
    ],
)
def test_on_the_command_line(arguments, words, decided, labelled, capsys):
    from fiftyone_ntt.cli.main import main

    labelled.limit(1).tag_samples("checked")
    labelled.save_view("two", labelled.limit(2))
    command, *options = arguments
    assert main([command, labelled.name, *options]) == 0
    assert capsys.readouterr().out.strip() == words
    tagged = sum(
        bool(found) for field in ("ntt", "ground_truth") for s in tags(labelled, field) for found in s.values()
    )
    assert tagged == decided
    assert main(["clear", labelled.name]) == 0
    assert capsys.readouterr().out.strip() == f"{counted(decided, 'label')} without a decision now"


def test_undecided_labels_only(labelled):
    """What somebody decided stays, by every entry point alike."""
    ntt.reject_labels(labelled, classes=["dog"])
    assert ntt.accept_labels(labelled.limit(1), above=0.5, undecided=True) == 1, "the dog stays rejected"
    assert execute("accept_labels", labelled.limit(2).view(), {"above": 0.5, "undecided": True})[1]["changed"] == 1
    from fiftyone_ntt.cli.main import main

    assert main(["accept", labelled.name, "--above", "0.5", "--undecided"]) == 0
    assert labelled.count_label_tags("ntt") == {"ntt:rejected": 4, "ntt:accepted": 4}


def test_a_description_goes_before_a_selection(labelled):
    request = {"selected_labels": selected(labelled)}
    assert execute("accept_labels", labelled.view(), {"classes": ["dog"]}, **request)[1]["changed"] == 4
    assert execute("reject_labels", labelled.view(), **request)[1]["changed"] == 2


def test_an_empty_list_is_never_everything(labelled):
    """Whoever found nothing to put into a list does not mean all labels."""
    for decide in (ntt.reject_labels, operator("reject_labels")):
        decide(labelled, label_ids=[])
        with pytest.raises(InputError, match="at least one text in 'classes'"):
            decide(labelled, classes=[])
    assert execute("reject_labels", labelled.view(), {"label_ids": []})[1]["changed"] == 0
    assert labelled.count_label_tags("ntt") == {}
    with pytest.raises(InputError, match="at least one text in 'classes'"):
        operator("export_labels")(labelled, "/exported", classes=[])
