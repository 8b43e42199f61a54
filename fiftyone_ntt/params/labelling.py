"""Parameters of the services that label images, of those around their runs, and of previews.

How candidates are made (stage one) is declared once, in ``StageOneSettings``, from which services inherit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fiftyone_ntt.params.base import (
    CACHE,
    GRANULARITIES,
    Params,
    PresetObject,
    StageOneSettings,
    param,
    param_of,
)
from fiftyone_ntt.params.preset_names import preset_names


@dataclass(frozen=True, kw_only=True)
class IndexParams(StageOneSettings):
    """Arguments of ``fiftyone_ntt.index`` on this machine; all of them are those of ``IndexAnywhereParams``."""

    NOT_ASKED: ClassVar = ("use_index",)

    preset: str | PresetObject = param(
        "lite",
        label="Models",
        help="which pair of mask model and feature model to use: that of the memory banks to come",
        choices=preset_names,
    )
    granularity: str = param_of(
        StageOneSettings,
        "granularity",
        choices=GRANULARITIES[:-1],
        help="a point on a wheel may mean the wheel or the car, and the mask model offers three masks: 'best' takes "
        "the one that it is surest of, 'whole' prefers the larger, 'part' the smaller ones; what runs will ask for",
    )
    size_limit_gb: float | None = param(
        None,
        label="Size limit in GB",
        help="how large all of the cache may get, in 10^9 bytes; FIFTYONE_NTT_INDEX_GB, or else 50, where left empty",
        minimum=0,
        advanced=True,
        group=CACHE,
    )


RAY = "Ray cluster"


@dataclass(frozen=True, kw_only=True)
class IndexAnywhereParams(IndexParams):
    """Arguments of ``fiftyone_ntt.index``: here, or on a Ray cluster."""

    on_ray: bool = param(
        False,
        label="On a Ray cluster",
        help="the cluster that the environment variable RAY_ADDRESS names finds the candidates, and puts them into a "
        "store that the candidate cache of this machine then refers to",
        advanced=RAY,
    )
    store: str | None = param(
        None,
        label="Store",
        help="with a Ray cluster: a folder or URL that this machine and all of the cluster reach, e.g. "
        "s3://bucket/fleet; the candidates stay there",
        advanced=RAY,
    )
    workers: int | None = param(
        None,
        label="Workers",
        help="of the Ray cluster, each with models of its own; as many as there is room for where left empty",
        minimum=1,
        maximum=10_000,
        advanced=RAY,
    )
    cpus: float = param(
        1.0,
        label="CPUs of a worker",
        help="that Ray sets aside for each worker, which is also how many threads its models take",
        minimum=0.1,
        maximum=1024,
        advanced=RAY,
    )
    gpus: float | None = param(
        None,
        label="GPUs of a worker",
        help="that Ray sets aside for each worker; one where left empty and the cluster has any, else none",
        minimum=0,
        maximum=64,
        advanced=RAY,
    )
    map_root: tuple[str, ...] | None = param(
        None,
        label="Paths on the cluster",
        help="where the Ray cluster finds the images if not at the paths in the dataset: /data=s3://bucket/data for "
        "paths that begin with /data",
        advanced=RAY,
    )
    unit_rows: int = param(
        1000,
        label="Images of a unit",
        help="of the Ray cluster's work: what a machine that is taken away loses at most, and what a worker takes at a "
        "time",
        minimum=1,
        maximum=1_000_000,
        advanced=RAY,
    )


@dataclass(frozen=True, kw_only=True)
class SelfcheckParams(Params):
    """Arguments of the check of a preset, whose numbers of prompts and images are its own."""

    preset: str | PresetObject = param(
        "lite", label="Models", help="which pair of mask model and feature model to check", choices=preset_names
    )
    device: str | None = param_of(
        StageOneSettings,
        "device",
        help="'cuda', 'cuda:1', 'mps' or 'cpu'; the best there is where left empty",
        advanced=False,
    )
    precision: str = param_of(StageOneSettings, "precision", advanced=False)


BANK, LOOK_FOR, RUN = "References and memory bank", "What is looked for, and where", "The run"
"""Groups of settings of a labelling run."""


@dataclass(frozen=True)
class SegmentParams(StageOneSettings):
    """Arguments of ``fiftyone_ntt.segment``."""

    bank: str | None = param(
        None,
        label="Memory bank",
        help="name of a memory bank kept with this dataset; where left empty, that of the references as they are "
        "tagged now, which is built again where they have changed",
        group=BANK,
    )
    label_field: str = param("ntt", label="Write to", help="field for the detections; created if absent")
    reference_field: str | None = param(
        None,
        label="Reference labels",
        help="field with the labels of the references, where a memory bank has to be built; where left empty, that of "
        "the last one, or else the one with tagged labels",
        group=BANK,
    )
    score_threshold: float | None = param(
        None,
        label="Score threshold",
        help="labels at or below this score are not written; 0 writes all. Left empty, the references tell: what looks "
        "too little like them is left out, and comes back from the candidate cache when the threshold is lowered",
        minimum=0,
        maximum=1,
    )
    thresholds: str | None = param(
        None,
        label="Score thresholds of the classes",
        help="'fitted': labels at or below the score threshold fitted to their class (see 'NTT: Fit "
        "score thresholds') are not written; thresholds are found again for the same memory bank and settings. Left "
        "empty, the score threshold above says what is written",
        choices=("fitted",),
    )
    mode: str = param(
        "generic",
        label="Look for",
        help="'generic': all instances of each class; 'referring': of each single reference the one best match in the "
        "image, whose score tells whether it is there at all",
        choices=("generic", "referring"),
        group=LOOK_FOR,
    )
    max_instances: int | None = param(
        None,
        label="Labels an image",
        help="at most so many labels in one image, the best of them; 100 where left empty",
        minimum=1,
        maximum=10_000,
        advanced=True,
    )
    include_references: bool = param(
        False,
        label="Label the references too",
        help="references are left out otherwise: their labels are known",
        group=LOOK_FOR,
    )
    resume: bool = param(
        True, label="Resume", help="go on with a run of the same settings, leaving alone what it has done", group=RUN
    )
    overwrite: bool = param(
        False,
        label="Overwrite",
        help="replace what another run or a person wrote to this field. What you decided stays; without a memory bank "
        "of your choice, the labels of the run before are replaced in any case",
        group=RUN,
    )
    run_key: str | None = param(
        None,
        label="Run key",
        help="name under which the run can be found and undone; ntt_FIELD where left empty",
        group=RUN,
    )


@dataclass(frozen=True)
class EvaluateParams(Params):
    """Arguments of ``fiftyone_ntt.evaluate``."""

    label_field: str = param(
        "ntt", label="Labels to evaluate", help="field with the detections, or semantic segmentation masks, to score"
    )
    gt_field: str = param(
        "ground_truth",
        label="Ground truth",
        help="field with the detections, or semantic segmentation masks, they should equal",
    )
    eval_key: str | None = param(
        None,
        label="Evaluation key",
        help="also marks every label as true or false positive under this key, for the App's filters and its "
        "evaluation panel",
    )
    score_threshold: float | None = param(
        None,
        label="Score threshold",
        help="labels at or below this score claim no presence and take no part in the matches; AP ranks all labels",
        minimum=0,
        maximum=1,
    )
    classes: tuple[str, ...] | None = param(
        None, label="Classes", help="the classes to score; those of the run that wrote the labels where left empty"
    )
    include_references: bool = param(
        False, label="Score the references too", help="their scores are too good: they have seen the answers"
    )
    boundary: bool = param(
        False,
        label="Score the borders, too",
        help="boundary AP: as mask AP, but masks must also agree along their borders. Under a millisecond a label, "
        "more on large images",
    )


@dataclass(frozen=True)
class CancelParams(Params):
    """Arguments of ``fiftyone_ntt.cancel_run``."""

    run_key: str = param(label="Run", help="key of the labelling run to stop")


@dataclass(frozen=True)
class ResumeParams(Params):
    """Arguments of ``fiftyone_ntt.resume_run``."""

    run_key: str = param(label="Run", help="key of the labelling run to go on with")


@dataclass(frozen=True)
class LowerThresholdParams(Params):
    """Arguments of ``fiftyone_ntt.lower_threshold``."""

    run_key: str = param(label="Run", help="key of the labelling run whose weak labels are wanted")
    score_threshold: float = param(
        0.0,
        label="Score threshold",
        help="labels above this score are written; 0 writes all that was found, weak ones of every class in nearly "
        "every image",
        minimum=0,
        maximum=1,
    )


@dataclass(frozen=True)
class UndoParams(Params):
    """Arguments of ``fiftyone_ntt.undo_run``."""

    run_key: str = param(label="Run", help="key of the labelling run to take back")
    keep_edited: bool = param(
        True,
        label="Keep what people decided",
        help="labels that a person accepted or edited (tags ntt:accepted, ntt:edited) stay",
    )


@dataclass(frozen=True)
class MakePreviewsParams(Params):
    """Arguments of ``fiftyone_ntt.make_previews``."""

    preview_field: str = param(
        "ntt_preview", label="Write to", help="field for the paths of the previews; created if absent"
    )
    folder: str | Path | None = param(
        None,
        label="Folder",
        help="where the files go: a full path on the computer that runs the App; FIFTYONE_NTT_PREVIEWS, or else a "
        "folder beside FiftyOne's datasets, where left empty",
    )
    longest_side: int = param(
        2048, label="Longest side of a preview (px)", help="larger images are made smaller", minimum=64, maximum=16384
    )
    larger_than: int = param(
        4096,
        label="Images longer than (px)",
        help="images with a longer side get a preview, and all that a browser cannot show, such as TIFF files; 1 makes "
        "one of every image",
        minimum=1,
        maximum=1_000_000,
    )


@dataclass(frozen=True)
class RemovePreviewsParams(Params):
    """Arguments of ``fiftyone_ntt.remove_previews``."""

    preview_field: str = param("ntt_preview", label="Previews", help="field that holds the paths of the previews")
