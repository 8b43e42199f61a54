"""Verdicts on whole images: which classes are there, which are not; kept with the samples, gone with the run."""

import fiftyone as fo
import fiftyone.operators as foo
import numpy as np
import pytest
from fiftyone import ViewField as F
from support.app import PanelSession, context

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.core import MemoryBank
from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.references.banks import keep_with_run
from fiftyone_ntt.review import presence
from fiftyone_ntt.review.label_table import table_of
from fiftyone_ntt.runs.history import begin_pass
from fiftyone_ntt.runs.presence_fields import presence_counts
from fiftyone_ntt.runs.record import RunRecord, register

CLASSES = ["cat", "dog", "bird"]
RECORD = RunRecord("run", "ntt", CLASSES, "lite", "0" * 64, {}, {"score_threshold": 0.0}, 4)
IMAGES = 80


def label(name, similarity, **attributes):
    # The confidence says nothing here: presence is told by the similarity.
    return fo.Detection(
        label=name, confidence=0.5, similarity=similarity, predicted_iou=0.9, bounding_box=[0, 0, 1, 1], **attributes
    )


def sample(number, labels, state="ok", run_key="run"):
    status = fo.DynamicEmbeddedDocument(run_key=run_key, state=state) if state else None
    detections = None if labels is None else fo.Detections(detections=labels)
    return fo.Sample(f"/picture-{number}.png", ntt=detections, ntt_status=status)


@pytest.fixture
def judged(dataset):
    """A run over 80 images: those with a cat have a label like one at 0.8, the others at 0.2; no bird anywhere."""
    begin_pass(dataset, RECORD, False)
    register(dataset, RECORD)
    dataset.add_samples(
        [
            sample(i, [label("cat", 0.8 if i % 2 else 0.2, truth=bool(i % 2)), label("dog", 0.1 + 0.01 * i)])
            for i in range(IMAGES)
        ]
    )
    vectors = np.stack([np.eye(4, dtype=np.float32)[i // 2] + 0.01 * i for i in range(6)])
    bank = MemoryBank(tuple(CLASSES), vectors, np.arange(6) // 2, tuple("abcdef"), preset="lite")
    keep_with_run(dataset, "run", bank)
    return dataset


def decide(dataset, count=20):
    for side, act in ((True, ntt.accept_labels), (False, ntt.reject_labels)):
        ids = [
            one.id for item in dataset.limit(count) for one in item.ntt.detections
            if one.label == "cat" and one.truth is side
        ]  # fmt: skip
        act(dataset, label_ids=ids)


def classes_in(item, field):
    return {one.label: one.confidence for one in item[field].classifications}


def test_each_image_says_what_is_in_it_and_what_is_not(judged):
    decide(judged)
    ntt.fit_thresholds(judged, "run")
    for i, item in enumerate(judged):
        there, not_there = (classes_in(item, f"ntt_{side}") for side in ("present", "absent"))
        assert {*there, *not_there} == set(CLASSES) and not there.keys() & not_there.keys()
        assert ("cat" in there) == bool(i % 2) and "bird" in not_there
        assert max(there.get("cat", 0), not_there.get("cat", 0)) > 0.6
        if i < 20 and i % 2:
            assert there["cat"] == 1, "a person said so"
    without = judged.filter_labels("ntt_absent", F("label") == "cat")
    assert len(without) == IMAGES / 2


def test_who_gets_image_level_labels(judged):
    judged.add_samples(
        [
            sample(100, [], "empty"),
            sample(101, None, "error"),
            sample(102, [label("cat", 0.9)], "ok", "another"),
            sample(103, None, None),
            sample(104, [fo.Detection(label="cat", bounding_box=[0, 0, 1, 1]), label("dog", 0.01)]),
            sample(105, [label("cat", 0.95, tags=["ntt:rejected"])]),
        ]
    )
    decide(judged)
    fit = ntt.fit_thresholds(judged, "run", write_image_labels=False)
    assert not judged.has_field("ntt_absent")
    report = ntt.judge_presence(judged)
    empty, failed, another, reference, drawn, rejected = judged[IMAGES:]
    assert classes_in(empty, "ntt_absent").keys() == set(CLASSES) and not classes_in(empty, "ntt_present")
    for one in (failed, another, reference):
        assert one.ntt_absent is None and one.ntt_present is None
    assert classes_in(drawn, "ntt_present")["cat"] == 1, "a person drew it"
    assert "cat" in classes_in(rejected, "ntt_absent")
    assert (report.images, report.left_out, report.guessed) == (IMAGES + 3, 3, False)
    assert report.present["bird"] == 0 and {"class": "bird", "present": 0, "absent": IMAGES + 3} in report.rows()
    verdict = fit.presence({"cat": [0.9, 0.1]})
    assert verdict["cat"].present and not verdict["dog"].present


def test_of_some_samples_and_as_a_guess(judged):
    report = ntt.judge_presence(judged.limit(5))
    assert report.images == 5 and report.guessed and "guess" in str(report)
    assert judged.count("ntt_absent.classifications") + judged.count("ntt_present.classifications") == 5 * 3
    assert ntt.load_thresholds(judged, "run") is not None, "fitted on the way"


def test_undone_with_the_run(judged):
    ntt.fit_thresholds(judged, "run")
    assert judged.has_field("ntt_present") and judged.has_field("ntt_absent")
    ntt.undo_run(judged, "run", keep_edited=False)
    assert not [name for name in judged.get_field_schema() if name.startswith("ntt")]


def test_replaced_labels_take_their_image_labels_with_them(judged):
    ntt.fit_thresholds(judged, "run")
    begin_pass(judged.limit(10), RECORD, True)
    judged.reload()
    assert judged.limit(10).count("ntt_absent.classifications") == 0
    assert judged.skip(10).count("ntt_absent.classifications") > 0
    assert presence_counts(judged, "ntt") == {}, "they are not counted any more"


def test_refusals(judged):
    judged.add_sample_field("ntt_absent", fo.StringField)
    with pytest.raises(InputError, match="'ntt_absent'"):
        ntt.fit_thresholds(judged, "run")
    assert not judged.has_field("ntt_present") and ntt.load_thresholds(judged, "run") is not None
    judged.add_sample_field("mine", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    with pytest.raises(InputError, match="'mine'"):
        ntt.judge_presence(judged, "mine")
    with pytest.raises(WrongTypeError, match="'label_field'"):
        ntt.judge_presence(judged, 5)


def test_many_images_are_written_many_at_a_time(judged, monkeypatch):
    judged.add_samples([sample(1000 + i, [label("cat", i / 2000)]) for i in range(2000)])
    ntt.fit_thresholds(judged, "run", write_image_labels=False)
    written, plain = [], fo.Dataset.set_values
    monkeypatch.setattr(fo.Dataset, "set_values", lambda self, field, values, **more: (
        written.append(len(values)), plain(self, field, values, **more)))  # fmt: skip
    monkeypatch.setattr(presence, "_AT_ONCE", 1000)
    assert ntt.judge_presence(judged).images == 2000 + IMAGES
    assert written == [1000, 1000, 1000, 1000, IMAGES, IMAGES], "twice: classes that are there, and those that are not"


def test_the_operator_and_the_command_line(judged, capsys):
    operator = foo.get_operator("@fiftyone-ntt/ntt/judge_presence")
    ctx = context("judge_presence", judged, {"label_field": "ntt"})
    assert "thresholds are those that you fitted last" in str(operator.resolve_input(ctx).to_json())
    result = operator.execute(ctx)
    assert [row["class"] for row in result["rows"]] == CLASSES and "80 images" in result["summary"]
    assert "images without it" in str(operator.resolve_output(ctx).to_json())
    assert main(["fit-thresholds", judged.name, "run", "--precision", "0.8", "--no-write-image-labels"]) == 0
    assert main(["judge-presence", judged.name]) == 0
    printed = capsys.readouterr().out
    for words in ("expected", "references", "all classes", "without it", "80 images"):
        assert words in printed
    assert main(["fit-thresholds", judged.name, "nothing"]) == 2
    assert main(["judge-presence", judged.name, "--field", "nothing"]) == 2


def test_in_the_review_tab(judged):
    decide(judged)
    table_of(judged, "ntt").refreshed()
    session = PanelSession(judged, "review")
    assert "There are none yet" in session.drawn, "no image-level labels so far"
    ntt.fit_thresholds(judged, "run")
    session.send("on_review_fitted")
    assert session.state["review_judged"] == sorted(CLASSES)
    cats = session.state["review_judged"].index("cat")
    session.send("on_review_without", row=cats)
    assert len(session.view) == IMAGES / 2
    chances = [classes_in(item, "ntt_absent")["cat"] for item in session.view]
    assert chances == sorted(chances, reverse=True)
    session.send("on_review_without", row=99).send("on_review_show_all")
    assert len(session.view) == IMAGES
