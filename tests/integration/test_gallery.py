"""The gallery of references: pictures, kinds, and warnings in plain words; nothing else of the dataset is read."""

from __future__ import annotations

import io
from dataclasses import replace

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import fiftyone_ntt as ntt
from fiftyone_ntt.references.gallery import describe_references
from fiftyone_ntt.references.tagging import count_references

TAG = "ntt:reference"
SIDE = 200


def picture(path, seed):
    """Blocks of random brightness: crops of different places differ, also when they are small."""
    blocks = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return str(path)


def box(label, left, top, width, height, mask=None):
    return fo.Detection(label=label, bounding_box=[left / SIDE, top / SIDE, width / SIDE, height / SIDE], mask=mask)


def sample(path, *labels, tags=(TAG,)):
    return fo.Sample(path, ground_truth=fo.Detections(detections=list(labels)), tags=list(tags))


@pytest.fixture
def gallery(dataset, tmp_path):
    """Reference: two figs and a date on one image, a copy of the first fig, a tiny fig, a fig at the border."""
    disc = np.hypot(*np.mgrid[-1:1:60j, -1:1:60j]) < 1
    first = picture(tmp_path / "first.png", 0)
    picture(tmp_path / "copy.png", 0)
    dataset.add_samples(
        [
            sample(first, box("fig", 20, 30, 60, 60, disc), box("fig", 120, 40, 50, 60), box("date", 30, 120, 50, 50)),
            sample(str(tmp_path / "copy.png"), box("fig", 20, 30, 60, 60)),
            sample(picture(tmp_path / "a.png", 1), box("fig", 50, 60, 12, 40), box("fig", 140, 20, 60, 60)),
            sample(picture(tmp_path / "b.png", 2), box("fig", 50, 60, 70, 70), tags=()),
        ]
    )
    return dataset


def by_place(cards, dataset):
    positions = {sample_id: i for i, sample_id in enumerate(dataset.values("id"))}
    return [(positions[card.sample_id], card.label, card.kind) for card in cards]


def test_every_reference_has_a_card(gallery):
    cards = ntt.describe_references(gallery)
    assert by_place(cards, gallery) == [
        (0, "date", "box"),
        (0, "fig", "mask"),
        (0, "fig", "box"),
        (1, "fig", "box"),
        (2, "fig", "box"),
        (2, "fig", "box"),
    ]
    shares = [card.area for card in cards]
    assert shares[0] == pytest.approx(50 * 50 / SIDE**2)
    assert shares[1] == pytest.approx(np.pi * 30**2 / SIDE**2, rel=0.05), "the mask's pixels, not its box"
    assert count_references(gallery) == {"date": 1, "fig": 5}


def test_warnings_say_what_may_be_wrong(gallery):
    date, fig, other, copy, tiny, border = (card.warnings for card in ntt.describe_references(gallery))
    assert date == ("the only one of its class: two or three more help",)
    assert fig == copy == ("nearly the same as another reference: a different one shows more",)
    assert other == ()
    assert tiny == ("too small: 12 x 40 pixels, a larger one shows more",)
    assert border == ("cut off by the image's border: one that is whole shows more",)


def test_the_same_thing_under_two_names(gallery):
    second = gallery.skip(1).first()
    second.ground_truth.detections[0].label = "date"
    second.save()
    warnings = [card.warnings for card in ntt.describe_references(gallery) if card.sample_id == second.id][0]
    assert warnings == ("nearly the same as a reference of class 'fig': one of the two is wrong",)


def test_what_cannot_be_used_says_why(dataset, tmp_path):
    path = picture(tmp_path / "a.png", 0)
    empty = box("fig", 20, 20, 60, 60, np.zeros((60, 60), bool))
    dataset.add_samples(
        [sample(path, empty, box(None, 20, 20, 60, 60)), sample(str(tmp_path / "gone.png"), box("fig", 9, 9, 60, 60))]
    )
    warnings = {card.label: card.warnings for card in ntt.describe_references(dataset)}
    unnamed = warnings.pop("(no class)")
    assert "has no class: give it one" in unnamed
    listed = [card for card in ntt.describe_references(dataset) if card.label == "fig"]
    assert ["its mask is empty" in card.warnings[0] for card in listed] == [True, False]
    assert "image file" in listed[1].warnings[0]
    assert listed[1].thumbnail() is None


def test_thumbnails_show_the_object_with_its_outline(gallery):
    mask_card = ntt.describe_references(gallery)[1]
    for kind in ("PNG", "JPEG"):
        shown = Image.open(io.BytesIO(mask_card.thumbnail(96, kind)))
        assert (shown.size, shown.format) == ((96, 96), kind)
    plain = np.asarray(Image.open(gallery.first().filepath).crop((11, 21, 89, 99)).resize((96, 96)), np.float32)
    drawn = np.asarray(Image.open(io.BytesIO(mask_card.thumbnail(96))), np.float32)
    changed = np.abs(drawn - plain).mean(-1)
    assert changed[48, 48] > 10 and changed[:4, :4].max() < 12, "tinted inside, as it was outside"


def test_single_labels_and_patches(gallery):
    gallery.untag_samples(TAG)
    assert ntt.describe_references(gallery) == []
    label = gallery.last().ground_truth.detections[0]
    ntt.use_as_references(gallery, label_ids=[label.id])
    assert [card.label_id for card in ntt.describe_references(gallery)] == [label.id]
    patches = gallery.to_patches("ground_truth")
    assert [card.sample_id for card in ntt.describe_references(patches)] == [gallery.last().id]


def test_at_most_so_many_of_every_class_alike(gallery):
    assert by_place(describe_references(gallery, most=3), gallery) == [
        (0, "date", "box"),
        (0, "fig", "mask"),
        (0, "fig", "box"),
    ]


def test_images_that_take_too_long_come_with_the_next_call(gallery, monkeypatch):
    read = []
    from fiftyone_ntt.references import gallery as module

    monkeypatch.setattr(module, "_looks", type(module._looks)())
    monkeypatch.setattr(
        module, "read_image", lambda path, original=module.read_image: read.append(path) or original(path)
    )
    assert all(card.pending for card in describe_references(gallery, seconds=-1)) and not read
    assert not any(card.pending for card in describe_references(gallery))
    assert len(read) == 3, "the tagged images, each once; never the others"
    assert not any(card.pending for card in describe_references(gallery, seconds=-1)) and len(read) == 3


def test_a_notebook_shows_a_table(gallery):
    cards = ntt.describe_references(gallery)
    lines = repr(cards).splitlines()
    assert lines[0].split() == ["class", "kind", "area", "what", "may", "be", "wrong"]
    assert len(lines) == len(cards) + 1 and lines[1].startswith(f"{cards[0].label} ") and "%" in lines[1]
    assert all(warning in lines[1] for warning in cards[0].warnings) and "array" not in repr(cards[0])
    page = cards._repr_html_()
    assert page.count("<tr>") == len(lines) and page.count("<img src=") == len(cards)
    cards[0] = replace(cards[0], label="<b>")
    assert "<b>" not in cards._repr_html_() and repr(type(cards)()) == "no references"
