"""A process that ends while a run begins: the same call goes on, and nobody is told that the run is through."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from support.labelled import IMAGES, KEY, PICTURES, labels_of

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import PRESETS
from fiftyone_ntt.runs import session

pytestmark = pytest.mark.pictures(**PICTURES)

STEPS = ["begin_pass", "open_run", "register", "keep_with_run"]
"""What a run does as it begins, in this order."""


@pytest.fixture
def killed(monkeypatch):
    """Ends a call right before, or right after, one of the steps."""

    def kill(call, step, after):
        real = getattr(session, step)

        def die(*arguments, **keywords):
            if after:
                real(*arguments, **keywords)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(session, step, die)
            with pytest.raises(KeyboardInterrupt):
                call()

    return kill


@pytest.fixture
def by_name(preset, monkeypatch):
    monkeypatch.setitem(PRESETS, preset.name, preset)
    return preset


def add_reference(dataset):
    """The last picture becomes a reference of another class."""
    sample = dataset.last()
    mask = np.ones((36, 36), bool)
    sample["truth"] = fo.Detections(
        detections=[fo.Detection(label="tile", bounding_box=[0.4, 0.2, 0.3, 0.4], mask=mask)]
    )
    sample.tags.append("ntt:reference")
    sample.save()


def states(dataset):
    return [run["state"] for run in ntt.list_runs(dataset)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_first_run_that_dies_begins_again(pictures, by_name, killed, step, after):
    def call():
        return ntt.segment(pictures, None, "found", preset=by_name)

    killed(call, step, after)
    assert "completed" not in states(pictures)
    assert call().labelled == IMAGES
    assert states(pictures) == ["completed"]
    assert ntt.resume_run(pictures, KEY).resumed == IMAGES
    ntt.undo_run(pictures, KEY)
    assert not pictures.has_field("found") and ntt.list_runs(pictures) == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_other_references_are_used_after_all(pictures, by_name, killed, step, after):
    def call():
        return ntt.segment(pictures, None, "found", preset=by_name)

    call()
    before = labels_of(pictures, "found")
    add_reference(pictures)
    killed(call, step, after)
    if (step, after) != ("begin_pass", False):  # then nothing is different yet
        assert states(pictures) == ["interrupted"]
    assert call().labelled == IMAGES - 1
    assert states(pictures) == ["completed"]
    assert ntt.list_runs(pictures)[0]["classes"] == ["disc", "square", "tile"]
    assert ntt.resume_run(pictures, KEY).resumed == IMAGES - 1
    while ntt.list_runs(pictures)[0]["layers"][1:]:
        ntt.undo_run(pictures, KEY)
    assert labels_of(pictures, "found") == before


def test_a_run_without_its_bank_says_what_helps(pictures, by_name, killed):
    killed(lambda: ntt.segment(pictures, None, "found", preset=by_name), "keep_with_run", after=False)
    for call in (lambda: ntt.resume_run(pictures, KEY), lambda: ntt.learn(pictures, "found")):
        with pytest.raises(InputError, match="stopped as it began: call segment as before"):
            call()


def test_what_was_learned_outlives_a_run_that_dies(pictures, by_name, killed):
    """The bank of the pass before still has it."""
    from fiftyone_ntt.references.banks import bank_of_run

    ntt.segment(pictures, None, "found", preset=by_name)
    ntt.accept_labels(pictures, "found", classes=["disc"])
    ntt.learn(pictures, "found", preset=by_name, apply=True)
    learned = [key for key in bank_of_run(pictures, KEY).reference_ids if key.startswith("learned")]
    add_reference(pictures)
    killed(lambda: ntt.segment(pictures, None, "found", preset=by_name), "keep_with_run", after=False)
    ntt.segment(pictures, None, "found", preset=by_name)
    bank = bank_of_run(pictures, KEY)
    assert learned and set(learned) <= set(bank.reference_ids) and "tile" in bank.classes
