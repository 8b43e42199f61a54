"""The line that an export tells people to type loads every image and label that its report speaks of."""

from __future__ import annotations

import os

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.exports import accepted, disc, picture

from fiftyone_ntt.review.export import FORMATS, export_labels
from fiftyone_ntt.review.export_names import Names

SLICES = ("left", "right")


def loaded(report):
    """Path of each image that is loaded as the report says -> classes of its labels; every file must be there."""
    scope: dict = {}
    exec(report.how_to_load, scope)  # noqa: S102 what people are told to type
    dataset = scope["dataset"]
    fields = list(dataset.get_field_schema(embedded_doc_type=fo.Detections))
    rows = [
        (path, sorted(label.label for field in fields if sample[field] for label in sample[field].detections))
        for path, sample in zip(dataset.values("filepath"), dataset, strict=True)
    ]
    dataset.delete()
    assert all(os.path.isfile(path) for path, _ in rows)
    assert (len(rows), sum(len(labels) for _, labels in rows)) == (report.images, report.labels)
    return rows


def sample(path, *classes, **facts):
    labels = [accepted(disc(20 + 8 * k, 30), name) for k, name in enumerate(classes)]
    return fo.Sample(str(path), ntt=fo.Detections(detections=labels), **facts)


def of_slices(dataset, tmp_path):
    dataset.add_group_field("group", default="left")
    for i in range(2):
        group = fo.Group()
        for name in SLICES:
            path = picture(tmp_path / f"{name}/{i}.png", seed=i)
            dataset.add_sample(sample(path, name, group=group.element(name)))
    return dataset


def right_slice(dataset, tmp_path):
    of_slices(dataset, tmp_path).group_slice = "right"
    return dataset


GROUPED = {
    "all": (of_slices, "left"),
    "slice": (right_slice, "right"),
    "flat": (lambda *both: of_slices(*both).select_group_slices("right"), "right"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("what", GROUPED)
def test_a_slice_of_groups_is_loaded(dataset, tmp_path, what, format):
    make, name = GROUPED[what]
    report = export_labels(make(dataset, tmp_path), tmp_path / "out", format=format)
    assert [labels for _, labels in loaded(report)] == [[name], [name]]


def one_file_twice(folder):
    path = picture(folder / "a.png")
    return [sample(path, "a"), sample(path, "b", "c")]


def of_names(*names):
    return lambda folder: [sample(picture(folder / name, seed=i), "abc"[i]) for i, name in enumerate(names)]


def linked(folder):
    picture(folder / "elsewhere/0.png", seed=1)
    (folder / "in").mkdir()
    (folder / "in/link").symlink_to(folder / "elsewhere")
    return [sample(folder / "in/link/0.png", "a"), sample(picture(folder / "in/1.png"), "b")]


IN_PLACE = {  # samples -> classes of the labels of each image
    "plain": (of_names("x/0.png", "y/0.png"), [["a"], ["b"]]),
    "case only": (of_names("A.png", "a.png"), [["a"], ["b"]]),
    "hidden folder": (of_names(".x/0.png", "y/0.png"), [["a"], ["b"]]),
    "hidden file": (of_names(".0.png", "0.png"), [["a"], ["b"]]),
    "line break": (of_names("a\nb.png", "a b.png"), [["a"], ["b"]]),
    "very long": (of_names(f"{'x' * 240}.png", "y.png"), [["a"], ["b"]]),
    "one file twice": (one_file_twice, [["a", "b", "c"]]),
    "behind a link": (linked, [["a"], ["b"]]),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_images_that_stay_in_place_are_loaded(dataset, tmp_path, what):
    """Without copies COCO has true paths: FiftyOne looked for the names of copies, and stopped with a KeyError."""
    make, classes = IN_PLACE[what]
    dataset.add_samples(make(tmp_path / "in"))
    report = export_labels(dataset, tmp_path / "out", export_media=False)
    assert sorted(labels for _, labels in loaded(report)) == classes and not report.renamed
    assert ("1 sample of a file of another sample" in str(report)) == (what == "one file twice")


def test_images_of_two_disks_stay_in_place(dataset, tmp_path, monkeypatch):
    """What they share is the whole machine then: nothing is to look through that."""
    dataset.add_samples(of_names("x/0.png", "y/0.png")(tmp_path))
    monkeypatch.setattr("fiftyone_ntt.review.export_names.os.path.commonpath", lambda _: os.sep)
    report = export_labels(dataset, tmp_path / "out", export_media=False)
    assert len(loaded(report)) == 2 and f"data_path={str(tmp_path / 'out')!r}" in report.how_to_load


# Suffix and content -> suffix in a YOLO export, whether the content is what it was
KINDS = {
    "gif": ("a.gif", "GIF", ".png", False),
    "avif": ("a.avif", "AVIF", ".png", False),
    "jp2": ("a.jp2", "JPEG2000", ".png", False),
    "ppm": ("a.ppm", "PPM", ".png", False),
    "gif called jpg": ("a.jpg", "GIF", ".png", False),
    "jfif": ("a.jfif", "JPEG", ".jpg", True),
    "jpe": ("a.jpe", "JPEG", ".jpg", True),
    "jpg": ("a.JPG", "JPEG", ".JPG", True),
    "jpeg called png": ("a.png", "JPEG", ".png", True),
    "tiff": ("a.tiff", "TIFF", ".tiff", True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_yolo_exports_hold_what_trainers_see(dataset, tmp_path, kind):
    """Trainers choose images by suffix, and by content: others are passed over in silence, labels and all."""
    name, content, suffix, same = KINDS[kind]
    path, pixels = tmp_path / "in" / name, Image.open(picture(tmp_path / "pixels.png"))
    path.parent.mkdir()
    pixels.save(path, format=content)
    dataset.add_samples([sample(path, "a"), sample(picture(tmp_path / "in/b.png", seed=2), "b")])
    report = export_labels(dataset, tmp_path / "out", format="yolo")
    (written,) = (tmp_path / "out/images/train").glob("a*")
    assert written.suffix == suffix and ("written as PNG" in str(report)) == (not same)
    assert [labels for _, labels in loaded(report)] == [["a"], ["b"]]
    assert report.renamed == ({} if written.name == name else {written.name: str(path)})
    assert (written.read_bytes() == path.read_bytes()) == same
    read = np.asarray(Image.open(path).convert("RGB")), np.asarray(Image.open(written).convert("RGB"))
    assert (read[0] == read[1]).all()


def test_yolo_labels_alone_say_where_images_belong(dataset, tmp_path):
    path = tmp_path / "a.gif"
    Image.open(picture(tmp_path / "pixels.png")).save(path)
    dataset.add_sample(sample(path, "a"))
    report = export_labels(dataset, tmp_path / "out", format="yolo", export_media=False)
    assert "1 image of a kind that trainers of YOLO models pass over" in str(report)
    assert str(tmp_path / "out/images/train") in report.how_to_load.splitlines()[0]


def test_many_samples_of_one_file_are_named_quickly(monkeypatch):
    """A thousand samples of one file looked at half a million names."""
    looks, is_taken = [], Names._is_taken
    monkeypatch.setattr(Names, "_is_taken", lambda *both: looks.append(both) or is_taken(*both))
    for format in ("coco", "yolo"):
        namer = Names(["/d/a.jpg"] * 300, format)
        assert len({namer.name(path) for path in ["/d/a.jpg", "/d/A.jpg", "/d/a.jpg"] * 100}) == 300
    assert len(looks) < 4 * 600
