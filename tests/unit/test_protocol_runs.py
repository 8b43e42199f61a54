"""Every protocol from its files to a table, at tiny size; and what a run may not lose."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from support.protocol_data import DATA, LEFT, PARTS, RIGHT, cd_fsod_data, coco_json, folder_data, scene, voc_list
from support.protocol_runs import order, result_of, rows_of_labels, settings
from support.tiny_checkpoints import tiny_preset

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols import voc_fsod
from fiftyone_ntt.evaluation.protocols.base import Case
from fiftyone_ntt.evaluation.protocols.coco_files import Reference, TargetImage, Targets
from fiftyone_ntt.evaluation.protocols.orders import Order
from fiftyone_ntt.evaluation.protocols.predictions import from_row
from fiftyone_ntt.evaluation.protocols.prepare import make_masks, prepare
from fiftyone_ntt.evaluation.protocols.protocol_run import _detection_facts, run
from fiftyone_ntt.evaluation.protocols.registry import PROTOCOLS, protocol_of
from fiftyone_ntt.evaluation.protocols.report import rows_of
from fiftyone_ntt.evaluation.protocols.scorers import SCORERS, Scored
from fiftyone_ntt.pixels.images import content_digest

ROOT = Path(__file__).resolve().parents[2]


FIELDS = {
    "protocol", "part", "presence", "shots", "seed", "references", "match", "models", "versions", "scores", "seconds",
    "peak_memory_bytes", "evaluation_size", "failed", "limit", "references_as_published", "classes", "candidates",
}  # fmt: skip
MAIN = {
    "coco-fsod": ("coco", "mask_ap"), "voc-fsod": ("ntt", "box_ap50"), "cd-fsod": ("coco", "box_ap50"),
    "coco-20i": ("miou", "miou"), "pascal-5i": ("miou", "miou"), "lvis": ("coco", "mask_ap"),
    "folder": ("coco", "mask_ap"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_end_to_end(name, tmp_path):
    """Colours are easy: what is there is found, and named."""
    protocol = protocol_of(name)
    limit = 4 if protocol.presence == "given" else None
    (path,) = run(protocol, order(tmp_path, name, limit=limit))
    result = result_of(path)
    assert set(result) >= FIELDS
    scorer, metric = MAIN[name]
    assert result["scores"][scorer]["metrics"][metric] > 0.85
    assert result["failed"] == {} and len(result["references"]) == 64
    assert result["presence"] == ("given" if name in ("coco-20i", "pascal-5i") else "unknown")
    assert set(result["scores"][scorer]["per_class"]) == set(result["classes"])
    (row, *_) = rows_of([{**result, "path": str(path)}])
    assert row.protocol == name and row.measured is not None


def test_random_networks_of_the_published_kinds(tmp_path):
    """SAM2 and DINOv2 with random weights, box references and all: the path that real weights take."""
    stage_one = settings(tmp_path, tiny_preset(tmp_path / "weights"))
    (path,) = run(protocol_of("cd-fsod"), order(tmp_path, "cd-fsod", stage_one=stage_one, match="paper"))
    result = result_of(path)
    assert result["match"]["inclusive_boxes"] and result["match_name"] == "paper"
    assert set(result["models"]["weights"]) and result["failed"] == {}


def test_a_curve_encodes_each_image_once(tmp_path):
    """Two shots and two seeds in one call, then once more from the candidate cache."""
    wanted = order(tmp_path, "folder", shots=(1, 2), seeds=(33, 42))
    paths = run(protocol_of("folder"), wanted)
    assert [(result_of(path)["shots"], result_of(path)["seed"]) for path in paths] == [
        (1, 33),
        (2, 33),
        (1, 42),
        (2, 42),
    ]
    assert all(result_of(path)["candidates"] == {"stored": 3, "from_cache": 0} for path in paths)
    (other,) = run(protocol_of("folder"), replace(wanted, shots=(1,), seeds=(13,)))
    assert result_of(other)["candidates"] == {"stored": 0, "from_cache": 3}
    alone = {path.name: result_of(path)["scores"] for path in paths}
    for path in paths:
        path.unlink()
        path.with_name(path.name.replace(".json", ".labels.jsonl")).unlink()
    for shots, seed in ((1, 33), (2, 33), (1, 42), (2, 42)):
        (path,) = run(protocol_of("folder"), replace(wanted, shots=(shots,), seeds=(seed,)))
        assert result_of(path)["scores"] == alone[path.name], "the same alone as in a curve"


def test_annotations_are_of_pixels_as_stored(tmp_path):
    """A file that says "turn me" is not turned, here only: its objects are where the json has them."""
    wanted = order(tmp_path, "folder")
    path = wanted.data / "test" / "t2.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = path.read_bytes()
    with Image.open(path) as image:
        image.save(path, exif=exif)
    turned = path.read_bytes()
    assert content_digest(plain) == content_digest(plain, upright=False)
    assert content_digest(turned) != content_digest(turned, upright=False), "the cache keeps both apart"
    (result,) = map(result_of, run(protocol_of("folder"), wanted))
    assert result["failed"] == {} and result["scores"]["coco"]["metrics"]["mask_ap"] > 0.85


def test_references_among_the_targets_are_refused(tmp_path):
    """By file name; sets that number train and test alike are told apart by content."""
    wanted = order(tmp_path, "folder")
    for n in range(3):
        for k in range(2):
            (wanted.data / "train" / f"r{n}-{k}.png").rename(wanted.data / "train" / f"t{n + 1}.png")
    images = {f"t{k + 1}.png": [(k, LEFT)] for k in range(3)}
    coco_json(wanted.data / "annotations" / "train.json", images, ("red", "green", "blue"))
    (result,) = map(result_of, run(protocol_of("folder"), wanted))
    assert result["scores"]["coco"]["metrics"]["mask_ap"] > 0.85
    scene(wanted.data / "test" / "t2.png", [(2, LEFT)], 3)
    scene(wanted.data / "train" / "t3.png", [], 3)
    (wanted.data / "train" / "t2.png").write_bytes((wanted.data / "test" / "t2.png").read_bytes())
    with pytest.raises(InputError, match=r"t2.png.*mixed up"):
        run(protocol_of("folder"), wanted)


def test_each_file_of_one_name_is_looked_at(tmp_path):
    """A reference among the targets is noticed beside another folder's file of its name."""
    for folder in ("x", "y"):
        scene(tmp_path / folder / "1.png", [(0, LEFT if folder == "x" else RIGHT)], 3)
    images = tuple(TargetImage(i, tmp_path / folder / "1.png", (120, 160)) for i, folder in enumerate("xy"))
    for folder in ("x", "y"):
        reference = Reference(tmp_path / folder / "1.png", (120, 160), 1, "red", LEFT)
        protocol = replace(protocol_of("folder"), references=lambda case, reference=reference: [reference])
        with pytest.raises(InputError, match=r"1.png.*mixed up"):
            protocol.checked_references(Case(tmp_path, "all", 1), Targets(("red",), images, ()))


def test_polygons_of_boxes_are_no_masks(tmp_path):
    """Copies of CD-FSOD have some: neither references nor truth are taken for masks."""
    wanted = order(tmp_path, "cd-fsod")
    for path in (wanted.data / "UODD" / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for item in content["annotations"]:
            x, y, w, h = item["bbox"]
            item["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content))
    (result,) = map(result_of, run(protocol_of("cd-fsod"), wanted))
    assert "mask_ap" not in result["scores"]["coco"]["metrics"] and not result["scorers_left_out"]
    assert len(json.loads(next(wanted.out.glob("box_masks_*.json")).read_text())) == 3


def test_all_parts_share_their_images(tmp_path):
    """Three splits of VOC in one call: each image goes through the models once, whatever the match."""
    novel = sorted({voc_fsod.CLASSES.index(name) for names in voc_fsod.SPLITS.values() for name in names})
    root = tmp_path / "data"
    for year, split, images in (
        ("VOC2007", "trainval", {f"0000{k:02d}": [(k, LEFT, 0)] for k in novel}),
        ("VOC2012", "trainval", {f"2012_0000{k:02d}": [(k, RIGHT, 0)] for k in novel}),
        ("VOC2007", "test", {f"0005{k:02d}": [(k, LEFT, 0)] for k in novel[:3]}),
    ):
        voc_list(root, year, split, images)
    seen = []
    wanted = Order(root, tmp_path / "out", part="all", match="paper", stage_one=settings(tmp_path))
    paths = run(protocol_of("voc-fsod"), wanted, lambda done, total, message: seen.append(message))
    assert [result_of(path)["part"] for path in paths] == ["1", "2", "3"]
    assert sum(message.startswith("0005") for message in seen) == 3
    for path in paths:
        (alone,) = run(protocol_of("voc-fsod"), replace(wanted, out=tmp_path / "x", part=result_of(path)["part"]))
        assert result_of(alone)["scores"] == result_of(path)["scores"]


@pytest.mark.parametrize(
    ("name", "part", "parts"),
    [("coco-20i", "all", ("0", "1", "2", "3")), ("lvis", "all", ("all",)), ("folder", "all", ("all",)),
     ("cd-fsod", None, ("ArTaxOr",)), ("voc-fsod", "2", ("2",))],
)  # fmt: skip
def test_all_is_every_part_or_one_of_that_name(name, part, parts, tmp_path):
    assert Order(tmp_path, tmp_path, part=part).parts(protocol_of(name)) == parts


@pytest.mark.parametrize(
    ("name", "match", "count"),
    [("lvis", "default", 300), ("lvis", "published", 300), ("lvis", "paper", 100), ("coco-fsod", "paper", 100)],
)
def test_labels_an_image_are_as_many_as_published(name, match, count, tmp_path):
    """Eight times as many candidates are merged, so more labels would also be others."""
    assert Order(tmp_path, tmp_path, match=match).config(protocol_of(name)).max_instances == count


def test_every_box_of_a_shot_file_or_the_published_loss(tmp_path):
    wanted = order(tmp_path, "cd-fsod", shots=(5,))
    exact, paper = (
        result_of(run(protocol_of("cd-fsod"), replace(wanted, match=match))[0]) for match in ("default", "paper")
    )
    assert len(exact["reference_list"]) == len(paper["reference_list"]) == 18
    assert len(set(exact["reference_list"])) == 18 and len(set(paper["reference_list"])) == 15
    assert exact["references"] != paper["references"]


def test_masks_of_boxes_are_made_once(tmp_path):
    wanted = order(tmp_path, "cd-fsod")
    (path,) = run(protocol_of("cd-fsod"), wanted)
    assert result_of(path)["scores"]["coco"]["metrics"]["box_ap50"] == pytest.approx(1)
    kept = next((tmp_path / "out").glob("box_masks_*.json"))
    content = kept.read_text()
    assert len(json.loads(content)) == 3
    assert make_masks(protocol_of("cd-fsod"), wanted.data, wanted.out, "UODD", wanted.stage_one) == 36
    assert json.loads(content).items() <= json.loads(kept.read_text()).items()


def test_difficult_objects_are_never_references(tmp_path):
    wanted = order(tmp_path, "voc-fsod", part="1", shots=(2,))
    (result,) = map(result_of, run(protocol_of("voc-fsod"), wanted))
    assert not [one for one in result["reference_list"] if one.startswith("000099")]
    assert result["references_as_published"] is False, "these are not the images of VOC"
    assert set(result["scores"]) == {"ntt", "fsod-vfm", "voc07"}, "one run serves all three"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_prepare_names_file_by_file_what_is_missing(name, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    protocol = protocol_of(name)
    empty = prepare(protocol, data, PARTS.get(name))[0]
    assert not empty.complete and all(str(needed.path).startswith(str(data)) for needed in empty.files)
    assert all(needed.source and not needed.there for needed in empty.files)
    with pytest.raises(InputError, match="protocol prepare"):
        run(protocol, Order(data, tmp_path / "out", part=empty.part, stage_one=settings(tmp_path)))
    DATA[name](data)
    found = prepare(protocol, data, empty.part)[0]
    assert found.complete and found.lines
    assert not list(tmp_path.glob("out/*")), "nothing is written"


def test_prepare_says_which_images_are_missing(tmp_path):
    folder_data(tmp_path)
    (tmp_path / "test" / "t2.png").unlink()
    (found,) = prepare(protocol_of("folder"), tmp_path)
    assert any("1 image file missing" in line and "t2.png" in line for line in found.lines)
    assert "classes by name: 3 red, 10 green, 17 blue" in found.lines[0], "and by the ids of this file"


def test_unknown_class_of_a_data_set_is_named(tmp_path):
    cd_fsod_data(tmp_path)
    path = tmp_path / "UODD" / "annotations" / "test.json"
    path.write_text(path.read_text().replace("seaurchin", "sea urchin"))
    with pytest.raises(InputError, match=r"seaurchin.*sea urchin"):
        run(protocol_of("cd-fsod"), Order(tmp_path, tmp_path / "out", part="UODD", stage_one=settings(tmp_path)))


def test_episodes_compare_at_the_size_asked_for(tmp_path):
    plain = order(tmp_path, "pascal-5i", limit=3)
    sized = replace(plain, evaluation_size=64)
    first, second = (result_of(run(protocol_of("pascal-5i"), one)[0]) for one in (plain, sized))
    assert (first["evaluation_size"], second["evaluation_size"]) == ("image", 64)
    assert first["references"] == second["references"] and first["references_as_published"] is False
    assert second["scores"]["miou"]["metrics"]["fb_iou"] > 0.9


def test_a_run_never_imports_fiftyone(tmp_path):
    """The commands themselves, in a process that has no FiftyOne and no database."""
    data = tmp_path / "data"
    data.mkdir()
    folder_data(data)
    code = (
        "import sys; sys.modules['fiftyone'] = sys.modules['pymongo'] = None; sys.path[:0] = ['tests', '.']\n"
        "from support.colours import COLOUR_PRESET; from fiftyone_ntt.models import presets\n"
        "presets.PRESETS['lite'] = COLOUR_PRESET\n"
        "from fiftyone_ntt.cli.main import main\n"
        f"where = ['--data', {str(data)!r}, '--out', {str(tmp_path / 'out')!r}]\n"
        "done = [main(['protocol', 'list']), main(['protocol', 'prepare', 'folder', *where]),\n"
        f"  main(['protocol', 'run', 'folder', *where, '--index-dir', {str(tmp_path / 'cache')!r}]),\n"
        f"  main(['protocol', 'report', {str(tmp_path / 'out')!r}])]\n"
        "assert done == [0, 0, 0, 0], done"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "folder_all_1shot_seed33_colours" in done.stdout.replace("\n", "")


@pytest.mark.parametrize(("match", "short"), [("default", 0), ("published", 0), ("paper", 1)])
def test_boxes_of_masks_are_whole_or_a_pixel_short(match, short, tmp_path):
    (path,) = run(protocol_of("folder"), order(tmp_path, "folder", match=match))
    rows = [from_row(row, 0) for line in rows_of_labels(path) if "item" in line for row in line["item"]["found"]]
    assert len(rows) >= 3
    for one in rows:
        x, y, w, h = mask_utils.toBbox(one.rle)
        assert one.box == (x, y, x + w - short, y + h - short)


def test_orders_are_checked(tmp_path):
    for changes, message in (
        ({"match": "best"}, "match"),
        ({"shots": (0,)}, "at least 1"),
        ({"limit": 0}, "limit"),
        ({"seeds": (-1,)}, "seeds"),
        ({"evaluation_size": -5}, "evaluation size"),
        ({"scorers": ("coco", "nonsense")}, "nonsense"),
    ):
        with pytest.raises(InputError, match=message):
            Order(tmp_path, tmp_path, **changes)
    with pytest.raises(InputError, match="novel"):
        Order(tmp_path, tmp_path, part="base").cases(protocol_of("coco-fsod"))
    with pytest.raises(InputError, match="coco-fsod.*folder"):
        protocol_of("coco")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("coco-20i", {"scorers": ("coco",)}, "scorers of coco-20i .miou., got coco"),
        ("coco-fsod", {"scorers": ("miou",)}, "scorers of coco-fsod"),
        ("coco-fsod", {"scorers": ("lvis",)}, "scorers of coco-fsod .*, got lvis"),
        ("folder", {"scorers": ("coco", "lvis")}, "scorers of folder .*, got lvis"),
        ("voc-fsod", {"evaluation_size": 518}, "no evaluation size for voc-fsod"),
        ("cd-fsod", {"seeds": (33,)}, "no seed for cd-fsod"),
        ("pascal-5i", {"seeds": (1,)}, "no seed for pascal-5i"),
    ],
)
def test_no_choice_is_passed_over(name, changes, message, tmp_path):
    """What a protocol can do nothing with is refused before any work, even before files are looked for."""
    with pytest.raises(InputError, match=message):
        run(protocol_of(name), Order(tmp_path, tmp_path / "out", stage_one=settings(tmp_path), **changes))
    assert not (tmp_path / "out").exists()


NOTHING = Scored({}, {})


def test_lvis_is_scored_as_published_by_a_hundred_labels(tmp_path, monkeypatch):
    """The run keeps 300 labels an image; the published code kept 100, whatever their classes."""
    protocol = protocol_of("lvis")
    counted = {}
    for name in ("coco", "ntt"):
        monkeypatch.setitem(
            SCORERS, name, partial(lambda name, _, found: counted.update({name: found}) or NOTHING, name)
        )
    images = [SimpleNamespace(image_id=k) for k in range(2)]
    rows = [[k % 3, 1 - k / 1000, [0.0, 0.0, 5.0, 5.0], None] for k in range(250)]
    items = {"0": {"found": rows}, "1": {"found": rows[:3]}}
    journal = SimpleNamespace(items=lambda: items, failed={}, done={"0"}, stamps={"0": ""})
    order = Order(tmp_path, tmp_path, scorers=("coco", "ntt"))
    context = SimpleNamespace(order=order, protocol=protocol)
    targets = SimpleNamespace(images=images, truth=(), classes=(), truth_digest="", notes=())
    job = SimpleNamespace(targets=targets, case=Case(tmp_path, "all", 1), references=[], journal=journal)
    _detection_facts(context, protocol, job)
    assert [len(counted[name]) for name in ("coco", "ntt")] == [103, 253]
    assert min(one.score for one in counted["coco"] if one.image_id == 0) == pytest.approx(0.901)


def test_limit_takes_classes_evenly(tmp_path):
    wanted = order(tmp_path, "folder", limit=2)
    (result,) = map(result_of, run(protocol_of("folder"), wanted))
    assert result["images"] == 2 and result["limit"] == 2
    assert np.isfinite(result["scores"]["coco"]["metrics"]["mask_ap"])
