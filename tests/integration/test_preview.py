"""The preview: what references find in a few images, drawn, and nothing written; the operator around it."""

from __future__ import annotations

import io
import json

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from PIL import Image
from support.app import context, form
from support.fake_models import fake_segmenter

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import presets
from fiftyone_ntt.references.banks import save_bank

TAG = "ntt:reference"
URI = "@fiftyone-ntt/ntt/preview"


@pytest.fixture
def fakes(monkeypatch):
    """Models that need no weights stand in for those of the presets; counts how often they are asked for."""
    asked = []

    class Loaded:
        preset = presets.PRESETS["lite"]

        def segmenter(self):
            return fake_segmenter()

    monkeypatch.setattr("fiftyone_ntt.references.banks.load_preset", lambda *_: Loaded())
    monkeypatch.setattr(
        "fiftyone_ntt.candidates.source.load_segmenters", lambda *_, **__: asked.append(1) or [fake_segmenter()]
    )
    return asked


@pytest.fixture
def photos(dataset, tmp_path):
    """Ten images of a bright disc each; the third is a reference."""
    rows, columns = np.mgrid[:96, :128]
    for i in range(10):
        pixels = np.random.default_rng(i).integers(20, 60, (96, 128, 3), dtype=np.uint8)
        disc = (rows - 48) ** 2 + (columns - 40 - 4 * i) ** 2 < 30**2
        pixels[disc] = [250, 200, 40]
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        x = (10 + 4 * i) / 128
        mask = disc[18:78, 10 + 4 * i : 70 + 4 * i]
        truth = fo.Detections(
            detections=[fo.Detection(label="disc", bounding_box=[x, 18 / 96, 60 / 128, 60 / 96], mask=mask)]
        )
        dataset.add_sample(fo.Sample(str(tmp_path / f"{i}.png"), ground_truth=truth, tags=[TAG] if i == 2 else []))
    return dataset


def everything(dataset):
    dataset.reload()
    return dataset.get_field_schema().keys(), [sample.to_dict() for sample in dataset]


def test_it_shows_images_and_labels_none(photos, fakes, tmp_path):
    before = everything(photos)
    preview = ntt.preview(photos, index_dir=tmp_path / "index")
    shown = list(preview)
    assert everything(photos) == before and photos.list_runs() == ["ntt_bank"], "a run finds it ready"
    names = sorted(one.name for one in shown)
    assert names == ["1.png", "4.png", "6.png", "8.png"], "evenly spread over the nine others"
    for one in shown:
        assert one.counts["disc"] >= 1 and one.best > 0 and one.error is None and not one.from_index
        picture = Image.open(io.BytesIO(one.picture))
        assert (picture.format, picture.size) == ("JPEG", (640, 480))
        plain = np.asarray(Image.open(photos[one.sample_id].filepath).resize((640, 480)), np.float32)
        assert (np.abs(np.asarray(picture, np.float32) - plain).mean(-1) > 20).mean() > 0.005, "something is drawn"


def test_what_it_computed_is_in_the_index(photos, fakes, tmp_path):
    first = ntt.preview(photos, index_dir=tmp_path / "index")
    found = list(first)
    estimate = first.estimate()
    assert (estimate.images, estimate.found, estimate.exact) == (9, 4, True)
    assert estimate.seconds is not None and "4 of them in the candidate cache" in str(estimate)
    loaded = len(fakes)
    again = list(ntt.preview(photos, index_dir=tmp_path / "index"))
    assert all(one.from_index and "from the candidate cache" in str(one) for one in again)
    assert len(fakes) == loaded, "no model is needed"
    assert {one.sample_id: one.counts for one in again} == {one.sample_id: one.counts for one in found}


def test_a_kept_bank_may_be_named(photos, fakes, tmp_path):
    bank = ntt.build_memory_bank(photos.match_tags(TAG))
    save_bank(photos, "discs", bank)
    by_name = list(ntt.preview(photos, "discs", images=1, index_dir=tmp_path / "index"))
    assert [one.name for one in by_name] == ["5.png"]
    assert by_name[0].counts == list(ntt.preview(photos, bank, images=1, index_dir=tmp_path / "index"))[0].counts


def test_a_broken_image_costs_one_image(photos, fakes, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    shown = {one.name: one for one in ntt.preview(photos, index_dir=tmp_path / "index")}
    assert "readable image" in shown["1.png"].error and not shown["1.png"].picture
    assert all(shown[name].error is None for name in ("4.png", "6.png", "8.png"))


def test_a_threshold_leaves_nothing(photos, fakes, tmp_path):
    shown = list(ntt.preview(photos, images=1, score_threshold=1.0, index_dir=tmp_path / "index"))
    assert shown[0].counts == {} and "nothing found" in str(shown[0])


@pytest.mark.parametrize(
    ("arguments", "most"),
    [({}, 100), ({"max_instances": 1}, 1), ({"thresholds": {"disc": 1.0}}, 0), ({"mode": "referring"}, 1)],
)
def test_it_takes_the_settings_of_a_run(photos, fakes, tmp_path, arguments, most):
    settings = {**arguments, "index_dir": tmp_path / "index"}
    bank = ntt.build_memory_bank(photos.match_tags(TAG))
    (shown,) = ntt.preview(photos, bank, images=1, **settings)
    found = sum(shown.counts.values()) + shown.weak
    assert found <= most and bool(found) == bool(most)
    ntt.segment(photos.select(shown.sample_id), bank, "found", **{"score_threshold": 0, **settings})
    assert photos.count("found.detections") == found, "what it speaks of is what a run finds"


def test_it_may_look_at_references(photos, fakes, tmp_path):
    preview = ntt.preview(photos.match_tags(TAG), include_references=True, index_dir=tmp_path / "index")
    assert [image.name for image in preview] == ["2.png"]


@pytest.mark.parametrize(
    ("arguments", "change", "expected"),
    [
        ({"images": 0}, None, "at least 1 image"),
        ({"bank": "circles"}, None, "'circles'"),
        ({}, "untag", "no references here yet.*'NTT: Use as reference'"),
        ({}, "only references", "no image.*reference"),
    ],
)
def test_what_cannot_be_shown_says_why(photos, fakes, arguments, change, expected):
    view = photos.match_tags(TAG) if change == "only references" else photos
    if change == "untag":
        photos.untag_samples(TAG)
    with pytest.raises(InputError, match=expected):
        ntt.preview(view, **arguments)


def test_the_operator_shows_progress_and_pictures(photos, fakes, tmp_path):
    operator = foo.get_operator(URI)
    assert operator.config.execute_as_generator and not operator.config.allow_delegated_execution
    ctx = context("preview", photos, {"images": 2, "index_dir": str(tmp_path / "index"), "bank": "", "_advanced": True})
    sent = [json.loads(json.dumps(message.to_json())) for message in operator.execute(ctx)]
    messages = [message["body"] for message in sent]
    progress = [m["params"]["progress"] for m in messages if m["operator_uri"].endswith("set_progress")]
    assert progress == [0.0, 0.5, 1.0]
    output = messages[-1]["params"]
    results = output["results"]
    assert "Nothing has been written" in results["summary"]
    assert "9 images to do, 2 of them in the candidate cache" in results["summary"]
    assert "disc" in results["line_0"] and results["image_1"].startswith("data:image/jpeg;base64,")
    assert set(output["outputs"]["type"]["properties"]) == set(results)


def test_its_form_has_few_fields_until_more_are_wanted(photos):
    properties, errors = form("preview", photos)
    assert errors == {}
    assert [name for name in properties if name[0] != "_" and name != "view_target"] == ["images", "score_threshold"]
    opened = form("preview", photos, {"_advanced": True, "_advanced_references_and_memory_bank": True})[0]
    assert opened["bank"].default == "" and "label_field" in opened
    assert "points_per_side" in form("preview", photos, {"points_per_side": 8})[0], "what was changed is shown"


def test_its_form_says_what_comes_first(photos):
    photos.untag_samples(TAG)
    errors = form("preview", photos)[1]
    assert "'NTT: Use as reference'" in errors["bank"]


def test_weak_labels_are_counted_and_not_drawn(photos, fakes, tmp_path, monkeypatch):
    monkeypatch.setattr("fiftyone_ntt.runs.preview._FLOOR", 1.1)
    one = next(iter(ntt.preview(photos, images=1, index_dir=tmp_path / "index")))
    assert one.counts == {} and one.weak > 0
    assert f"nothing clear ({one.weak} weaker ones not drawn)" in str(one)
