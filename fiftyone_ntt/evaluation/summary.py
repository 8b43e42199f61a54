"""What an evaluation found, as values, as a table, and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from fiftyone_ntt.errors import as_text, counted
from fiftyone_ntt.evaluation.coco import PresenceScores, Scores
from fiftyone_ntt.evaluation.review_point import ReviewPoint
from fiftyone_ntt.pixels.semantic_maps import SemanticScores

_COLUMNS = {
    "class": "class", "objects": "objects", "predictions": "labels", "box_ap": "box AP", "box_ap50": "box AP50",
    "mask_ap": "mask AP", "mask_ap50": "mask AP50", "threshold": "above", "label_precision": "labels: P",
    "label_recall": "R", "precision": "in image: P", "recall": "R", "f1": "F1",
}  # fmt: skip
_BOUNDARY = "boundary_ap"
"""Column of the table, after those of masks, where borders were compared."""
_OF_MAPS = {"class": "class", "objects": "images with it", "predictions": "found in", "iou": "IoU",
            "precision": "in image: P", "recall": "R", "f1": "F1"}  # fmt: skip


@dataclass(frozen=True)
class ClassResult:
    """Scores of one class; fractions in 0..1, ``None`` where not defined.

    Attributes:
        name: name of the class.
        objects: annotated objects, crowd regions included; of maps, images with the class.
        predictions: predicted objects; of maps, images in which the class was found.
        box: COCO scores by box overlap.
        mask: COCO scores by mask overlap.
        precision: of "this class is in this image".
        recall: of the same.
        f1: of the same.
        iou: intersection over union of the pixels, where maps were compared.
        threshold: score threshold of the review, see ``ReviewPoint``; ``None`` where maps were compared.
        label_precision: share of the labels above it that are right.
        label_recall: share of the objects that these labels find.
        boundary: COCO scores by border overlap; ``None`` where borders were not compared.
    """

    name: str
    objects: int
    predictions: int
    box: Scores
    mask: Scores
    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None = None
    threshold: float | None = None
    label_precision: float | None = None
    label_recall: float | None = None
    boundary: Scores | None = None


@dataclass(frozen=True)
class EvaluationResults:
    """What ``evaluate`` found. Fractions in 0..1; ``None`` where a score is not defined.

    Attributes:
        box: COCO scores by box overlap, over the classes that have ground truth.
        mask: COCO scores by mask overlap; all ``None`` where masks could not be compared (``notes`` says why).
        presence: image-level presence.
        per_class: one entry a class.
        images: samples evaluated.
        eval_key: key of FiftyOne's per-object matches, if they were asked for.
        notes: what a reader of the scores should know.
        semantic: scores of class maps, where those were compared; ``box`` and ``mask`` are empty then.
        review: precision and recall of the labels above the threshold of the review; ``None`` of maps.
        boundary: COCO scores by the lesser of mask and border overlap; ``None`` unless they were asked for.
    """

    box: Scores
    mask: Scores
    presence: PresenceScores
    per_class: tuple[ClassResult, ...]
    images: int
    eval_key: str | None = None
    notes: tuple[str, ...] = ()
    semantic: SemanticScores | None = None
    review: ReviewPoint | None = None
    boundary: Scores | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes evaluated."""
        return tuple(row.name for row in self.per_class)

    def table(self) -> list[dict[str, Any]]:
        """One row a class, after a first row for all of them; of maps, that has the mean IoU without background."""
        micro = self.presence.micro
        counts = sum(row.objects for row in self.per_class), sum(row.predictions for row in self.per_class)
        total = ClassResult("all", *counts, self.box, self.mask, micro.precision, micro.recall, micro.f1)
        total = replace(total, boundary=self.boundary)
        if self.review is not None:
            found, thresholds = self.review.all, set(self.review.thresholds.values())
            total = replace(
                total,
                threshold=thresholds.pop() if len(thresholds) == 1 else None,
                label_precision=found.precision,
                label_recall=found.recall,
            )
        if self.semantic is None:
            return [_table_row(row) for row in (total, *self.per_class)]
        total = replace(total, iou=self.semantic.miou)
        return [_map_row(row) for row in (total, *self.per_class)]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, fit for JSON."""
        return {
            "box": asdict(self.box),
            "mask": asdict(self.mask),
            "presence": {
                "precision": self.presence.micro.precision,
                "recall": self.presence.micro.recall,
                "f1": self.presence.micro.f1,
                "threshold": self.presence.threshold,
                "best_f1": self.presence.best_f1,
                "best_threshold": self.presence.best_threshold,
            },
            "review": None if self.review is None else self.review.to_dict(),
            "per_class": [asdict(row) for row in self.per_class],
            "boundary": None if self.boundary is None else asdict(self.boundary),
            "semantic": None if self.semantic is None else asdict(self.semantic),
            "images": self.images,
            "eval_key": self.eval_key,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        columns = _OF_MAPS if self.semantic is not None else _columns(self.boundary is not None)
        rows = [list(columns.values())] + [[_shown(row[key]) for key in columns] for row in self.table()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
        lines = [
            "  ".join([row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, len(row))]) for row in rows
        ]
        facts = self.headlines()
        return "\n".join([*lines, "", *facts, *(f"note: {note}" for note in self.notes)])

    def headlines(self) -> list[str]:
        """What the table does not say, a line each."""
        if self.semantic is not None:
            mean, wider = _shown(self.semantic.miou), _shown(self.semantic.miou_with_background)
            background = _shown(self.semantic.background)
            return [
                f"{counted(self.images, 'image')}; mIoU {mean}, with background {wider} (background alone {background})"
            ]
        best = self.presence
        return [
            *([] if self.review is None else [str(self.review)]),
            f"{counted(self.images, 'image')}; AP75: box {_shown(self.box.ap75)}, mask {_shown(self.mask.ap75)}; "
            f"AR100: box {_shown(self.box.ar100)}, mask {_shown(self.mask.ar100)}",
            *self.of_borders(),
            f"in image: a label above {best.threshold:g} claims its class; the best threshold, "
            f"{_shown(best.best_threshold)}, would give F1 {_shown(best.best_f1)}",
        ]

    def of_borders(self) -> list[str]:
        """A line on boundary AP, where it was computed."""
        if self.boundary is None:
            return []
        ap, ap50, ap75 = map(_shown, (self.boundary.ap, self.boundary.ap50, self.boundary.ap75))
        return [f"boundary AP {ap} (AP50 {ap50}, AP75 {ap75}): by the lesser of mask IoU and boundary IoU"]


def _columns(boundary: bool) -> dict[str, str]:
    """Key -> title of the columns; that of borders follows those of masks, where there is one."""
    columns: dict[str, str] = {}
    for key, title in _COLUMNS.items():
        columns[key] = title
        if boundary and key == "mask_ap50":
            columns[_BOUNDARY] = "boundary AP"
    return columns


def _table_row(row: ClassResult) -> dict[str, Any]:
    values = (
        row.name, row.objects, row.predictions, row.box.ap, row.box.ap50, row.mask.ap, row.mask.ap50,
        row.threshold, row.label_precision, row.label_recall, row.precision, row.recall, row.f1,
    )  # fmt: skip
    cells = dict(zip(_COLUMNS, values, strict=True))
    if row.boundary is None:
        return cells
    cells[_BOUNDARY] = row.boundary.ap
    return {key: cells[key] for key in _columns(boundary=True)}


def _map_row(row: ClassResult) -> dict[str, Any]:
    values = row.name, row.objects, row.predictions, row.iou, row.precision, row.recall, row.f1
    return dict(zip(_OF_MAPS, values, strict=True))


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else as_text(value)
