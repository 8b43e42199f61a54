"""A person's own field that has the name of one beside a run's labels: it stays as it is."""

from __future__ import annotations

import fiftyone as fo
import pytest
from support.app import form
from support.labelled import KEY, PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError

pytestmark = pytest.mark.pictures(**PICTURES)

CHECKED = "checked by Ann"


def add_text(dataset, name):
    dataset.add_sample_field(name, fo.StringField)
    dataset.set_values(name, [CHECKED] * len(dataset))


def add_document(dataset, name):
    dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.DynamicEmbeddedDocument)
    dataset.set_values(name, [fo.DynamicEmbeddedDocument(by=CHECKED) for _ in range(len(dataset))], dynamic=True)


def add_labels(dataset, name):
    dataset.add_sample_field(name, fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    dataset.set_values(name, [fo.Classification(label=CHECKED) for _ in range(len(dataset))])


def add_text_beside_a_key(dataset, name):
    """FiftyOne, asked for a part of a text, finds the dataset's own field of that name."""
    add_text(dataset, name)
    add_text(dataset, "run_key")


KINDS = [add_text, add_document, add_labels, add_text_beside_a_key]


@pytest.mark.parametrize("add", KINDS)
@pytest.mark.parametrize("overwrite", [False, True], ids=["first", "overwriting"])
def test_a_run_refuses_a_status_field_of_a_person(pictures, bank, preset, add, overwrite):
    add(pictures, "found_status")
    if overwrite:
        pictures.clone_sample_field("truth", "found")
    before = [str(value) for value in pictures.values("found_status")]
    with pytest.raises(InputError, match="'found_status' holds something else.*rename_sample_field"):
        ntt.segment(pictures.limit(2), bank, "found", preset=preset, overwrite=overwrite)
    assert [str(value) for value in pictures.values("found_status")] == before
    assert ntt.list_runs(pictures) == [] and pictures.has_field("found") == overwrite
    pictures.rename_sample_field("found_status", "checked")
    assert ntt.segment(pictures.limit(2), bank, "found", preset=preset, overwrite=overwrite).labelled == 1
    ntt.undo_run(pictures, KEY)
    assert [str(value) for value in pictures.values("checked")] == before


def test_the_form_refuses_a_status_field_of_a_person(named):
    dataset, bank_name = named
    add_text(dataset, "other_status")
    _, errors = form("segment", dataset, {"bank": bank_name, "label_field": "other"})
    assert "other_status" in str(errors)


@pytest.mark.parametrize("add", KINDS)
@pytest.mark.parametrize("deleted", [False, True], ids=["there", "labels deleted"])
def test_a_renamed_run_leaves_a_persons_status_field(labelled, bank, preset, add, deleted):
    """There the run has no statuses any more: it can be told of, and undone, and does not go on."""
    dataset, _ = labelled
    add(dataset, "fruit_status")
    before = [str(value) for value in dataset.values("fruit_status")]
    dataset.rename_sample_field("found", "fruit")
    assert [run["label_field"] for run in ntt.list_runs(dataset)] == ["fruit"]
    if deleted:
        dataset.delete_sample_field("fruit")
    with pytest.raises(InputError, match="'fruit_status' holds something else"):
        ntt.segment(dataset, bank, "fruit", run_key=KEY, preset=preset)
    assert [str(value) for value in dataset.values("fruit_status")] == before
    ntt.undo_run(dataset, KEY)
    assert [str(value) for value in dataset.values("fruit_status")] == before
    assert ntt.list_runs(dataset) == [] and not dataset.has_field("fruit")


@pytest.mark.parametrize("name", ["found_present", "found_absent"])
def test_a_persons_field_of_image_labels_keeps_its_name(labelled, name):
    dataset, _ = labelled
    add_text(dataset, name)
    dataset.rename_sample_field("found", "fruit")
    assert [run["label_field"] for run in ntt.list_runs(dataset)] == ["fruit"]
    assert dataset.values(name) == [CHECKED] * len(dataset)
    ntt.undo_run(dataset, KEY)
    assert dataset.values(name) == [CHECKED] * len(dataset)
