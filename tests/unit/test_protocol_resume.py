"""What a stopped run goes on with, and what it may not take for its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image
from support.protocol_data import LEFT, scene
from support.protocol_runs import order, result_of, rows_of_labels, settings

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.journal import Journal
from fiftyone_ntt.evaluation.protocols.prepare import make_masks
from fiftyone_ntt.evaluation.protocols.protocol_run import run
from fiftyone_ntt.evaluation.protocols.registry import protocol_of
from fiftyone_ntt.evaluation.protocols.report import rows_of


def test_a_stopped_run_goes_on(tmp_path):
    """Half of the labels are there, and half a line: the rest is made, and the result is the same."""
    wanted = order(tmp_path, "folder")
    (path,) = run(protocol_of("folder"), wanted)
    whole, journal = result_of(path), path.with_name(path.name.replace(".json", ".labels.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][: len(lines[2]) // 2])
    path.unlink()
    seen = []
    (again,) = run(protocol_of("folder"), wanted, lambda done, total, message: seen.append((total, message)))
    assert again == path and result_of(again)["scores"] == whole["scores"]
    assert {total for total, message in seen if message.startswith("t")} == {2}, "only those that were missing"
    assert len(journal.read_bytes().splitlines()) == 5


def test_a_journal_of_other_models_is_not_gone_on_with(tmp_path):
    Journal(tmp_path / "a.jsonl", {"models": 1}).put("x", 1)
    assert Journal(tmp_path / "a.jsonl", {"models": 1}).done == {"x"}
    with pytest.raises(InputError, match="other models"):
        Journal(tmp_path / "a.jsonl", {"models": 2})


def test_a_bad_image_costs_one_image_and_is_tried_again(tmp_path):
    wanted = order(tmp_path, "folder")
    image = wanted.data / "test" / "t2.png"
    content = image.read_bytes()
    image.write_bytes(b"no image")
    (path,) = run(protocol_of("folder"), wanted)
    result = result_of(path)
    assert len(result["failed"]) == 1 and "t2.png" in next(iter(result["failed"].values()))
    assert rows_of([result])[0].note == "1 failed"
    Image.new("RGB", (9, 9)).save(image)
    (path,) = run(protocol_of("folder"), wanted)
    assert "its json says (120, 160)" in next(iter(result_of(path)["failed"].values()))
    image.write_bytes(content)
    (path,) = run(protocol_of("folder"), wanted)
    assert result_of(path)["failed"] == {} and result_of(path)["scores"]["coco"]["metrics"]["mask_ap"] > 0.85


def renumbered_classes(content):
    """Another name for each number: what was class 0 is class 2 now."""
    ids = [one["id"] for one in content["categories"]]
    for one in content["categories"]:
        one["id"] = max(ids) + min(ids) - one["id"]
    for one in content["annotations"]:
        one["category_id"] = max(ids) + min(ids) - one["category_id"]


def other_image_ids(content):
    """The same files in the same order of ids, but for one that is new: each id is that of another file."""
    ids = {one["id"]: one["id"] + 3 for one in content["images"]}
    for one in content["images"]:
        one["id"] = ids[one["id"]]
    for one in content["annotations"]:
        one["image_id"] = ids[one["image_id"]]


@pytest.mark.parametrize("change", [renumbered_classes, other_image_ids])
def test_a_new_export_takes_no_labels_of_the_old(change, tmp_path):
    """Rows of a journal have classes and images by number."""
    wanted = order(tmp_path, "folder")
    (path,) = run(protocol_of("folder"), wanted)
    scores = result_of(path)["scores"]
    file = wanted.data / "annotations" / "test.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    (again,) = run(protocol_of("folder"), wanted)
    metrics = [one["coco"]["metrics"]["mask_ap"] for one in (scores, result_of(again)["scores"])]
    assert again != path and metrics[0] == pytest.approx(metrics[1]) and metrics[0] > 0.85


def test_another_version_goes_on_with_no_labels(tmp_path, monkeypatch):
    wanted = order(tmp_path, "folder")
    (path,) = run(protocol_of("folder"), wanted)
    monkeypatch.setattr("fiftyone_ntt.evaluation.protocols.protocol_run.__version__", "0.0.0")
    (again,) = run(protocol_of("folder"), wanted)
    assert again != path and result_of(again)["code"] == "0.0.0"


def test_images_that_were_replaced_are_labelled_anew(tmp_path):
    """Those alone; a file that is no image any more has no labels of before."""
    wanted = order(tmp_path, "folder", scorers=("coco",))
    (path,) = run(protocol_of("folder"), wanted)
    image, seen = wanted.data / "test" / "t2.png", []
    run(protocol_of("folder"), replace(wanted, scorers=("voc07",)))
    scene(image, [(2, (LEFT[0] + 9, *LEFT[1:]))], 3)
    run(protocol_of("folder"), wanted, lambda done, total, message: seen.append((total, message)))
    assert (1, "t2.png") in seen and (2, "t2.png") not in seen
    assert set(result_of(path)["scores"]) == {"coco"}, "what voc07 said is of other labels"
    assert result_of(path)["scores"]["coco"]["metrics"]["mask_ap"] < 0.85, "the json is of the image of before"
    image.write_bytes(b"no image")
    run(protocol_of("folder"), wanted)
    assert set(result_of(path)["failed"]) == {"103"}
    assert "103" not in Journal(path.with_name(result_of(path)["labels"]), rows_of_labels(path)[0]["run"]).items()


def test_references_that_were_replaced_begin_another_run(tmp_path):
    wanted = order(tmp_path, "folder")
    (path,) = run(protocol_of("folder"), wanted)
    (name, *_) = result_of(path)["reference_list"]
    scene(wanted.data / "train" / name.split("/")[0], [(0, (LEFT[0] + 5, *LEFT[1:]))], 3)
    (again,) = run(protocol_of("folder"), wanted)
    assert again != path and result_of(again)["references"] == result_of(path)["references"]


def test_episodes_of_files_that_were_replaced_are_asked_anew(tmp_path):
    wanted, seen = order(tmp_path, "pascal-5i", limit=4), []
    (path,) = run(protocol_of("pascal-5i"), wanted)
    support = wanted.data / "VOC2012" / "JPEGImages" / "2007_000001.jpg"  # of episodes 0 and 1
    support.write_bytes(support.read_bytes() + b"\0")
    (again,) = run(protocol_of("pascal-5i"), wanted, lambda done, total, message: seen.append(message))
    assert again == path and [one for one in seen if "supports" in one] == [f"supports of episode {k}" for k in (0, 1)]


def test_a_limit_that_leaves_all_is_none(tmp_path):
    """Its figures are those of the whole set, and so are its labels."""
    wanted = order(tmp_path, "folder")
    (whole,) = run(protocol_of("folder"), wanted)
    (path,) = run(protocol_of("folder"), replace(wanted, limit=3))
    assert path == whole and result_of(path)["limit"] is None
    (part,) = run(protocol_of("folder"), replace(wanted, limit=2))
    assert part != whole and result_of(part)["limit"] == 2


def test_scores_of_other_scorers_are_kept(tmp_path):
    """A second look at the same labels adds to the result; truth that was changed since is scored anew."""
    wanted = order(tmp_path, "folder", scorers=("coco",))
    (path,) = run(protocol_of("folder"), wanted)
    first = result_of(path)["scores"]
    run(protocol_of("folder"), replace(wanted, scorers=("voc07",)))
    both = result_of(path)["scores"]
    assert set(both) == {"coco", "voc07"} and both["coco"] == first["coco"]
    file = wanted.data / "annotations" / "test.json"
    content = json.loads(file.read_text())
    del content["annotations"][0]["segmentation"]
    file.write_text(json.dumps(content))
    run(protocol_of("folder"), replace(wanted, scorers=("coco",)))
    assert set(result_of(path)["scores"]) == {"coco"}, "the boxes are of another truth now"
    assert "1 object without" in result_of(path)["scorers_left_out"]["coco in part"]
    assert "mask_ap" not in result_of(path)["scores"]["coco"]["metrics"]


def test_masks_are_of_one_model_and_one_image(tmp_path):
    """Other settings have a file of their own, and an image that was replaced is looked at again."""
    protocol, wanted = protocol_of("cd-fsod"), order(tmp_path, "cd-fsod")
    (path,) = run(protocol, wanted)
    (kept,) = wanted.out.glob("box_masks_*.json")
    content = json.loads(kept.read_text())
    (image,) = {one.rsplit(" ", 6)[0] for one in content if "r0-0" in one}
    scene(wanted.data / "UODD" / "train" / "r0-0.png", [(0, (LEFT[0] + 9, *LEFT[1:]))], 3)
    make_masks(protocol, wanted.data, wanted.out, "UODD", wanted.stage_one)
    again = json.loads(kept.read_text())
    keys = [key for key in again if key.startswith(f"{image} ") and key.split(" ")[2:6] == [f"{v:.2f}" for v in LEFT]]
    assert len(keys) == 2 and len({again[key]["counts"] for key in keys}) == 2
    run(protocol, replace(wanted, stage_one=settings(tmp_path, points_per_side=8)))
    assert len(list(wanted.out.glob("box_masks_*.json"))) == 2


def test_masks_survive_an_image_that_fails(tmp_path):
    """What was made before is kept, by a run and by ``prepare --masks``."""
    protocol, wanted = protocol_of("cd-fsod"), order(tmp_path, "cd-fsod")
    (wanted.data / "UODD" / "train" / "r2-0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="r2-0"):
        run(protocol, wanted)
    (kept,) = wanted.out.glob("box_masks_*.json")
    assert len(json.loads(kept.read_text())) == 2
    kept.unlink()
    with pytest.raises(InputError, match="r2-0"):
        make_masks(protocol, wanted.data, wanted.out, "UODD", wanted.stage_one)
    assert len(json.loads(kept.read_text())) > 2


def test_a_bad_support_costs_its_episodes(tmp_path):
    wanted = order(tmp_path, "pascal-5i", limit=4)
    (image,) = (wanted.data / "VOC2012" / "JPEGImages").glob("2007_000001.jpg")  # supports 2007_000000, a query itself
    image.write_bytes(b"no image")
    (path,) = run(protocol_of("pascal-5i"), wanted)
    failed = result_of(path)["failed"]
    assert set(failed) == {"0", "1"} and all("2007_000001" in why for why in failed.values())
    assert result_of(path)["scores"]["miou"]["metrics"]["miou"] > 0.85
