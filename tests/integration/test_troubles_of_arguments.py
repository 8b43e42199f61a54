"""Arguments of a notebook: what numpy or a comprehension gives is taken, and what cannot be meant is refused."""

from itertools import product

import numpy as np
import pytest
from support.labelled import KEY, PICTURES, all_labels

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError

pytestmark = pytest.mark.pictures(**PICTURES)
DECISIONS = [ntt.accept_labels, ntt.reject_labels, ntt.clear_decisions]


NO_SCORES = [
    (float("nan"), WrongTypeError),
    (np.float32("nan"), WrongTypeError),
    (float("inf"), WrongTypeError),
    ("0.1", WrongTypeError),
    (True, WrongTypeError),
    ([0.1], WrongTypeError),
    (2, InputError),
    (-0.5, InputError),
    (np.int64(2), InputError),
]


def test_a_score_that_none_can_be_decides_nothing(labelled):
    dataset, _ = labelled
    ntt.accept_labels(dataset.limit(2), "found")
    before = [label.tags for label in all_labels(dataset)]
    for decide, name, (value, error) in product(DECISIONS, ("above", "below"), NO_SCORES):
        with pytest.raises(error, match=f"'{name}'.*number|'{name}' between 0 and 1"):
            decide(dataset, "found", **{name: value})
    dataset.reload()
    assert [label.tags for label in all_labels(dataset)] == before


SERVICES = {
    "accept": lambda dataset, number, folder: ntt.accept_labels(dataset, "found", above=number),
    "reject": lambda dataset, number, folder: ntt.reject_labels(dataset, "found", below=number),
    "export": lambda dataset, number, folder: (
        ntt.export_labels(
            dataset, folder / f"{type(number).__name__}", "found", only="all", score_threshold=number
        ).labels
    ),
    "evaluate": lambda dataset, number, folder: str(
        ntt.evaluate(dataset, "found", "truth", score_threshold=number, eval_key="matches")
    ),
    "masks": lambda dataset, number, folder: (
        ntt.to_segmentation(dataset, "found", f"masks_{type(number).__name__}", score_threshold=number).maps
    ),
    "learn": lambda dataset, number, folder: (
        ntt.accept_labels(dataset.limit(2), "found"),
        str(ntt.learn(dataset, "found", threshold=number)),
    )[1],
    "doubtful": lambda dataset, number, folder: ntt.doubtful(dataset, "found", threshold=number).values("id"),
    "lower": lambda dataset, number, folder: (
        ntt.segment(dataset, "shapes", f"weak_{type(number).__name__}", score_threshold=0.9),
        ntt.lower_threshold(dataset, f"ntt_weak_{type(number).__name__}", number).instances,
    )[1],
    "fit": lambda dataset, number, folder: str(ntt.fit_thresholds(dataset, KEY, precision=number)),
    "segment": lambda dataset, number, folder: (
        ntt.segment(dataset, "shapes", f"strong_{type(number).__name__}", score_threshold=number).instances
    ),
    "config": lambda dataset, number, folder: (
        ntt.segment(
            dataset, "shapes", f"set_{type(number).__name__}", config=ntt.MatchConfig(score_threshold=number)
        ).instances
    ),
    "classes": lambda dataset, number, folder: (
        ntt.segment(dataset, "shapes", f"of_{type(number).__name__}", thresholds={"disc": number}).instances
    ),
}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_number_of_numpy_is_that_number(named, tmp_path, service):
    """A database takes none of them: some failed when all the work was done."""
    dataset, _ = named
    for number in (np.float32(0.25), np.int64(0)):
        other = dataset.clone()
        plain = service(other, float(number), tmp_path / f"plain-{number}")
        other = dataset.clone()
        assert service(other, number, tmp_path) == plain


COUNTS = {
    "limit": lambda dataset, bank, count: len(all_of(ntt.doubtful(dataset, "found", limit=count))),
    "images": lambda dataset, bank, count: len(list(ntt.preview(dataset, bank, images=count))),
    "points": lambda dataset, bank, count: ntt.segment(dataset, bank, "points", points_per_side=count).labelled,
    "instances": lambda dataset, bank, count: ntt.segment(dataset, bank, "best", max_instances=count).instances,
    "setting": lambda dataset, bank, count: (
        ntt.segment(dataset, bank, "best", config=ntt.MatchConfig(max_instances=count, score_threshold=0.0)).instances
    ),
    "suggest": lambda dataset, bank, count: len(
        ntt.advise_references(dataset, bank, label_field="truth", reviewed="found", suggest=count).suggestions
    ),
    "cards": lambda dataset, bank, count: len(ntt.describe_references(dataset, "truth", most=count)),
    "references": lambda dataset, bank, count: len(
        all_of(ntt.select_references(dataset, count, "truth", preset=ntt.load_bank(dataset, bank).preset), "truth")
    ),
}


def all_of(view, field="found"):
    return view.values(f"{field}.detections.id", unwind=True)


@pytest.mark.parametrize("service", COUNTS.values(), ids=COUNTS)
def test_a_count_is_a_whole_number_of_any_kind(named, service):
    dataset, bank = named
    plain = service(dataset.clone(), bank, 2)
    for count in (np.int64(2), 2.0):
        assert service(dataset.clone(), bank, count) == plain
    for count in ("2", 1.5, float("nan"), True, -1):
        with pytest.raises(NttError, match="expected"):
            service(dataset, bank, count)
