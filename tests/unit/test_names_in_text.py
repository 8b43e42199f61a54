"""What strangers called something is one line in every text that is printed, and nothing a terminal obeys.

A row a text that somebody prints; commands are in `tests/integration/test_troubles_of_names.py`.
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from fiftyone_ntt import errors
from fiftyone_ntt.evaluation.coco import PresenceScores, Scores
from fiftyone_ntt.evaluation.left_out import listed_counts
from fiftyone_ntt.evaluation.summary import ClassResult, EvaluationResults
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.references.gallery import ReferenceCard, ReferenceCards
from fiftyone_ntt.review.advice_report import Advice, ClassNeed, ReferenceAdvice
from fiftyone_ntt.review.thresholds import _notes
from fiftyone_ntt.runs.preview import PreviewImage

NAME = "fig\n\x1b[31mall 9 9 1.000\x07"
PLAIN = "fig \\x1b[31mall 9 9 1.000\\x07"
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NttError)]


def results():
    nothing = Scores(*[None] * len(Scores.__dataclass_fields__))
    row = ClassResult(NAME, 1, 1, nothing, nothing, None, None, None)
    return EvaluationResults(nothing, nothing, presence(), (row,), 1)


def presence():
    values = dict.fromkeys(PresenceScores.__dataclass_fields__)
    return PresenceScores(**{**values, "micro": SimpleNamespace(precision=1.0, recall=1.0, f1=1.0), "threshold": 0.5})


def bank():
    return MemoryBank((NAME,), np.ones((1, 4), np.float32), [0], ("a",), np.zeros(4, np.float32), "lite")


def advice():
    reference = ReferenceAdvice("a", None, None, NAME, NAME, outlier=True)
    return Advice([reference], {NAME: ClassNeed(1, 0.5, True)})


def thresholds():
    fitted = [SimpleNamespace(name=name, labels=9, threshold=1.0) for name in ("all", NAME)]
    decided = SimpleNamespace(right=np.ones(60, bool), wrong=np.ones(60, bool))
    return " ".join(_notes(decided, fitted, 0.9))


TEXTS = {
    "evaluation": results,
    "memory bank": lambda: repr(bank()),
    "reference cards": lambda: repr(ReferenceCards([ReferenceCard("a", "b", NAME, "box")])),
    "counts of an evaluation": lambda: listed_counts({NAME: 3}, "label"),
    "advice": advice,
    "thresholds": thresholds,
    "preview": lambda: PreviewImage("a", NAME, {NAME: 1}),
    "failed preview": lambda: PreviewImage("a", NAME, {}, error="not there"),
    **{kind.__name__: lambda kind=kind: kind(f"image file not found: {NAME}") for kind in ERRORS},
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_name_is_plain_in_what_is_printed(what):
    text = str(TEXTS[what]())
    assert PLAIN in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", text)
    assert not [line for line in text.split("\n") if line.startswith(("all 9", "\\x1b"))], "no row of a table is forged"


def test_an_error_keeps_the_words_it_was_given():
    assert str(errors.InputError("expected a text, got 'ünï'; give one")) == "expected a text, got 'ünï'; give one"
    assert ERRORS, "every kind of error is a row above"


@pytest.mark.parametrize(
    ("names", "like", "text"),
    [
        ([], None, "none"),
        (["cat", "dog"], None, "cat, dog"),
        (["cat", "dog", "eel", "fox"], None, "cat, dog, eel and 1 more"),
        (["cat", "dog", "eel", "fox", "foxes"], "foxs", "foxes, fox, cat and 2 more"),  # what was probably meant
        (["dog", "cat"], "cat", "dog, cat"),
        ([f"{'x' * 60}{i}" for i in range(100)], "x" * 60, f"{', '.join(['x' * 60 + '...'] * 3)} and 97 more"),
        (["a", "a", "a", "a", "b"], "b", "b, a and 3 more"),
        (map(str, range(2000)), None, "0, 1, 2 and 1,997 more"),
        ([NAME, "x" * 99], None, f"{PLAIN}, {'x' * 60}..."),
    ],
)
def test_many_names_stay_a_list_in_a_sentence(names, like, text):
    assert errors.listing(names, 3, like) == text
