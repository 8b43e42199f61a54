"""The images to review next: what they are chosen from, and what the candidate cache says of them."""

import shutil
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import fiftyone as fo
import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.review import next_images as subject

pytestmark = pytest.mark.pictures(count=7)


@pytest.fixture
def labelled(pictures, preset, tmp_path, monkeypatch):
    """A reference and six images that were labelled from it; from here on no model may run."""
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset)
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=tmp_path / "index")
    monkeypatch.setattr(candidates, "load_segmenters", None)
    return pictures


def ids(view):
    return view.values("id")


def with_labels(dataset, scores):
    """Gives each image a label of the run for each score."""
    label = next(label for sample in dataset.skip(1) for label in sample.found.detections)
    for sample, values in zip(dataset.skip(1), scores, strict=True):
        labels = [label.copy() for _ in values]
        for one, value in zip(labels, values, strict=True):
            one.confidence = value
        sample.found = fo.Detections(detections=labels)
        sample.save()


def copies(dataset, numbers):
    """Makes the files of some images equal to that of the first of them."""
    paths = dataset.skip(1).values("filepath")
    for number in numbers[1:]:
        shutil.copy(paths[numbers[0]], paths[number])


def test_most_objects_first_and_all_labels_in_sight(labelled):
    with_labels(labelled, [[], [0.9], [0.9] * 3, [0.01], [0.9] * 2, []])
    order = ids(labelled.skip(1))
    for path in labelled.values("filepath"):
        Path(path).unlink()  # what an image looks like would count besides
    view = ntt.next_images(labelled, "found", limit=4)
    assert ids(view) == [order[number] for number in (2, 4, 1, 3)]
    assert len(view.first().found.detections) == 3 and labelled.first().id not in ids(view), "a reference is none"
    assert ids(ntt.next_images(labelled, "found"))[4:] == [order[0], order[5]], "without labels: last"


def test_near_duplicates_are_kept_apart(labelled, preset):
    with_labels(labelled, [[0.9] * 3] * 3 + [[0.02]] * 3)
    copies(labelled, [0, 1, 2])
    order = ids(labelled.skip(1))
    looked = ids(ntt.next_images(labelled, "found", limit=2, preset=preset))
    assert looked[0] == order[0] and looked[1] in order[3:]


def test_only_what_nobody_is_through_with(labelled):
    with_labels(labelled, [[0.9], [0.8], [0.7], [0.6, 0.5], [], []])
    order = ids(labelled.skip(1))
    ntt.accept_labels(labelled.skip(1).limit(1), "found", above=0.0)
    ntt.reject_labels(labelled, "found", above=0.55, below=0.65)
    ntt.mark_done(labelled.select(order[1]))
    assert set(ids(ntt.next_images(labelled, "found"))) == {order[2], order[3], order[4], order[5]}
    assert ids(ntt.next_images(labelled.select([order[0], order[3]]), "found")) == [order[3]], "of the view"
    ntt.mark_done(labelled)
    assert ids(ntt.next_images(labelled, "found")) == []
    assert main(["next", labelled.name, "--label-field", "found"]) == 0


def test_without_the_cache_by_labels_alone(labelled, tmp_path, caplog):
    with_labels(labelled, [[0.9] * 3] * 3 + [[0.02]] * 3)
    copies(labelled, [0, 1, 2])
    order = ids(labelled.skip(1))
    view = ntt.next_images(labelled, "found", limit=3, index_dir=tmp_path / "nothing")
    assert ids(view) == order[:3] and "not in the candidate cache" in caplog.text


def test_whoever_waits_has_images_looked_at_for_a_while(labelled, preset, monkeypatch):
    """In the App: each file may be large, and is read to know which image it is."""
    with_labels(labelled, [[0.9] * 3] * 3 + [[0.02]] * 3)
    copies(labelled, [0, 1, 2])
    order, looked_at = ids(labelled.skip(1)), []
    cached = candidates.CandidateSource.cached
    monkeypatch.setattr(
        candidates.CandidateSource, "cached", lambda *given: looked_at.append(given[1]) or cached(*given)
    )
    choose = partial(subject.images_to_review, labelled, "found", 3, preset=preset)
    whole = ids(choose(seconds=1000))
    assert whole == ids(ntt.next_images(labelled, "found", limit=3, preset=preset)) != order[:3] and looked_at
    looked_at.clear()
    assert ids(choose(seconds=0)) == order[:3] and not looked_at
    clock = count(1)
    monkeypatch.setattr(subject, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    choose(seconds=3)
    assert len(looked_at) == 2
    looked_at.clear()
    monkeypatch.setattr(subject, "_LARGE_FILE", 10)
    assert ids(choose(seconds=1000)) == order[:3] and not looked_at


def test_on_the_command_line(labelled, capsys):
    order = ids(ntt.next_images(labelled, "found", limit=3))
    assert main(["next", labelled.name, "--label-field", "found", "--limit", "3"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == order


def test_refusals(labelled):
    for arguments, text in [({"limit": 0}, "limit|Images|1"), ({"label_field": "truth"}, "no run of this plugin")]:
        with pytest.raises(InputError, match=text):
            ntt.next_images(labelled, **{"label_field": "found", **arguments})
    with pytest.raises(WrongTypeError, match="whole images"):
        ntt.next_images(labelled.to_patches("found"), "found")
