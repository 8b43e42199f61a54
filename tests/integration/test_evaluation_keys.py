"""An evaluation replaces nothing but what an evaluation of the same key wrote."""

import fiftyone as fo
import pytest
from support.app import form
from support.labelled import PICTURES

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.errors import InputError

pytestmark = pytest.mark.pictures(**PICTURES)

# An evaluation writes the key itself, and two names that begin with it, on every label; and counts on every sample.
TAKEN = [
    *("label", "tags", "confidence", "mask", "mask_path", "bounding_box", "index", "attributes", "has_mask", "copy"),
    *("written", "predicted_iou", "similarity", "alternative", "reference", "ntt_uncounted"),
    *("mine", "theirs", "undeclared", "half", "checked"),
]


def with_own_attributes(dataset):
    """What a person keeps on labels and samples: declared or not, under the key or a name that begins with it."""
    for field, name in (("found", "mine"), ("truth", "theirs"), ("truth", "half_id")):
        dataset.add_sample_field(f"{field}.detections.{name}", fo.StringField)
    dataset.set_values("checked_tp", [5] * len(dataset))
    first = {"found.detections.0": {"$exists": True}}
    database_collection(dataset).update_one(first, {"$set": {"found.detections.0.undeclared_iou": 0.5}})


def test_an_evaluation_key_replaces_nothing(labelled):
    dataset, _ = labelled
    with_own_attributes(dataset)
    before = list(database_collection(dataset).find())
    for key in TAKEN:
        with pytest.raises(InputError, match=f"eval_key.*{key}.*another key"):
            ntt.evaluate(dataset, "found", "truth", eval_key=key)
        if key != "undeclared":  # which only a look at every label tells
            _, refused = form("evaluate", dataset, {"label_field": "found", "gt_field": "truth", "eval_key": key})
            assert "another key" in refused["gt_field"]
    assert list(database_collection(dataset).find()) == before and not dataset.list_evaluations()


def test_an_evaluation_key_may_be_used_again(labelled):
    dataset, _ = labelled
    with_own_attributes(dataset)
    dataset.clone_sample_field("found", "other")
    dataset.add_sample_field("other.detections.scored", fo.StringField)
    first = str(ntt.evaluate(dataset, "found", "truth", eval_key="scored"))
    assert str(ntt.evaluate(dataset, "found", "truth", eval_key="scored")) == first
    with pytest.raises(InputError, match="other.detections.scored"):
        ntt.evaluate(dataset, "other", "truth", eval_key="scored")
    assert dataset.get_evaluation_info("scored").config.pred_field == "found"


def test_scores_of_masks_replace_no_field(labelled):
    dataset, _ = labelled
    for field in ("found", "truth"):
        ntt.to_segmentation(dataset, field, f"{field}_masks", classes=["square", "disc"])
    for end in ("accuracy", "precision", "recall"):
        dataset.set_values(f"of_{end}_{end}", [0.5] * len(dataset))
        with pytest.raises(InputError, match=f"of_{end}_{end}.*another key"):
            ntt.evaluate(dataset, "found_masks", "truth_masks", eval_key=f"of_{end}", include_references=True)
        assert dataset.values(f"of_{end}_{end}") == [0.5] * len(dataset)
