"""Bad input costs one sample and a clear sentence; what must be refused as a whole is refused with one.

Everything goes through the services that App, worker and SDK use; only the models are small ones without weights.
"""

import errno
import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
import torch
from fake_models import FakeFeatures, FakeProposals
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.core import ProposalConfig, Segmenter, read_image
from fiftyone_ntt.dataset import candidates, references
from fiftyone_ntt.errors import BadReferenceError, InputError, NttError, WrongTypeError
from fiftyone_ntt.index import IndexStorageError, files
from fiftyone_ntt.models.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
RED, GREEN, BLUE = (254, 0, 0), (0, 254, 0), (0, 0, 254)


class Proposals(FakeProposals):
    """Red images need more memory than the GPU has, green ones more than the machine has, blue ones find a bug."""

    def encode(self, pixels, frame):
        colour = tuple(int(round(float(value) * 255)) for value in pixels.mean(dim=(1, 2)))
        if colour == GREEN:
            raise MemoryError
        if colour == BLUE:
            raise ZeroDivisionError(f"in {ROOT}")
        return pixels.mean(dim=0) + (100.0 if colour == RED else 0.0)

    def decode_best(self, embedding, points, threshold):
        if embedding.mean() > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().decode_best(embedding, points, threshold)


class Features(FakeFeatures):
    """The same, in a tenth of the time."""

    def encode(self, images):
        return images.reshape(len(images), 3, 8, 8, 8, 8).mean(dim=(3, 5)).permute(0, 2, 3, 1)


def segmenter():
    return Segmenter(Proposals(), Features(), proposals=ProposalConfig(points_per_side=4), target_via=None)


@pytest.fixture(autouse=True, scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "load_segmenters", lambda *_, **__: [segmenter()])
        loaded = SimpleNamespace(preset=PRESETS["lite"], segmenter=segmenter)
        patch.setattr(references, "load_preset", lambda *_: loaded)
        yield


def noise(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(60, 255, (height, width, 3), dtype=np.uint8)


def picture(height=60, width=80):
    return Image.fromarray(noise(height, width))


def reference(path, *labels):
    noise_of = Image.fromarray(noise(seed=len(labels)))
    noise_of.save(path)
    return fo.Sample(str(path), ground_truth=fo.Detections(detections=list(labels)), tags=["ntt:reference"])


def detection(label="fig", box=(0.25, 0.25, 0.5, 0.5), **changes):
    return fo.Detection(**{"label": label, "bounding_box": list(box), "mask": np.ones((30, 40), bool), **changes})


# What may lie where an image should


def written(path, data):
    path.write_bytes(data)


def truncated(path):
    picture().save(path)
    written(path, path.read_bytes()[:5000])


def bomb(path):
    """A few bytes that say they are an image of 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    written(path, b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


def bad_exif(path):
    picture().save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")


def sixteen_bits(path):
    Image.fromarray(noise()[..., 0].astype(np.uint16) * 257).save(path)


def palette(path):
    picture().convert("P").save(path, transparency=3)


def pipe(path):
    os.mkfifo(path)


@dataclass(frozen=True)
class Case:
    """A file that pretends to be an image: how it is made, and what is said of it (nothing if it can be used)."""

    name: str
    make: object
    says: str = ""
    state: str = "ok"


CASES = [
    Case("plain.png", lambda path: picture().save(path)),
    Case("with spaces and ünïcode 图.png", lambda path: picture().save(path)),
    Case("$dollar.dot.png", lambda path: picture().save(path)),
    Case("a png inside.jpg", lambda path: picture().save(path, "PNG")),
    Case("16 bit.png", sixteen_bits),
    Case("cmyk.jpg", lambda path: picture().convert("CMYK").save(path)),
    Case("palette.png", palette),
    Case("alpha.png", lambda path: picture().convert("RGBA").save(path)),
    Case("grey.png", lambda path: picture().convert("L").save(path)),
    Case("grey with alpha.png", lambda path: picture().convert("LA").save(path)),
    Case("black and white.png", lambda path: Image.new("1", (80, 60), 1).save(path)),
    Case("rotated.jpg", rotated),
    Case("bad exif.jpg", bad_exif),
    Case("1x1.png", lambda path: picture(1, 1).save(path), state="empty"),
    Case("30000x100.jpg", lambda path: picture(100, 30_000).save(path)),
    Case("black, so no candidates.png", lambda path: Image.new("RGB", (80, 60)).save(path), state="empty"),
    Case("truncated.png", truncated, "truncated"),
    Case("zero bytes.png", lambda path: written(path, b""), "expected 1 to"),
    Case("text.png", lambda path: written(path, b"no image"), "format is not known"),
    Case("video.jpg", lambda path: written(path, b"\0\0\0\x18ftypmp42" + bytes(500)), "format is not known"),
    Case("mesh.png", lambda path: written(path, b"ply\nformat ascii 1.0\n"), "format is not known"),
    Case("drawing.png", lambda path: picture().save(path, "EPS"), "export it as PNG"),
    Case("bomb.png", bomb, "3600000000 pixels"),
    Case("too long.png", lambda path: Image.new("1", (200_000, 2)).save(path), "cut it into tiles"),
    Case("missing.png", lambda path: None, "not found"),
    Case("folder.png", Path.mkdir, "no plain file"),
    Case("pipe.png", pipe, "no plain file"),
    Case("link to nothing.png", lambda path: path.symlink_to("nowhere"), "not found"),
    Case("no permission.png", lambda path: picture().save(path), "Permission denied"),
    Case("too much for the GPU.png", lambda path: Image.new("RGB", (80, 60), RED).save(path), "not enough memory"),
    Case("too much for the host.png", lambda path: Image.new("RGB", (80, 60), GREEN).save(path), "not enough memory"),
    Case("bug.png", lambda path: Image.new("RGB", (80, 60), BLUE).save(path), "unexpected ZeroDivisionError"),
]


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """One run over all of them: first indexed, then labelled."""
    folder = tmp_path_factory.mktemp("hostile")
    dataset = fo.Dataset()
    dataset.add_sample(reference(folder / "reference.png", detection()))
    samples = {}
    for case in CASES:
        case.make(folder / case.name)
        samples[case.name] = fo.Sample(str(folder / case.name))
    dataset.add_samples(list(samples.values()))
    read = Path.read_bytes

    def forbidden(path):
        if path.name == "no permission.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    handler = Records()
    log = logging.getLogger("fiftyone_ntt")
    log.addHandler(handler)
    before = log.level
    log.setLevel(logging.INFO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)  # tests may run as root, who may read everything
        bank = ntt.build_memory_bank(dataset.match_tags("ntt:reference"), name="figs")
        indexed = ntt.index(dataset, index_dir=folder / "index")
        report = ntt.segment(dataset, bank, index_dir=folder / "index")
    log.removeHandler(handler)
    log.setLevel(before)
    yield SimpleNamespace(dataset=dataset, samples=samples, indexed=indexed, report=report, folder=folder, log=handler)
    dataset.delete()


class Records(logging.Handler):
    """Keeps what is logged, as text."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(logging.Formatter().format(record))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_image_costs_one_image_and_a_clear_sentence(night, case):
    sample = night.dataset[night.samples[case.name].id]
    state = "error" if case.says else case.state
    assert sample["ntt_status"]["state"] == state, sample["ntt_status"]["error"]
    for said in (night.report.errors, night.indexed.errors):
        assert case.says in said.get(sample.id, "")
        assert bool(case.says) == (sample.id in said)
    assert (sample["ntt_status"]["error"] or "") == night.report.errors.get(sample.id, "")
    assert bool(sample["ntt"] and sample["ntt"].detections) == (state == "ok")


def test_the_run_goes_on_and_counts(night):
    bad = sum(bool(case.says) for case in CASES)
    empty = sum(case.state == "empty" for case in CASES)
    assert (night.report.failed, night.report.empty) == (bad, empty)
    assert night.report.labelled == len(CASES) - bad - empty
    assert (night.report.from_index, night.indexed.failed) == (len(CASES) - bad, bad)


def test_rotation_is_as_fiftyone_shows_it(night):
    assert read_image(night.folder / "rotated.jpg").shape == (80, 60, 3)
    masks = [label.mask for label in night.dataset[night.samples["rotated.jpg"].id].ntt.detections]
    assert all(mask.shape[0] <= 80 and mask.shape[1] <= 60 for mask in masks)


def test_the_log_names_no_folder_of_the_machine(night):
    assert any("indexed" in text for text in night.log.texts)
    for text in night.log.texts:
        for secret in (str(night.folder), str(ROOT), str(Path.home()) + os.sep, "Traceback"):
            assert secret not in text


# What references may be


@pytest.fixture
def build(dataset, tmp_path):
    """Builds a bank from labels on one image."""

    def build(*labels, **arguments):
        dataset.add_sample(reference(tmp_path / "reference.png", *labels))
        return ntt.build_memory_bank(dataset.match_tags("ntt:reference"), **arguments)

    return build


def damaged_mask(folder):
    (folder / "mask.png").write_bytes(b"no mask")
    return {"mask": None, "mask_path": str(folder / "mask.png")}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bounding_box": [200, 20, 40, 40]}, "boxes are relative"),
        ({"bounding_box": [0, 0, 40, 40]}, "boxes are relative"),
        ({"bounding_box": [0.5, 0.5, -0.2, 0.2]}, "no area"),
        ({"bounding_box": [float("nan"), 0, 1, 1]}, "expected a relative box"),
        ({"bounding_box": [0, 0, 1, float("inf")]}, "expected a relative box"),
        ({"bounding_box": [0.1, 0.1]}, "expected a relative box"),
        ({"bounding_box": None}, "expected a relative box"),
        ({"mask": np.zeros((30, 40), bool)}, "mask is empty"),
        ({"mask": np.zeros((0, 0), bool)}, "two-dimensional mask"),
        ({"mask": np.ones(5, bool)}, "two-dimensional mask"),
        (damaged_mask, "cannot be read"),
        ({"mask": None, "mask_path": "/nowhere/mask.png"}, "cannot be read"),
    ],
)
def test_references_that_cannot_be_used_are_named(dataset, build, tmp_path, changes, text):
    label = detection(**(changes(tmp_path) if callable(changes) else changes))
    with pytest.raises(BadReferenceError, match=text) as caught:
        build(detection(), label)
    assert label.id in str(caught.value)


@pytest.mark.parametrize(
    "mask",
    [np.ones((3, 200), bool), np.ones((60, 80), bool), np.full((30, 40), 255, np.uint8), np.ones((30, 40, 3), bool)],
    ids=["flat", "image", "255", "colours"],
)
def test_masks_of_another_size_than_their_box_are_stretched_over_it_as_fiftyone_shows_them(build, mask):
    as_given, plain = build(detection(mask=mask), detection()).vectors
    assert np.array_equal(as_given, plain)


def test_labels_without_a_class_are_passed_over(build):
    assert build(detection(), detection(None), detection(""), detection(" ")).classes == ("fig",)


@pytest.mark.parametrize("label", [None, "", " "])
def test_labels_without_any_class_are_refused(build, label):
    with pytest.raises(BadReferenceError, match="no labels with a class name"):
        build(detection(label))


@pytest.mark.parametrize("classes", [["fig", ""], ["fig", "fig"], [1], [None], "fig"])
def test_impossible_classes_are_refused(build, classes):
    with pytest.raises(InputError, match="list of distinct class names"):
        build(detection(), classes=classes)


CLASSES = {
    "one": ["fig"],
    "odd": ["a.b", "$set", "$x.y", "a/b", "../..", "x" * 300, "Fig", "fig", " fig", "ünï 图", "%s {0}", "<b>"],
    "1203": [f"class {k}" for k in range(1203)],
}


@pytest.mark.parametrize("names", CLASSES.values(), ids=CLASSES)
def test_classes_of_any_name_and_number(dataset, build, tmp_path, names):
    boxes = np.random.default_rng(0).uniform(0, 0.5, (len(names), 2))
    labels = [
        detection(name, (x, y, 0.5, 0.5), mask=np.ones((2, 2), bool)) for name, (x, y) in zip(names, boxes, strict=True)
    ]
    bank = build(*labels, name="many")
    assert sorted(bank.classes) == sorted(names)
    assert ntt.load_bank(dataset, "many").content_hash == bank.content_hash
    picture().save(tmp_path / "target.png")
    dataset.add_sample(fo.Sample(str(tmp_path / "target.png")))
    report = ntt.segment(dataset, "many", index_dir=tmp_path / "index")
    assert (report.labelled, report.failed) == (1, 0)
    dataset.reload()
    assert set(dataset.distinct("ntt.detections.label")) <= set(names)
    assert ntt.list_runs(dataset)[0]["classes"] == list(bank.classes)
    assert ntt.undo_run(dataset, report.run_key) == report.instances


# What is refused as a whole


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "a.b", "$a", "", "x" * 101, "a\0", "1a", "a b"])
def test_names_never_become_paths(dataset, build, tmp_path, name):
    bank = build(detection(), name="sound")
    for call in (
        lambda: ntt.build_memory_bank(dataset, name=name),
        lambda: ntt.load_bank(dataset, name),
        lambda: ntt.segment(dataset, bank, run_key=name or "..", index_dir=tmp_path / "index"),
        lambda: ntt.segment(dataset, bank, label_field=name, index_dir=tmp_path / "index"),
    ):
        with pytest.raises(NttError, match="expected|no memory bank"):
            call()
    assert ntt.list_runs(dataset) == [] and ntt.list_banks(dataset) == ["sound"]


@pytest.mark.parametrize("field", ["id", "filepath", "tags", "metadata", "_private", "created_at", 3])
def test_fields_of_fiftyone_are_not_written(dataset, build, tmp_path, field):
    bank = build(detection())
    with pytest.raises(NttError, match="label_field"):
        ntt.segment(dataset, bank, label_field=field, index_dir=tmp_path / "index")
    assert ntt.list_runs(dataset) == []


def groups(dataset):
    group = fo.Group()
    dataset.add_group_field("group", default="video")
    names = {"image": "a.png", "video": "a.mp4", "scene": "a.pcd"}
    dataset.add_samples([fo.Sample(path, group=group.element(name)) for name, path in names.items()])
    return dataset


@pytest.mark.parametrize(
    "make",
    [
        lambda dataset: dataset.add_sample(fo.Sample("a.mp4")),
        lambda dataset: dataset.add_sample(fo.Sample("a.pcd")),
        lambda dataset: dataset.add_sample(fo.Sample("a.fo3d")),
        lambda dataset: dataset.add_sample(fo.Sample("a.txt")),
        groups,
        lambda dataset: groups(dataset).select_group_slices(["image", "video"], _allow_mixed=True),
    ],
    ids=["video", "points", "scene", "unknown", "groups", "mixed"],
)
def test_what_is_no_image_is_refused(dataset, make, tmp_path):
    made = make(dataset)
    view = made if isinstance(made, fo.core.collections.SampleCollection) else dataset
    for call in (ntt.index, lambda view: ntt.segment(view, "bank"), ntt.build_memory_bank):
        with pytest.raises(WrongTypeError, match="expected images"):
            call(view)


def test_a_full_disk_stops_indexing_but_not_labelling(dataset, build, tmp_path, monkeypatch):
    bank = build(detection())
    for name in ("a.png", "b.png"):
        picture().save(tmp_path / name)
        dataset.add_sample(fo.Sample(str(tmp_path / name)))
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:

        def no_room(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(files.os, "fsync", no_room)
        with pytest.raises(IndexStorageError, match="No space left.*make room"):
            ntt.index(dataset, index_dir=folder)
        assert not [path for path in folder.rglob("*") if path.is_file()]
        report = ntt.segment(dataset, bank, index_dir=folder)
    assert (report.labelled, report.indexed) == (2, 0) and "No space left" in str(report)
    assert ntt.index(dataset, index_dir=folder).failed == 0


def sparse(path):
    """A terabyte of nothing."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, sparse])
def test_what_lies_in_the_index_may_be_anything(dataset, build, tmp_path, make):
    bank = build(detection())
    folder = tmp_path / "index"
    ntt.index(dataset, index_dir=folder)
    file = next(folder.rglob("*.ntt"))
    file.unlink()
    make(file)
    report = ntt.segment(dataset, bank, include_references=True, index_dir=folder)
    assert (report.labelled, report.from_index, report.failed) == (1, 0, 0)


def test_operators_declare_their_risk():
    import fiftyone.operators as foo
    from fiftyone.operators import types

    ours = [one for one in foo.list_operators() if one.uri.startswith("@fiftyone-ntt/")]
    assert len(ours) >= 4
    assert {one.config.risk_level for one in ours if one.__class__.__module__.find("panels") < 0} <= {
        types.RiskLevel.LOW, types.RiskLevel.MEDIUM, types.RiskLevel.HIGH,
    }  # fmt: skip
