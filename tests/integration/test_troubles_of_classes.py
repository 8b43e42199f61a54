"""A class whose only reference cannot be used is left out and named with the reason; the other classes go on.

Whichever way the references come in; only where no class is left it is an error, which gives the true cause.
"""

import fiftyone as fo
import numpy as np
import pytest
from support.app import run
from support.hostile import FILES, detection, picture, reference, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import BadReferenceError, InputError
from fiftyone_ntt.params.references import TaggedBankParams
from fiftyone_ntt.references.banks import build_tagged_bank, notes_of


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


def of_file(kind):
    def make(folder):
        FILES[kind](folder / f"a {kind}")
        return {"mask": None, "mask_path": str(folder / f"a {kind}")}

    return make


# What is wrong with the only date -> what it is made of, or the image under it, and what is said of it.
BAD_LABELS = {
    # nilearn/nilearn#822, thunder-project/thunder#188: an error that nobody understands, or none
    "empty mask": (lambda folder: {"mask": np.zeros((30, 40), bool)}, "mask is empty"),
    # AllenInstitute/AllenSDK#875: masks that are to be binary and are not; for files, see FILES of support/hostile.py
    "mask of three values": (lambda folder: {"mask": np.arange(1200).reshape(30, 40) % 3}, "3 values"),
    "mask file that is missing": (of_file("missing"), "a missing"),
    "mask file that is a pipe": (of_file("pipe"), "pipe"),
    "mask file that is a bomb": (of_file("bomb"), "a bomb"),
    "mask file that is text": (of_file("text"), "a text"),
    # jolibrain/deepdetect#1113
    "box that is no number": (lambda folder: {"mask": None, "bounding_box": [0.1, float("nan"), 0.2, 0.2]}, "box"),
    # voxel51/fiftyone#1381: boxes in pixels were stored as they came, and an export inflated them again
    "box in pixels": (lambda folder: {"mask": None, "bounding_box": [10, 10, 40, 40]}, "relative"),
}
BAD_IMAGES = ["missing", "pipe", "folder", "text", "empty", "bomb"]


@pytest.fixture
def shelf(dataset, tmp_path):
    """A fig, and three images to label; a date comes later."""
    dataset.add_sample(reference(tmp_path / "fig.png", detection()))
    for number in range(3):
        picture().save(tmp_path / f"{number}.png")
        dataset.add_sample(fo.Sample(str(tmp_path / f"{number}.png")))
    return dataset


def add_date(shelf, folder, what):
    """Adds a date that cannot be used; what its note must hold."""
    if what in BAD_LABELS:
        make, text = BAD_LABELS[what]
        sample = reference(folder / "date.png", detection("date", **make(folder)))
        shelf.add_sample(sample)
        return [text, sample.ground_truth.detections[0].id]
    sample = reference(folder / "date.png", detection("date"))
    shelf.add_sample(sample)
    (folder / "date.png").unlink()
    FILES[what](folder / "date.png")
    return ["date.png", sample.id]


def tagged(shelf):
    return shelf.match_tags("ntt:reference")


def by_command(shelf, capsys):
    assert main(["segment", shelf.name, "--label-field", "found"]) == 0
    return capsys.readouterr().out


def by_command_built(shelf, capsys):
    assert main(["bank", "build", shelf.name, "--name", "kept"]) == 0
    return capsys.readouterr().out


def masks(shelf, capsys):
    return str(ntt.make_reference_masks(tagged(shelf)))


DOORS = {
    "bank": lambda shelf, capsys: " ".join(notes_of(ntt.build_memory_bank(tagged(shelf)))),
    "tags": lambda shelf, capsys: str(ntt.segment(shelf)),
    "references": lambda shelf, capsys: str(ntt.segment(shelf, tagged(shelf))),
    "preview": lambda shelf, capsys: " ".join(ntt.preview(shelf).notes),
    "preview of references": lambda shelf, capsys: " ".join(ntt.preview(shelf, tagged(shelf)).notes),
    "segment operator": lambda shelf, capsys: run("segment", shelf)[0]["summary"],
    "build operator": lambda shelf, capsys: run("build_memory_bank", shelf)[0]["summary"],
    "segment command": by_command,
    "build command": by_command_built,
    "masks": masks,
}


def plain(text):
    """Without what Markdown needs, and with the lines that a terminal broke joined again."""
    return " ".join(text.replace("\\", "").replace("\u2060", "").split())


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("what", ["mask file that is text", "missing"])
def test_at_every_door_the_other_classes_go_on(shelf, tmp_path, capsys, door, what):
    texts = add_date(shelf, tmp_path, what)
    said = plain(DOORS[door](shelf, capsys))
    assert "class date is left out" in said
    assert all(text in said for text in texts), said


@pytest.mark.parametrize("what", [*BAD_LABELS, *BAD_IMAGES])
def test_whatever_is_wrong_is_named(shelf, tmp_path, what):
    texts = add_date(shelf, tmp_path, what)
    bank = ntt.build_memory_bank(tagged(shelf), name="kept")
    assert bank.shots == {"fig": 1}
    (note,) = notes_of(bank)
    assert all(text in note for text in ["class date is left out", *texts]), note
    report = ntt.segment(shelf, "kept", "found")
    assert note in report.notes and report.labelled + report.empty == 3
    (card,) = [card for card in ntt.describe_references(shelf) if card.label == "date"]
    assert card.warnings[0].startswith("cannot be used")
    with pytest.raises(BadReferenceError, match="no reference of 'date' is left") as asked_for:
        ntt.build_memory_bank(tagged(shelf), classes=["fig", "date"])
    with pytest.raises(BadReferenceError, match="no reference of 'date' is left") as nothing_left:
        ntt.segment(shelf, tagged(shelf).skip(1))
    assert all(text in str(error.value) for error in (asked_for, nothing_left) for text in texts)


def test_a_class_that_was_once_asked_for_may_go(shelf, tmp_path):
    """The bank of tags was built of two classes by name; the image of one is gone by now."""
    shelf.add_sample(reference(tmp_path / "date.png", detection("date")))
    build_tagged_bank(shelf, TaggedBankParams.from_mapping({"name": "ntt_bank", "classes": ["fig", "date"]}))
    (tmp_path / "date.png").unlink()
    report = ntt.segment(shelf)
    assert any("class date is left out" in note for note in report.notes)
    assert set(shelf.distinct("ntt.detections.label")) <= {"fig"} and report.failed == 0
    picture().save(tmp_path / "date.png")
    assert ntt.load_bank(shelf, "ntt_bank").classes == ("fig",)
    assert ntt.segment(shelf).notes == [] and ntt.load_bank(shelf, "ntt_bank").classes == ("fig", "date")


def bad_map(folder, kind):
    if kind == "colours":
        return {"mask": np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)}
    if kind == "shares":
        return {"mask": np.full((60, 80), 0.5)}
    FILES[kind](folder / f"a {kind}")
    return {"mask_path": str(folder / f"a {kind}")}


@pytest.mark.parametrize("kind", ["missing", "pipe", "text", "bomb", "empty", "colours", "shares"])
def test_a_map_that_cannot_be_read_gives_the_true_cause(dataset, tmp_path, kind):
    good = fo.Segmentation(mask=np.pad(np.ones((30, 40), np.uint8), 15))
    bad = fo.Segmentation(**bad_map(tmp_path, kind))
    for number, label in enumerate((good, bad)):
        picture().save(tmp_path / f"{number}.png")
        dataset.add_sample(fo.Sample(str(tmp_path / f"{number}.png"), gt=label, tags=["ntt:reference"]))
    dataset.mask_targets = {"gt": {1: "fig"}}
    dataset.save()
    bank = ntt.build_memory_bank(dataset, "gt")
    assert bank.shots == {"fig": 1} and bad.id in " ".join(notes_of(bank))
    for classes in (None, ["fig"]):
        with pytest.raises((BadReferenceError, InputError), match=bad.id):
            ntt.build_memory_bank(dataset.skip(1), "gt", classes=classes)
    with pytest.raises(BadReferenceError, match=bad.id):
        ntt.segment(dataset, dataset.skip(1), reference_field="gt")
