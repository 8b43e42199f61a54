"""The parameters of the services, once: SDK arguments, App forms and the command line all follow these.

The SDK functions carry the same names and defaults in their signatures (a test holds them together). What only a
caller in Python can give (a callback, a ``Preset`` object, a ``MatchConfig``) is not a parameter here: everything
here survives a trip through JSON.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

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


GRANULARITIES = ("best", "whole", "part", "auto")


def param(
    default: Any = MISSING,
    *,
    label: str,
    help: str,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:
    """A field of a parameter dataclass; see ``ParamInfo`` for what it says."""
    metadata = {"label": label, "help": help, "choices": choices, "minimum": minimum, "maximum": maximum}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def device_param() -> Any:
    """Where the models run."""
    return param(
        None,
        label="Device",
        help="'cuda', 'cuda:1', 'mps' or 'cpu', or several: 'cuda:0,cuda:1', 'all'; the best there is where left empty",
    )


def points_per_side_param() -> Any:
    """How dense the grid of prompts is."""
    return param(
        None,
        label="Points per side",
        help="prompt points along each side of an image: more find smaller objects and take longer; the preset's "
        "number where left empty",
        minimum=1,
        maximum=128,
    )


def points_param() -> Any:
    """Which points of the grid are prompted."""
    return param(
        "grid",
        label="Points",
        help="'grid' prompts the whole grid; 'guided' only the half of it that looks least like the image's border: "
        "nearly twice as fast, and hardly less accurate where it was measured",
        choices=("grid", "guided"),
    )


def precision_param() -> Any:
    """Of the image encoders."""
    return param(
        "fp32",
        label="Precision",
        help="of the image encoders: 'bf16' or 'fp16' are faster on CUDA, and give slightly other labels",
        choices=("fp32", "bf16", "fp16"),
    )


def compile_param() -> Any:
    """Whether the encoders are compiled."""
    return param(
        False,
        label="Compile the models",
        help="faster on CUDA once they are compiled, which takes minutes: for many images",
    )


def index_dir_param() -> Any:
    """Where the candidate index lies."""
    return param(
        None,
        label="Folder of the candidate index",
        help="where the index lies; FIFTYONE_NTT_INDEX, or else a cache folder, where left empty",
    )


def granularity_param(choices: tuple[str, ...] = GRANULARITIES) -> Any:
    """Which of the mask model's masks become candidates."""
    auto = (
        "; 'auto' takes what the references chose when the bank was built (ask_granularity)"
        if "auto" in choices
        else "; what runs will ask for"
    )
    return param(
        "best",
        label="Granularity",
        help="a point on a wheel may mean the wheel or the car, and the mask model offers three masks: 'best' takes "
        "the one that it is surest of, 'whole' prefers the larger, 'part' the smaller ones" + auto,
        choices=choices,
    )


def second_look_param() -> Any:
    """Whether candidates are encoded again, cut out."""
    return param(
        False,
        label="Second look",
        help="cuts out what was found and encodes it alone, which tells small and similar things apart better; takes "
        "up to 80 small encoder passes more an image, and is kept in an index of its own",
    )
