"""Masks, boxes and files of strangers: bounded memory, no waiting, one clear error, and the rest is done.

Every path that reads labels goes over one dataset full of them (``support/strangers.py``), in a process that can be
ended: a pipe makes readers wait for ever, and a megabyte of zeros becomes gigabytes.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
from bson import ObjectId
from safetensors.numpy import save
from support.hostile import BOXES, FILES, MASKS, bomb_of_bytes, detection, packed, picture, png_bomb, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.candidates import file_format
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.dataset.documents import label_of, mask_of, unpacked
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.errors import BadReferenceError, InputError
from fiftyone_ntt.references import banks
from fiftyone_ntt.references.banks import save_bank
from fiftyone_ntt.references.label_kinds import objects_in

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "strangers.py"
SECONDS = 360
"""Nothing should take a tenth of it; a pipe takes all of it."""
MEGABYTES = 700
LABELS = [
    *(f"mask: {name}" for name in MASKS),
    *(f"box: {name}" for name in BOXES),
    *(f"mask file: {name}" for name in (*FILES, "address", "number")),
    "attribute: bomb",
]
IMAGES = [f"file: {name}" for name in FILES]
EDITED = ("box: far", "box: farther", "box: negative", "mask: nothing", "mask: numbers in a row", "mask: four axes")
"""Changes that can be read, of which no use can be made: nobody can tell them from a person's."""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory, database):
    """What each path said."""
    folder = tmp_path_factory.mktemp("stranger")
    result = folder / "result.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(result)],
        capture_output=True, text=True, timeout=SECONDS, check=False, cwd=SCRIPT.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return json.loads(result.read_text())


PATHS = ("table", "references", "gallery", "learn", "evaluate", "maps", "exports", "overwrite", "undo")


@pytest.mark.parametrize("path", PATHS)
def test_every_path_ends_in_bounded_memory(stranger, path):
    said = stranger["said"][path]
    assert "traceback" not in said, said["traceback"]
    assert said["megabytes"] < MEGABYTES


@pytest.mark.parametrize("row", LABELS)
def test_a_bad_label_is_one_error_wherever_it_is_read(stranger, row):
    said, label = stranger["said"], stranger["bad"][row]
    assert "cannot be used" in said["gallery"]["rows"][row], "a card says so"
    assert "label" in said["references"]["rows"][row] and said["references"]["rows"][row] != "built"
    assert any(label in error for error in said["maps"]["errors"].values())
    for kind in ("coco", "yolo", "fiftyone"):
        assert sum(label in line for line in said["exports"][kind]["left_out"]) == 1, kind


@pytest.mark.parametrize("row", IMAGES)
def test_a_file_that_is_no_image_is_one_error(stranger, row):
    said, sample = stranger["said"], stranger["bad"][row]
    assert sample in said["overwrite"]["errors"]
    assert "cannot be used" in said["gallery"]["rows"][row] and "reference sample" in said["references"]["rows"][row]
    name = f"image of {row.removeprefix('file: ')}"
    for kind in ("coco", "yolo", "fiftyone"):
        assert sum(name in line for line in said["exports"][kind]["left_out"]) == 1, kind


def test_the_rest_is_done(stranger):
    said, bad = stranger["said"], len(LABELS) + 1  # and a label whose score is a word
    labelled = bad + 1  # and a good one
    assert said["references"]["rows"]["good"] == "built" and said["gallery"]["rows"]["good"].count("cannot") == 0
    assert said["overwrite"]["labelled"] == labelled == stranger["labelled"]
    assert said["maps"]["maps"] == labelled
    (note,) = [note for note in said["evaluate"]["notes"] if "cannot be used" in note]
    assert note.startswith(f"{3 * bad} labels"), "two predictions and one of the truth each"
    assert said["evaluate"]["objects"] == 1, "of the truth, the good one is left"
    labels = {said["exports"][kind]["labels"] for kind in ("coco", "yolo", "fiftyone")}
    assert len(labels) == 1 and labels.pop() >= labelled
    assert said["learn"]["decisions"]["fig"]["accepted"] >= 1
    assert said["table"]["labels"] > labelled
    assert said["undo"]["left"] == bad + 1 + len(IMAGES) + len(EDITED), "what a person accepted or edited stays"


# Public reports: numbers that are none broke FiftyOne's App (voxel51/fiftyone#1309), polygons without points
# labelme (wkentaro/labelme#498); the others were found by trial.
POINTS = {
    "none": None, "number": 5, "text": "0 0", "letters": [["a", "b"]], "mapping": {"x": 1},
    "three": [[[0.1, 0.2, 0.3]]],
    "far": [[[1e300, 0.0], [0.0, 0.0], [1.0, 1.0]]], "no numbers": [[[float("nan"), 0.0]]], "holes": [[None, None]],
    "nothing": [], "empty line": [[]],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["Polyline", "Keypoint"])
@pytest.mark.parametrize("points", POINTS.values(), ids=POINTS)
def test_points_that_are_none_are_refused(points, kind):
    label = {"_cls": kind, "_id": ObjectId(), "points": points}
    for extra in ({}, {"closed": True}, {"point_labels": 3}):
        with pytest.raises(BadReferenceError, match=f"label {label['_id']}"):
            list(objects_in({**label, **extra}, (60, 80)))


# The reader itself


@pytest.mark.parametrize(
    "array",
    [
        np.ones((30, 40), bool), np.arange(12, dtype=np.uint8).reshape(3, 4), np.zeros((5, 0)),
        np.ones((3, 4, 3), "f2"),
        np.asfortranarray(np.arange(12, dtype=np.int64).reshape(3, 4)), np.array(3.0), np.ones((2000, 3000), np.uint8),
        np.arange(12, dtype=">i4").reshape(3, 4),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_arrays_come_back_as_fiftyone_reads_them(array):
    from fiftyone.core.utils import deserialize_numpy_array

    read, expected = unpacked(bytes(packed(array))), deserialize_numpy_array(packed(array))
    assert read.dtype == expected.dtype and np.array_equal(read, expected)


@pytest.mark.parametrize("name", sorted(set(MASKS) - {"numbers in a row", "nothing", "four axes"}))
def test_damaged_masks_are_refused_with_an_error(name):
    with pytest.raises(InputError, match="mask"):
        label_of({"_cls": "Detection", "bounding_box": [0, 0, 1, 1], "mask": MASKS[name]()})


# keras-team/keras#23016: what a header says was allocated before anything was checked
@pytest.mark.parametrize("shape", [(40_000, 40_000), (20_000, 20_000), (1 << 28, 1)], ids=str)
def test_a_bomb_is_refused_before_it_is_unpacked(shape):
    import tracemalloc

    bomb = bomb_of_bytes(shape, "<f8", content=1 << 26)
    tracemalloc.start()
    with pytest.raises(InputError, match="at most"):
        unpacked(bomb)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


# python-pillow/Pillow#2583
def test_a_bomb_in_a_mask_file_is_refused(tmp_path):
    png_bomb(tmp_path / "mask.png", side=17_000, bits=16)
    with pytest.raises(InputError, match=r"mask\.png.*cannot be read"):
        mask_of(fo.Detection(mask_path=str(tmp_path / "mask.png")))


# Files beside the images: banks, the candidate cache, exports


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


@pytest.fixture
def patience():
    """Ends a test that waits for ever."""

    def give_up(*_):
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def small_bank():
    return MemoryBank(
        classes=("fig",), vectors=np.ones((1, 4), np.float32), class_index=np.zeros(1, int), reference_ids=("a",),
        center=None, preset="lite", weights={}, preprocessing={},
    )  # fmt: skip


@pytest.mark.parametrize("file", ["bank.safetensors", "bank.json"])
@pytest.mark.parametrize("kind", FILES)
def test_a_bank_may_be_anything(tmp_path, patience, file, kind):
    folder = small_bank().save(tmp_path / "bank")
    (folder / file).unlink()
    FILES[kind](folder / file)
    with pytest.raises(InputError, match="bank"):
        MemoryBank.load(folder)


# coreweave/tensorizer#208: a length in the file was allocated as it stood there
def test_a_bank_larger_than_any_is_not_read(dataset, tmp_path, monkeypatch):
    folder = small_bank().save(tmp_path / "bank")
    with (folder / "bank.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="at most"):
        MemoryBank.load(folder)
    save_bank(dataset, "bank", small_bank())
    monkeypatch.setattr(banks, "_MOST_BYTES", 10)
    with pytest.raises(InputError, match=r"at most 10 bytes.*'bank'"):
        ntt.load_bank(dataset, "bank")


def index_file(layout, **facts):
    """A file of the candidate cache whose checksum is right."""
    tensors = {"a": np.zeros(1, np.uint8)}
    facts = {"image": "0" * 64, "settings": "{}", "layout": layout, **facts}
    facts["sha256"] = file_format._checksum(facts, tensors)
    return save(tensors, {"fiftyone-ntt": json.dumps(facts)})


# Of the kind of keras-team/keras#23016 and safetensors/safetensors#26 (attacks on formats of weights); rows by trial.
SHAPES = {
    "digits": [10**4000] * 200, "axes": [1] * 1000, "large": [1 << 29], "negative": [-1], "texts": ["1"], "text": "12",
    "number": 3, "real": [1.5], "bombs": [1 << 20, 1 << 20], "none": None,
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_an_index_file_is_refused_before_lengths_are_multiplied(monkeypatch, name):
    def prod(lengths):
        assert len(lengths) <= 8 and max(lengths, default=0) <= 1 << 28
        return math.prod(lengths)

    monkeypatch.setattr(file_format, "math", SimpleNamespace(prod=prod))
    with pytest.raises(file_format.DamagedIndexError, match="at most"):
        file_format.from_bytes(index_file({"a": ["uint8", SHAPES[name], "zlib"]}))


# huggingface/huggingface.js#254: one crafted header crashed a service
def test_an_index_file_that_is_all_header_is_not_parsed():
    with pytest.raises(file_format.DamagedIndexError, match="header"):
        file_format.from_bytes(index_file({"a": ["uint8", [1], "plain"]}, more="x" * (1 << 21)))


@pytest.fixture
def reviewed(dataset, tmp_path):
    """Two images with an accepted label each."""
    for i in range(2):
        picture().save(tmp_path / f"{i}.png")
        label = detection(tags=["ntt:accepted"])
        dataset.add_sample(fo.Sample(str(tmp_path / f"{i}.png"), ntt=fo.Detections(detections=[label])))
    return dataset


# zulip/zulip#13160, carderne/signal-export#216, ceptontech/cepton_sdk_redist#11: exports that emptied the folder they
# were given, with whatever was in it
@pytest.mark.parametrize("before", ["absent", "empty", "an earlier export"])
def test_an_export_leaves_what_came_into_its_folder_meanwhile(reviewed, tmp_path, before):
    folder = tmp_path / "export"
    if before == "empty":
        folder.mkdir()
    if before == "an earlier export":
        ntt.export_labels(reviewed, folder)

    def come(done, total, message):
        if done == total:
            folder.mkdir(exist_ok=True)
            (folder / "thesis.txt").write_text("years of work")

    with pytest.raises(InputError, match="other files are in it"):
        ntt.export_labels(reviewed, folder, overwrite=True, progress=come)
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert (folder / "labels.json").is_file() == (before == "an earlier export")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".ntt")]
    (folder / "thesis.txt").unlink()
    assert ntt.export_labels(reviewed, folder, overwrite=True).labels == 2


@pytest.mark.parametrize("side", ["gt", "pred"])
def test_a_map_that_is_none_costs_one_image(dataset, tmp_path, patience, side):
    """Semantic segmentation masks, in evaluations (FiftyOne's own scores included) and as references."""
    picture().save(tmp_path / "image.png")
    os.mkfifo(tmp_path / "pipe")
    changes = {"good": {}, "pipe": {"mask": None, "mask_path": str(tmp_path / "pipe")}}
    changes |= {f"mask: {name}": {"mask": MASKS[name]()} for name in ("bomb", "noise", "objects", "four axes", "text")}
    for name in changes:
        maps = {field: fo.Segmentation(mask=np.full((60, 80), 1, np.uint8)) for field in ("gt", "pred")}
        dataset.add_sample(fo.Sample(str(tmp_path / "image.png"), row=name, tags=["ntt:reference"], **maps))
    for name, change in changes.items():
        fields = {f"{side}.{key}": value for key, value in change.items()}
        if fields:
            database_collection(dataset).update_one({"row": name}, {"$set": fields})
    dataset.mask_targets = {"gt": {1: "fig"}, "pred": {1: "fig"}}
    dataset.save()
    results = ntt.evaluate(dataset, "pred", "gt", include_references=True, eval_key="ev")
    assert (results.images, results.semantic.miou) == (1, 1.0)
    (note,) = [note for note in results.notes if "cannot be used" in note]
    assert note.startswith(f"{len(changes) - 1} masks")
    assert sorted(map(str, database_collection(dataset).distinct("ev_accuracy", {"row": "good"}))) == ["1.0"]
    for sample_id, name in zip(*dataset.values(["id", "row"]), strict=True):
        if name == "good":
            assert ntt.build_memory_bank(dataset.select(sample_id), side).classes == ("fig",)
        else:
            with pytest.raises(BadReferenceError, match=f"{sample_id}, label"):
                ntt.build_memory_bank(dataset.select(sample_id), side)
