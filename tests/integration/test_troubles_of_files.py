"""Masks, boxes and files of strangers: bounded memory, no waiting, one clear error, and the rest is done.

Every path that reads labels goes over one dataset full of them (``support/strangers.py``), in a process that can be
ended: a pipe makes readers wait for ever, and a megabyte of zeros becomes gigabytes.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.hostile import BOXES, FILES, MASKS, bomb_of_bytes, packed, png_bomb

from fiftyone_ntt.dataset.documents import label_of, unpacked
from fiftyone_ntt.errors import InputError

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
    assert said["undo"]["left"] == bad + 1 + len(IMAGES), "what a person accepted stays"


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


@pytest.mark.parametrize("shape", [(40_000, 40_000), (20_000, 20_000), (1 << 28, 1)], ids=str)
def test_a_bomb_is_refused_before_it_is_unpacked(shape):
    import tracemalloc

    bomb = bomb_of_bytes(shape, "<f8", content=1 << 26)
    tracemalloc.start()
    with pytest.raises(InputError, match="at most"):
        unpacked(bomb)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_bomb_in_a_mask_file_is_refused(tmp_path):
    from fiftyone import Detection

    from fiftyone_ntt.dataset.documents import mask_of

    png_bomb(tmp_path / "mask.png", side=17_000, bits=16)
    with pytest.raises(InputError, match=r"mask\.png.*cannot be read"):
        mask_of(Detection(mask_path=str(tmp_path / "mask.png")))
