"""Parameters of the services that label images, and of those around their runs.

How candidates are made (stage one) is declared once, in ``StageOneSettings``, from which services inherit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypedDict, runtime_checkable

from fiftyone_ntt.errors import WrongTypeError
from fiftyone_ntt.params.base import PRESET_NAMES, Params, param, param_of

GRANULARITIES = ("best", "whole", "part", "auto")


@runtime_checkable
class PresetObject(Protocol):
    """What a ``Preset`` of ``fiftyone_ntt.models`` looks like from here, where no model is known."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def points_per_side(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class StageOneSettings(Params):
    """How the candidates of an image are made (stage one), by which models and where: all that is asked of it.

    One object of it goes from the form, the command line or the SDK to the models, the candidate cache and the run
    record. Each service that takes ``stage_one`` takes its fields as plain keywords too.

    Example:
        >>> settings = StageOneSettings(points_per_side=16, device="cpu")
        >>> settings.changed(points="guided").points
        'guided'
    """

    preset: str | PresetObject | None = param(
        None,
        label="Models",
        help="which pair of mask model and feature model to use; that of the memory bank where left empty",
        choices=PRESET_NAMES,
        advanced=True,
    )
    points_per_side: int | None = param(
        None,
        label="Points per side",
        help="prompt points along each side of an image: more find smaller objects and take longer; the preset's "
        "number where left empty",
        minimum=1,
        maximum=512,
        advanced=True,
    )
    points: str = param(
        "grid",
        label="Points",
        help="'grid' prompts the whole grid; 'guided' only the half of it that looks least like the image's border: "
        "nearly twice as fast, and hardly less accurate where it was measured",
        choices=("grid", "guided"),
        advanced=True,
    )
    granularity: str = param(
        "best",
        label="Granularity",
        help="a point on a wheel may mean the wheel or the car, and the mask model offers three masks: 'best' takes "
        "the one that it is surest of, 'whole' prefers the larger, 'part' the smaller ones; 'auto' takes what the "
        "references chose when the bank was built (ask_granularity)",
        choices=GRANULARITIES,
        advanced=True,
    )
    second_look: bool = param(
        False,
        label="Second look",
        help="crops what was found and encodes it alone, which tells small and similar things apart better; takes up "
        "to 80 small encoder passes more an image, and is kept in a part of the cache of its own",
        advanced=True,
    )
    precision: str = param(
        "fp32",
        label="Precision",
        help="of the image encoders: 'bf16' or 'fp16' are faster on CUDA, and give slightly other labels",
        choices=("fp32", "bf16", "fp16"),
        advanced=True,
    )
    device: str | None = param(
        None,
        label="Device",
        help="'cuda', 'cuda:1', 'mps' or 'cpu', or several: 'cuda:0,cuda:1', 'all'; the best there is where left empty",
        advanced=True,
    )
    compile: bool = param(
        False,
        label="Compile the models",
        help="faster on CUDA once they are compiled, which takes minutes: for many images",
        advanced=True,
    )
    use_index: bool = param(
        True,
        label="Use the candidate cache",
        help="what is in the cache (the 'index' of the commands, not FiftyOne's similarity index) needs no model and "
        "gives the same labels; what is not is computed and added",
        advanced=True,
    )
    index_dir: str | Path | None = param(
        None,
        label="Folder of the candidate cache",
        help="where the cache lies; FIFTYONE_NTT_INDEX, or else a cache folder, where left empty",
        advanced=True,
    )

    def changed(self, **changes: Any) -> StageOneSettings:
        """These settings with some changed.

        Raises:
            WrongTypeError: if there is no setting of that name.
        """
        known = [item.name for item in fields(StageOneSettings)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise WrongTypeError(
                f"expected no argument {', '.join(map(repr, unknown))}; besides its own, this function takes: "
                f"{', '.join(known)}"
            )
        return replace(self, **changes)


class StageOneFieldsButPreset(TypedDict, total=False):
    """The fields of ``StageOneSettings`` as plain keywords, for a service that names the preset by itself."""

    points_per_side: int | None
    points: str
    granularity: str
    second_look: bool
    precision: str
    device: str | None
    compile: bool
    use_index: bool
    index_dir: str | Path | None


class StageOneFields(StageOneFieldsButPreset, total=False):
    """The fields of ``StageOneSettings`` as plain keywords; a test holds the two together."""

    preset: str | PresetObject | None


def stage_one_of(stage_one: StageOneSettings | None, given: Mapping[str, Any]) -> StageOneSettings:
    """What a caller asked of stage one: its settings object, with plain keywords in place of what they name.

    Raises:
        WrongTypeError: if ``stage_one`` is something else, or a keyword is no field of it.
    """
    if stage_one is not None and not isinstance(stage_one, StageOneSettings):
        raise WrongTypeError(f"expected stage_one to be StageOneSettings, got {type(stage_one).__name__}")
    settings = stage_one or StageOneSettings()
    # Parameters of a service inherit the fields: what else they hold is none of stage one's business.
    plain = {item.name: getattr(settings, item.name) for item in fields(StageOneSettings)}
    return StageOneSettings(**plain).changed(**given)


@dataclass(frozen=True, kw_only=True)
class IndexParams(StageOneSettings):
    """Arguments of ``fiftyone_ntt.index``."""

    NOT_ASKED: ClassVar = ("use_index",)

    preset: str | PresetObject = param(
        "lite",
        label="Models",
        help="which pair of mask model and feature model to use: that of the memory banks to come",
        choices=PRESET_NAMES,
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
    )


@dataclass(frozen=True)
class SegmentParams(StageOneSettings):
    """Arguments of ``fiftyone_ntt.segment``."""

    NOT_ASKED: ClassVar = ("preset",)  # the memory bank's: no other fits

    bank: str = param(label="Memory bank", help="name of a memory bank kept with this dataset")
    label_field: str = param("ntt", label="Write to", help="field for the detections; created if absent")
    score_threshold: float | None = param(
        None,
        label="Score threshold",
        help="labels at or below this score are not written. Left empty, every label is: expect weak ones of every "
        "class in nearly every image, and filter by confidence",
        minimum=0,
        maximum=1,
    )
    thresholds: str | None = param(
        None,
        label="Score thresholds of the classes",
        help="'fitted': labels at or below the score threshold fitted to their class (see 'NTT: Fit "
        "score thresholds') are not written; thresholds are found again for the same memory bank and settings. Left "
        "empty, there are none",
        choices=("fitted",),
    )
    mode: str = param(
        "generic",
        label="Look for",
        help="'generic': all instances of each class; 'referring': of each single reference the one best match in the "
        "image, whose score tells whether it is there at all",
        choices=("generic", "referring"),
    )
    include_references: bool = param(
        False, label="Label the references too", help="references are left out otherwise: their labels are known"
    )
    resume: bool = param(
        True, label="Resume", help="go on with a run of the same settings, leaving alone what it has done"
    )
    overwrite: bool = param(
        False,
        label="Overwrite",
        help="replace what another run or a person wrote to this field (not labels that a person accepted or edited)",
    )
    run_key: str | None = param(
        None, label="Run key", help="name under which the run can be found and undone; ntt_<field> where left empty"
    )


@dataclass(frozen=True)
class EvaluateParams(Params):
    """Arguments of ``fiftyone_ntt.evaluate``."""

    label_field: str = param(
        "ntt", label="Predictions", help="field with the detections, or semantic segmentation masks, to score"
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


@dataclass(frozen=True)
class CancelParams(Params):
    """Arguments of ``fiftyone_ntt.cancel_run``."""

    run_key: str = param(label="Run", help="key of the labelling run to stop")


@dataclass(frozen=True)
class ResumeParams(Params):
    """Arguments of ``fiftyone_ntt.resume_run``."""

    run_key: str = param(label="Run", help="key of the labelling run to go on with")


@dataclass(frozen=True)
class UndoParams(Params):
    """Arguments of ``fiftyone_ntt.undo_run``."""

    run_key: str = param(label="Run", help="key of the labelling run to take back")
    keep_edited: bool = param(
        True,
        label="Keep what people decided",
        help="labels that a person accepted or edited (tags ntt:accepted, ntt:edited) stay",
    )
