"""The commands around a review, called as people call them by mistake: one sentence, exit status 2, nothing written."""

from __future__ import annotations

import fiftyone as fo
import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main

LABELS = [fo.Detection(label="cat", confidence=0.8, bounding_box=[0.1, 0.1, 0.4, 0.4], predicted_iou=0.9)]


@pytest.fixture
def labelled(dataset, tmp_path):
    """Two samples, one with a label, the other with none; a run wrote neither."""
    dataset.add_sample(fo.Sample(str(tmp_path / "a.png"), ntt=fo.Detections(detections=LABELS), tags=["checked"]))
    dataset.add_sample(fo.Sample(str(tmp_path / "b.png"), ntt=fo.Detections()))
    dataset.add_sample_field("empty", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    return dataset


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("accept NAME --field nope", "no field 'nope'"),
        ("reject NAME --field filepath", "to hold Detections"),
        ("clear NAME --field nope", "no field 'nope'"),
        ("accept NAME --classes dog", "'dog'; there is: cat"),
        ("clear NAME --classes cat bird", "'bird'; there is: cat"),
        ("accept NAME --field empty --classes cat", "no label yet"),
        ("accept NAME --label-ids x", "ids of labels"),
        ("accept NAME --above 2", "above"),
        ("reject NAME --below -1", "below"),
        ("reject NAME --saved-view nope", "no saved view 'nope'"),
        ("accept no_such_dataset", "expected the name of a FiftyOne dataset"),
        ("learn NAME", "no run"),
        ("learn NAME --field nope", "no field 'nope'"),
        ("learn NAME --threshold 7", "threshold"),
        ("export NAME --export-dir TMP/out --field nope", "no field 'nope'"),
        ("export NAME --export-dir TMP/out", "(--only all)"),
        ("export NAME --export-dir TMP/out --only all --classes dog", "dog"),
        ("export NAME --export-dir TMP/out --only all --score-threshold 3", "--score-threshold between"),
        ("export NAME --export-dir TMP/file --only all", "is a file"),
        ("export NAME --export-dir TMP/full --only all", "is not empty"),
        ("fit-thresholds NAME nope", "'nope'"),
        ("judge-presence NAME", "no run"),
        ("to-segmentation NAME --field nope", "no field 'nope'"),
        ("evaluate NAME --gt-field nope", "no field 'nope'"),
        ("runs undo NAME nope", "no labelling run 'nope'"),
        ("runs resume NAME nope", "'nope'"),
    ],
)
def test_a_mistake_costs_one_sentence(labelled, tmp_path, capsys, command, words):
    arguments = command.replace("NAME", labelled.name).replace("TMP", str(tmp_path)).split()
    assert main(arguments) == 2
    out = capsys.readouterr()
    said = [line for line in out.err.splitlines() if not line.startswith("images ")]  # what it was at, before it knew
    assert len(said) == 1 and said[0].startswith("error: ") and words in said[0]
    assert "Traceback" not in out.err + out.out
    assert labelled.count_label_tags("ntt") == {} and not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "command",
    [
        "accept",
        "accept NAME --above high",
        "export NAME",
        "export NAME --export-dir TMP/out --format pascal",
        "export NAME --export-dir TMP/out --only some",
        "learn NAME --apply maybe",
        "runs undo NAME",
        "frobnicate",
    ],
)
def test_what_cannot_be_read_is_answered_with_the_usage(labelled, tmp_path, capsys, command):
    arguments = command.replace("NAME", labelled.name).replace("TMP", str(tmp_path)).split()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("usage: fiftyone-ntt") and "error: " in error


def test_the_same_commands_do_what_they_say(labelled, tmp_path, capsys):
    from PIL import Image

    for path in labelled.values("filepath"):
        Image.new("RGB", (40, 30)).save(path)
    assert main(["accept", labelled.name, "--classes", "cat", "--tag", "checked"]) == 0
    assert main(["export", labelled.name, "--export-dir", str(tmp_path / "out"), "--format", "coco"]) == 0
    assert "to load it in Python" in capsys.readouterr().out
    assert main(["clear", labelled.name, "--tag", "nobody has it"]) == 0, "no sample is no mistake"
    assert ntt.accept_labels(labelled, "ntt") == 0
