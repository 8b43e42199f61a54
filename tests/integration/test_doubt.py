"""The most doubtful labels first."""

import fiftyone as fo
import pytest
from fiftyone import ViewField as F

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError, WrongTypeError

LABELS = {  # picture -> name: confidence, similarity, alternative_similarity, predicted_iou
    "one": {"a": (0.9, 0.9, 0.1, 0.95), "b": (0.52, 0.6, 0.3, 0.99)},
    "two": {"c": (0.45, 0.9, 0.2, 0.9), "d": (0.8, 0.8, 0.79, 0.7)},
    "three": {"e": (0.1, 0.4, 0.1, 0.6), "f": (0.505, 0.51, None, None)},
    "four": {},
}


@pytest.fixture
def unsure(dataset):
    for picture, labels in LABELS.items():
        detections = [
            fo.Detection(label=name, confidence=scores[0], similarity=scores[1], alternative_similarity=scores[2],
                         predicted_iou=scores[3], bounding_box=[0, 0, 1, 1])
            for name, scores in labels.items()
        ]  # fmt: skip
        dataset.add_sample(fo.Sample(f"/{picture}.png", tags=[picture], ntt=fo.Detections(detections=detections)))
    return dataset


def shown(view):
    return [(sample.tags[0], {one.label for one in sample.ntt.detections}) for sample in view]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"by": "threshold", "threshold": 0.5}, [("three", {"f"}), ("one", {"b"}), ("two", {"c"})]),
        ({"by": "classes"}, [("two", {"d"}), ("one", {"b"}), ("three", {"e"})]),
        ({"by": "mask"}, [("three", {"e"}), ("two", {"c", "d"})]),
        ({"by": "merged"}, [("three", {"e"}), ("two", {"c"}), ("one", {"b"})]),
        ({"by": "threshold", "threshold": 0.5, "classes": ["a", "c"]}, [("two", {"c"}), ("one", {"a"})]),
        ({"by": "mask", "classes": "c"}, [("two", {"c"})]),
    ],
)
def test_order(unsure, arguments, expected):
    assert shown(ntt.doubtful(unsure, limit=3, **arguments)) == expected


def test_what_a_view_hides_is_not_in_doubt(unsure):
    seen = unsure.filter_labels("ntt", F("label").is_in(["a", "e"]))
    assert shown(ntt.doubtful(seen, threshold=0.5, limit=2)) == [("one", {"a"}), ("three", {"e"})]
    assert not ntt.doubtful(unsure.filter_labels("ntt", F("label") == "nope"), limit=2)


def test_what_is_decided_is_no_longer_in_doubt(unsure):
    first = unsure.match_tags("three").first().ntt.detections
    ntt.accept_labels(unsure, label_ids=[first[0].id])
    ntt.reject_labels(unsure, classes=["d"])
    assert shown(ntt.doubtful(unsure, by="mask", limit=2)) == [("two", {"c"}), ("one", {"a"})]


def test_only_inside_the_view_and_through_the_app(unsure):
    view = ntt.doubtful(unsure.match_tags(["one", "four"]), by="threshold", threshold=0.5)
    assert shown(view) == [("one", {"a", "b"})]
    again = fo.DatasetView._build(unsure, view._serialize())
    assert shown(again) == shown(view)
    assert ntt.doubtful(unsure, by="mask", limit=3).to_patches("ntt").count() == 3


def test_refusals(unsure):
    unknown = ({"classes": ["bird"]}, "'bird'; there is: a, b")
    for arguments, text in [({"by": "x"}, "one of threshold"), ({"limit": 0}, "at least 1|between 1"), unknown]:
        with pytest.raises(InputError, match=text):
            ntt.doubtful(unsure, **arguments)
    with pytest.raises(WrongTypeError, match="whole images"):
        ntt.doubtful(unsure.to_patches("ntt"))
