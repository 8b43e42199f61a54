"""Which size an image has, where its file, FiftyOne's metadata and the reader could disagree; folders that stay."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools.coco import COCO
from support.exports import accepted, drawing, load, picture
from support.small_disk import on_small_disk

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.images import read_image
from fiftyone_ntt.review.export import export_labels

SIZE = (30, 50)
PIXELS = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
MASK = drawing((20, 5, 48, 12), size=SIZE[::-1])
"""On the picture as it is shown where its file lies on its side."""


def turned(path, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif, **options)


def phone(path):
    """A JPEG of two pictures, as phones make them: Pillow calls it MPO, and FiftyOne then ignores the orientation."""
    turned(path, format="MPO", save_all=True, append_images=[Image.fromarray(PIXELS)])


def side_tiff(path):
    """A TIFF that Pillow turns when it opens it."""
    Image.fromarray(PIXELS).save(path, tiffinfo={274: 6})


def deep_tiff(path):
    tifffile.imwrite(path, PIXELS.astype(np.uint16) * 257, photometric="rgb", extratags=[(274, "H", 1, 6, True)])


def pages(path):
    """Colours of a picture as they lie in memory, written as pages of three columns."""
    tifffile.imwrite(path, np.ascontiguousarray(PIXELS.transpose(1, 0, 2)), photometric="minisblack")


WRITE = {"a.png": turned, "a.webp": turned, "a.jpg": turned, "b.jpg": phone, "a.tif": side_tiff, "b.tif": deep_tiff}


def sample(path, **facts):
    """With the metadata that FiftyOne computes, or with those given."""
    one = fo.Sample(str(path), ntt=fo.Detections(detections=[accepted(MASK)]))
    if facts:
        one.metadata = fo.ImageMetadata(**facts)
    else:
        one.compute_metadata()
    return one


@pytest.mark.parametrize("media", [True, False])
@pytest.mark.parametrize("name", WRITE)
def test_an_export_has_the_size_that_is_read(dataset, tmp_path, name, media):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    WRITE[name](path)
    assert read_image(path).shape[:2] == SIZE[::-1]
    dataset.add_sample(sample(path))
    report = export_labels(dataset, tmp_path / "out", export_media=media)
    assert report.left_out == []
    coco = COCO(str(tmp_path / "out/labels.json"))
    (image,), (annotation,) = coco.imgs.values(), coco.anns.values()
    assert (image["height"], image["width"]) == SIZE[::-1]
    assert (coco.annToMask(annotation) == MASK).all()


def test_pages_of_a_tiff_have_the_size_of_the_first(dataset, tmp_path):
    pages(tmp_path / "a.tif")
    dataset.add_sample(sample(tmp_path / "a.tif", width=1, height=1))
    export_labels(dataset, tmp_path / "out")
    (image,) = COCO(str(tmp_path / "out/labels.json")).imgs.values()
    assert (image["height"], image["width"]) == read_image(tmp_path / "a.tif").shape[:2]


@pytest.mark.parametrize("media", [True, False])
def test_what_was_noted_of_another_image_is_not_believed(dataset, tmp_path, media):
    """An image was replaced by a smaller copy, or a table of annotations was wrong about it."""
    dataset.add_sample(sample(picture(tmp_path / "in/a.png", SIZE[::-1]), width=3000, height=10))
    export_labels(dataset, tmp_path / "out", export_media=media)
    coco = COCO(str(tmp_path / "out/labels.json"))
    assert (coco.annToMask(coco.anns[1]) == MASK).all()


def test_maps_have_the_size_that_is_read(dataset, tmp_path):
    phone(tmp_path / "a.jpg")
    dataset.add_sample(sample(tmp_path / "a.jpg"))
    ntt.to_segmentation(dataset, "ntt", "maps")
    assert ((dataset.first().maps.get_mask() > 0) == MASK).all()


def test_no_label_is_not_nothing_there(dataset, tmp_path):
    """An image without labels teaches that there is nothing: not one whose labels cannot be written."""
    paths = [picture(tmp_path / f"in/{i}.png") for i in range(4)]
    mask = drawing((0, 0, 20, 50))
    values = [[accepted(mask)], [accepted(mask, iscrowd=1)], [accepted(mask, difficult="1")], []]
    dataset.add_samples(
        [fo.Sample(path, ntt=fo.Detections(detections=some)) for path, some in zip(paths, values, strict=True)]
    )
    report = export_labels(dataset, tmp_path / "yolo", format="yolo", only="all")
    assert (report.images, report.labels) == (2, 1)
    assert sorted(path.name for path in (tmp_path / "yolo/images/train").iterdir()) == ["0.png", "3.png"]
    assert "2 images left out" in str(report) and "1 crowd region" in str(report) and "difficult" in str(report)
    dataset._sample_collection.update_one({"filepath": paths[0]}, {"$set": {"ntt.detections.0.mask": b"broken"}})
    assert export_labels(dataset, tmp_path / "coco", only="all").images == 3


def test_copies_of_samples_keep_masks_of_their_own(dataset, tmp_path):
    """Samples that were added from another dataset have labels with the same ids."""
    for number in range(2):
        mask = np.zeros((60, 80), np.uint8)
        mask[:, number] = 255
        Image.fromarray(mask).save(tmp_path / f"mask {number}.png")
        label = fo.Detection(label="a", bounding_box=[0, 0, 1, 1], tags=["ntt:accepted"])
        label.mask_path, label.id = str(tmp_path / f"mask {number}.png"), "0" * 24
        dataset.add_sample(fo.Sample(picture(tmp_path / f"in/{number}.png"), ntt=fo.Detections(detections=[label])))
    export_labels(dataset, tmp_path / "out", format="fiftyone")
    masks = load(tmp_path / "out", "fiftyone")[1]
    assert [np.flatnonzero(mask.any(axis=0)).tolist() for (mask,) in masks] == [[0], [1]]


@pytest.mark.parametrize("format", ["coco", "yolo", "fiftyone"])
def test_a_folder_that_cannot_be_renamed_is_filled(dataset, tmp_path, format):
    """One on which another disk is mounted, as volumes of containers are; and again, over what was written before."""
    dataset.add_sample(sample(picture(tmp_path / "a.png", SIZE[::-1])))
    said = on_small_disk(tmp_path / "disk", "export_twice", name=dataset.name, format=format)
    if said is None:
        pytest.skip("nothing can be mounted here")
    assert said["errors"] == ["", ""] and said["hidden"] == []
    assert said["files"][0] == said["files"][1] and "ntt_export.json" in said["files"][0]


@pytest.mark.parametrize("name", ["~nobody-of-this-name/out", "x" * 300])
def test_a_folder_that_cannot_be_is_said_in_a_sentence(dataset, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset.add_sample(fo.Sample(picture(tmp_path / "a.png"), ntt=fo.Detections(detections=[accepted(MASK)])))
    with pytest.raises(InputError, match="give the full path|shorter path"):
        export_labels(dataset, name)
