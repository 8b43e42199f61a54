"""Labels that cannot be examples, masks of odd files: references of other people's datasets, read rightly or named."""

import logging

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.app import run

import fiftyone_ntt as ntt
from fiftyone_ntt.dataset.geometry import full_mask, read_map
from fiftyone_ntt.dataset.marks import is_example, left_out_mark
from fiftyone_ntt.errors import BadReferenceError, InputError, WrongTypeError
from fiftyone_ntt.pixels.mask_values import flags_of
from fiftyone_ntt.references.banks import notes_of
from fiftyone_ntt.references.tagging import count_references

# Attribute and value of a label -> whether it may be an example. COCO (`iscrowd`), Pascal VOC (`difficult`, texts as in
# its XML files), BDD100K (`crowd`), Open Images (`IsGroupOf`), CrowdHuman and MOT (`ignore`).
# The public reports stand beside MARKS of test_troubles_of_crowds.py.
MARKS = [
    ({}, True),
    ({"iscrowd": 0}, True),
    ({"iscrowd": 1}, False),
    ({"iscrowd": 1.0}, False),
    ({"iscrowd": True}, False),
    ({"attributes": {"iscrowd": fo.NumericAttribute(value=1)}}, False),
    ({"difficult": "0"}, True),
    ({"difficult": "1"}, False),
    ({"difficult": " False "}, True),
    ({"ignore": True}, False),
    ({"ignore": False}, True),
    ({"crowd": "yes"}, False),
    ({"IsGroupOf": True}, False),
    ({"ignore": None}, True),
    # empty cells of a table, which pandas makes a number of
    ({"difficult": float("nan")}, True),
    ({"iscrowd": "N/A"}, True),
    ({"ignore": "<NA>"}, True),
    # other spellings of the same
    ({"Difficult": "1"}, False),
    ({"DIFFICULT": 0}, True),
    ({"isCrowd": 1}, False),
    ({"Is-Crowd": True}, False),
    ({"group_of": True}, False),
    ({"is_group_of": "0"}, True),
    ({"attributes": {"Ignore": fo.BooleanAttribute(value=True)}}, False),
    ({"attributes": {"Ignore": fo.BooleanAttribute(value=False)}}, True),
    # no marks: other attributes that have such a word in them, and tags
    ({"crowdedness": 3, "ignored_by": "x"}, True),
    ({"tags": ["difficult"]}, True),
]


def box(left=0.1, **attributes):
    return fo.Detection(label="square", bounding_box=[left, 0.3, 0.3, 0.4], **attributes)


def put(dataset, *labels, field="truth"):
    """These labels on the first sample, which is a reference."""
    sample = dataset.first()
    sample[field] = fo.Detections(detections=list(labels))
    sample.save()
    return labels


@pytest.mark.parametrize(("attributes", "example"), MARKS, ids=str)
def test_marks_mean_the_same_in_python_and_in_the_database(pictures, attributes, example):
    (label,) = put(pictures, box(**attributes))
    assert (left_out_mark(label) is None) is example
    view = pictures.match_tags("ntt:reference").filter_labels("truth", is_example(), only_matches=False)
    assert view.count("truth.detections") == int(example)


@pytest.mark.parametrize("mark", ["iscrowd", "difficult", "ignore"])
def test_crowds_and_difficult_labels_are_no_references(pictures, preset, caplog, mark):
    good, crowd = put(pictures, box(), box(0.5, **{mark: 1}))
    references = pictures.match_tags("ntt:reference")
    with caplog.at_level(logging.WARNING):
        bank = ntt.build_memory_bank(references, "truth", preset=preset)
    assert [key.split("/")[1] for key in bank.reference_ids] == [good.id]
    assert f"{mark!r}" in caplog.text and crowd.id in caplog.text
    assert len(notes_of(bank)) == 1 and crowd.id in notes_of(bank)[0]
    cards = {card.label_id: card for card in ntt.describe_references(pictures, "truth")}
    assert any(mark in warning for warning in cards[crowd.id].warnings)
    assert any("only one of its class" in warning for warning in cards[good.id].warnings)
    assert count_references(pictures, "truth") == {"square": 1}
    change = ntt.use_as_references(pictures.limit(1), "truth")
    assert change.left_out == 1 and "left out" in str(change)
    assert ntt.use_as_references(pictures, "truth", label_ids=[good.id]).left_out == 0
    assert list(ntt.preview(pictures, label_field="truth", preset=preset, points_per_side=2).notes) == notes_of(bank)
    made = ntt.make_reference_masks(references, "truth", preset=preset)
    assert made.kinds == {"box": 1} and mark in str(made)


def test_nothing_but_crowds_is_refused_with_a_reason(pictures, preset):
    put(pictures, box(iscrowd=1))
    for classes in (None, ["square"]):
        with pytest.raises(BadReferenceError, match="crowd"):
            ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", classes=classes, preset=preset)


def test_keypoints_and_polylines_can_be_crowds(pictures, preset):
    sample = pictures.first()
    corners = [(0.1, 0.2), (0.4, 0.2), (0.4, 0.6), (0.1, 0.6)]
    sample["lines"] = fo.Polylines(
        polylines=[fo.Polyline(label="square", points=[corners], closed=True, iscrowd=crowd) for crowd in (0, 1)]
    )
    sample.save()
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "lines", preset=preset)
    assert bank.shots == {"square": 1} and "iscrowd" in notes_of(bank)[0]


def test_a_crowd_that_was_called_a_negative_is_one(pictures, preset):
    put(pictures, box(), box(0.5, iscrowd=1, tags=["ntt:negative"]))
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset)
    assert len(bank.negative_ids) == 1 and notes_of(bank) == []


def test_an_accepted_label_that_is_difficult_teaches_nothing(pictures, preset, bank, index_dir):
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir)
    for sample, difficult in zip(pictures.skip(1).limit(2), (True, False), strict=True):
        label = sample.found.detections[0]
        label.tags, label["difficult"] = ["ntt:accepted"], difficult
        sample.save()
    report = ntt.learn(pictures, "found", preset=preset)
    assert sum(counts["accepted"] for counts in report.decisions.values()) == 1
    assert any("difficult" in note for note in report.notes)


def test_the_operator_names_what_it_left_out(pictures, lite):
    put(pictures, box(), box(0.5, iscrowd=1))
    result, _ = run("build_memory_bank", pictures, {"label_field": "truth"})
    assert "iscrowd" in result["summary"] and result["shots"] == [{"class": "square", "references": 1}]


def test_what_a_bank_has_seen_outlives_saving_it(pictures, preset, tmp_path):
    put(pictures, box())
    bank = ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, name="kept")
    again = [ntt.load_bank(pictures, "kept"), type(bank).load(bank.save(tmp_path / "bank"))]
    assert all(one.origin == bank.origin and one.content_hash == bank.content_hash for one in again)
    assert bank.changed(origin={}).content_hash == bank.content_hash, "what it has seen decides no match"


DISC = np.hypot(*np.mgrid[-15:15, -15:15]) < 10
SOFT = np.clip(1 - (np.hypot(*np.mgrid[-15:15, -15:15]) - 9) / 4, 0, 1)  # 0.5 at a radius of 11
WIDE = SOFT >= 0.5
CLEAR = np.full(DISC.shape, 255, np.uint8)


def grey(mask=DISC, value=255):
    return (mask * value).astype(np.uint8)


def layers(*channels):
    return np.stack(channels, axis=2).astype(np.uint8)


NOTHING = np.zeros(DISC.shape, np.uint8)
# Array or content of a PNG -> the pixels on the object. A green mask was read as empty (its red is), a white one with
# transparency and a probability mask as the whole box.
MASKS = {
    "bool": (DISC, DISC),
    "0 and 1": (DISC.astype(np.uint8), DISC),
    # PaddlePaddle/PaddleSeg#1110: objects of 255 were ignored as unknown, and the loss was 0
    "0 and 255": (grey(), DISC),
    "0 and 3": (grey(value=3), DISC),
    "floats of 0 and 1": (DISC.astype(float), DISC),
    # voxel51/fiftyone#5516, hzlsaber/SIDA#25: instance masks of all values between nothing and 255
    "shares of 0 to 1": (SOFT, WIDE),
    "shares, and nothing known elsewhere": (np.where(SOFT > 0, SOFT, np.nan), WIDE),
    "greys of 8 bits": (np.round(SOFT * 255).astype(np.uint8), WIDE),
    "greys of 16 bits": (np.round(SOFT * 65535).astype(np.uint16), WIDE),
    "floats of 0 to 255": (SOFT * 255, WIDE),
    # albumentations-team/albumentations#81: masks are to be read as grey
    "grey in colour": (layers(grey(), grey(), grey()), DISC),
    # predictivephenomics/RhizoVisionExplorer#2: only red was read, so masks in blue and green were empty
    "green": (layers(NOTHING, grey(), NOTHING), DISC),
    # yoxu515/aot-benchmark#25: palettes; stepjam/RLBench#43: only the first of three channels is used
    "dark red of a palette": (layers(grey(value=128), NOTHING, NOTHING), DISC),
    "smooth green": (layers(NOTHING, np.round(SOFT * 255), NOTHING), WIDE),
    # vqdang/hover_net#291: transparency was dropped, and what is transparent taken for the object
    "white with transparency": (layers(CLEAR, CLEAR, CLEAR, grey()), DISC),
    "black with transparency": (layers(NOTHING, NOTHING, NOTHING, grey()), DISC),
    "green and transparent": (layers(NOTHING, grey(), NOTHING, grey()), DISC),
    # Visual-Behavior/aloception-oss#99: masks with transparency were read as four
    "opaque": (layers(grey(), grey(), grey(), CLEAR), DISC),
    "grey with transparency": (layers(CLEAR, grey()), DISC),
    "numbers of objects": (grey(value=1) + grey(np.roll(DISC, 8, 1)) // 255, "3 values"),
    # arthurdouillard/CVPR2021_PLOP#32: Pascal VOC's objects have a border of 255
    "with a border to ignore": (np.where(WIDE & ~DISC, 255, DISC).astype(np.uint8), "3 values"),
    "logits": (SOFT * 8 - 4, "values"),
    "two colours": (layers(grey(), grey(~DISC), NOTHING), "colours"),
    "wholly transparent": (layers(CLEAR, CLEAR, CLEAR, NOTHING), "transparent"),
    "five channels": (np.zeros((4, 4, 5), np.uint8), "channels"),
}


@pytest.mark.parametrize(("mask", "meant"), MASKS.values(), ids=MASKS)
def test_masks_are_read_as_they_are_meant(mask, meant):
    if isinstance(meant, str):
        with pytest.raises(InputError, match=meant):
            flags_of(mask)
    else:
        assert (flags_of(mask) == meant).all()


@pytest.mark.parametrize("kind", ["green", "white with transparency", "greys of 8 bits", "opaque"])
def test_mask_files_are_read_as_they_are_meant(tmp_path, kind):
    mask, meant = MASKS[kind]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    label = fo.Detection(label="square", bounding_box=[0, 0, 0.3, 0.3], mask_path=str(tmp_path / "mask.png"))
    assert (full_mask(label, (100, 100))[:30, :30] == meant).all()


def test_a_mask_that_nobody_can_read_is_named(pictures, preset):
    (label,) = put(pictures, box(mask=MASKS["numbers of objects"][0]))
    with pytest.raises(BadReferenceError, match=f"{label.id}.*3 values"):
        ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset)


MAPS = {
    "numbers": (grey(value=2), True),
    "floats that are whole": (DISC * 2.0, True),
    "grey in colour": (layers(grey(value=2), grey(value=2), grey(value=2)), True),
    "opaque": (layers(grey(value=2), grey(value=2), grey(value=2), CLEAR), True),
    "shares": (SOFT, "whole numbers"),
    # voxel51/fiftyone#2920: semantic masks in colours were not shown
    "colours": (layers(NOTHING, grey(), NOTHING), "colours"),
}


@pytest.mark.parametrize(("values", "meant"), MAPS.values(), ids=MAPS)
def test_semantic_masks_are_read_as_they_are_meant(values, meant, tmp_path):
    label = fo.Segmentation(mask=values)
    if values.ndim == 3:
        Image.fromarray(values).save(tmp_path / "map.png")
        label = fo.Segmentation(mask_path=str(tmp_path / "map.png"))
    if isinstance(meant, str):
        with pytest.raises((InputError, WrongTypeError), match=meant):
            read_map(label)
    else:
        assert (read_map(label) == 2 * DISC).all()
