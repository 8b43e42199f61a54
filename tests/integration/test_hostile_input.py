"""Bad images cost one sample each, and a clear sentence.

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
from PIL import Image
from support.hostile import BLUE, GREEN, RED, ROOT, detection, noise, picture, reference, small_models

import fiftyone_ntt as ntt
from fiftyone_ntt.core import read_image


@pytest.fixture(autouse=True, scope="module")
def models():
    with small_models():
        yield


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
    Case("video.jpg", lambda path: written(path, b"\0\0\0\x18ftypmp42" + bytes(500)), "a video (MP4)"),
    Case("mesh.png", lambda path: written(path, b"ply\nformat ascii 1.0\n"), "a 3D mesh (PLY)"),
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
    assert masks and all(mask.shape[0] <= 80 and mask.shape[1] <= 60 for mask in masks)


def test_the_log_names_no_folder_of_the_machine(night):
    assert {night.indexed.counts, night.report.counts} <= set(night.log.texts)
    for text in night.log.texts:
        for secret in (str(night.folder), str(ROOT), str(Path.home()) + os.sep, "Traceback"):
            assert secret not in text
