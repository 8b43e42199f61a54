"""Scorers by name: one run of the models serves all of them. Scores are fractions in 0..1.

==========  ===========================================================================================
coco        COCO's own: AP over IoU 0.5 to 0.95, by area, and AR; boxes, and masks where there are any
ntt         the same with VOC's difficult objects as crowd, as the published configuration has it
fsod-vfm    the same with difficult objects as ordinary ones, as FSOD-VFM counts them
voc07       AP at IoU 0.5 in the 11 points of VOC07, difficult objects and crowds ignored
lvis        LVIS's own rules: 300 detections, images judged only for classes that were looked for there
boundary    AP by the lesser of mask IoU and boundary IoU
==========  ===========================================================================================
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from fiftyone_ntt.errors import InputError, counted
from fiftyone_ntt.evaluation.coco import QUIET, Prediction
from fiftyone_ntt.evaluation.protocols.coco_files import Annotated, Targets
from fiftyone_ntt.evaluation.protocols.eleven_points import eleven_points, last_pixel_counted

LVIS_DETECTIONS = 300
Metrics = dict[str, float | None]


@dataclass(frozen=True)
class Scored:
    """What a scorer returns.

    Attributes:
        metrics: name -> value; ``None`` where it is not defined. The first is the one of the tables.
        per_class: class -> metric -> value.
        left_out: what is missing among the metrics, and why; empty where nothing is.
    """

    metrics: Metrics
    per_class: dict[str, Metrics]
    left_out: str = ""


Scorer = Callable[[Targets, Sequence[Prediction]], Scored]


def usable(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those with a score above 0; others, NaN too, are dropped as the published code drops them."""
    return [one for one in predictions if math.isfinite(one.score) and one.score > 0]


def best_of_images(predictions: Sequence[Prediction], most: int) -> list[Prediction]:
    """The best of each image, all classes together."""
    by_image: dict[Any, list[Prediction]] = {}
    for one in predictions:
        by_image.setdefault(one.image_id, []).append(one)
    return [one for group in by_image.values() for one in sorted(group, key=lambda one: -one.score)[:most]]


def has_masks(targets: Targets) -> bool:
    """Whether masks can be compared: every object has one."""
    return bool(targets.truth) and all(item.rle is not None for item in targets.truth)


def _why_no_masks(targets: Targets) -> str:
    """Why masks cannot be compared; nothing where the truth is boxes."""
    bare = [item for item in targets.truth if item.rle is None]
    if len(bare) == len(targets.truth):
        return ""
    return (
        f"mask AP: expected a mask of every object, got {counted(len(bare), 'object')} without, e.g. of class "
        f"{targets.classes[bare[0].label]!r} in image {bare[0].image_id}; add their masks, or remove them"
    )


def coco(targets: Targets, predictions: Sequence[Prediction]) -> Scored:
    """COCO's scores; a class without objects does not count."""
    boxes = _coco_scores(targets, predictions, "bbox")
    if not has_masks(targets):
        return replace(boxes, left_out=_why_no_masks(targets))
    masks = _coco_scores(targets, predictions, "segm")
    return Scored(
        {**boxes.metrics, **masks.metrics},
        {name: {**boxes.per_class[name], **masks.per_class[name]} for name in targets.classes},
    )


def ntt(targets: Targets, predictions: Sequence[Prediction]) -> Scored:
    """COCO's scores with difficult objects as crowd regions."""
    return _ap50_first(
        coco(_changed(targets, lambda item: replace(item, crowd=item.crowd or item.difficult)), predictions)
    )


def fsod_vfm(targets: Targets, predictions: Sequence[Prediction]) -> Scored:
    """COCO's scores with difficult objects as ordinary ones."""
    return _ap50_first(coco(targets, predictions))


def _changed(targets: Targets, change: Callable[[Annotated], Annotated]) -> Targets:
    return replace(
        targets, truth=tuple(change(item) if isinstance(item, Annotated) else item for item in targets.truth)
    )  # fmt: skip


def _ap50_first(scored: Scored) -> Scored:
    return replace(scored, metrics={"box_ap50": scored.metrics["box_ap50"], **scored.metrics})


# ---- COCO and what is built like it ----


def _annotations(targets: Targets, items: Sequence[Any], kind: str) -> list[dict[str, Any]]:
    """Objects or predictions as COCO has them; ids start at 1: pycocotools takes a match with id 0 for none."""
    annotations = []
    for number, item in enumerate(items, start=1):
        x1, y1, x2, y2 = (float(value) for value in item.box)
        annotation: dict[str, Any] = {
            "id": number,
            "image_id": item.image_id,
            "category_id": item.label,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": int(getattr(item, "crowd", False)),
            "area": item.area if isinstance(item, Annotated) else (x2 - x1) * (y2 - y1),
        }
        if kind != "bbox":
            if item.rle is None:
                raise InputError(f"an object of image {item.image_id!r} has no mask; score boxes only")
            annotation["segmentation"] = item.rle
            if not isinstance(item, Annotated):
                annotation["area"] = float(mask_utils.area(item.rle))
        if isinstance(item, Prediction):
            annotation["score"] = float(item.score)
        annotations.append(annotation)
    return annotations


def _content(
    targets: Targets, annotations: list[dict[str, Any]], image_ids: Container[object] | None = None
) -> dict[str, Any]:
    facts = targets.facts or {}
    frequency = facts.get("frequency") or ["f"] * len(targets.classes)
    images = [
        {
            "id": image.image_id, "height": image.size[0], "width": image.size[1],
            **{key: facts[key][image.image_id] for key in ("neg_category_ids", "not_exhaustive_category_ids")
               if key in facts},
        }
        for image in targets.images
        if image_ids is None or image.image_id in image_ids
    ]  # fmt: skip
    categories = [{"id": k, "name": name, "frequency": frequency[k]} for k, name in enumerate(targets.classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco_scores(targets: Targets, predictions: Sequence[Prediction], kind: str) -> Scored:
    """A class at a time: classes do not know of each other, and an image costs only where something of a class is.

    pycocotools goes through every pair of image and class, which are 24 million of LVIS's validation set.
    """
    truth, found, params = _by_class(targets.truth), _by_class(usable(predictions)), Params(iouType=kind)
    shape = len(params.iouThrs), len(params.recThrs), len(targets.classes), len(params.areaRng), len(params.maxDets)
    precision = np.full(shape, -1.0)  # [IoU, recall, class, area, detections]; -1 where there is no object
    recall = np.full((shape[0], *shape[2:]), -1.0)
    for k, objects in truth.items():
        images = {item.image_id for item in (*objects, *found.get(k, ()))}
        sets = []
        with QUIET, contextlib.redirect_stdout(io.StringIO()):
            for items in (objects, found.get(k, [])):
                one = COCO()
                one.dataset = _content(targets, _annotations(targets, items, kind), images)
                one.createIndex()
                sets.append(one)
            evaluation = COCOeval(*sets, kind)
            evaluation.params.catIds = [k]
            evaluation.evaluate()
            evaluation.accumulate()
        precision[:, :, k], recall[:, k] = evaluation.eval["precision"][:, :, 0], evaluation.eval["recall"][:, 0]
    return _summary(precision, recall, params, targets.classes, "box" if kind == "bbox" else "mask")


def _by_class(items: Sequence[Any]) -> dict[int, list[Any]]:
    groups: dict[int, list[Any]] = {}
    for item in items:
        groups.setdefault(item.label, []).append(item)
    return groups


def _summary(
    precision: NDArray[np.float64], recall: NDArray[np.float64], params: Any, classes: Sequence[str], prefix: str
) -> Scored:
    """Figures of tables ``[IoU, recall, class, area, detections]`` and ``[IoU, class, area, detections]``."""
    thresholds = np.asarray(params.iouThrs)
    at50, at75 = np.isclose(thresholds, 0.5), np.isclose(thresholds, 0.75)
    metrics = {
        "ap": _mean(precision[..., 0, -1]),
        "ap50": _mean(precision[at50][..., 0, -1]),
        "ap75": _mean(precision[at75][..., 0, -1]),
    }
    for i, size in enumerate(("small", "medium", "large"), start=1):
        metrics[f"ap_{size}"] = _mean(precision[..., i, -1])
        metrics[f"ar_{size}"] = _mean(recall[..., i, -1])
    for i, most in enumerate(params.maxDets):
        metrics[f"ar{most}"] = _mean(recall[..., 0, i])
    per_class = {
        name: {
            f"{prefix}_ap": _mean(precision[:, :, k, 0, -1]),
            f"{prefix}_ap50": _mean(precision[at50][:, :, k, 0, -1]),
        }
        for k, name in enumerate(classes)
    }
    return Scored({f"{prefix}_{name}": value for name, value in metrics.items()}, per_class)


def _mean(values: NDArray[np.floating]) -> float | None:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


# ---- LVIS and boundaries, by faster-coco-eval ----


def lvis(targets: Targets, predictions: Sequence[Prediction]) -> Scored:
    """LVIS AP of boxes and masks, and that of rare, common and frequent classes.

    Raises:
        InputError: if nothing says which classes were looked for in an image: then a wrong label could not count.
    """
    if "neg_category_ids" not in (targets.facts or {}):
        raise InputError(
            "expected lists of the classes that were looked for in each image (neg_category_ids) for the scorer "
            "'lvis', got none; choose another scorer"
        )
    kept = _judged_by_lvis(targets, usable(predictions))
    metrics: Metrics = {}
    per_class: dict[str, Metrics] = {name: {} for name in targets.classes}
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        if kind == "segm" and not has_masks(targets):
            continue
        precision, recall, params = _faster(targets, kept, kind, lvis_style=True)
        scored = _summary(precision, recall, params, targets.classes, prefix)
        frequency = np.array((targets.facts or {}).get("frequency") or ["f"] * len(targets.classes))
        metrics |= scored.metrics
        for letter, name in (("r", "rare"), ("c", "common"), ("f", "frequent")):
            metrics[f"{prefix}_ap_{name}"] = _mean(precision[:, :, frequency == letter, 0, -1])
        for name in targets.classes:
            per_class[name] |= scored.per_class[name]
    return Scored(metrics, per_class, "" if has_masks(targets) else _why_no_masks(targets))


def _judged_by_lvis(targets: Targets, predictions: Sequence[Prediction]) -> list[Prediction]:
    """The best 300 of each image, all classes together, and of those the ones whose class was looked for there.

    faster-coco-eval would drop the latter too, but version 1.8.0 then fails on masks (``unordered_map::at``).
    """
    judged = {(item.image_id, item.label) for item in targets.truth}
    for number, labels in (targets.facts or {}).get("neg_category_ids", {}).items():
        judged |= {(number, label) for label in labels}
    best = best_of_images(predictions, LVIS_DETECTIONS)
    return [one for one in best if (one.image_id, one.label) in judged]


def boundary(targets: Targets, predictions: Sequence[Prediction]) -> Scored:
    """AP of mask borders: a pair overlaps by the lesser of its mask IoU and its boundary IoU (band of 2 %)."""
    if not has_masks(targets):
        why = _why_no_masks(targets) or "got boxes"
        raise InputError(f"expected masks as truth for the scorer 'boundary' ({why}); choose another scorer")
    return _summary(*_faster(targets, usable(predictions), "boundary"), targets.classes, "boundary")


def _faster(
    targets: Targets, predictions: Sequence[Prediction], kind: str, *, lvis_style: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """Tables of precision and recall, and the parameters."""
    try:
        import faster_coco_eval as faster
        from faster_coco_eval.core import mask  # noqa: F401  # a part of it is compiled, and may be missing by itself
    except ImportError as error:
        raise InputError(
            "expected the package faster-coco-eval for the scorers 'lvis' and 'boundary', got none; install it with "
            f"`pip install faster-coco-eval` ({error})"
        ) from error
    sets = [
        faster.COCO(_content(targets, _annotations(targets, items, kind))) for items in (targets.truth, predictions)
    ]  # fmt: skip
    evaluation = faster.COCOeval_faster(*sets, kind, lvis_style=lvis_style, print_function=lambda *_: None)
    if lvis_style:
        evaluation.params.maxDets = [LVIS_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"]), evaluation.params


# ---- VOC07 ----


def voc07(targets: Targets, predictions: Sequence[Prediction]) -> Scored:
    """AP at IoU above 0.5 in 11 points, difficult objects and crowds ignored, any number of detections.

    VOC's widths count the last pixel: boxes of the truth that end on it grow by one to the right and below.
    """
    per_class: dict[str, Metrics] = {}
    for k, name in enumerate(targets.classes):
        truth: dict[Any, list[Annotated]] = {}
        for item in targets.truth:
            if item.label == k and isinstance(item, Annotated):
                whole = last_pixel_counted(item.box) if targets.inclusive_boxes else item.box
                truth.setdefault(item.image_id, []).append(replace(item, box=whole))
        found = sorted((one for one in usable(predictions) if one.label == k), key=lambda one: -one.score)
        per_class[name] = {"box_ap50": eleven_points(truth, found)}
    defined = [values["box_ap50"] for values in per_class.values() if values["box_ap50"] is not None]
    return Scored({"box_ap50": float(np.mean(defined)) if defined else None}, per_class)


SCORERS: dict[str, Scorer] = {
    "coco": coco, "ntt": ntt, "fsod-vfm": fsod_vfm, "voc07": voc07, "lvis": lvis, "boundary": boundary,
}  # fmt: skip


def scorer_of(name: str) -> Scorer:
    """The scorer of a name."""
    if name not in SCORERS:
        raise InputError(f"expected a scorer of {', '.join(SCORERS)}, got {name!r}")
    return SCORERS[name]


WITH_LAST_PIXEL = ("voc07",)
"""Scorers that measure as VOC does: a label's box that ends on its last pixel counts with that pixel."""
OF_OWN_LISTS = ("lvis",)
"""Scorers that need lists which only the protocols have that name them."""


def score(
    name: str, targets: Targets, predictions: Sequence[Prediction], *, most: int | None = None, inclusive: bool = False
) -> Scored:
    """Scores by name.

    Args:
        name: of the scorer.
        targets: images and truth.
        predictions: labels of all images.
        most: so many labels an image count, the best ones; all that the scorer takes where ``None``.
        inclusive: whether the labels' boxes end on their last pixel, as the published code has them.

    Raises:
        InputError: if the scorer cannot be had of these targets.
    """
    counted_ones = predictions if most is None else best_of_images(predictions, most)
    if inclusive and name in WITH_LAST_PIXEL:
        counted_ones = [replace(one, box=last_pixel_counted(one.box)) for one in counted_ones]
    return scorer_of(name)(targets, counted_ones)
