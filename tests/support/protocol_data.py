"""Every protocol's data at tiny size, in its published layout: rectangles whose hue is their class."""

from __future__ import annotations

import colorsys
import json
import pickle

import numpy as np
from PIL import Image, ImageDraw

from fiftyone_ntt.evaluation.protocols import cd_fsod, coco_fsod, voc_fsod

SIZE = (120, 160)
LEFT, RIGHT = (20, 30, 70, 90), (90, 20, 145, 75)
GREY = (128, 128, 128)


def hue(k, count):
    return tuple(round(255 * value) for value in colorsys.hsv_to_rgb(k / count, 1, 0.9))


def scene(path, objects, count):
    """Rectangles of (class, xyxy with x2, y2 exclusive) on grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIZE[::-1], GREY)
    for k, (x1, y1, x2, y2) in objects:
        ImageDraw.Draw(image).rectangle((x1, y1, x2 - 1, y2 - 1), fill=hue(k, count))
    image.save(path, quality=95) if path.suffix == ".jpg" else image.save(path)


def coco_json(path, images, classes, *, masks=True, ids=None, more=None):
    """COCO json of name -> objects; ids with gaps, not in the order of the names."""
    ids = ids or {name: 3 + 7 * ((7 * k) % len(classes)) for k, name in enumerate(classes)}
    content = {
        "images": [
            {"id": 100 + 3 * i, "file_name": name, "height": SIZE[0], "width": SIZE[1], **(more or {}).get(name, {})}
            for i, name in enumerate(images)
        ],
        "categories": [{"id": ids[name], "name": name} for name in classes],
        "annotations": [],
    }
    for i, objects in enumerate(images.values()):
        for k, (x1, y1, x2, y2) in objects:
            content["annotations"].append({
                "id": len(content["annotations"]) + 1, "image_id": 100 + 3 * i, "category_id": ids[classes[k]],
                "iscrowd": 0, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
                **({"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]} if masks else {}),
            })  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


def targets_of(count):
    """Two objects in one image, one in another, an image without any."""
    return {"t1.png": [(0, LEFT), (1, RIGHT)], "t2.png": [(2 % count, LEFT)], "t3.png": []}


def references_of(count, each=1):
    """Images with one object: so many of each class."""
    return {f"r{k}-{n}.png": [(k, LEFT)] for k in range(count) for n in range(each)}


def draw_all(folder, images, count):
    for name, objects in images.items():
        scene(folder / name, objects, count)


def coco_fsod_data(root):
    count = len(coco_fsod.NOVEL)
    for split, images in (("train", references_of(count, 2)), ("val", targets_of(count))):
        coco_json(root / "annotations" / f"instances_{split}2017.json", images, coco_fsod.NOVEL)
        draw_all(root / f"{split}2017", images, count)


def cd_fsod_data(root, part="UODD"):
    """As released: boxes only, and two boxes of one image in the file of five shots."""
    classes = cd_fsod.CLASSES[part]
    count, base = len(classes), root / part
    shots = {1: references_of(count), 5: references_of(count, 4), 10: references_of(count, 10)}
    shots[5] |= {f"both{k}.png": [(k, LEFT), (k, RIGHT)] for k in range(count)}
    for number, images in shots.items():
        coco_json(base / "annotations" / f"{number}_shot.json", images, classes, masks=False)
        draw_all(base / "train", images, count)
    coco_json(base / "annotations" / "test.json", targets_of(count), classes, masks=False)
    draw_all(base / "test", targets_of(count), count)


def voc_xml(name, objects):
    items = "".join(
        f"<object><name>{voc_fsod.CLASSES[k]}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1 + 1}</xmin>"
        f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for k, (x1, y1, x2, y2), difficult in objects
    )
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}{items}</annotation>"


def voc_list(root, year, split, images):
    base = root / year
    for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
    for name, objects in images.items():
        (base / "Annotations" / f"{name}.xml").write_text(voc_xml(name, objects))
        scene(base / "JPEGImages" / f"{name}.jpg", [one[:2] for one in objects], 20)


def voc_data(root):
    """A difficult object beside an easy one in train and in test."""
    novel = [voc_fsod.CLASSES.index(name) for name in voc_fsod.SPLITS["1"]]
    voc_list(root, "VOC2007", "trainval", {f"0000{k:02d}": [(k, LEFT, 0)] for k in novel} | {
        "000099": [(novel[0], LEFT, 1)]})  # fmt: skip
    voc_list(root, "VOC2012", "trainval", {f"2012_0000{k:02d}": [(k, RIGHT, 0)] for k in novel})
    voc_list(root, "VOC2007", "test", {
        "000501": [(novel[0], LEFT, 0), (novel[1], RIGHT, 1)], "000502": [(novel[2], LEFT, 0)], "000503": [],
    })  # fmt: skip


LVIS_CLASSES = {"zebra": "f", "aardvark": "r", "mug": "c"}


def lvis_data(root):
    names, ids = list(LVIS_CLASSES), {"zebra": 3, "aardvark": 1, "mug": 2}
    for split, images in (("train", references_of(3)), ("val", targets_of(3))):
        path = root / f"lvis_v1_{split}.json"
        content = coco_json(path, images, names, ids=ids)
        for entry in content["images"]:
            name = entry.pop("file_name")
            entry |= {"coco_url": f"http://images.example/{split}2017/{name}", "neg_category_ids": [1],
                      "not_exhaustive_category_ids": []}  # fmt: skip
        for category in content["categories"]:
            category["frequency"] = LVIS_CLASSES[category["name"]]
        path.write_text(json.dumps(content))
        draw_all(root / f"{split}2017", images, 3)


def class_map(path, objects):
    """PNG of class index + 1; the last row is 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(SIZE, np.uint8)
    for k, (x1, y1, x2, y2) in objects:
        values[y1:y2, x1:x2] = k + 1
    values[-1] = 255
    Image.fromarray(values).save(path)


def coco_20i_data(root, fold=0):
    lists = {}
    for k in (fold + 4 * v for v in range(20)):
        lists[k] = [f"val2014/COCO_val2014_{1000 * k + n:012d}.jpg" for n in range(3)]
        for name in lists[k]:
            scene(root / "COCO2014" / name, [(k, LEFT)], 80)
            class_map((root / "COCO2014" / "annotations" / name).with_suffix(".png"), [(k, LEFT)])
    path = root / "splits" / "coco" / "val" / f"fold{fold}.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(lists))


def pascal_5i_data(root, fold=0):
    lines = []
    for k in range(5 * fold, 5 * fold + 5):
        for n in range(2):
            name = f"2007_00{k:02d}{n:02d}"
            scene(root / "VOC2012" / "JPEGImages" / f"{name}.jpg", [(k, RIGHT)], 20)
            class_map(root / "VOC2012" / "SegmentationClassAug" / f"{name}.png", [(k, RIGHT)])
            lines.append(f"{name}__{k + 1:02d}")
    path = root / "splits" / "pascal" / "val" / f"fold{fold}.txt"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


def folder_data(root):
    classes = ("red", "green", "blue")
    for split, images in (("train", references_of(3, 2)), ("test", targets_of(3))):
        coco_json(root / "annotations" / f"{split}.json", images, classes)
        draw_all(root / split, images, 3)


DATA = {
    "coco-fsod": coco_fsod_data, "voc-fsod": voc_data, "cd-fsod": cd_fsod_data, "coco-20i": coco_20i_data,
    "pascal-5i": pascal_5i_data, "lvis": lvis_data, "folder": folder_data,
}  # fmt: skip
PARTS = {"cd-fsod": "UODD"}
