"""A run is for the images that its view showed when it was called, whatever the view would show later."""

from __future__ import annotations

import fiftyone as fo
import pytest
from bson import ObjectId, json_util
from fiftyone import ViewField as F
from support.labelled import IMAGES, KEY, PICTURES, second

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.runs import run_samples
from fiftyone_ntt.runs.control import StoredRun
from fiftyone_ntt.runs.run_samples import RunSamples
from fiftyone_ntt.runs.states import change_state, state_of

pytestmark = pytest.mark.pictures(**PICTURES)


def prepare(dataset):
    """Two images, the second and the third, are marked in several ways."""
    chosen = dataset.skip(1).limit(2)
    chosen.tag_samples("todo")
    dataset.set_values("split", [None, "a", "a", None])
    dataset.set_values("rank", [0.9, 0.2, 0.1, 0.8])
    dataset.clone_sample_field("truth", "other")
    dataset.set_values("other", [None, *dataset.values("other")[1:3], None])
    return chosen.values("id")


def tag_another(dataset):
    dataset.untag_samples("todo")
    dataset.skip(3).tag_samples("todo")


SHIFTS = {
    "untagged": (lambda dataset: dataset.match_tags("todo"), lambda dataset: dataset.untag_samples("todo")),
    "another tagged": (lambda dataset: dataset.match_tags("todo"), tag_another),
    "values changed": (
        lambda dataset: dataset.sort_by("rank").limit(2),
        lambda dataset: dataset.set_values("rank", [0.9, 0.8, 0.1, 0.2]),
    ),
    "field deleted": (
        lambda dataset: dataset.exists("split"), lambda dataset: dataset.delete_sample_field("split")
    ),
    "field renamed": (
        lambda dataset: dataset.exists("split"), lambda dataset: dataset.rename_sample_field("split", "part")
    ),
    "labels deleted": (
        lambda dataset: dataset.filter_labels("other", F("label") == "disc"),
        lambda dataset: dataset.delete_sample_field("other"),
    ),
    "matched labels deleted": (
        lambda dataset: dataset.match_labels(fields="other", filter=F("label") == "disc"),
        lambda dataset: dataset.delete_sample_field("other"),
    ),
}  # fmt: skip


def labelled_ids(dataset):
    return [key for key, labels in zip(*dataset.values(["id", "found"]), strict=True) if labels is not None]


def as_before(dataset, view):
    """The run's state as earlier versions noted it: the stages of the view, without the references."""
    stages = view.match_tags("ntt:reference", bool=False)._serialize(include_uuids=False)

    def change(state):
        del state["samples"]
        return {**state, "views": [[json_util.dumps(stage) for stage in stages]]}

    change_state(dataset, KEY, change)


@pytest.mark.parametrize("what", SHIFTS)
def test_a_run_stays_with_its_images(pictures, bank, preset, what):
    view, shift = SHIFTS[what]
    chosen = prepare(pictures)
    assert ntt.segment(view(pictures), bank, "found", preset=preset).labelled == 2
    shift(pictures)
    assert sorted(StoredRun.load(pictures, KEY).targets.values("id")) == sorted(chosen)
    ntt.reject_labels(pictures.select(chosen[0]), "found")
    report = ntt.learn(pictures, "found", preset=preset, apply=True)
    assert (report.applied.done, labelled_ids(pictures)) == (2, chosen)
    (listed,) = ntt.list_runs(pictures)
    assert (listed["state"], listed["counts"]["left"]) == ("completed", 0)
    resumed = ntt.resume_run(pictures, KEY, preset=preset)
    assert (resumed.resumed, resumed.done) == (2, 0)


@pytest.mark.parametrize("what", SHIFTS)
def test_a_run_of_an_earlier_version_keeps_what_it_labelled(pictures, bank, preset, what):
    view, shift = SHIFTS[what]
    chosen = prepare(pictures)
    ntt.segment(view(pictures), bank, "found", preset=preset)
    as_before(pictures, view(pictures))
    shift(pictures)
    assert set(chosen) <= set(StoredRun.load(pictures, KEY).targets.values("id"))
    (listed,) = ntt.list_runs(pictures)
    assert listed["state"] == "completed"
    assert ntt.segment(pictures, bank, "found", preset=preset).resumed == 2
    assert len(labelled_ids(pictures)) == IMAGES


def test_a_view_that_is_gone_cannot_be_resumed(pictures, bank, preset):
    prepare(pictures)
    view = pictures.filter_labels("other", F("label") == "disc")
    ntt.segment(view, bank, "found", preset=preset)
    as_before(pictures, view)
    pictures.delete_sample_field("other")
    with pytest.raises(InputError, match="their view is gone.*call segment as before"):
        ntt.resume_run(pictures, KEY, preset=preset)
    again = ntt.segment(pictures.limit(2), bank, "found", preset=preset)
    assert (again.resumed, again.done) == (1, 0)
    assert ntt.resume_run(pictures, KEY, preset=preset).resumed == 2


@pytest.mark.parametrize("before", [False, True], ids=["now", "an earlier version"])
def test_a_run_on_all_is_for_what_comes_later(labelled, preset, before):
    """But for references: those that it has labelled stay its own, those that it has not are left alone."""
    dataset, _ = labelled
    if before:
        as_before(dataset, dataset)
    copies = [fo.Sample(dataset.first().filepath, tags=tags) for tags in ([], ["ntt:reference"])]
    new, reference = dataset.add_samples(copies)
    turned = second(dataset)
    turned.tags.append("ntt:reference")
    turned.save()
    targets = StoredRun.load(dataset, KEY).targets.values("id")
    assert new in targets and turned.id in targets
    assert reference not in targets and dataset.first().id not in targets
    assert ntt.resume_run(dataset, KEY, preset=preset).done == 1


def test_calls_on_parts_and_on_all_add_up(pictures, bank, preset):
    ids = pictures.values("id")
    wanted = [ids[1:2], ids[1:3], ids[1:3], ids[1:]]
    for view, expected in zip(
        [pictures.select(ids[1]), pictures.limit(3), pictures.select(ids[2]), pictures], wanted, strict=True
    ):
        ntt.segment(view, bank, "found", preset=preset)
        assert StoredRun.load(pictures, KEY).targets.values("id") == expected
        assert ntt.list_runs(pictures)[0]["counts"]["left"] == 0
    ntt.segment(pictures.limit(1), bank, "found", preset=preset, include_references=True)
    assert StoredRun.load(pictures, KEY).targets.values("id") == ids


@pytest.mark.parametrize("change", ["rename", "delete another", "activate another"])
def test_a_run_on_a_slice_stays_with_its_images(pictures, bank, preset, change):
    dataset = fo.Dataset(f"{pictures.name}-groups", persistent=True)
    try:
        dataset.add_group_field("group", default="left")
        for sample in pictures.skip(1):
            group = fo.Group()
            for name in ("left", "right"):
                dataset.add_sample(fo.Sample(sample.filepath, group=group.element(name)))
        ntt.segment(dataset.select_group_slices("left"), bank, "found", preset=preset)
        expected = dataset.select_group_slices("left").values("id")
        if change == "rename":
            dataset.rename_group_slice("left", "front")
        elif change == "delete another":
            dataset.delete_group_slice("right")
        else:
            dataset.group_slice = "right"
        assert StoredRun.load(dataset, KEY).targets.values("id") == expected
        assert ntt.resume_run(dataset, KEY, preset=preset).resumed == IMAGES
    finally:
        dataset.delete()


def ids_of(count):
    """As FiftyOne makes them: a second, a process, and a counter; a third of them is in a view."""
    return frozenset(f"65f0a1b2c3d4e5f607{3 * number:06x}" for number in range(count))


@pytest.mark.parametrize("but", [False, True])
def test_ids_of_a_large_view_take_a_byte_or_two_each(but):
    samples = RunSamples(ids_of(100_000), but)
    facts = samples.packed()
    assert RunSamples.unpacked(facts) == samples
    assert len(facts["ids"]) < 2 * 100_000
    assert all(map(ObjectId.is_valid, samples.ids))


@pytest.mark.parametrize(("ids", "kept"), [(2, True), (3, False)])
def test_more_ids_than_a_query_takes_are_not_noted(monkeypatch, ids, kept):
    monkeypatch.setattr(run_samples, "_MOST_IDS", 2)
    assert (RunSamples(ids_of(ids)).packed() is not None) == kept


@pytest.mark.parametrize(
    ("first", "then", "together"),
    [
        (("ab", False), ("bc", False), ("abc", False)),
        (("ab", True), ("bc", True), ("b", True)),
        (("ab", True), ("bc", False), ("a", True)),
        (("ab", False), ("bc", True), ("c", True)),
    ],
)
def test_samples_of_two_calls(first, then, together):
    made = [RunSamples(frozenset(ids), but) for ids, but in (first, then, together)]
    assert made[0] | made[1] == made[2]


def test_no_samples_are_noted_too(pictures, bank, preset):
    ntt.segment(pictures.limit(0), bank, "found", preset=preset)
    assert len(StoredRun.load(pictures, KEY).targets) == 0
    assert RunSamples.unpacked(state_of(pictures, KEY)["samples"]) == RunSamples(frozenset())
