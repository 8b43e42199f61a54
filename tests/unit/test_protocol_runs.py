"""Every protocol from its files to a table, at tiny size; and what a run may not lose."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from support.colours import COLOUR_PRESET
from support.protocol_data import DATA, LEFT, PARTS, cd_fsod_data, coco_json, folder_data, scene
from support.tiny_checkpoints import tiny_preset

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.base import Case
from fiftyone_ntt.evaluation.protocols.journal import Journal
from fiftyone_ntt.evaluation.protocols.predictions import from_row
from fiftyone_ntt.evaluation.protocols.prepare import make_masks, prepare
from fiftyone_ntt.evaluation.protocols.protocol_run import Order, _detection_facts, run
from fiftyone_ntt.evaluation.protocols.registry import PROTOCOLS, protocol_of
from fiftyone_ntt.evaluation.protocols.report import by_presence, expected, markdown, read_results, rows_of, write_page
from fiftyone_ntt.evaluation.protocols.scorers import SCORERS, Scored
from fiftyone_ntt.params.base import StageOneSettings
from fiftyone_ntt.pixels.images import content_digest

ROOT = Path(__file__).resolve().parents[2]


def settings(tmp_path, preset=COLOUR_PRESET):
    return StageOneSettings(preset=preset, index_dir=tmp_path / "cache", device="cpu")


def order(tmp_path, name, **changes):
    """The data of a protocol and what to do with it."""
    data = tmp_path / name
    if not data.exists():
        data.mkdir()
        DATA[name](data)
    plain = {"part": PARTS.get(name), "stage_one": settings(tmp_path)}
    return Order(data, tmp_path / "out", **(plain | changes))


def result_of(path):
    return json.loads(path.read_text())


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
    if name == "folder":
        with pytest.raises(InputError, match="reference sets"):
            prepare(protocol, data)
        (empty,) = prepare(protocol, data, "all")
    else:
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
    assert any("red, green, blue" in line or "classes by name" in line for line in found.lines)


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


def fake_result(**changes):
    plain = {
        "protocol": "coco-fsod", "part": "novel", "shots": 10, "seed": 33, "limit": None, "failed": {}, "images": 5000,
        "models": {"preset": "paper"}, "match_name": "paper", "evaluation_size": "image", "presence": "unknown",
        "references_as_published": True, "scores": {"coco": {"metrics": {"box_ap": 0.366, "mask_ap": 0.33}}},
    }  # fmt: skip
    return plain | changes


def test_report_marks_what_differs_by_more_than_half_a_point():
    box, mask = rows_of([fake_result()])
    assert (box.expected, box.measured, box.marked) == (36.6, pytest.approx(36.6), False)
    assert (mask.expected, mask.difference, mask.marked) == (33.8, pytest.approx(-0.8), True)
    text = markdown([box, mask])
    assert (
        "| 36.6 | 36.6 | +0.0 |  |" in text and "| 33.8 | 33.0 | -0.8 | ! |" in text and "ablation-coco-std.csv" in text
    )
    assert rows_of([fake_result(limit=100)])[0].expected is None, "a part of the images is not compared"


def test_report_never_mixes_known_and_unknown_presence():
    given = fake_result(protocol="coco-20i", part="0", shots=1, seed=None, presence="given", episodes=1000,
                        scores={"miou": {"metrics": {"miou": 0.5, "fb_iou": 0.7}}})  # fmt: skip
    groups = by_presence(rows_of([fake_result(), given]))
    assert {kind: {row.protocol for row in rows} for kind, rows in groups.items()} == {
        "unknown": {"coco-fsod"}, "given": {"coco-20i"}}  # fmt: skip
    first, second = markdown(rows_of([fake_result(), given])).split("### Presence given")
    assert "coco-20i" not in first and "coco-fsod |" not in second


def test_report_of_a_bundle_has_a_curve(tmp_path):
    values = {(1, 33): 0.25, (1, 42): 0.23, (10, 33): 0.36}
    for (shots, seed), value in values.items():
        content = fake_result(shots=shots, seed=seed, scores={"coco": {"metrics": {"box_ap": value}}})
        (tmp_path / f"{shots}-{seed}.json").write_text(json.dumps(content))
    text = markdown(rows_of(read_results([tmp_path])))
    assert "| 1 shot | 10 shots |" in text and "24.0 ± 1.4" in text and "| 36.0 |" in text
    page, picture = tmp_path / "page.md", tmp_path / "page_presence_unknown.svg"
    assert write_page(rows_of(read_results([tmp_path])), page) == [picture, page]
    assert f"]({picture.name})" in page.read_text()
    root = ElementTree.parse(picture).getroot()
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.get("points").split())
    assert x1 < x2 and y1 > y2, "more shots to the right, more points upwards"
    with pytest.raises(InputError, match="not there yet"):
        write_page(rows_of(read_results([tmp_path])), page)
    with pytest.raises(InputError, match="without 'failed'"):
        rows_of([{key: value for key, value in fake_result().items() if key != "failed"}])
    with pytest.raises(InputError, match="protocol run"):
        read_results([tmp_path / "none" if (tmp_path / "none").mkdir() else tmp_path / "none"])


@pytest.mark.parametrize(
    ("case", "value"),
    [
        (("coco-fsod", "novel", 1, 42, "coco", "box_ap"), 22.0),
        (("coco-fsod", "novel", 30, 99, "coco", "mask_ap"), 34.3),
        (("coco-fsod", "novel", 10, 7, "coco", "box_ap"), None),
        (("voc-fsod", "2", 2, 33, "ntt", "box_ap50"), 67.0),
        (("voc-fsod", "3", 10, 33, "fsod-vfm", "box_ap50"), 79.3),
        (("voc-fsod", "3", 10, 33, "voc07", "box_ap50"), None),
        (("cd-fsod", "DIOR", 5, 0, "coco", "box_ap"), 18.5),
        (("folder", "all", 1, 33, "coco", "box_ap"), None),
    ],
)
def test_published_figures(case, value):
    assert expected(*case) == value


@pytest.mark.parametrize(("size", "value"), [(518, 52.7), (400, None), ("image", None)])
def test_a_figure_of_episodes_is_compared_at_its_own_size(size, value):
    result = fake_result(protocol="coco-20i", part="0", shots=1, seed=None, presence="given", episodes=1000,
                         evaluation_size=size, scores={"miou": {"metrics": {"miou": 0.5}}})  # fmt: skip
    (row,) = rows_of([result])
    assert row.expected == value


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
    journal = path.with_name(path.name.replace(".json", ".labels.jsonl"))
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    rows = [from_row(row, 0) for line in lines if "item" in line for row in line["item"]["found"]]
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
    journal = SimpleNamespace(items=lambda: {"0": {"found": rows}, "1": {"found": rows[:3]}}, failed={})
    order = Order(tmp_path, tmp_path, scorers=("coco", "ntt"))
    context = SimpleNamespace(order=order, protocol=protocol)
    targets = SimpleNamespace(images=images, truth=(), classes=())
    _detection_facts(context, protocol, targets, Case(tmp_path, "all", 1), [], journal)
    assert [len(counted[name]) for name in ("coco", "ntt")] == [103, 253]
    assert min(one.score for one in counted["coco"] if one.image_id == 0) == pytest.approx(0.901)


def test_limit_takes_classes_evenly(tmp_path):
    wanted = order(tmp_path, "folder", limit=2)
    (result,) = map(result_of, run(protocol_of("folder"), wanted))
    assert result["images"] == 2 and result["limit"] == 2
    assert np.isfinite(result["scores"]["coco"]["metrics"]["mask_ap"])
