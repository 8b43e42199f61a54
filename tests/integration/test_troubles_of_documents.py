"""Labels as strangers' programs leave them in the database: one that is no label costs itself, on every path.

What FiftyOne's own importers never write, and other programs do: tags that are ``null`` or a text, no ids, names that
are numbers. See also ``support.strangers``, about masks, boxes and files.
"""

import fiftyone as fo
import pytest
from bson import Decimal128
from support.hostile import detection, picture, reference, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.storage import database_collection

IMAGES = 2


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


@pytest.fixture
def shelf(dataset, tmp_path):
    """A reference and two images that a run has labelled."""
    dataset.add_sample(reference(tmp_path / "reference.png", detection()))
    for number in range(IMAGES):
        picture().save(tmp_path / f"{number}.png")
        labels = fo.Detections(detections=[detection(), detection()])
        dataset.add_sample(fo.Sample(str(tmp_path / f"{number}.png"), ground_truth=labels))
    bank = ntt.build_memory_bank(dataset.match_tags("ntt:reference"), name="kept")
    ntt.segment(dataset, bank)
    return dataset


def without(key):
    return lambda label: {name: value for name, value in label.items() if name != key}


def put(**values):
    return lambda label: {**label, **values}


# What is wrong with a label -> what becomes of a good one, and whether it can still be decided on.
LABELS = {
    "no tags": (without("tags"), True),
    "tags null": (put(tags=None), True),
    "tags a text": (put(tags="ntt:accepted"), False),
    "tags numbers": (put(tags=[1, None]), True),
    "no id": (without("_id"), False),
    "id a text": (put(_id="x"), False),
    "name a number": (put(label=3), True),
    "no name": (put(label=None), True),
    "names": (put(label=["fig", "date"]), True),
    "box of decimals": (put(bounding_box=[Decimal128("0.1")] * 4), True),
    "box without area": (put(bounding_box=[0.1, 0.1, 0.0, 0.0]), True),
    "score not a number": (put(confidence=float("nan")), True),
    "scores": (put(confidence=[0.5]), True),
    "score beyond all": (put(confidence=1e300), True),
    "fingerprint a number": (put(written=3), True),
    "quality a text": (put(predicted_iou="good"), True),
    "mask file a number": (put(mask=None, mask_path=3), True),
    "another class": (put(_cls="Polyline"), True),
    "no class": (without("_cls"), True),
    "an unknown class": (put(_cls="Nonsense"), True),
    "look of another type": (put(alternative=3, similarity="x"), True),
    "attributes a text": (put(attributes="x"), True),
}
# What may stand in place of an image's labels.
LISTS = {
    "a mapping": {"_cls": "Detections", "detections": {"a": 1}},
    "a text": {"_cls": "Detections", "detections": "x"},
    "null": {"_cls": "Detections", "detections": None},
    "of nothing": {"_cls": "Detections", "detections": [None, 3, "x"]},
    "nowhere": {"_cls": "Detections"},
}


def first_labelled(shelf):
    return database_collection(shelf).find_one({"ntt.detections.0": {"$exists": True}})


def take_every_path(shelf, folder):
    """What each path says; the labels of the other image must come through on all of them."""
    yield ntt.evaluate(shelf, "ntt", "ground_truth").images
    assert ntt.export_labels(shelf, folder / "export", only="all").labels >= 1
    assert ntt.to_segmentation(shelf).maps >= 1
    assert len(ntt.doubtful(shelf)) >= 1
    assert ntt.judge_presence(shelf).images == IMAGES


@pytest.mark.parametrize("what", LABELS)
def test_one_label_that_is_none_costs_itself(shelf, tmp_path, what):
    change, can_decide = LABELS[what]
    document = first_labelled(shelf)
    count = sum(len(labels.detections) for labels in shelf.values("ntt") if labels)
    bad = change(document["ntt"]["detections"][0])
    truth = change(document["ground_truth"]["detections"][0])
    update = {"$set": {"ntt.detections.0": bad, "ground_truth.detections.0": truth}}
    database_collection(shelf).update_one({"_id": document["_id"]}, update)
    assert list(take_every_path(shelf, tmp_path)) == [IMAGES]
    assert ntt.accept_labels(shelf) >= count - 1
    samples = database_collection(shelf).find({"ntt": {"$ne": None}})
    tags = [label.get("tags") for sample in samples for label in sample["ntt"]["detections"]]
    tagged = sum(isinstance(each, list) and "ntt:accepted" in each for each in tags)
    assert tagged == count - (not can_decide), "each of the others has its tag"
    assert sum(ntt.learn(shelf).decisions["fig"].values()) >= count - 1
    assert ntt.clear_decisions(shelf) >= count - 1
    assert ntt.segment(shelf, "kept", overwrite=True).failed == 0
    assert ntt.undo_run(shelf, "ntt_ntt") >= 0 and ntt.undo_run(shelf, "ntt_ntt") >= count - 2


@pytest.mark.parametrize("what", LISTS)
def test_a_list_of_labels_that_is_none_costs_one_image(shelf, tmp_path, what):
    document = first_labelled(shelf)
    database_collection(shelf).update_one({"_id": document["_id"]}, {"$set": {"ntt": LISTS[what]}})
    assert list(take_every_path(shelf, tmp_path)) == [IMAGES]
    assert ntt.accept_labels(shelf) > 0 and sum(ntt.learn(shelf).decisions["fig"].values()) > 0
    assert ntt.segment(shelf, "kept", overwrite=True).failed == 0
    ntt.undo_run(shelf, "ntt_ntt")
