"""Many images at once: nothing is lost, an error stays where it belongs, threads end, queues stay short."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import torch
from support.fake_models import FakeProposals, fake_segmenter

from fiftyone_ntt.candidates import stream as stream_module
from fiftyone_ntt.candidates.stream import OUTCOMES_AHEAD
from fiftyone_ntt.core import CompactImage, Segmenter, compact, stream
from fiftyone_ntt.errors import InputError, MissingWeightsError
from fiftyone_ntt.models.devices import use_torch_threads


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (300 + number % 3, 280, 3), dtype=np.uint8)


def items(count: int) -> list:
    return [(str(number), lambda number=number: image(number)) for number in range(count)]


def content(found: CompactImage) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(array).tobytes() for name, array in found.to_arrays().items()}


THREADS = ("ntt-reader", "ntt-device", "ntt-finisher")


def never() -> list[Segmenter]:
    raise AssertionError("no model was needed")


@pytest.fixture(autouse=True)
def every_thread_ends():
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name in THREADS]


class Failing(FakeProposals):
    """Fails for images of one size, in one of the stages."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def encode(self, pixels, frame):
        if self.stage == "encode" and frame.image_size == (301, 280):
            raise RuntimeError("encoder")
        embedding = super().encode(pixels, frame)
        return None if self.stage == "decode" and frame.image_size == (301, 280) else embedding


@pytest.mark.parametrize(("readers", "finishers", "devices"), [(1, 1, 1), (3, 2, 1), (2, 2, 2), (4, 1, 3)])
def test_every_item_comes_out_once_whatever_the_threads(readers, finishers, devices):
    segmenters = [fake_segmenter() for _ in range(devices)]
    outcomes = list(stream(segmenters, items(20), lambda _, found: found, readers=readers, finishers=finishers))
    assert sorted(outcome.key for outcome in outcomes) == sorted(str(number) for number in range(20))
    plain = fake_segmenter()
    for outcome in outcomes:
        assert outcome.error is None and outcome.seconds > 0
        assert content(outcome.value) == content(compact(plain.candidates(image(int(outcome.key)))))


def test_both_devices_get_work():
    first, second = fake_segmenter(), fake_segmenter()
    seen, together = set(), threading.Barrier(2, timeout=10)
    for name, segmenter in (("first", first), ("second", second)):

        def decode(encoded, name=name, plain=segmenter.decode):
            if name not in seen:
                seen.add(name)
                together.wait()  # passes only if the other device is at work at the same time
            return plain(encoded)

        segmenter.decode = decode
    assert len(list(stream([first, second], items(6), lambda key, _: key))) == 6
    assert seen == {"first", "second"}


@pytest.mark.parametrize("stage", ["read", "not an image", "encode", "decode", "finish"])
@pytest.mark.parametrize("images_per_batch", [1, 3])
def test_an_error_is_its_items_alone(stage, images_per_batch):
    def load(number):
        if stage == "read" and number % 3 == 1:
            raise OSError("reader")
        return np.zeros((4, 4), np.uint8) if stage == "not an image" and number % 3 == 1 else image(number)

    def finish(key, found):
        if stage == "finish" and int(key) % 3 == 1:
            raise ValueError("finisher")
        return len(found.candidates)

    segmenter = fake_segmenter()
    segmenter.proposal_model, segmenter.images_per_batch = Failing(stage), images_per_batch
    work = [(str(number), lambda number=number: load(number)) for number in range(12)]
    outcomes = {int(outcome.key): outcome for outcome in stream([segmenter], work, finish)}
    assert sorted(outcomes) == list(range(12))
    for number, outcome in outcomes.items():
        assert (outcome.error is not None) == (number % 3 == 1), (number, outcome.error)
        assert (outcome.value is None) == (number % 3 == 1)


def test_indexed_items_touch_no_model():
    found = compact(fake_segmenter().candidates(image(0)))
    outcomes = list(stream(never, [(str(number), lambda: found) for number in range(9)], lambda _, given: given))
    assert len(outcomes) == 9
    assert all(outcome.value is found for outcome in outcomes)


def test_segmenters_are_made_once_when_an_image_needs_one():
    made, found = [], compact(fake_segmenter().candidates(image(0)))

    def make():
        time.sleep(0.05)  # long enough for all readers to ask
        made.append(fake_segmenter())
        return made

    work = [("indexed", lambda: found), *items(8)]
    assert all(outcome.error is None for outcome in stream(make, work, lambda key, _: key, readers=4))
    assert len(made) == 1


@pytest.mark.parametrize(("make", "error"), [(lambda: [], InputError), (None, MissingWeightsError), (None, SystemExit)])
def test_without_models_the_caller_gets_the_error(make, error):
    calls = []

    def failing():
        calls.append(1)
        raise error("no such file")

    with pytest.raises(error):
        list(stream(make or failing, items(5), lambda key, _: key, readers=3))
    assert len(calls) <= 1


def test_a_slow_caller_holds_the_readers_back():
    started = []

    def load(number):
        started.append(number)
        return image(number)

    readers, finishers = 2, 1
    segmenter = fake_segmenter(points_per_side=1)
    work = [(str(number), lambda number=number: load(number)) for number in range(60)]
    outcomes = stream([segmenter], work, lambda key, _: key, readers=readers, finishers=finishers)
    next(outcomes)
    waited = -1
    while waited != len(started):  # until nothing moves any more
        waited = len(started)
        time.sleep(0.3)
    # taken by the caller, then what the queues hold and what each thread has in its hands
    queues = OUTCOMES_AHEAD + finishers + 2 * segmenter.images_per_batch
    assert len(started) <= 1 + queues + readers + 1 + finishers
    assert len(list(outcomes)) == 59


@pytest.mark.parametrize("way", ["close", "throw"])
def test_leaving_early_stops_and_joins_all_threads(way):
    started = []

    def load(number):
        started.append(number)
        return image(number)

    work = [(str(number), lambda number=number: load(number)) for number in range(200)]
    outcomes = stream([fake_segmenter()], work, lambda key, _: key, readers=3, finishers=2)
    next(outcomes)
    assert any(thread.name in THREADS for thread in threading.enumerate())
    if way == "close":
        outcomes.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            outcomes.throw(KeyboardInterrupt)
    assert not any(thread.name in THREADS for thread in threading.enumerate())
    assert len(started) < 100


def test_leaving_while_the_models_load_leaves_no_thread_behind():
    loading = threading.Event()

    def make():
        loading.set()
        time.sleep(0.2)
        return [fake_segmenter()]

    found = compact(fake_segmenter().candidates(image(0)))
    outcomes = stream(make, [("indexed", lambda: found), *items(5)], lambda key, _: key)
    next(outcomes)
    assert loading.wait(10)
    outcomes.close()


def test_stages_run_at_the_same_time():
    """Reading an item, the model on the one before it and finishing the one before that all wait for each other."""
    segmenter, count = fake_segmenter(points_per_side=1), 8
    meeting, plain, decoded = threading.Barrier(3), segmenter.decode, itertools.count()

    def meet(number, first, last):
        """The first items have nobody before them, the last ones nobody after them."""
        if first <= number < count - last:
            meeting.wait(timeout=60)

    def load(number):
        meet(number, 2, 0)
        return image(number)

    def decode(encoded):
        meet(next(decoded), 1, 1)
        return plain(encoded)

    segmenter.decode = decode
    work = [(str(number), lambda number=number: load(number)) for number in range(count)]
    outcomes = list(stream([segmenter], work, lambda key, _: meet(int(key), 0, 2), readers=1))
    assert [outcome.error for outcome in outcomes] == [None] * count


class ClockOfEachThread:
    """Stands still but for what a thread says it spends; no two threads agree on the time."""

    def __init__(self):
        self._local = threading.local()

    def perf_counter(self):
        return getattr(self._local, "now", threading.get_native_id() * 10**6)

    def spend(self, seconds):
        self._local.now = self.perf_counter() + seconds


def test_seconds_are_those_of_the_work_and_not_of_waiting(monkeypatch):
    clock, segmenter = ClockOfEachThread(), fake_segmenter(points_per_side=1)
    monkeypatch.setattr(stream_module, "time", clock)
    for name in ("get", "put"):  # a queue is where a stage waits for another
        plainly = getattr(stream_module._Queue, name)
        monkeypatch.setattr(
            stream_module._Queue, name, lambda *given, do=plainly, **more: (clock.spend(1000), do(*given, **more))[1]
        )
    plain = segmenter.decode
    segmenter.decode = lambda encoded: (clock.spend(2), plain(encoded))[1]
    work = [(str(number), lambda number=number: (clock.spend(1), image(number))[1]) for number in range(6)]
    outcomes = list(stream([segmenter], work, lambda key, _: clock.spend(4)))
    assert [outcome.seconds for outcome in outcomes] == [1 + 2 + 4] * 6


def test_only_the_devices_use_several_torch_threads():
    before, seen = torch.get_num_threads(), {}
    torch.set_num_threads(3)
    try:
        segmenter = fake_segmenter()

        def noted(stage, function):
            def call(*arguments):
                seen.setdefault(stage, set()).add(torch.get_num_threads())
                return function(*arguments)

            return call

        segmenter.prepare, segmenter.decode = noted("read", segmenter.prepare), noted("decode", segmenter.decode)
        segmenter.encode = noted("encode", segmenter.encode)
        list(stream([segmenter], items(6), noted("finish", lambda key, _: key), readers=2, finishers=2))
        later = threading.Thread(target=noted("later", lambda: None))
        later.start()
        later.join()
        assert seen == {"read": {1}, "encode": {3}, "decode": {3}, "finish": {1}, "later": {3}}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_number_of_torch_threads_is_one_threads_own():
    """Torch takes over the process's number at a thread's first question, so an earlier setting would be lost."""
    before, seen = torch.get_num_threads(), []
    set_here, ask = threading.Event(), threading.Event()

    def other():
        use_torch_threads(1)
        set_here.set()
        ask.wait(10)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert set_here.wait(10)
        torch.set_num_threads(3)
        ask.set()
        thread.join()
        assert seen == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_no_items_no_threads():
    assert list(stream(never, [], lambda key, _: key)) == []


@pytest.mark.parametrize("wrong", [{"readers": 0}, {"finishers": 0}])
def test_at_least_one_worker_each(wrong):
    with pytest.raises(InputError, match="at least one"):
        list(stream(never, items(1), lambda key, _: key, **wrong))


@pytest.mark.parametrize("segmenters", [1, 2])
def test_real_networks_give_what_they_give_one_image_at_a_time(segmenters, tmp_path):
    from support.tiny_checkpoints import tiny_preset

    from fiftyone_ntt.models.presets import clear_loaded, load_segmenters

    (segmenter,) = load_segmenters(tiny_preset(tmp_path, points_per_side=2), "cpu")
    outcomes = list(stream([segmenter] * segmenters, items(3), lambda _, found: found))
    clear_loaded()
    assert [outcome.error for outcome in outcomes] == [None] * 3
    for outcome in outcomes:
        wanted = compact(segmenter.candidates(image(int(outcome.key))))
        assert np.array_equal(outcome.value.vectors, wanted.vectors)
        assert np.array_equal(outcome.value.candidates.runs, wanted.candidates.runs)
        # The factors of the tokens are found by iteration: with another number of threads they round otherwise.
        np.testing.assert_allclose(outcome.value.tokens.full(), wanted.tokens.full(), atol=0.02)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_give_what_one_gives(tmp_path):
    from support.tiny_checkpoints import tiny_preset

    from fiftyone_ntt.models.presets import load_segmenters

    preset = tiny_preset(tmp_path)
    found = {}
    for devices in ("cuda:0", "cuda:0,cuda:1"):
        segmenters = load_segmenters(preset, devices)
        outcomes = list(stream(segmenters, items(8), lambda _, found: found))
        assert all(outcome.error is None for outcome in outcomes)
        found[devices] = {outcome.key: content(outcome.value) for outcome in outcomes}
    assert found["cuda:0"] == found["cuda:0,cuda:1"]
