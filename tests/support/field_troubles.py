"""What people do to the fields of a run with FiftyOne's own tools, and what is to become of the run."""

from __future__ import annotations

import fiftyone as fo

from support.labelled import second, set_to_none


def deleted_and_added(dataset, *fields):
    sample = second(dataset)
    copy = fo.Sample(sample.filepath, **{name: sample[name].copy() for name in ("truth", *fields)})
    if dataset.media_type == "group":
        copy["group"] = sample.group
    dataset.delete_samples([sample.id])
    dataset.add_sample(copy)


def delete_first_label(dataset):
    dataset.delete_labels(ids=[second(dataset).found.detections[0].id], fields="found")


def delete_all_labels(dataset):
    dataset.delete_labels(ids=[label.id for label in second(dataset).found.detections], fields="found")


def then_without_statuses(act):
    def both(dataset):
        act(dataset)
        dataset.delete_sample_field("found_status")

    return both


def delete_both(dataset):
    dataset.delete_sample_fields(["found", "found_status"])


def make_again(dataset):
    dataset.delete_sample_field("found")
    dataset.add_sample_field("found", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)


def rename_both(dataset):
    dataset.rename_sample_fields({"found": "fruit", "found_status": "fruit_status"})


def copy_and_delete(dataset):
    dataset.clone_sample_field("found", "fruit")
    dataset.delete_sample_field("found")


TROUBLES = {
    # what happened: (act, name of the field now, images done again, whether a person deleted something)
    # Public reports of the kind stand above their rows; those without one were found by trial.
    "nothing": (lambda dataset: None, "found", 0, False),
    # voxel51/fiftyone#5781: fields that were deleted are still shown as if they were there
    "label field deleted": (lambda dataset: dataset.delete_sample_field("found"), "found", 3, False),
    "labels and statuses deleted": (delete_both, "found", 3, False),
    # voxel51/fiftyone#212: values of a deleted field come back with the next field of that name
    "label field deleted and made again": (make_again, "found", 3, False),
    # voxel51/fiftyone#3546: clearing a field leaves nulls, with which what came later failed
    "labels cleared": (lambda dataset: dataset.clear_sample_field("found"), "found", 3, False),
    # voxel51/fiftyone#1110, #1543: None means not labelled, and ended evaluation and mistakenness
    "labels of an image set to None": (set_to_none, "found", 1, False),
    "statuses deleted": (lambda dataset: dataset.delete_sample_field("found_status"), "found", 0, False),
    "statuses renamed": (lambda dataset: dataset.rename_sample_field("found_status", "notes"), "found", 0, False),
    "statuses cleared": (lambda dataset: dataset.clear_sample_field("found_status"), "found", 3, False),
    "image deleted and added": (deleted_and_added, "found", 1, False),
    "image added with all": (lambda dataset: deleted_and_added(dataset, "found", "found_status"), "found", 0, False),
    "image added with its status": (lambda dataset: deleted_and_added(dataset, "found_status"), "found", 1, False),
    # voxel51/fiftyone#5594: what is kept by a field's name did not follow when it was renamed or deleted
    "label field renamed": (lambda dataset: dataset.rename_sample_field("found", "fruit"), "fruit", 0, False),
    "both fields renamed": (rename_both, "fruit", 0, False),
    # voxel51/fiftyone#453: copying and deleting was how fields were renamed
    "copied under a name, then deleted": (copy_and_delete, "fruit", 0, False),
    # voxel51/fiftyone#2918: deleting labels failed where the field of some images is null
    "a label deleted": (delete_first_label, "found", 0, True),
    # voxel51/fiftyone#6131: no labels left is not the same as never labelled
    "all labels of an image deleted": (delete_all_labels, "found", 0, True),
    "a label, then the statuses deleted": (then_without_statuses(delete_first_label), "found", 0, True),
    "all of an image, then the statuses": (then_without_statuses(delete_all_labels), "found", 0, True),
}  # fmt: skip
