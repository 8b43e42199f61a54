"""A second look and the granularity, from the references to labels, resumed runs, estimates and previews."""

import json

import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.options.second_look import WEIGHT
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.runs.estimate import estimate

pytestmark = pytest.mark.pictures(count=3)


def built(pictures, preset, **options):
    return ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, **options)


def scores(dataset, field):
    return [round(score, 6) for one in dataset.values(f"{field}.detections.confidence") for score in one or []]


def settings_in(folder):
    return [json.loads(path.read_text()) for path in folder.glob("*/settings.json")]


def test_second_look_changes_scores_and_has_an_index_of_its_own(pictures, preset, tmp_path):
    bank, where = built(pictures, preset), {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}
    ntt.segment(pictures, bank, "plain", **where)
    computed = ntt.index(pictures.match_tags("ntt:reference", bool=False), second_look=True, **where)
    assert (computed.computed, computed.found) == (2, 0)
    report = ntt.segment(pictures, bank, "looked", second_look=True, **where)
    assert (report.from_index, report.indexed) == (2, 0)
    assert scores(pictures, "looked") != scores(pictures, "plain")
    assert sorted("second_look" in one["facts"] for one in settings_in(tmp_path / "index")) == [False, True]
    (record,) = [run for run in ntt.list_runs(pictures) if run["label_field"] == "looked"]
    assert record["match"]["second_look"] == WEIGHT
    again = ntt.resume_run(pictures, "ntt_looked", preset=preset)
    assert (again.resumed, again.done) == (2, 0)
    with pytest.raises(InputError, match="other match"):
        ntt.segment(pictures, bank, "looked", **where)


def test_a_bank_without_crops_is_refused(pictures, preset):
    old = built(pictures, preset).changed(crops=None)
    with pytest.raises(InputError, match="build.*again"):
        ntt.segment(pictures, old, preset=preset, second_look=True)
    with pytest.raises(InputError, match="build.*again"):
        ntt.preview(pictures, old, preset=preset, second_look=True)


def test_granularity_is_part_of_the_run_and_of_the_index(pictures, preset, tmp_path):
    bank, where = built(pictures, preset), {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}
    ntt.segment(pictures, bank, "parts", granularity="part", **where)
    assert ntt.list_runs(pictures)[0]["granularity"] == "part"
    assert [one["facts"].get("outputs") for one in settings_in(tmp_path / "index")] == ["part"]
    assert ntt.resume_run(pictures, "ntt_parts", preset=preset).resumed == 2
    with pytest.raises(InputError, match="other granularity"):
        ntt.segment(pictures, bank, "parts", granularity="whole", **where)
    with pytest.raises(InputError, match="best, whole, part, auto"):
        ntt.segment(pictures, bank, "other", granularity="parts", **where)


def test_auto_takes_what_the_references_chose(pictures, preset, tmp_path):
    where = {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}
    with pytest.raises(InputError, match="ask_granularity=True"):
        ntt.segment(pictures, built(pictures, preset), granularity="auto", **where)
    with pytest.raises(InputError, match="ask_granularity=True"):
        ntt.index(pictures, granularity="auto", **where)
    asked = built(pictures, preset, ask_granularity=True, name="asked")
    assert asked.granularity in ("best", "part", "whole")
    assert ntt.load_bank(pictures, "asked").granularity == asked.granularity
    ntt.segment(pictures, "asked", "found", granularity="auto", **where)
    assert ntt.list_runs(pictures)[0]["granularity"] == asked.granularity


def test_previews_and_estimates_know_both(pictures, preset, tmp_path):
    options = {"second_look": True, "granularity": "whole", "index_dir": tmp_path / "index", "device": "cpu"}
    shown = ntt.preview(pictures, built(pictures, preset), images=1, preset=preset, **options)
    assert [image.error for image in shown] == [None]
    assert shown.estimate().found == 1
    stage_one = StageOneSettings(preset=preset, **options)
    assert estimate(pictures, stage_one).found == 1
    for other in (stage_one.changed(granularity="best"), stage_one.changed(second_look=False)):
        assert estimate(pictures, other).found == 0
