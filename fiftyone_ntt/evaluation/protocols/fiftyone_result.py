"""A result of a protocol as a FiftyOne dataset, to look at. The only module here that needs FiftyOne."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fiftyone as fo
from pycocotools import mask as mask_utils

from fiftyone_ntt.errors import InputError, listing
from fiftyone_ntt.evaluation.coco import Prediction
from fiftyone_ntt.evaluation.protocols.base import DetectionProtocol
from fiftyone_ntt.evaluation.protocols.coco_files import Targets
from fiftyone_ntt.evaluation.protocols.journal import Journal
from fiftyone_ntt.evaluation.protocols.predictions import from_row
from fiftyone_ntt.evaluation.protocols.registry import protocol_of
from fiftyone_ntt.evaluation.protocols.report import read_results
from fiftyone_ntt.pixels.files import plain_file

_CHUNK = 200


def load_result(path: Path, name: str | None = None, *, least_score: float = 0.0) -> fo.Dataset:
    """Makes a dataset of a result: images, truth and labels.

    Args:
        path: the JSON of a run of objects; the file with its labels lies beside it.
        name: of the dataset; that of the file where ``None``. A dataset of that name is never written over.
        least_score: leaves out labels at or below it.

    Raises:
        InputError: if it is a folder or no result, or one of episodes, if its labels or images are missing, or the name
            is taken.
    """
    if path.is_dir():
        there = ", ".join(sorted(one.name for one in path.glob("*.json"))[:5]) or "none"
        raise InputError(f"expected the JSON of one run, got the folder {path}; name a file in it: {there}")
    (result,) = read_results([path])
    if absent := sorted({"labels", "data", "presence", "limit"} - set(result)):
        raise InputError(f"expected the JSON of a run in {path}, got one without {', '.join(absent)}; run it again")
    protocol, labels_path = protocol_of(result["protocol"]), path.with_name(result["labels"])
    if not isinstance(protocol, DetectionProtocol):
        raise InputError(f"expected a result with objects, got one of {protocol.name}, which has only overlaps to show")
    if "classes" not in result:
        raise InputError(f"expected the JSON of a run in {path}, got one without classes; run it again")
    if not labels_path.is_file():
        raise InputError(
            f"expected the labels of the result in {labels_path}, got no such file; run the protocol again"
        )
    name = name or path.stem
    if fo.dataset_exists(name):
        raise InputError(f"expected a name that is not taken, got {name!r}; give another one, or delete that dataset")
    items = Journal(labels_path, _header(labels_path)).items()
    targets = protocol.read_targets(Path(result["data"]), result["part"]).limited(result["limit"])
    _check_same(targets, items, result)
    dataset = fo.Dataset(name, persistent=True)
    try:
        facts = ("protocol", "part", "shots", "seed", "presence", "scores")
        dataset.info["protocol"] = {key: result[key] for key in facts}
        for samples in _chunks(targets, items, least_score):
            dataset.add_samples(samples, progress=False)
        dataset.save()
    except BaseException:  # an interrupt too: half a dataset would keep its name from the whole one
        dataset.delete()
        raise
    return dataset


def _check_same(targets: Targets, items: dict[str, Any], result: dict[str, Any]) -> None:
    """Labels are of images by id and of classes by number: both must mean what they meant.

    Raises:
        InputError: if the annotation file was changed since.
    """
    if list(targets.classes) != result["classes"]:
        raise InputError(
            f"expected the classes of the result, {listing(result['classes'])}, got {listing(targets.classes)} in "
            f"{result['data']}: the annotation file was changed since; run the protocol again"
        )
    names = {str(image.image_id): image.path.name for image in targets.images}
    for key, item in items.items():
        if names.get(key) != Path(item["file"]).name:
            raise InputError(
                f"expected {Path(item['file']).name} as image {key} in {result['data']}, got {names.get(key)}: the "
                "annotation file was changed since; run the protocol again"
            )


def _header(path: Path) -> dict[str, Any]:
    """What a journal's first line says of its run."""
    try:
        with plain_file(path).open(encoding="utf-8") as file:
            header: dict[str, Any] = json.loads(file.readline())["run"]
        return header
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"expected the labels of a run in {path}, got something else ({error}); run it again"
        ) from error


def _chunks(targets: Targets, items: dict[str, Any], least_score: float) -> Iterator[list[fo.Sample]]:
    """Samples, so many at a time: their masks are pixels, and those of a whole data set do not fit into memory."""
    truth: dict[Any, list[Any]] = {}
    for item in targets.truth:
        truth.setdefault(item.image_id, []).append(item)
    samples: list[fo.Sample] = []
    for image in targets.images:
        found = [from_row(row, image.image_id) for row in items.get(str(image.image_id), {}).get("found", [])]
        found = [one for one in found if one.score > least_score]
        samples.append(
            fo.Sample(
                str(image.path.resolve()),
                ground_truth=_detections(truth.get(image.image_id, []), targets.classes, image.size),
                ntt=_detections(found, targets.classes, image.size),
            )
        )
        if len(samples) == _CHUNK:
            yield samples
            samples = []
    if samples:
        yield samples


def _detections(items: list[Any], classes: tuple[str, ...], size: tuple[int, int]) -> fo.Detections:
    return fo.Detections(detections=[_detection(one, classes[one.label], size) for one in items])


def _detection(one: Any, label: str, size: tuple[int, int]) -> fo.Detection:
    height, width = size
    x1, y1, x2, y2 = one.box
    facts: dict[str, Any] = {}
    if one.rle is not None:
        full = mask_utils.decode(one.rle).astype(bool)
        x1, y1, x2, y2 = _extent(full) or one.box
        facts["mask"] = full[int(y1) : int(y2), int(x1) : int(x2)]
    if isinstance(one, Prediction):
        facts["confidence"] = one.score
    else:
        facts |= {"iscrowd": bool(one.crowd), "difficult": bool(getattr(one, "difficult", False))}
    box = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    return fo.Detection(label=label, bounding_box=box, **facts)


def _extent(mask: Any) -> tuple[float, float, float, float] | None:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
