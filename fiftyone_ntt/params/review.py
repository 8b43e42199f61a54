"""The parameters of the services around review; see ``base.py`` for what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fiftyone_ntt.params.base import Params, PresetObject, StageOneSettings, param, param_of
from fiftyone_ntt.params.labelling import LOOK_FOR, SegmentParams

DOUBTS = ("threshold", "classes", "mask", "merged")
"""What can make a label uncertain."""


@dataclass(frozen=True)
class DecisionFormParams(Params):
    """What the forms of ``accept_labels``, ``reject_labels`` and ``clear_decisions`` ask for."""

    label_field: str = param("ntt", label="Labels", help="field with the labels to decide on")
    classes: tuple[str, ...] | None = param(
        None, label="Classes", help="only labels of these classes; all classes where left empty"
    )
    above: float | None = param(
        None, label="Score above", help="only labels with a score above this", minimum=0, maximum=1
    )
    below: float | None = param(
        None,
        label="Score up to",
        help="only labels with a score of at most this; what a person drew has none",
        minimum=0,
        maximum=1,
    )
    undecided: bool = param(
        False,
        label="Only undecided labels",
        help="leave labels alone that somebody has accepted, rejected, edited or drawn",
    )


@dataclass(frozen=True)
class DecisionParams(DecisionFormParams):
    """Arguments of ``fiftyone_ntt.accept_labels``, ``reject_labels`` and ``clear_decisions``."""

    EMPTY_IS_NONE = ("label_ids",)

    label_ids: tuple[str, ...] | None = param(None, label="Ids", help="only labels with these ids")

    def describes_labels(self) -> bool:
        """Whether anything says which labels of the field are meant."""
        given = (self.label_ids, self.classes, self.above, self.below)
        return self.undecided or any(value is not None for value in given)


@dataclass(frozen=True)
class DoubtParams(Params):
    """Arguments of ``fiftyone_ntt.doubtful``."""

    label_field: str = param("ntt", label="Labels", help="field with the labels of a run")
    by: str = param(
        "threshold",
        label="Most uncertain by",
        help="'threshold': closest to the threshold; 'classes': another class fits nearly as well; 'mask': the mask "
        "model is not sure of the mask; 'merged': the score fell most since other labels overlap",
        choices=DOUBTS,
    )
    threshold: float | None = param(
        None,
        label="Score threshold",
        help="for 'threshold'; where left empty, the score threshold at which a review begins",
        minimum=0,
        maximum=1,
    )
    classes: tuple[str, ...] | None = param_of(DecisionFormParams, "classes")
    limit: int = param(200, label="Labels", help="how many labels to show", minimum=1, maximum=5000)


@dataclass(frozen=True)
class NextImagesParams(Params):
    """Arguments of ``fiftyone_ntt.next_images``."""

    label_field: str = param("ntt", label="Labels", help="field with the labels of a run")
    limit: int = param(20, label="Images", help="how many images to show", minimum=1, maximum=1000)
    index_dir: str | Path | None = param_of(StageOneSettings, "index_dir", advanced=False)


@dataclass(frozen=True)
class FitThresholdsParams(Params):
    """Arguments of ``fiftyone_ntt.fit_thresholds``."""

    run_key: str = param(label="Run", help="the labelling run whose labels you reviewed")
    precision: float | None = param(
        None,
        label="Least precision",
        help="of the labels above the score threshold, at least this share is to be right, for example 0.9; where left "
        "empty, the best balance between wrong labels and missed ones",
        minimum=0,
        maximum=1,
    )
    write_image_labels: bool = param(
        True,
        label="Write image-level labels",
        help="which classes are in each image and which are not, in the fields LABELS_present and LABELS_absent",
    )


@dataclass(frozen=True)
class JudgePresenceParams(Params):
    """Arguments of ``fiftyone_ntt.judge_presence``."""

    label_field: str = param("ntt", label="Labels", help="field with the labels of a run")


EXPORT_FORMATS = ("coco", "yolo", "fiftyone")
WHICH, FILES = "Which labels", "What is written"
"""Groups of settings of an export."""


@dataclass(frozen=True)
class ExportParams(Params):
    """Arguments of ``fiftyone_ntt.export_labels``."""

    export_dir: str = param(
        label="Folder", help="where to write: the full path of a new or empty folder on the computer that runs the App"
    )
    label_field: str = param("ntt", label="Labels", help="field with the labels to write")
    format: str = param(
        "coco",
        label="Format",
        help="'coco' keeps the masks as they are, 'yolo' writes a polygon for each; 'fiftyone' is for FiftyOne itself",
        choices=EXPORT_FORMATS,
    )
    only: str = param(
        "accepted",
        label="Which labels",
        help="'accepted': what a person accepted, edited or drew; 'done': the same of images marked as done, those "
        "without labels included; 'all': also what nobody has decided on. Rejected labels are never written",
        choices=("accepted", "done", "all"),
    )
    score_threshold: float | None = param(
        None,
        label="Score threshold",
        help="undecided labels at or below this score are left out",
        minimum=0,
        maximum=1,
        group=WHICH,
    )
    classes: tuple[str, ...] | None = param(
        None, label="Classes", help="the classes to write, in this order; all where left empty", group=WHICH
    )
    masks: str = param(
        "rle",
        label="Masks in COCO",
        help="'rle' (run lengths) keeps every pixel; 'polygons' is for tools that read nothing else, and the report "
        "says what was lost",
        choices=("rle", "polygons"),
        group=FILES,
    )
    export_media: bool = param(True, label="Copy the images too", help="otherwise only labels are written", group=FILES)
    overwrite: bool = param(
        False, label="Replace an earlier export", help="only a folder that an export made is ever replaced", group=FILES
    )


@dataclass(frozen=True)
class ToSegmentationParams(Params):
    """Arguments of ``fiftyone_ntt.to_segmentation``."""

    label_field: str = param("ntt", label="Labels", help="field with the labels to paint")
    out_field: str = param("ntt_semantic", label="Write to", help="field for the masks; created if absent")
    score_threshold: float | None = param_of(ExportParams, "score_threshold", group="More")
    classes: tuple[str, ...] | None = param(
        None,
        label="Classes",
        help="the classes in the order of their values, which begin at 1; those of the run that wrote the labels, and "
        "what else there is, where left empty",
    )
    only: str = param(
        "all",
        label="Which labels",
        help="'accepted': what a person accepted, edited or drew; 'all': also what nobody has decided on. Rejected "
        "labels are never painted",
        choices=("all", "accepted"),
    )
    overwrite: bool = param(
        False, label="Overwrite", help="also replace masks that something else wrote, or that a person changed"
    )


_MODELS = "which pair of mask model and feature model to use; where left empty, the memory bank's, or else 'lite'"


@dataclass(frozen=True)
class PreviewParams(StageOneSettings):
    """Arguments of ``fiftyone_ntt.preview``."""

    bank: str | None = param_of(SegmentParams, "bank")
    label_field: str | None = param_of(SegmentParams, "reference_field")
    images: int = param(
        4, label="Images", help="how many to look at; spread evenly, the same ones each time", minimum=1, maximum=20
    )
    score_threshold: float | None = param(
        None, label="Score threshold", help="labels at or below this score do not count", minimum=0, maximum=1
    )
    thresholds: str | None = param_of(SegmentParams, "thresholds", group=LOOK_FOR)
    mode: str = param_of(SegmentParams, "mode")
    max_instances: int | None = param_of(SegmentParams, "max_instances")
    include_references: bool = param_of(SegmentParams, "include_references", label="Look at the references too")
    preset: str | PresetObject | None = param_of(StageOneSettings, "preset", help=_MODELS)


@dataclass(frozen=True)
class RefineFormParams(Params):
    """What the form of ``refine_labels`` asks for."""

    label_field: str = param("ntt", label="Labels", help="field with the labels whose masks to refine")
    only: str = param(
        "accepted",
        label="Which labels",
        help="'accepted': those that a person accepted; 'all': also what nobody has decided on. Rejected labels stay "
        "as they are",
        choices=("accepted", "all"),
    )
    classes: tuple[str, ...] | None = param_of(DecisionFormParams, "classes")
    edited: bool = param(
        False,
        label="Also masks of a person",
        help="refine masks that a person drew or edited, or that come from elsewhere, too; otherwise they stay",
    )
    preset: str | PresetObject | None = param_of(StageOneSettings, "preset", help=_MODELS, advanced=False)
    device: str | None = param_of(StageOneSettings, "device", advanced=False)


@dataclass(frozen=True)
class RefineParams(RefineFormParams):
    """Arguments of ``fiftyone_ntt.refine_labels``."""

    EMPTY_IS_NONE = ("label_ids",)

    label_ids: tuple[str, ...] | None = param(
        None, label="Ids", help="only labels with these ids, accepted or not; 'only' does not matter then"
    )


@dataclass(frozen=True)
class UndoRefinementParams(Params):
    """Arguments of ``fiftyone_ntt.undo_refinement``."""

    label_field: str = param("ntt", label="Labels", help="field with the labels whose masks were refined")


AUTO, REFERENCES, HEAD = "auto", "references", "head"
"""Ways to learn from decisions."""


@dataclass(frozen=True)
class LearnParams(Params):
    """Arguments of ``fiftyone_ntt.learn``."""

    label_field: str = param("ntt", label="Labels", help="field with the labels that you accepted and rejected")
    method: str = param(
        REFERENCES,
        label="How to learn",
        help="'references': accepted labels become references, rejected ones examples of what you do not want; 'head': "
        "they train a small classifier, used only where it is better on images it was not trained on; 'auto': both. "
        "Images marked as done teach a head most",
        choices=(AUTO, REFERENCES, HEAD),
    )
    apply: bool = param(
        False,
        label="Write the new labels",
        help="otherwise it only shows what would change. Your decisions stay, and the run can be undone",
    )
    threshold: float | None = param(
        None,
        label="Count labels above",
        help="only labels with a score above this count in what is shown; where left empty, those above which a review "
        "begins. All are written",
        minimum=0,
        maximum=1,
    )
    bank_name: str | None = param(
        None, label="Keep as", help="name for the references and what was learned; LABELS_learned where left empty"
    )
    index_dir: str | Path | None = param_of(StageOneSettings, "index_dir", advanced=False)


@dataclass(frozen=True)
class AdviceParams(Params):
    """Arguments of ``fiftyone_ntt.advise_references``."""

    bank: str | None = param_of(SegmentParams, "bank")
    label_field: str = param("ground_truth", label="Reference labels", help="field with the labels of the references")
    reviewed: str = param(
        "ntt",
        label="Labels of a run",
        help="field that 'NTT: Label images' filled: what you accepted and rejected there counts too. It may "
        "be missing",
    )
    suggest: int = param(
        20, label="What to label next", help="how many labels of the run to suggest", minimum=0, maximum=500
    )
    preset: str | PresetObject | None = param_of(StageOneSettings, "preset", help=_MODELS, advanced=False)
    device: str | None = param_of(StageOneSettings, "device", advanced=False)
    index_dir: str | Path | None = param_of(StageOneSettings, "index_dir", advanced=False)


@dataclass(frozen=True)
class AdviceFormParams(AdviceParams):
    """What the form asks for besides."""

    show: str = param(
        "nothing",
        label="Then show",
        help="what the grid shows afterwards: 'next', the labels to decide on next; 'look', the references to look at",
        choices=("nothing", "next", "look"),
    )
