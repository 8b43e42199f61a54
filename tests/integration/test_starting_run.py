"""A run writes what is above the starting thresholds; the rest comes back from the cache, and no decision is lost."""

import shutil
from pathlib import Path

import fiftyone as fo
import pytest
from support.app import form, run

import fiftyone_ntt as ntt
from fiftyone_ntt.core import MatchConfig
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.starting_threshold import StartingThresholds, starting_thresholds
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.review.thresholds import first_threshold, written_above
from fiftyone_ntt.runs import applied_thresholds

pytestmark = pytest.mark.pictures(count=8, references=2)


@pytest.fixture(autouse=True)
def starting():
    """As for users: the references decide."""


@pytest.fixture(scope="module")
def first_index(tmp_path_factory):
    return tmp_path_factory.mktemp("first") / "index"


@pytest.fixture
def index_dir(first_index, tmp_path):
    """A candidate cache of the test's own, filled as the first test left it: the pictures are the same ones."""
    own = tmp_path / "index"
    if first_index.exists():
        shutil.copytree(first_index, own)
    yield own
    if not first_index.exists() and own.exists():
        shutil.copytree(own, first_index)


@pytest.fixture
def everything(pictures, bank, preset, index_dir):
    """Scores of all labels, in a field of its own; the images are in the candidate cache from now on."""
    ntt.segment(pictures, bank, "everything", preset=preset, index_dir=index_dir, score_threshold=0)
    return sorted(pictures.values("everything.detections.confidence", unwind=True))


@pytest.fixture
def middle(everything, monkeypatch):
    """The references suggest to leave the weakest labels out: small random models give no such gap."""
    value = everything[2]
    start = StartingThresholds([value], [everything[-2]])
    monkeypatch.setattr(applied_thresholds, "starting_thresholds", lambda bank: start)
    return value


@pytest.fixture
def label(pictures, bank, preset, index_dir):
    def label(**arguments):
        return ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir, **arguments)

    return label


def labels(dataset, field="found"):
    """Id -> class and score of each label."""
    return {
        item.id: (item.label, round(item.confidence, 6))
        for found in dataset.values(f"{field}.detections")
        for item in found or []
    }


def scores(dataset, field="found"):
    return sorted(score for _, score in labels(dataset, field).values())


def record_of(dataset):
    return dataset.get_run_info("ntt_found").config.record


def test_the_references_decide_where_nobody_does(pictures, bank, label, everything):
    report = label()
    start = starting_thresholds(bank)
    assert record_of(pictures)["thresholds"] == start.written and record_of(pictures)["suggested"] == start.suggested
    assert (report.thresholds, report.suggested) == ({"square": start.written[0]}, {"square": start.suggested[0]})
    assert len(labels(pictures)) == sum(score > start.written[0] for score in everything)


def test_weak_labels_are_left_out_and_counted(pictures, label, middle, everything):
    report = label()
    above = [round(score, 6) for score in everything if score > middle]
    assert scores(pictures) == above and 0 < len(above) < len(everything)
    assert (report.instances, report.left_out) == (len(above), len(everything) - len(above))
    assert f"{report.left_out} weak labels" in str(report)


def test_an_image_with_weak_labels_only_is_empty(pictures, label, everything, monkeypatch):
    nothing = StartingThresholds([1.0], [1.0])
    monkeypatch.setattr(applied_thresholds, "starting_thresholds", lambda bank: nothing)
    report = label()
    assert (report.labelled, report.empty, report.left_out) == (0, 6, len(everything))
    assert pictures.count_values("found_status.state") == {"empty": 6, None: 2}


@pytest.mark.parametrize(
    ("asked", "share"),
    [
        ({"score_threshold": 0}, 1),
        ({"config": MatchConfig()}, 1),
        ({"thresholds": {}}, 1),
        ({"score_threshold": 1}, 0),
    ],
)
def test_who_says_what_to_write_gets_that(pictures, label, middle, everything, asked, share):
    report = label(**asked)
    assert len(labels(pictures)) == share * len(everything)
    assert report.suggested is None and record_of(pictures)["suggested"] is None


def test_the_published_settings_write_all(pictures, bank, preset, index_dir, middle):
    """With the paper's settings nothing is guessed: its scores are to the digit what they were."""
    ntt.segment(pictures, bank, "found", preset=preset, index_dir=index_dir, config=MatchConfig.paper())
    assert record_of(pictures)["thresholds"] is None and len(labels(pictures))


def test_lowered_labels_come_from_the_cache_and_the_others_stay(pictures, preset, label, middle, everything):
    label()
    before = labels(pictures)
    kept = next(iter(before))
    pictures.select_labels(ids=[kept], fields="found").tag_labels("look again", "found")
    sample = next(sample for sample in pictures if sample.found and any(d.id == kept for d in sample.found.detections))
    detection = next(d for d in sample.found.detections if d.id == kept)
    detection["occluded"] = True
    sample.save()
    report = ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    after = labels(pictures)
    assert scores(pictures) == [round(score, 6) for score in everything]
    assert before.items() <= after.items(), "labels that were there keep their ids"
    assert (report.from_index, report.failed, report.left_out) == (6, 0, 0)
    assert pictures.count_label_tags("found") == {"look again": 1}
    assert [value for value in pictures.values("found.detections.occluded", unwind=True) if value] == [True]
    assert written_above(pictures, "found").lowest() == 0
    assert ntt.undo_run(pictures, "ntt_found") == len(after) - len(before)
    assert labels(pictures) == before and written_above(pictures, "found").lowest() == middle


def test_decisions_and_drawings_outlive_lowering(pictures, preset, label, middle):
    label()
    accepted, rejected, edited = list(labels(pictures))[:3]
    ntt.accept_labels(pictures, "found", label_ids=[accepted])
    ntt.reject_labels(pictures, "found", label_ids=[rejected])
    for sample in pictures.select_labels(ids=[edited], fields="found"):
        full = pictures[sample.id]
        changed = next(item for item in full.found.detections if item.id == edited)
        changed.label = "another"
        full.found.detections.append(fo.Detection(label="square", bounding_box=[0.9, 0.9, 0.05, 0.05]))
        full.save()
    drawn = {key for key, (_, score) in labels_or_none(pictures).items() if score is None}
    assert len(drawn) == 1
    ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert pictures.count_label_tags("found") == {"ntt:accepted": 1, "ntt:rejected": 1}
    assert labels_or_none(pictures)[edited][0] == "another"
    assert drawn <= set(labels_or_none(pictures))
    ntt.undo_run(pictures, "ntt_found")
    assert {accepted, rejected, edited, *drawn} <= set(labels_or_none(pictures)), "nor does undoing it cost one"
    assert pictures.count_label_tags("found") == {"ntt:accepted": 1, "ntt:rejected": 1}


def labels_or_none(dataset):
    return {
        item.id: (item.label, item.confidence) for found in dataset.values("found.detections") for item in found or []
    }


def test_lowering_part_of_the_way_and_further(pictures, preset, label, middle, everything):
    label()
    part = everything[0]
    for value in (part, 0.0):
        ntt.lower_threshold(pictures, "ntt_found", value, preset=preset)
        assert scores(pictures) == [round(score, 6) for score in everything if score > value]
        assert record_of(pictures)["thresholds"] == [value]
    assert record_of(pictures)["suggested"] == [everything[-2]], "where review begins is remembered"


@pytest.mark.parametrize("both", [False, True], ids=["score_threshold", "and thresholds"])
def test_a_score_threshold_that_was_asked_for_is_lowered(pictures, preset, label, everything, both):
    label(score_threshold=everything[-2], **({"thresholds": {"square": everything[-1]}} if both else {}))
    before = labels(pictures)
    assert len(before) == (0 if both else 1)
    with pytest.raises(InputError, match=f"above {everything[-1 if both else -2]:g} are there"):
        ntt.lower_threshold(pictures, "ntt_found", everything[-1], preset=preset)
    for value in (everything[0], 0.0):
        ntt.lower_threshold(pictures, "ntt_found", value, preset=preset)
        assert scores(pictures) == [round(score, 6) for score in everything if score > value]
        assert before.items() <= labels(pictures).items(), "labels that were there keep their ids"
    with pytest.raises(InputError, match="every score"):
        ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert ntt.resume_run(pictures, "ntt_found", preset=preset).resumed == 6
    for _ in range(2):
        ntt.undo_run(pictures, "ntt_found")
    assert labels(pictures) == before


@pytest.mark.parametrize("value", [0.99999, 1])
def test_what_is_written_already_is_not_written_again(pictures, preset, label, middle, value):
    label()
    before = labels(pictures)
    with pytest.raises(InputError, match="threshold below"):
        ntt.lower_threshold(pictures, "ntt_found", value, preset=preset)
    assert labels(pictures) == before


def test_what_cannot_be_lowered_is_refused(pictures, preset, label, middle):
    with pytest.raises(InputError, match="no labelling run"):
        ntt.lower_threshold(pictures, "ntt_found")
    label(score_threshold=0)
    with pytest.raises(InputError, match="every score"):
        ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    for value, error in ((-0.1, InputError), ("low", WrongTypeError), (float("nan"), WrongTypeError)):
        with pytest.raises(error):
            ntt.lower_threshold(pictures, "ntt_found", value, preset=preset)


def test_another_runs_labels_are_not_replaced_by_lowering(pictures, label, middle, preset):
    label()
    label(run_key="later", overwrite=True, score_threshold=0)
    before = labels(pictures)
    with pytest.raises(InputError, match="of run 'later'"):
        ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert labels(pictures) == before


def test_an_image_that_is_gone_keeps_its_labels(pictures, label, middle, preset):
    label()
    before, last = labels(pictures), pictures.last()
    Path(last.filepath).unlink()
    report = ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert list(report.errors) == [last.id] and before.items() <= labels(pictures).items()


def test_an_interrupted_run_is_resumed_before_it_is_lowered(pictures, preset, label, middle, everything):
    def stop(done, total, message):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(progress=stop)
    with pytest.raises(InputError, match="resume it"):
        ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert ntt.resume_run(pictures, "ntt_found", preset=preset).done == 4
    assert scores(pictures) == [round(score, 6) for score in everything if score > middle]


def test_a_lowering_that_was_interrupted_is_resumed(pictures, preset, label, middle, everything):
    label()
    before = labels(pictures)

    def stop(done, total, message):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ntt.lower_threshold(pictures, "ntt_found", preset=preset, progress=stop)
    assert before.items() <= labels(pictures).items(), "half-way nothing is lost"
    ntt.resume_run(pictures, "ntt_found", preset=preset)
    assert scores(pictures) == [round(score, 6) for score in everything] and before.items() <= labels(pictures).items()


def test_the_same_call_goes_on_as_the_run_was_lowered(pictures, preset, label, middle, everything):
    label()
    ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert label().resumed == 6 and len(labels(pictures)) == len(everything)
    assert label(overwrite=True).left_out, "a run that begins anew begins with what the references suggest"


def test_a_run_of_before_goes_on_writing_all(pictures, label, middle, everything):
    """Its record knows neither thresholds nor suggestions."""
    label(score_threshold=0)
    info = pictures.get_run_info("ntt_found").config
    info.record = {key: value for key, value in info.record.items() if key not in ("thresholds", "suggested")}
    pictures.update_run_config("ntt_found", info)
    field = pictures.get_field("found")
    field.info = {"ntt": info.record}
    field.save()
    pictures.set_values("found_status", {pictures.last().id: None}, key_field="id")
    report = label()
    assert (report.resumed, report.done, report.left_out, report.thresholds) == (5, 1, 0, None)
    assert written_above(pictures, "found").written == {}


def test_learning_keeps_to_what_is_written(pictures, preset, label, middle, index_dir):
    label()
    ntt.accept_labels(pictures, "found", label_ids=[next(iter(labels(pictures)))])
    report = ntt.learn(pictures, "found", apply=True, preset=preset, index_dir=index_dir)
    assert report.applied.thresholds == {"square": middle}
    assert record_of(pictures)["suggested"] is not None
    assert min(scores(pictures)) > middle


def test_review_begins_where_the_references_suggest(pictures, label, middle, everything):
    label()
    table = table_of(pictures, "found").refreshed()
    assert first_threshold(pictures, "found", table) == pytest.approx(everything[-2], abs=0.001)
    assert first_threshold(pictures, "found", table, "square") == everything[-2]
    fit = ntt.fit_thresholds(pictures, "ntt_found", write_image_labels=False)
    assert first_threshold(pictures, "found", table) == round(fit.overall.threshold, 3)
    assert first_threshold(pictures, "everything", table_of(pictures, "everything").refreshed()) < max(everything)
    assert written_above(pictures, "truth") is None


def test_image_level_labels_outlive_lowering(pictures, preset, label, middle):
    label()
    ntt.fit_thresholds(pictures, "ntt_found")
    before = pictures.values("found_present.classifications.label")
    ntt.lower_threshold(pictures, "ntt_found", preset=preset)
    assert pictures.values("found_present.classifications.label") == before and any(before)


def test_the_operator_and_the_command_lower(pictures, label, middle, everything, monkeypatch, preset, capsys):
    """The models are found by the name of the preset there."""
    from fiftyone_ntt.cli.main import main
    from fiftyone_ntt.models import presets

    monkeypatch.setitem(presets.PRESETS, preset.name, preset)
    label()
    part = everything[0]
    result, _ = run("lower_threshold", pictures, {"run_key": "ntt_found", "score_threshold": part})
    assert result["instances"] == len(labels(pictures)) == sum(score > part for score in everything)
    assert "ntt_found" in str(form("lower_threshold", pictures)[0]["run_key"].to_json())
    assert main(["runs", "lower", pictures.name, "ntt_found"]) == 0
    assert len(labels(pictures)) == len(everything) and "ntt_found" in capsys.readouterr().out
