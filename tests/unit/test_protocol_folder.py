"""A data set of one's own: which classes, which references, and what ``prepare`` says of it."""

from __future__ import annotations

import json

import pytest
from support.colours import colour_folder
from support.protocol_data import LEFT, coco_json, folder_data
from support.protocol_runs import order, result_of

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case
from fiftyone_ntt.evaluation.protocols.folder import ready_references
from fiftyone_ntt.evaluation.protocols.prepare import prepare
from fiftyone_ntt.evaluation.protocols.protocol_run import run
from fiftyone_ntt.evaluation.protocols.registry import protocol_of

FOLDER = protocol_of("folder")


def change(root, split, what):
    """Changes an annotation file of a folder in place."""
    path = root / "annotations" / f"{split}.json"
    content = json.loads(path.read_text())
    what(content)
    path.write_text(json.dumps(content))


def add_class(content):
    """As Roboflow's exports have one: a parent of all classes that no object is of."""
    content["categories"].insert(0, {"id": 0, "name": "fruits"})


@pytest.mark.parametrize("splits", [("test",), ("train", "test")])
def test_classes_that_nothing_is_of_are_left_out(splits, tmp_path):
    """In the list of one file or of both; the run and ``prepare`` say so, and the figures are the same."""
    wanted = order(tmp_path, "folder")
    plain = result_of(run(FOLDER, wanted)[0])
    for split in splits:
        change(wanted.data, split, add_class)
    (prepared,) = prepare(FOLDER, wanted.data)
    assert any(line.startswith("left out") and line.endswith("fruits") for line in prepared.lines)
    assert not [line for line in prepared.lines if line.startswith("problem")]
    result = result_of(run(FOLDER, wanted)[0])
    assert result["classes"] == ["red", "green", "blue"] and result["scores"] == plain["scores"]
    assert any("fruits" in note for note in result["notes"])


def test_a_class_with_objects_in_one_file_is_not_left_out(tmp_path):
    """To look for, without references: an error that names it; the other way round it is a class like all."""
    folder_data(tmp_path)
    change(tmp_path, "train", lambda content: content["annotations"].pop())
    change(tmp_path, "train", lambda content: content["annotations"].pop())
    with pytest.raises(InputError, match="objects of every class in train.json, got none of blue"):
        FOLDER.references(Case(tmp_path, "all", 1))
    folder_data(tmp_path)
    change(tmp_path, "test", lambda content: content["annotations"].pop())
    assert {one.label for one in FOLDER.references(Case(tmp_path, "all", 1))} == {"red", "green", "blue"}
    for split in ("train", "test"):
        change(tmp_path, split, lambda content: content["annotations"].clear())
    with pytest.raises(InputError, match="expected objects in .*annotate some"):
        FOLDER.targets(tmp_path, "all")


def test_small_objects_are_references_where_there_are_no_others(tmp_path):
    """Clear ones come first, one an image, and the draw of those who have enough is the published one."""
    folder_data(tmp_path)
    plain = [one.key for one in FOLDER.references(Case(tmp_path, "all", 2))]
    small, border = (50, 50, 60, 60), (0, 30, 60, 90)
    images = {f"r0-{n}.png": [(0, LEFT)] for n in range(2)} | {f"r1-{n}.png": [(1, LEFT)] for n in range(2)}
    images |= {"r2-0.png": [(2, small), (2, border)], "r2-1.png": [(2, border)], "r2-2.png": [(2, LEFT), (2, small)]}
    coco_json(tmp_path / "annotations" / "train.json", images, ("red", "green", "blue"))
    drawn = {shots: [one for one in FOLDER.references(Case(tmp_path, "all", shots)) if one.label == "blue"]
             for shots in (1, 2)}  # fmt: skip
    assert [one.path.name for one in drawn[1]] == ["r2-2.png"] and drawn[1][0].box == LEFT
    assert drawn[2][0] == drawn[1][0] and drawn[2][1].path.name in ("r2-0.png", "r2-1.png")
    with pytest.raises(InputError, match="expected 4 references of .*, got [23] that are in images of their own"):
        FOLDER.references(Case(tmp_path, "all", 4))
    folder_data(tmp_path)
    assert [one.key for one in FOLDER.references(Case(tmp_path, "all", 2))] == plain


def named(root, *names):
    (root / "refs").mkdir()
    for name in names:
        (root / "refs" / f"{name}_1shot_seed33.json").write_text("{}")


@pytest.mark.parametrize(
    ("names", "part"),
    [((), "all"), (("all",), "all"), (("all", "mine"), "all"), (("all80", "voc20"), "voc20"), (("all80",), "all80")],
)
def test_default_part_is_one_that_there_is(names, part, tmp_path):
    named(tmp_path, *names)
    assert FOLDER.checked_part(None, tmp_path) == part


@pytest.mark.parametrize(
    ("names", "message"),
    [(("mine",), "got those of mine; call them all_<n>shot"), (("all", "all80"), "got all, all80; choose one as part")],
)
def test_names_of_reference_sets_are_checked(names, message, tmp_path):
    folder_data(tmp_path)
    named(tmp_path, *names)
    with pytest.raises(InputError, match=message):
        prepare(FOLDER, tmp_path)
    assert prepare(FOLDER, tmp_path, "all")[0].part == "all"


def test_prepare_of_an_empty_folder_names_the_files(tmp_path):
    """All that is missing, the file to draw references from included, and what would do in its place."""
    (prepared,) = prepare(FOLDER, tmp_path)
    missing = {needed.path.name: needed.source for needed in prepared.files if not needed.there}
    assert {"test.json", "train.json"} <= set(missing) and "refs/all_<n>shot_seed<s>.json" in missing["train.json"]


def test_prepare_looks_at_the_ready_sets(tmp_path):
    """At all of them and at no other; a set that is asked for and not there is said with those that are."""
    colour_folder(tmp_path)
    (prepared,) = prepare(FOLDER, tmp_path)
    assert [line.split(":")[0] for line in prepared.lines[1:]] == ["1 shot, seed 1", "1 shot, seed 2"]
    with pytest.raises(InputError, match="all_3shot_seed33.json.*are 1 shot of seed 1, 1 shot of seed 2"):
        ready_references(tmp_path, "all", 3, 33)


def test_crowds_of_a_ready_set_are_no_references(tmp_path):
    colour_folder(tmp_path)
    path = tmp_path / "refs" / "all_1shot_seed1.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert len(ready_references(tmp_path, "all", 1, 1)[1]) == len(content["annotations"]) - 1


def test_prepare_says_which_references_are_missing(tmp_path):
    """Their images lie elsewhere than those of the targets, and a run would stop at them."""
    folder_data(tmp_path)
    for path in (tmp_path / "train").glob("r1-*.png"):
        path.unlink()
    (prepared,) = prepare(FOLDER, tmp_path)
    assert any("1 image file of references (1 shot, seed 33) missing" in line and "r1-" in line
               for line in prepared.lines)  # fmt: skip
