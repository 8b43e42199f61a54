"""Runs of protocols at tiny size, by models that see colours."""

from __future__ import annotations

import json

from fiftyone_ntt.evaluation.protocols.orders import Order
from fiftyone_ntt.params.base import StageOneSettings
from support.colours import COLOUR_PRESET
from support.protocol_data import DATA, PARTS


def settings(tmp_path, preset=COLOUR_PRESET, **changes):
    return StageOneSettings(preset=preset, index_dir=tmp_path / "cache", device="cpu", **changes)


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


def rows_of_labels(path):
    """The journal beside a result: its header, then its items."""
    lines = path.with_name(path.name.replace(".json", ".labels.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines]


def fake_result(**changes):
    """The JSON of a run as far as a report reads it."""
    plain = {
        "protocol": "coco-fsod", "part": "novel", "shots": 10, "seed": 33, "limit": None, "failed": {}, "images": 5000,
        "models": {"preset": "paper", "weights": {}, "stage_one": {}}, "match": {}, "match_name": "paper",
        "evaluation_size": "image", "presence": "unknown", "data": "/data/coco", "references": "0" * 64,
        "references_as_published": True, "written": "2026-11-30T12:00:00+00:00",
        "scores": {"coco": {"metrics": {"box_ap": 0.366, "mask_ap": 0.33}}},
    }  # fmt: skip
    return plain | changes
