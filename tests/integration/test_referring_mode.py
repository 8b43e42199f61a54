"""``segment(mode="referring")``: one best match a reference and image, known by the run's record and by every door."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.operators.executor import ExecutionError
from support.pictures import Shape

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError

SHAPES = [Shape("mug", step=0), Shape("mug", left=70, top=30, step=0, colour=(40, 60, 200))]
pytestmark = pytest.mark.pictures(count=4, references=2, masks=2, shapes=SHAPES)


@pytest.fixture
def bank(pictures, preset):
    """Two references in the first picture, of one class, and one in the second of another."""
    second = pictures.skip(1).first()
    second["truth"] = fo.Detections(detections=[Shape("cup", step=0).detection(0)])
    second.save()
    return ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", preset=preset, name="bank")


def test_each_reference_has_its_best_match_in_each_image(pictures, bank, preset, tmp_path):
    where = {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}
    report = ntt.segment(pictures, bank, "found", mode="referring", **where)
    assert report.labelled == 2 and report.instances == 2 * 3
    for sample in pictures.match_tags("ntt:reference", bool=False):
        labels = sample["found"].detections
        assert sorted(one.reference_id for one in labels) == sorted(bank.reference_ids)
        scores = [one.confidence for one in labels]
        assert scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] <= 1
        for one in labels:
            assert one.label == bank.classes[bank.class_index[bank.reference_ids.index(one.reference_id)]]
            assert one.similarity >= one.confidence and one.mask.any()
    assert pictures.get_field("found.detections.reference_id") is not None
    ntt.segment(pictures, bank, "generic", **where)
    assert pictures.get_field("generic.detections.reference_id") is None
    (generic,) = [run for run in ntt.list_runs(pictures) if run["label_field"] == "generic"]
    assert generic["mode"] == "generic" and "mode" in generic["configuration"]


def test_the_run_knows_its_mode(pictures, bank, preset, tmp_path):
    where = {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}
    ntt.segment(pictures, bank, "found", mode="referring", **where)
    again = ntt.resume_run(pictures, "ntt_found", preset=preset)
    assert (again.resumed, again.done) == (2, 0)
    with pytest.raises(InputError, match="other mode"):
        ntt.segment(pictures, bank, "found", **where)
    with pytest.raises(InputError, match="mode 'referring'"):
        ntt.learn(pictures, "found")
    with pytest.raises(InputError, match="'all'"):
        ntt.segment(pictures, bank, "other", mode="all", **where)
    with pytest.raises(InputError, match="'generic'"):
        ntt.segment(pictures, bank, "other", mode="referring", thresholds="fitted", **where)
    assert not pictures.has_field("other")


def test_a_run_resumed_half_way_goes_on_in_its_mode(pictures, bank, preset, tmp_path):
    where = {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}

    def stop(done, total, message):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ntt.segment(pictures, bank, "found", mode="referring", progress=stop, **where)
    assert ntt.resume_run(pictures, "ntt_found", preset=preset).done == 1
    ids = pictures.match_tags("ntt:reference", bool=False).values("found.detections.reference_id")
    assert [sorted(one) for one in ids] == [sorted(bank.reference_ids)] * 2


def test_thresholds_are_those_of_the_references_classes(pictures, bank, preset, tmp_path):
    where = {"preset": preset, "index_dir": tmp_path / "index", "device": "cpu"}
    ntt.segment(pictures, bank, "found", mode="referring", thresholds={"mug": 1.0, "cup": 0.0}, **where)
    assert set(pictures.distinct("found.detections.label")) == {"cup"}
    ntt.segment(pictures, bank, "none", mode="referring", score_threshold=1.0, **where)
    assert pictures.count("none.detections") == 0


def test_the_form_knows_the_mode(pictures, bank, tmp_path):
    ctx = {"dataset": pictures}
    params = {"bank": "bank", "mode": "best"}
    with pytest.raises(ExecutionError, match="mode"):
        foo.execute_operator("@fiftyone-ntt/ntt/segment", ctx, params=params)
