"""Samples and labels as references: tags, in the grid, in a patches view, through the operators."""

from __future__ import annotations

import fiftyone as fo
import pytest
from fiftyone import ViewField as F
from support.app import context, operator, requests_of

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.references.tagging import likely_field, tagged_references

PLUGIN = "@fiftyone-ntt/ntt"
TAG = "ntt:reference"


def boxes(*labels):
    return fo.Detections(detections=[fo.Detection(label=name, bounding_box=[0.1, 0.1, 0.5, 0.5]) for name in labels])


@pytest.fixture
def labelled(dataset):
    """Four images: two discs and a square, one disc, no label, one square."""
    truths = [boxes("disc", "disc", "square"), boxes("disc"), None, boxes("square")]
    dataset.add_samples([fo.Sample(f"/nowhere/{i}.png", ground_truth=truth) for i, truth in enumerate(truths)])
    if truths[2] is None and not dataset.has_field("ground_truth"):
        raise RuntimeError
    return dataset


def tagged(dataset):
    """Positions of the tagged samples, and (position, class) of the tagged labels."""
    samples, labels = [], []
    dataset.reload()
    for i, sample in enumerate(dataset):
        samples += [i] if TAG in sample.tags else []
        for label in sample.ground_truth.detections if sample.ground_truth else []:
            labels += [(i, label.label)] if TAG in label.tags else []
    return samples, labels


def first_ids(dataset, *positions):
    ids = dataset.values("id")
    return [ids[i] for i in positions]


def test_samples_are_tagged_and_untagged(labelled):
    change = ntt.use_as_references(labelled, sample_ids=first_ids(labelled, 0, 3))
    assert tagged(labelled) == ([0, 3], [])
    assert str(change) == "2 images are references now"
    change = ntt.remove_references(labelled, sample_ids=first_ids(labelled, 1, 3))
    assert tagged(labelled) == ([0], [])
    assert str(change) == "1 image is no reference any more"


def test_a_view_without_ids_is_taken_as_a_whole(labelled):
    assert ntt.use_as_references(labelled.limit(2)).samples == 2
    assert tagged(labelled) == ([0, 1], [])


def test_samples_without_labels_are_told(labelled):
    change = ntt.use_as_references(labelled, sample_ids=first_ids(labelled, 1, 2))
    assert (change.samples, change.unlabelled) == (2, 1)
    assert "1 of them without labels yet" in str(change)


def test_single_labels_are_tagged_and_the_sample_is_not(labelled):
    wanted = labelled.first().ground_truth.detections[2].id
    assert str(ntt.use_as_references(labelled, label_ids=[wanted])) == "1 label is a reference now"
    assert tagged(labelled) == ([], [(0, "square")])
    assert ntt.remove_references(labelled, label_ids=[wanted]).labels == 1
    assert tagged(labelled) == ([], [])


def test_removing_samples_also_removes_their_labels(labelled):
    ntt.use_as_references(labelled, label_ids=[labelled.first().ground_truth.detections[0].id])
    change = ntt.remove_references(labelled, sample_ids=first_ids(labelled, 0))
    assert (change.samples, change.labels) == (0, 1)
    assert tagged(labelled) == ([], [])


def test_patches_are_their_labels(labelled):
    patches = labelled.to_patches("ground_truth")
    square = patches.match(F("ground_truth.label") == "square").values("id")
    assert ntt.use_as_references(patches, sample_ids=square).labels == 2
    assert tagged(labelled) == ([], [(0, "square"), (3, "square")])
    assert ntt.remove_references(patches, sample_ids=square[:1]).labels == 1
    assert tagged(labelled) == ([], [(3, "square")])


def test_a_field_without_detections_is_refused(labelled):
    with pytest.raises(InputError, match="'nope'.*'ground_truth'"):
        ntt.use_as_references(labelled, "nope")


def test_tagged_samples_and_tagged_labels_count_together(labelled):
    ntt.use_as_references(labelled, sample_ids=first_ids(labelled, 1))
    ntt.use_as_references(labelled, label_ids=[labelled.first().ground_truth.detections[2].id])
    both = tagged_references(labelled, TAG, "ground_truth")
    found = both.values("ground_truth.detections.label")
    assert found == [["square"], ["disc"]]


def test_the_likely_field(labelled, dataset):
    assert likely_field(labelled) == "ground_truth"
    labelled.clone_sample_field("ground_truth", "another")
    assert likely_field(labelled) == "ground_truth"
    labelled.limit(1).tag_labels(TAG, "another")
    assert likely_field(labelled) == "another"
    with pytest.raises(InputError, match="'Annotate'"):
        likely_field(fo.Dataset())


def press(name, samples, **request):
    """Runs an operator as its button does; what it returns and what it asks the App to do."""
    ctx = context(name, samples, **request)
    assert not operator(name).resolve_type(ctx, "inputs"), "one click: a form would stand in the way"
    result = operator(name).execute(ctx)
    return result, dict(requests_of(ctx))


def test_one_click_takes_selected_samples(labelled):
    result, asked = press("use_as_reference", labelled, selected=first_ids(labelled, 0, 1))
    assert tagged(labelled) == ([0, 1], [])
    assert asked["notify"]["variant"] == "success" and "2 images" in asked["notify"]["message"]
    assert {"reload_samples", "clear_selected_samples"} <= set(asked)
    assert (result["samples"], result["labels"]) == (2, 0)
    press("remove_reference", labelled, selected=first_ids(labelled, 0))
    assert tagged(labelled) == ([1], [])


def test_selected_labels_go_before_selected_samples(labelled):
    sample = labelled.first()
    label = {"label_id": sample.ground_truth.detections[1].id, "sample_id": sample.id, "field": "ground_truth"}
    press("use_as_reference", labelled, selected=first_ids(labelled, 3), selected_labels=[label])
    assert tagged(labelled) == ([], [(0, "disc")])


def test_one_click_in_a_patches_view(labelled):
    patches = labelled.to_patches("ground_truth")
    press("use_as_reference", patches, selected=patches.values("id")[:1])
    assert tagged(labelled) == ([], [(0, "disc")])


@pytest.mark.parametrize("name", ["use_as_reference", "remove_reference"])
def test_with_nothing_selected_it_says_what_to_do(name, labelled):
    _, asked = press(name, labelled)
    assert asked["notify"]["variant"] == "warning"
    assert "Nothing is selected" in asked["notify"]["message"]
    assert tagged(labelled) == ([], [])
