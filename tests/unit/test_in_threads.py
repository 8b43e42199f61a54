"""Work on parts of a view in several threads: in order, a few ahead, and over when the caller is."""

import threading
from collections import Counter

import pytest

from fiftyone_ntt.dataset import parts
from fiftyone_ntt.dataset.parts import in_threads


@pytest.fixture(autouse=True)
def cores(monkeypatch):
    """As on a machine of many cores, of which four are used."""
    monkeypatch.setattr(parts.os, "sched_getaffinity", lambda _: set(range(32)), raising=False)


def test_results_come_in_the_order_of_the_items():
    first = threading.Event()

    def work(item):
        if item == 0:
            assert first.wait(60)  # the others are through before it
        elif item == 3:
            first.set()
        return item * item

    assert list(in_threads(work, range(40))) == [i * i for i in range(40)]


def test_no_more_are_taken_than_a_few_ahead():
    taken, ahead = [], Counter()
    for done, _ in enumerate(in_threads(str, (taken.append(i) or i for i in range(50)))):
        ahead[len(taken) - done] += 1
    assert len(taken) == 50 and max(ahead) == parts._MOST_THREADS + 1


def test_an_error_is_the_callers_and_ends_all():
    before, seen = threading.active_count(), []

    def work(item):
        seen.append(item)
        if item == 2:
            raise ValueError("item 2")

    with pytest.raises(ValueError, match="item 2"):
        list(in_threads(work, range(1000)))
    assert len(seen) < 20 and threading.active_count() == before


def test_a_caller_who_stops_leaves_no_thread():
    before = threading.active_count()
    results = in_threads(str, iter(int, 1))  # zeros without end
    assert next(results) == "0"
    results.close()
    assert threading.active_count() == before
