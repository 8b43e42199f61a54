"""The parameters of the services, once: SDK arguments, App forms and the command line all follow these.

The SDK functions carry the same names and defaults in their signatures (a test holds them together). What only a
caller in Python can give (a callback, a ``Preset`` object, a ``MatchConfig``) is not a parameter here: everything
here survives a trip through JSON.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fiftyone_ntt.config_common import (
    compile_param as compile_param,
)
from fiftyone_ntt.config_common import (
    device_param as device_param,
)
from fiftyone_ntt.config_common import (
    granularity_param as granularity_param,
)
from fiftyone_ntt.config_common import (
    index_dir_param as index_dir_param,
)
from fiftyone_ntt.config_common import (
    param as param,
)
from fiftyone_ntt.config_common import (
    points_param as points_param,
)
from fiftyone_ntt.config_common import (
    points_per_side_param as points_per_side_param,
)
from fiftyone_ntt.config_common import (
    precision_param as precision_param,
)
from fiftyone_ntt.config_common import (
    second_look_param as second_look_param,
)
from fiftyone_ntt.errors import InputError, WrongTypeError

PRESET_NAMES = ("lite", "tiny", "base", "large", "paper")
"""Names of the presets, known here without loading any model code."""
DEFAULT_BANK_NAME = "ntt_bank"
# What FiftyOne itself adds to an operator's parameters, or lets a caller add.
_SYSTEM_KEYS = frozenset(
    {"panel_id", "panel_state", "view_target", "custom_view_target", "delegate", "delegation_target"}
)
_KIND_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", tuple: "a list of texts"}

ParamsT = TypeVar("ParamsT", bound="Params")


@dataclass(frozen=True)
class ParamInfo:
    """One parameter, as a form or a command line needs to know it.

    Attributes:
        name: name of the argument.
        kind: ``str``, ``bool``, ``int``, ``float`` or ``tuple`` (of texts).
        optional: whether it may be left empty (``None``).
        required: whether there is no default.
        default: the default; ``None`` where required.
        label: a few words, for a form.
        help: one sentence.
        choices: the values allowed, or ``None``.
        minimum: smallest value allowed, or ``None``.
        maximum: largest value allowed, or ``None``.
    """

    name: str
    kind: type
    optional: bool
    required: bool
    default: Any
    label: str
    help: str
    choices: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None

    def checked(self, value: Any) -> Any:
        """The value in this parameter's own type.

        Raises:
            WrongTypeError: if it is of the wrong kind.
            InputError: if it is none of the choices, or out of bounds.
        """
        if value is None and self.optional:
            return None
        converted = _convert(value, self.kind)
        if converted is None:
            raise WrongTypeError(
                f"expected {self.name!r} to be {_KIND_NAMES[self.kind]}{' or empty' if self.optional else ''}, "
                f"got {value!r} ({type(value).__name__})"
            )
        if self.choices is not None and converted not in self.choices:
            raise InputError(f"expected {self.name!r} to be one of {', '.join(self.choices)}; got {value!r}")
        low, high = self.minimum, self.maximum
        if (low is not None and converted < low) or (high is not None and converted > high):
            raise InputError(f"expected {self.name!r} {_between(low, high)}, got {value!r}")
        return converted


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"of at least {low:g}" if low is not None else f"of at most {high:g}"


def _convert(value: Any, kind: type) -> Any:
    """The value as ``kind``, or ``None`` if it is something else. JSON knows one type of number and no tuples."""
    if kind is tuple:
        texts = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
        return tuple(value) if texts else None
    if isinstance(value, bool) or kind in (bool, str):
        return value if type(value) is kind else None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if kind is int and value != int(value):
        return None
    return kind(value)


@dataclass(frozen=True)
class Params:
    """Base of the parameter sets: checks every value, and goes to and from plain mappings."""

    def __post_init__(self) -> None:
        for info in self.infos():
            object.__setattr__(self, info.name, info.checked(getattr(self, info.name)))

    @classmethod
    def infos(cls) -> tuple[ParamInfo, ...]:
        """Every parameter, in the order of the fields."""
        hints = get_type_hints(cls)
        return tuple(_info(item, hints[item.name]) for item in dataclasses.fields(cls))

    @classmethod
    def from_mapping(cls: type[ParamsT], mapping: Mapping[str, Any]) -> ParamsT:
        """Parameters from a form, a request or a file: defaults fill what is absent or left empty.

        Args:
            mapping: parameter name -> value. Keys of FiftyOne's own (and those that start with ``_``, which a form
                uses for its notices) are passed over.

        Raises:
            InputError: if a key is unknown, a value is missing or not allowed.
            WrongTypeError: if a value is of the wrong kind.
        """
        infos = {info.name: info for info in cls.infos()}
        given = {key: value for key, value in mapping.items() if key not in _SYSTEM_KEYS and not key.startswith("_")}
        unknown = sorted(set(given) - set(infos))
        if unknown:
            raise InputError(
                f"unknown parameter {', '.join(map(repr, unknown))}; there is: {', '.join(map(repr, infos))}"
            )
        values = {key: value for key, value in given.items() if not _left_empty(value, infos[key])}
        for info in infos.values():
            if info.required and info.name not in values:
                raise InputError(f"expected a value for {info.name!r} ({info.help}), got none")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """The parameters that are not ``None``, as values fit for JSON; ``from_mapping`` takes them back."""
        values = {info.name: getattr(self, info.name) for info in self.infos()}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None
        }


def _left_empty(value: Any, info: ParamInfo) -> bool:
    """A cleared form field arrives as ``None``, an empty text or an empty list."""
    return value is None or (info.optional and value in ("", [], ()))


def _info(item: dataclasses.Field[Any], hint: Any) -> ParamInfo:
    alternatives = [part for part in get_args(hint) if part is not type(None)]
    optional = type(None) in get_args(hint)
    base = alternatives[0] if optional else hint
    required = item.default is MISSING
    return ParamInfo(
        name=item.name,
        kind=get_origin(base) or base,
        optional=optional,
        required=required,
        default=None if required else item.default,
        **item.metadata,
    )


@dataclass(frozen=True)
class IndexParams(Params):
    """Arguments of ``fiftyone_ntt.index``."""

    preset: str = param(
        "lite",
        label="Models",
        help="which pair of mask model and feature model to use: that of the memory banks to come",
        choices=PRESET_NAMES,
    )
    points_per_side: int | None = points_per_side_param()
    points: str = points_param()
    granularity: str = granularity_param(("best", "whole", "part"))
    second_look: bool = second_look_param()
    device: str | None = device_param()
    precision: str = precision_param()
    compile: bool = compile_param()
    index_dir: str | None = index_dir_param()
    size_limit_gb: float | None = param(
        None,
        label="Size limit in GB",
        help="how large all of the index may get, in 10^9 bytes; FIFTYONE_NTT_INDEX_GB, or else 50, where left empty",
        minimum=0,
    )


@dataclass(frozen=True)
class SegmentParams(Params):
    """Arguments of ``fiftyone_ntt.segment``."""

    bank: str = param(label="Memory bank", help="name of a memory bank kept with this dataset")
    label_field: str = param("ntt", label="Write to", help="field for the detections; made if absent")
    score_threshold: float | None = param(
        None,
        label="Least score",
        help="labels at or below this score are not written. Left empty, every label is: expect weak ones of every "
        "class in nearly every image, and filter by confidence",
        minimum=0,
        maximum=1,
    )
    thresholds: str | None = param(
        None,
        label="Thresholds of the classes",
        help="'fitted': labels at or below the threshold fitted to their class (see 'Fit thresholds to my review') are "
        "not written; thresholds are found again for the same memory bank and settings. Left empty, there are none",
        choices=("fitted",),
    )
    points_per_side: int | None = points_per_side_param()
    points: str = points_param()
    granularity: str = granularity_param()
    second_look: bool = second_look_param()
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
    use_index: bool = param(
        True,
        label="Use the candidate index",
        help="what is in the index needs no model and gives the same labels; what is not is computed and added",
    )
    index_dir: str | None = index_dir_param()
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
    device: str | None = device_param()
    precision: str = precision_param()
    compile: bool = compile_param()


@dataclass(frozen=True)
class EvaluateParams(Params):
    """Arguments of ``fiftyone_ntt.evaluate``."""

    label_field: str = param("ntt", label="Predictions", help="field with the detections, or class maps, to score")
    gt_field: str = param(
        "ground_truth", label="Ground truth", help="field with the detections, or class maps, they should equal"
    )
    eval_key: str | None = param(
        None,
        label="Evaluation key",
        help="also marks every label as true or false positive under this key, for the App's filters and its "
        "evaluation panel",
    )
    score_threshold: float | None = param(
        None,
        label="Least score",
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
