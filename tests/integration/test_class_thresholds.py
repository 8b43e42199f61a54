"""A threshold for each class decides which labels a run writes: given, or found again where they were fitted."""

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from support.app import context

import fiftyone_ntt as ntt
from fiftyone_ntt.core import MatchConfig, MemoryBank
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.references.banks import save_bank

pytestmark = pytest.mark.pictures(count=6, references=2)


@pytest.fixture
def two(bank):
    """A bank of two classes: the second looks like the first, a little turned."""
    turned = np.roll(bank.vectors, 1, axis=1)
    return MemoryBank(
        ("square", "disc"), np.concatenate([bank.vectors, bank.vectors + turned]), np.array([0, 0, 1, 1]),
        ("a", "b", "c", "d"), bank.center, bank.preset, bank.weights, bank.preprocessing,
    )  # fmt: skip


def labels(dataset, field):
    return [
        (one.label, round(one.confidence, 5)) for found in dataset.values(f"{field}.detections") for one in found or []
    ]


def test_labels_up_to_the_threshold_of_their_class_are_left_out(pictures, two, preset):
    ntt.segment(pictures, two, "all", preset=preset)
    everything = labels(pictures, "all")
    scores = sorted(score for name, score in everything if name == everything[0][0])
    least = {everything[0][0]: scores[len(scores) // 2]}
    ntt.segment(pictures, two, "some", preset=preset, thresholds=least)
    wanted = [(name, score) for name, score in everything if score > least.get(name, 0) + 1e-5]
    some = [(name, score) for name, score in labels(pictures, "some") if score > least.get(name, 0) + 1e-5]
    assert sorted(some) == sorted(wanted) and len(labels(pictures, "some")) < len(everything)
    record = pictures.get_run_info("ntt_some").config.record
    assert dict(zip(record["classes"], record["thresholds"], strict=True)) == {"square": 0, "disc": 0, **least}


def test_a_run_with_other_thresholds_is_another_run(pictures, two, preset):
    ntt.segment(pictures, two, "found", preset=preset, thresholds={"disc": 0.2})
    assert ntt.segment(pictures, two, "found", preset=preset, thresholds={"disc": 0.2}).resumed == 4
    assert ntt.resume_run(pictures, "ntt_found", preset=preset).resumed == 4
    with pytest.raises(InputError, match="other thresholds"):
        ntt.segment(pictures, two, "found", preset=preset, thresholds={"disc": 0.3})
    with pytest.raises(InputError, match="other thresholds"):
        ntt.segment(pictures, two, "found", preset=preset)


def test_fitted_thresholds_are_found_for_the_same_settings(pictures, two, preset):
    with pytest.raises(InputError, match="no thresholds.*memory bank"):
        ntt.segment(pictures, two, "found", preset=preset, thresholds="fitted")
    ntt.segment(pictures, two, "found", preset=preset)
    fit = ntt.fit_thresholds(pictures, "ntt_found", write_image_labels=False)
    wanted = [fit.least("square"), fit.least("disc")]
    for field, thresholds in (("again", "fitted"), ("given", fit)):
        ntt.segment(pictures, two, field, preset=preset, thresholds=thresholds)
        assert pictures.get_run_info(f"ntt_{field}").config.record["thresholds"] == pytest.approx(wanted)
    assert labels(pictures, "again") == labels(pictures, "given")
    ntt.undo_run(pictures, "ntt_found")
    kept = fo.load_dataset(pictures.name)
    ntt.segment(kept, two, "later", preset=preset, thresholds="fitted", score_threshold=0.01)
    with pytest.raises(InputError, match="no thresholds"):
        ntt.segment(pictures, two, "other", preset=preset, thresholds="fitted", config=MatchConfig(nms_threshold=0.4))


def test_the_form_offers_them_where_there_are_some(pictures, two, preset):
    save_bank(pictures, "ntt_bank", two)
    operator = foo.get_operator("@fiftyone-ntt/ntt/segment")

    def shown():
        form = operator.resolve_input(context("segment", pictures, {"bank": "ntt_bank"}))
        return "Score thresholds of the classes" in str(form.to_json())

    ntt.segment(pictures, "ntt_bank", "found", preset=preset)
    assert not shown()
    ntt.fit_thresholds(pictures, "ntt_found", write_image_labels=False)
    assert shown()


@pytest.mark.parametrize(
    ("thresholds", "error", "text"),
    [
        ("learned", InputError, "'fitted'"),
        ({"lamp": 0.5}, InputError, "lamp.*square, disc"),
        ({"disc": 2}, InputError, "'disc'"),
        ({"disc": "high"}, WrongTypeError, "'disc'"),
        ([0.5, 0.5], WrongTypeError, "got list"),
    ],
)
def test_refusals(pictures, two, preset, thresholds, error, text):
    with pytest.raises(error, match=text):
        ntt.segment(pictures, two, "found", preset=preset, thresholds=thresholds)
    assert not pictures.has_field("found")
