"""Reference draws and episodes against what is published of them, and the pitfalls of both."""

from __future__ import annotations

import json
import os
import pickle
import random
from dataclasses import replace
from pathlib import Path

import pytest
from support.coco_sets import SIZE, before_shuffle, coco_file

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.coco_files import CocoFile, digest_of
from fiftyone_ntt.evaluation.protocols.episodes import (
    coco_classes,
    coco_episodes,
    coco_lists,
    pascal_episodes,
    pascal_lines,
)
from fiftyone_ntt.evaluation.protocols.oracles import differences, published
from fiftyone_ntt.evaluation.protocols.samplers import as_given, draw, is_clear, list_digest, references_of
from fiftyone_ntt.evaluation.protocols.semantic_folds import PASCAL_5I

ROOT = Path(__file__).resolve().parents[2]
CLEAR = (100, 100, 50, 60)


def keys(drawn):
    return {label: [annotation["id"] for annotation in group] for label, group in drawn.items()}


@pytest.mark.parametrize("name", ["coco-fsod", "voc-fsod 1", "voc-fsod 2", "voc-fsod 3"])
def test_seed_33_lists_come_out_of_their_annotations(name):
    """Among objects that are too small, at the border, in a crowd, or second in their image."""
    lists, groups = published(name), {}
    for label, entries in lists.items():
        rows = []
        for number, entry in enumerate(entries):
            image, x, y = entry.split("@")[0], *map(float, entry.split("@")[1].split(","))
            year, _, stem = image.rpartition("/")
            file = f"VOC20{year}/JPEGImages/{stem}.jpg" if year else f"{int(stem):012d}.jpg"
            box = (x, y, 32.02, 32.02)
            rows += [
                [(label, f"{label}-{number}-unclear.jpg", (5, 100, 90, 90))],
                [(label, file, box), (label, file, (x + 1, y + 1, 40, 40))],
                [(label, f"{label}-{number}-crowd.jpg", (100, 100, 90, 90), {"iscrowd": 1})],
            ][number % 2 :]
        groups[label] = [row for some in rows for row in some]
    file = coco_file(before_shuffle(groups, 33), Path("VOCdevkit"))
    for image in file.content["images"]:
        image.update(height=2000, width=2000)
    for shots in (1, 3, 10):
        drawn = draw(file, sorted(lists), shots, 33)
        assert list(drawn) == list(lists), "in order of first appearance"
        assert not list(differences(name, references_of(file, drawn), shots))
    other = draw(file, list(lists), 10, 34)
    assert list(differences(name, references_of(file, other), 10))


@pytest.mark.skipif("FIFTYONE_NTT_COCO" not in os.environ, reason="FIFTYONE_NTT_COCO names no folder with COCO")
def test_seed_33_list_of_coco_itself():
    root = Path(os.environ["FIFTYONE_NTT_COCO"])
    file = CocoFile.read(root / "annotations" / "instances_train2017.json", root / "train2017")
    drawn = draw(file, list(published("coco-fsod")), 10, 33)
    assert not list(differences("coco-fsod", references_of(file, drawn), 10))


def crowded_file():
    stream = random.Random(5)
    rows = [(label, f"{stream.randrange(60)}.jpg", (stream.randrange(5, 500), stream.randrange(5, 300), 40, 45))
            for label in "abc" for _ in range(80)]  # fmt: skip
    stream.shuffle(rows)
    return coco_file(rows)


def test_sets_of_one_seed_are_nested_and_use_each_image_once():
    file = crowded_file()
    largest = draw(file, ["a", "b", "c"], 20, 33)
    for shots in (1, 2, 3, 5, 10):
        assert keys(draw(file, ["c", "a", "b"], shots, 33)) == {k: v[:shots] for k, v in keys(largest).items()}
    for group in largest.values():
        assert len({annotation["image_id"] for annotation in group}) == 20
        assert all(is_clear(annotation, file.images[annotation["image_id"]]) for annotation in group)


def test_classes_share_one_stream():
    """A class that is asked for beside others is drawn otherwise than alone, unless it comes first in the file."""
    file = crowded_file()
    first, *others = list(draw(file, ["a", "b", "c"], 5, 33))
    together = keys(draw(file, ["a", "b", "c"], 5, 33))
    assert keys(draw(file, [first], 5, 33))[first] == together[first]
    assert all(keys(draw(file, [label], 5, 33))[label] != together[label] for label in others)


@pytest.mark.parametrize(
    ("box", "more", "clear"),
    [
        (CLEAR, {}, True),
        ((100, 100, 32, 32), {}, True),
        ((100, 100, 31.99, 40), {}, False),
        ((100, 100, 40, 31.99), {}, False),
        ((10, 10, 40, 40), {}, True),
        ((9.9, 10, 40, 40), {}, False),
        ((10, 9.9, 40, 40), {}, False),
        ((SIZE[1] - 50, 100, 40, 40), {}, True),
        ((SIZE[1] - 49.9, 100, 40, 40), {}, False),
        ((100, SIZE[0] - 49.9, 40, 40), {}, False),
        (CLEAR, {"iscrowd": 1}, False),
    ],
)
def test_size_border_and_crowd_rule(box, more, clear):
    file = coco_file([("a", "x.jpg", box, more)])
    assert is_clear(file.content["annotations"][0], file.content["images"][0]) is clear


def test_too_few_is_an_error_that_names_class_and_count():
    file = coco_file([("a", "1.jpg", CLEAR), ("a", "1.jpg", CLEAR), ("a", "2.jpg", (1, 1, 90, 90)),
                      ("b", "1.jpg", CLEAR)])  # fmt: skip
    with pytest.raises(InputError, match=r"expected 2 references of 'a' in train.json, got 1"):
        draw(file, ["a", "b"], 2, 33)
    with pytest.raises(InputError, match="none of c"):
        draw(with_class(file, "c"), ["c"], 1, 33)


def with_class(file, name):
    content = {**file.content, "categories": [*file.content["categories"], {"id": 1, "name": name}]}
    return CocoFile(file.path, content, file.folder)


def test_unknown_class_is_an_error_with_the_table_of_names():
    with pytest.raises(InputError, match=r"motorbike.*90 motorcycle"):
        draw(coco_file([("motorcycle", "1.jpg", CLEAR)]), ["motorbike"], 1, 33)


def test_lvis_repeats_and_takes_unclear_ones_if_need_be():
    small = (100, 100, 5, 5)
    file = coco_file([("a", "1.jpg", CLEAR), ("a", "2.jpg", CLEAR), ("a", "3.jpg", small),
                      ("b", "1.jpg", small), ("b", "2.jpg", small)])  # fmt: skip
    drawn = keys(draw(file, ["a", "b"], 5, 42, fill=True))
    assert set(drawn["a"]) == {1000, 1001} and drawn["a"] == [*drawn["a"][:2], *drawn["a"][:2], drawn["a"][0]]
    assert set(drawn["b"]) == {1003, 1004} and len(drawn["b"]) == 5


def test_crowds_and_difficult_objects_are_never_references():
    """Whatever the rule: draws, draws that are filled up, and files that are taken as they are."""
    small = (100, 100, 5, 5)
    for mark in ({"iscrowd": 1}, {"difficult": 1}, {"ignore": 1}):
        file = coco_file([("a", "1.jpg", small, mark), ("a", "2.jpg", small), ("a", "3.jpg", CLEAR, mark)])
        assert set(keys(draw(file, ["a"], 3, 42, fill=True))["a"]) == {1001}
        assert keys(draw(file, ["a"], 1, 42, unclear=True))["a"] == [1001]
        assert keys(as_given(file, ["a"], 3)) == {"a": [1001]}
        assert set(keys(as_given(file, ["a"], 3, paper=True))["a"]) == {1001}


def test_shot_files_give_every_box_or_the_published_loss():
    boxes = {n: (10 * n, 20, 30, 40) for n in range(1, 6)}
    file = coco_file([("a", "1.jpg", boxes[1]), ("b", "1.jpg", boxes[2]), ("a", "1.jpg", boxes[3]),
                      ("a", "2.jpg", boxes[4]), ("b", "3.jpg", boxes[5])])  # fmt: skip
    assert keys(as_given(file, ["b", "a"], 3)) == {"a": [1000, 1002, 1003], "b": [1001, 1004]}
    paper = keys(as_given(file, ["b", "a"], 3, paper=True))
    assert paper["a"] == [1000, 1000, 1003], "as often as there are boxes, each time the first"
    assert paper["b"][:2] == [1001, 1004] and len(paper["b"]) == 3, "filled up by drawing again"
    assert paper["b"][2] == random.Random(42).choices([1001, 1004], k=1)[0]


def test_digest_tells_lists_apart():
    file = crowded_file()
    lists = [references_of(file, draw(file, ["a", "b"], 3, seed)) for seed in (1, 2)]
    masked = [replace(one, segmentation=[[0, 0, 9, 0, 9, 9]]) for one in lists[0]]
    assert len({list_digest(one) for one in (*lists, lists[0][::-1], masked)}) == 4, "boxes are no masks"
    assert list_digest(lists[0]) == list_digest(references_of(file, draw(file, ["b", "a"], 3, 1)))


def test_folds_take_every_fourth_class():
    assert coco_classes(1)[:3] == [1, 5, 9] and len({k for fold in range(4) for k in coco_classes(fold)}) == 80


def image_lists():
    return {k: [f"val2014/COCO_val2014_{1000 * k + i:012d}.jpg" for i in range(30 + k)] for k in range(80)}


def test_coco_episodes_follow_the_published_stream():
    """Written out once more with numpy's global state, as the published generator has it."""
    import numpy as np

    np.random.seed(0)
    lists, wanted = image_lists(), []
    for _ in range(50):
        label = np.random.choice(coco_classes(2), 1, replace=False)[0]
        query = np.random.choice(lists[label], 1, replace=False)[0]
        supports = []
        while len(supports) < 5:
            name = np.random.choice(lists[label], 1, replace=False)[0]
            if name != query:
                supports.append(name)
        wanted.append((label, query, tuple(supports)))
    episodes = list(coco_episodes(lists, 2, 5))
    assert [(one.label, one.query, one.supports) for one in episodes[:50]] == wanted
    assert len(episodes) == 1000 and [one.label for one in episodes][0] == 74, "the published first class of fold 2"


def test_pascal_episodes_go_through_the_list():
    lines = [(f"2007_{i:06d}", 5 + i % 5) for i in range(60)]
    episodes = list(pascal_episodes(lines, 1, 2))
    assert [(one.query, one.label) for one in episodes[:61]] == [*lines, lines[0]]
    assert all(one.query not in one.supports for one in episodes)
    assert all(dict(lines)[name] == one.label for one in episodes for name in one.supports)
    with pytest.raises(InputError, match=r"fold 0.*\[5"):
        list(pascal_episodes(lines, 0, 1))
    with pytest.raises(InputError, match="empty"):
        list(pascal_episodes([], 0, 1))
    with pytest.raises(InputError, match="another image"):
        list(pascal_episodes(lines[:1], 1, 1))
    with pytest.raises(InputError, match=r"none of \[2\]"):
        list(coco_episodes({**image_lists(), 2: []}, 2, 1))


@pytest.mark.parametrize(
    ("shots", "first"),
    [
        (1, "0 2007_000033 2010_001174"),
        (5, "0 2007_000033 2010_001174 2007_001884 2011_002515 2010_000238 2011_001114"),
    ],
)
def test_published_episodes_of_pascal(shots, first):
    """The list of fold 0 itself gives the published episodes, all thousand of them."""
    lines = []
    for row in (ROOT / "tests" / "data" / "pascal_5i_fold0.txt").read_text().splitlines()[1:]:
        year, *entries = row.split()
        pairs = (entry.split("/") for entry in entries)
        lines += [(f"{year}_{int(number):06d}", int(label) - 1) for number, label in pairs]
    episodes = [one.line(PASCAL_5I.short) for one in pascal_episodes(lines, 0, shots)]
    assert len(lines) == 346 and episodes[0] == first
    assert digest_of(episodes).startswith(PASCAL_5I.digests["0", shots])


def test_lists_are_read_without_running_anything(tmp_path):
    path = tmp_path / "fold0.pkl"
    path.write_bytes(pickle.dumps(image_lists()))
    assert coco_lists(path) == image_lists()
    for content, message in ((os.system, "not taken"), ({0: [1]}, "lists of names"), ([1], "lists of names")):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match=message):
            coco_lists(path)
    text = tmp_path / "fold0.txt"
    text.write_text("2007_000033__01\n2007_000061__04\n")
    assert pascal_lines(text) == [("2007_000033", 0), ("2007_000061", 3)]
    text.write_text("2007_000033\n")
    with pytest.raises(InputError, match="2007_000033__01"):
        pascal_lines(text)


def test_files_that_are_no_coco_are_named(tmp_path):
    with pytest.raises(InputError, match=r"train.json.*protocol prepare"):
        CocoFile.read(tmp_path / "train.json", tmp_path)
    for content in ("[", "[]", json.dumps({"images": {}, "annotations": [], "categories": []})):
        (tmp_path / "train.json").write_text(content)
        with pytest.raises(InputError, match=r"train.json.*get it again"):
            CocoFile.read(tmp_path / "train.json", tmp_path)
