"""Every command with what people give it by mistake: a sentence that says what to do, never what Python says."""

from __future__ import annotations

import os
from uuid import uuid4

import fiftyone as fo
import pytest
from PIL import Image

from fiftyone_ntt.cli.main import main

REFUSED, DONE = (2,), (0, 1)
COMMANDS = [
    # Names that nothing has.
    ("selfcheck --preset nope", REFUSED), ("selfcheck --device nope", REFUSED),
    ("bank build nope", REFUSED), ("bank masks nope", REFUSED), ("index build nope", REFUSED),
    ("segment nope", REFUSED), ("evaluate nope --gt-field ntt", REFUSED), ("runs list nope", REFUSED),
    ("runs show NAME nope", REFUSED), ("runs resume NAME nope", REFUSED), ("runs cancel NAME nope", REFUSED),
    ("runs undo NAME nope", REFUSED), ("runs lower NAME nope", REFUSED), ("learn NAME --field nope", REFUSED),
    ("bank build NAME --field nope", REFUSED), ("bank build NAME --preset nope", (2,)),
    ("bank masks NAME --field nope", REFUSED), ("index build NAME --preset nope", REFUSED),
    ("segment NAME --bank nope", REFUSED), ("segment NAME --preset nope", REFUSED),
    ("segment NAME --thresholds nope", REFUSED), ("segment NAME --run-key a-b/c", REFUSED),
    ("evaluate NAME --field ntt --gt-field nope", REFUSED), ("done nope", REFUSED),
    ("fit-thresholds NAME nope", REFUSED), ("judge-presence NAME --field nope", REFUSED),
    ("export NAME --field ntt --export-dir TMP/new --only accepted", REFUSED),
    ("fleet manifest TMP/store nope", REFUSED), ("fleet manifest TMP/store NAME --bank nope", REFUSED),
    ("fleet match TMP/store --bank nope", REFUSED), ("fleet write TMP/store NAME --bank nope", REFUSED),
    ("protocol prepare nope --data TMP", REFUSED), ("protocol run nope --data TMP", REFUSED),
    ("protocol run coco-fsod --data TMP --part nope", REFUSED),
    ("protocol run coco-fsod --data TMP --scorers nope", REFUSED),
    # Files and folders that are not there, or are the other.
    ("index info --index-dir TMP/none", DONE), ("index info --index-dir TMP/file", REFUSED),
    ("index verify --index-dir TMP/none", DONE), ("index verify --index-dir TMP/file", REFUSED),
    ("index prune --index-dir TMP/none", DONE), ("index prune --index-dir TMP/file", REFUSED),
    ("index prune --index-dir TMP/none --limit -1", REFUSED), ("index prune --settings nope", (0, 2)),
    ("index build NAME --index-dir TMP/file", REFUSED), ("segment NAME --index-dir TMP/file", REFUSED),
    ("export NAME --field ntt --only all --export-dir TMP/file", REFUSED),
    ("export NAME --field ntt --only all --export-dir TMP/file/below", REFUSED),
    ("export NAME --field ntt --only all --export-dir TMP/full", REFUSED),
    ("fleet manifest TMP/file NAME", REFUSED), ("fleet index TMP/none", REFUSED), ("fleet index TMP/file", REFUSED),
    ("fleet status TMP/none", REFUSED), ("fleet status TMP/file", REFUSED), ("fleet status TMP/empty", REFUSED),
    ("fleet match TMP/none --bank a", REFUSED), ("fleet index TMP/none --part 3", REFUSED),
    ("protocol report TMP/none", REFUSED), ("protocol report TMP/file", REFUSED),
    ("protocol report TMP/empty", REFUSED),
    ("protocol report TMP/pipe.json", REFUSED), ("protocol report TMP", REFUSED),
    ("protocol load TMP/pipe.json", REFUSED), ("fleet status TMP/piped", REFUSED),
    ("protocol load TMP/none", REFUSED), ("protocol load TMP/file", REFUSED), ("protocol load TMP/empty", REFUSED),
    ("protocol prepare coco-fsod --data TMP/none", (1, 2)), ("protocol prepare coco-fsod --data TMP/file", (1, 2)),
    ("protocol run coco-fsod --data TMP/none", REFUSED), ("protocol run coco-fsod --data TMP/file", REFUSED),
    ("protocol run cd-fsod --data TMP/none --out TMP/file", REFUSED),
    ("plugin install --plugins-dir TMP/file", REFUSED), ("plugin status --plugins-dir TMP/file", (1, 2)),
    ("plugin uninstall --plugins-dir TMP/file", (0, 2)), ("demo --output TMP/file", REFUSED),
    # Nothing to work on.
    ("bank build EMPTY", REFUSED), ("bank masks EMPTY", REFUSED), ("index build EMPTY", (0, 1)),
    ("segment EMPTY", REFUSED), ("evaluate EMPTY --gt-field ntt", REFUSED), ("runs list EMPTY", (0,)),
    ("learn EMPTY", REFUSED), ("accept EMPTY", (0, 2)), ("clear EMPTY", (0, 2)), ("done EMPTY", (0,)),
    ("not-done EMPTY", (0,)), ("export EMPTY --export-dir TMP/new", REFUSED), ("judge-presence EMPTY", REFUSED),
    ("to-segmentation EMPTY", REFUSED), ("fit-thresholds EMPTY x", REFUSED), ("fleet manifest TMP/store EMPTY", (0, 2)),
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two datasets, one without a sample, and a folder with a file, a full folder and an empty one."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "file").write_text("no folder")
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe.json")  # to open it is to wait for ever
    (folder / "piped" / "manifests").mkdir(parents=True)
    os.mkfifo(folder / "piped" / "manifests" / "0000.parquet")
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("precious")
    dataset, empty = fo.Dataset(), fo.Dataset()
    others = [fo.Dataset(f"a stranger's data {k:02} {uuid4().hex[:8]}") for k in range(25)]  # to list in a sentence
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    label = fo.Detection(label="cat", confidence=0.8, bounding_box=[0.1, 0.1, 0.4, 0.4])
    dataset.add_sample(fo.Sample(str(folder / "a.png"), ntt=fo.Detections(detections=[label])))
    yield {"NAME": dataset.name, "EMPTY": empty.name, "TMP": str(folder)}
    for one in (dataset, empty, *others):
        one.delete()


@pytest.mark.parametrize(("command", "statuses"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_mistake_is_answered_in_a_sentence(places, capsys, monkeypatch, command, statuses):
    monkeypatch.setenv("COLUMNS", "200")
    arguments = command.split()
    for word, value in places.items():
        arguments = [argument.replace(word, value) for argument in arguments]
    try:
        status = main(arguments)
    except SystemExit as usage:  # a name that the options list
        status = usage.code
    out = capsys.readouterr()
    assert status in statuses
    said = out.out + out.err
    assert "Traceback" not in said and "errno" not in said.lower() and "Error(" not in said
    errors = [line for line in out.err.splitlines() if "error: " in line]
    assert len(errors) == (status == 2)
    assert all(len(line) < 500 for line in errors), "a sentence, not a page"
    assert said.strip(), "it says something"
