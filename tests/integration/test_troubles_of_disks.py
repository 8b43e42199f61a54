"""A disk that takes no more: nothing half-written passes for a file, and whoever reads the report knows which one.

Public reports of the kind: on a full disk OpenCV's `imwrite`, by which FiftyOne writes masks, leaves an empty file and
returns True (opencv/opencv#25969); a tool writes to a full disk without a word (torognes/vsearch#243).
"""

from __future__ import annotations

import errno
import os

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.small_disk import BYTES, NOISE, noise, on_small_disk

import fiftyone_ntt as ntt
from fiftyone_ntt.pixels.files import write_file, write_problem

FULL = r"(No space left on device|File too large)"


def names(dataset):
    dataset.persistent = True  # another process loads it
    return {"name": dataset.name}


def test_a_mask_that_fits_no_disk_costs_its_sample(dataset, tmp_path):
    """Three samples are labelled, one is an error that names the file; no file is empty, none is left over."""
    dataset.add_samples([fo.Sample(f"/picture-{i}.png") for i in range(4)])
    told = on_small_disk(tmp_path / "disk", "masks", **names(dataset))
    culprit = dataset.values("id")[1]
    assert told["states"] == ["ok", "error", "ok", "ok"]
    assert list(told["refused"]) == [culprit] and told["unwritten"] == 2
    assert told["errors"][1] == told["refused"][culprit]
    assert "cannot write" in told["errors"][1] and f"{tmp_path}/disk/masks" in told["errors"][1]
    assert ".part" not in told["errors"][1]
    assert told["same"] == [True] * 3
    assert sorted(told["paths"]) == sorted(f"{tmp_path}/disk/{name}" for name in told["files"])
    assert all(told["files"].values())


@pytest.mark.parametrize(("format", "media"), [("coco", True), ("yolo", True), ("fiftyone", True), ("coco", False)])
def test_an_export_that_does_not_fit_leaves_nothing(dataset, tmp_path, format, media):
    path = tmp_path / "large.png"
    Image.fromarray(noise().view(np.uint8) * 255).save(path)
    # Half of the pixels in runs of one: the run lengths take more than the disk has, too.
    label = fo.Detection(label="a", bounding_box=[0, 0, 1, 1], mask=noise(1), tags=["ntt:accepted"])
    metadata = fo.ImageMetadata(width=NOISE, height=NOISE)
    dataset.add_sample(fo.Sample(str(path), metadata=metadata, ntt=fo.Detections(detections=[label])))
    told = on_small_disk(tmp_path / "disk", "export", format=format, media=media, **names(dataset))
    kind, text = told["error"]
    assert kind == "InputError" and f"cannot write {tmp_path}/disk/out/" in text
    assert ("large.png" if media else "labels.json") in text and "ntt-export" not in text
    assert told["files"] == {}


# revbayes/revbayes#930, google/CodeCity#114: the file before is lost, and half a file has its name
def test_a_bank_that_does_not_fit_leaves_the_one_before(tmp_path):
    told = on_small_disk(tmp_path / "disk", "bank")
    assert (
        told["error"][0] == "InputError" and f"cannot write {tmp_path}/disk/bank/bank.safetensors" in told["error"][1]
    )
    assert told["same"] and told["files"] == told["before"]


def test_an_index_that_is_full_names_the_file(tmp_path):
    told = on_small_disk(tmp_path / "disk", "index")
    (kind, text), second = told["errors"]
    assert kind in ("IndexStorageError", "IndexFileError") and f"{2 * BYTES:064x}.ntt" in text and "index_dir" in text
    assert second == [None, ""]
    assert sorted(size for name, size in told["files"].items() if name.endswith(".ntt")) == [10_000]
    assert not [name for name in told["files"] if name.endswith(".part")]


def test_half_a_plugin_is_none(tmp_path):
    told = on_small_disk(tmp_path / "disk", "plugin")
    if told["error"][0] is None:
        pytest.skip("no file of the plugin is large enough for a limit of file sizes to be met")
    assert told["error"][0] == "InputError" and f"cannot write {tmp_path}/disk/plugins/" in told["error"][1]
    assert not told["usable"] and list(told["files"]) == ["full"]


# RolnickLab/ami-data-companion#171, open-edge-platform/anomalib#3556: half a download was taken for the weights
def test_weights_that_do_not_fit_are_named(tmp_path):
    told = on_small_disk(tmp_path / "disk", "weights")
    assert told["error"][0] == "MissingWeightsError" and f"{tmp_path}/disk/weights/model.bin" in told["error"][1]
    assert told["files"] == {}


# raspberrypi/userland#27: files of no length, and no word
def test_pictures_are_whole_or_not_there(tmp_path):
    told = on_small_disk(tmp_path / "disk", "pictures")
    assert [kind for kind, _ in told["errors"]] == ["OSError"] * 3
    for (_, text), name in zip(told["errors"], ("large.png", "a/small.png", "b.bin"), strict=True):
        assert f"{tmp_path}/disk/{name}" in text and ".part" not in text
    (left,) = told["files"].items()
    assert left[0] == "a/small.png" and 0 < left[1] < 200


# opencv/opencv#9251, torognes/vsearch#651: results of write, flush and close that nobody looked at
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_a_write_that_fails_leaves_the_file_before(tmp_path, monkeypatch, code):
    path = tmp_path / "a.bin"
    write_file(path, b"before")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=f"{os.strerror(code)}.*a.bin'") as caught:
        write_file(path, b"after")
    assert f"cannot write {path}: {os.strerror(code)}; " in write_problem(caught.value)
    assert path.read_bytes() == b"before" and [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_bytes_that_the_disk_only_pretends_to_take_are_missed(tmp_path, monkeypatch):
    """Some network and overlay file systems take what they have no room for without a word."""
    monkeypatch.setattr(os, "fsync", lambda number: os.ftruncate(number, 3))
    with pytest.raises(OSError, match="3 of 6 bytes.*a.bin"):
        write_file(tmp_path / "a.bin", b"abcdef")
    assert not list(tmp_path.iterdir())


@pytest.mark.pictures(count=4)
def test_a_place_in_the_index_that_is_taken_costs_one_image(pictures, bank, preset, index_dir):
    """A file lies where the folder of one image should be: the others are kept, and the report names both."""
    from fiftyone_ntt.pixels.images import content_digest, read_bytes

    options = {"points_per_side": 4, "index_dir": index_dir, "device": "cpu"}
    ntt.index(pictures.limit(1), preset, **options)
    (folder,) = [path.parent for path in index_dir.glob("*/settings.json")]
    sample = pictures.skip(1).first()
    taken = folder / content_digest(read_bytes(sample.filepath))[:2]
    taken.write_text("in the way")
    report = ntt.index(pictures, preset, **options)
    assert (report.computed, report.found, report.failed) == (2, 1, 1)
    assert list(report.errors) == [sample.id] and str(taken) in report.errors[sample.id]
    labelled = ntt.segment(pictures, bank, "found", preset=preset, **options)
    assert labelled.failed == 0 and any(str(taken) in note for note in labelled.notes)


def test_a_mask_file_that_cannot_be_removed_stops_no_undo(tmp_path):
    from fiftyone_ntt.dataset.storage import remove_masks

    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").write_bytes(b"b")
    assert remove_masks(tmp_path, set()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
