"""A dataset of many samples out of a few pictures, for ``benchmarks.large``.

A few photographs are labelled for real, with the preset ``lite``. Their documents are then copied inside MongoDB under
new ids; each sample's file is a hard link to one of the pictures. The candidate cache holds the pictures' own files,
from which all samples are labelled, and as many small files more as there are samples: copies of one, each signed with
another image's hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fiftyone as fo
import numpy as np
from bson import ObjectId
from PIL import Image
from safetensors.numpy import load, save

import fiftyone_ntt as ntt
from benchmarks import matching
from benchmarks.relabel import memory_bank
from benchmarks.subjects import make_images
from fiftyone_ntt.candidates import file_format
from fiftyone_ntt.candidates.file_format import IndexSettings, Signature, to_bytes
from fiftyone_ntt.candidates.store import IndexStore
from fiftyone_ntt.core import IndexedImage, compact
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.models import load_preset
from fiftyone_ntt.runs.states import change_state

FIELD, TRUTH, RUN = "ntt", "ground_truth", "ntt_ntt"
CLASSES, SHOTS, LABELS = 20, 5, 29
PICTURES, SIZE = 8, (480, 640)
SMALL_CANDIDATES, CHANNELS = 12, 32
_AT_ONCE = 500
COMPLETE = "complete"
"""Of a dataset's info: it was built to the end."""


def dataset_name(samples: int) -> str:
    return f"ntt-benchmark-large-{samples}"


def index_folder(folder: Path, samples: int) -> Path:
    return folder / f"index-{samples}"


def build(folder: Path, samples: int) -> fo.Dataset:
    """The dataset, made anew.

    Args:
        folder: for pictures, links and the candidate cache.
        samples: how many.
    """
    name, index = dataset_name(samples), index_folder(folder, samples)
    if fo.dataset_exists(name):
        fo.delete_dataset(name)
    paths = _pictures(folder)
    dataset = fo.Dataset(name, persistent=True)
    dataset.add_samples([fo.Sample(str(path)) for path in paths])
    dataset.compute_metadata(progress=False)
    _label(dataset, folder / "index-pictures")
    shutil.copytree(folder / "index-pictures", index, dirs_exist_ok=True)
    _copy_samples(dataset, folder / f"images-{samples}", samples)
    change_state(dataset, RUN, lambda state: {**state, "total": samples, "chunks": max(samples // 100, 1)})
    _copy_index(index, samples)
    dataset.info = {COMPLETE: True}
    dataset.save()
    return dataset


def _pictures(folder: Path) -> list[Path]:
    paths = []
    for i, image in enumerate(make_images(PICTURES, SIZE)[0]):
        path = folder / "pictures" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=90)
        paths.append(path)
    return paths


def _label(dataset: fo.Dataset, index: Path) -> None:
    """Labels the pictures with references made of their own candidates, and makes a ground truth of every third."""
    ntt.index(dataset, preset="lite", device="cpu", index_dir=index)
    segmenter = load_preset("lite", "cpu").segmenter()
    store = IndexStore(index, IndexSettings("lite", segmenter.facts()))
    first = store.get(hashlib.sha256(Path(dataset.first().filepath).read_bytes()).hexdigest())
    if first is None:
        raise SystemExit(f"expected the candidates of {dataset.first().filepath} in {index}, and they are not there")
    bank = memory_bank(first, CLASSES, SHOTS, segmenter.weights)
    ntt.segment(dataset, bank, FIELD, index_dir=index, device="cpu", score_threshold=0, max_instances=LABELS)
    for sample in dataset.iter_samples(autosave=True):
        labels = sample[FIELD].detections[::3]
        sample[TRUTH] = fo.Detections(detections=[_true(label) for label in labels])


def _true(label: fo.Detection) -> fo.Detection:
    """The object that a label is of: its mask without the last column."""
    x, y, width, height = label.bounding_box
    pixels = label.mask.shape[1]
    kept = max(pixels - 1, 1)
    return fo.Detection(
        label=label.label, bounding_box=[x, y, width * kept / pixels, height], mask=label.mask[:, :kept]
    )


def _copy_samples(dataset: fo.Dataset, links: Path, samples: int) -> None:
    collection = database_collection(dataset)
    patterns, random = list(collection.find({})), np.random.default_rng(0)
    for start in range(len(patterns), samples, _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, samples))
        collection.insert_many([_copy(patterns[i % len(patterns)], links, i, random) for i in some], ordered=False)


def _copy(pattern: dict[str, Any], links: Path, number: int, random: np.random.Generator) -> dict[str, Any]:
    path = links / f"{number // 1000:04d}" / f"{number}.jpg"
    if number % 1000 < _AT_ONCE:
        path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.link(pattern["filepath"], path)
    now = datetime.now(timezone.utc)
    facts = {"_id": ObjectId(), "filepath": str(path), "_rand": random.random()}
    labels = pattern[FIELD]["detections"]
    factors = random.uniform(0.8, 1, len(labels)).tolist()  # the scores of other images are others
    copies = [
        {**label, "_id": ObjectId(), "confidence": label["confidence"] * factor}
        for label, factor in zip(labels, factors, strict=True)
    ]
    truth = [{**label, "_id": ObjectId()} for label in pattern[TRUTH]["detections"]]
    return {
        **pattern, **facts, "created_at": now, "last_modified_at": now,
        FIELD: {**pattern[FIELD], "detections": copies}, TRUTH: {**pattern[TRUTH], "detections": truth},
    }  # fmt: skip


def _copy_index(index: Path, samples: int) -> None:
    settings = next(path.parent for path in index.glob("*/settings.json"))
    store = IndexStore(index, IndexSettings.from_json((settings / "settings.json").read_text()))
    discs = matching.discs(SMALL_CANDIDATES)
    vectors = matching.vectors(SMALL_CANDIDATES, CLASSES, channels=CHANNELS)
    small = compact(IndexedImage(discs.candidates, vectors, discs.tokens[..., :CHANNELS]))
    pattern = to_bytes(small, Signature("0" * 64, store.settings))
    for number, data in _signed_copies(pattern, samples):
        path = store.path_of(number)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_bytes(data)


def _signed_copies(pattern: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Image hash and file of copies of a file of the cache: packed once, signed each by itself."""
    tensors = load(pattern)
    length = int.from_bytes(pattern[:8], "little")
    facts = json.loads(json.loads(pattern[8 : 8 + length])["__metadata__"][file_format._KEY])
    del facts["sha256"]
    for i in range(count):
        facts["image"] = hashlib.sha256(f"copy {i}".encode()).hexdigest()
        checked = {**facts, "sha256": file_format._checksum(facts, tensors)}
        yield facts["image"], save(tensors, {file_format._KEY: json.dumps(checked, sort_keys=True)})
