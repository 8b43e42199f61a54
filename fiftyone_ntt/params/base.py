"""The parameters of the services, once: SDK arguments, App forms and the command line all follow these.

The SDK functions carry the same names and defaults in their signatures (a test holds them together). What only a
caller in Python can give (a callback, a ``Preset`` object, a ``MatchConfig``) is not a parameter here: everything
here survives a trip through JSON.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypedDict, TypeVar, Union, runtime_checkable

from fiftyone_ntt.errors import InputError, WrongTypeError, listing
from fiftyone_ntt.params.param_info import ParamInfo
from fiftyone_ntt.params.preset_names import preset_names

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_BANK_NAME = "ntt_bank"
# What FiftyOne itself adds to an operator's parameters, or lets a caller add.
_SYSTEM_KEYS = frozenset(
    {"panel_id", "panel_state", "view_target", "custom_view_target", "delegate", "delegation_target"}
)

Progress: TypeAlias = Callable[[int, int, str], None]
"""How services tell how far they are: called with (done, total, message)."""
ParamsT = TypeVar("ParamsT", bound="Params")


@dataclass(frozen=True)
class Params:
    """Base of the parameter sets: checks every value, and goes to and from plain mappings.

    Attributes:
        NOT_ASKED: inherited parameters that this service settles by itself: they keep their defaults.
        EMPTY_IS_NONE: lists that no form asks for: an empty one is not left out, it means none at all.
    """

    NOT_ASKED: ClassVar[Collection[str]] = ()
    EMPTY_IS_NONE: ClassVar[Collection[str]] = ()

    def __post_init__(self) -> None:
        for info in self.infos():
            object.__setattr__(self, info.name, info.checked(getattr(self, info.name)))

    @classmethod
    def infos(cls) -> tuple[ParamInfo, ...]:
        """Every parameter that is asked for, in the order of the fields; those that are rarely needed come last."""
        hints = typing.get_type_hints(cls)
        fields = (item for item in dataclasses.fields(cls) if item.name not in cls.NOT_ASKED)
        return tuple(sorted((_info(item, hints[item.name]) for item in fields), key=lambda info: info.advanced))

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
                f"unknown parameter {listing(map(repr, unknown))}; there is: {listing(map(repr, infos), 100)}"
            )
        kept = {key for key in cls.EMPTY_IS_NONE if given.get(key) is not None}
        values = {key: value for key, value in given.items() if key in kept or not _left_empty(value, infos[key])}
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


def check_arguments(
    params: type[Params], progress: Progress | bool | None = None, /, **given: Any
) -> tuple[Progress | None, Unpack[tuple[Any, ...]]]:
    """Refuses arguments of a call from Python that a form or the command line would refuse, too.

    Args:
        params: declares them.
        progress: the callback of the call.
        **given: name -> what the caller gave.

    Returns:
        The callback, see ``checked_progress``; then the values in their order, see ``plain_values``.

    Raises:
        WrongTypeError: if one is of the wrong kind.
        InputError: if one is none of the choices, or out of bounds.
    """
    return checked_progress(progress), *plain_values(params, **given)


def checked_progress(progress: Progress | bool | None) -> Progress | None:
    """The callback; ``None`` where nobody is to be told. Raises WrongTypeError where it is something else."""
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise WrongTypeError(
            f"expected progress to be a function that takes (done, total, message), got {progress!r}; leave it out, or "
            "pass e.g. print, or False for no bar"
        )
    return progress if callable(progress) else None


def plain_values(params: type[Params], /, **given: Any) -> tuple[Any, ...]:
    """What a caller gave, checked, each in its parameter's own type: a database knows no number of numpy's."""
    infos = {item.name: item for item in dataclasses.fields(params)}
    hints = typing.get_type_hints(params)
    return tuple(_info(infos[name], hints[name]).checked(value) for name, value in given.items())


def _left_empty(value: Any, info: ParamInfo) -> bool:
    """A cleared form field arrives as ``None``, an empty text or an empty list."""
    return value is None or (info.optional and value in ("", [], ()))


def _info(item: dataclasses.Field[Any], hint: Any) -> ParamInfo:
    union = typing.get_origin(hint) in (Union, UnionType)
    kind, *objects = [part for part in typing.get_args(hint) if part is not type(None)] if union else [hint]
    optional = union and type(None) in typing.get_args(hint)
    required = item.default is MISSING
    choices = item.metadata["choices"]
    return ParamInfo(
        name=item.name,
        kind=typing.get_origin(kind) or kind,
        optional=optional,
        required=required,
        default=None if required else item.default,
        objects=tuple(objects),
        **{**item.metadata, "choices": choices() if callable(choices) else choices},
    )


def param(
    default: Any = MISSING,
    *,
    label: str,
    help: str,
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    advanced: bool | str = False,
    group: str = "More",
) -> Any:
    """A field of a parameter dataclass; see ``ParamInfo`` for what it says. ``advanced`` may name its group."""
    limits = {"choices": choices, "minimum": minimum, "maximum": maximum}
    group = advanced if isinstance(advanced, str) else group
    metadata = {"label": label, "help": help, **limits, "advanced": bool(advanced), "group": group}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def param_of(params: type[Params], name: str, default: Any = MISSING, **changes: Any) -> Any:
    """A parameter as another set declares it, so that label, help and limits stand in one place.

    Args:
        params: the set that declares it.
        name: its name there.
        default: another default, if any.
        **changes: what else is different here: ``label``, ``help``, ``choices``, ...
    """
    (declared,) = (item for item in dataclasses.fields(params) if item.name == name)
    return param(declared.default if default is MISSING else default, **{**declared.metadata, **changes})


MODELS, OBJECTS, CACHE = "Models and devices", "How objects are found", "Candidate cache"  # groups of settings
GRANULARITIES = ("best", "whole", "part", "auto")
LARGE_IMAGES = ("off", "auto", "on")


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
        choices=preset_names,
        advanced=MODELS,
    )
    points_per_side: int | None = param(
        None,
        label="Points per side",
        help="prompt points along each side of an image: more find smaller objects and take longer; the preset's "
        "number where left empty",
        minimum=1,
        maximum=512,
        advanced=OBJECTS,
    )
    points: str = param(
        "grid",
        label="Points",
        help="'grid' prompts the whole grid; 'guided' only the half of it that looks least like the image's border: "
        "nearly twice as fast, and hardly less accurate where it was measured",
        choices=("grid", "guided"),
        advanced=OBJECTS,
    )
    granularity: str = param(
        "best",
        label="Granularity",
        help="a point on a wheel may mean the wheel or the car, and the mask model offers three masks: 'best' takes "
        "the one that it is surest of, 'whole' prefers the larger, 'part' the smaller ones; 'auto' takes what the "
        "references chose when the bank was built (ask_granularity)",
        choices=GRANULARITIES,
        advanced=OBJECTS,
    )
    second_look: bool = param(
        False,
        label="Second look",
        help="crops what was found and encodes it alone, which tells small and similar things apart better; takes up "
        "to 80 small encoder passes more an image, and is kept in a part of the cache of its own",
        advanced=OBJECTS,
    )
    large_images: str = param(
        "auto",
        label="Large images",
        help="looks at tiles of a large image too, each as if it were an image of its own, so that small objects are "
        "found; takes as many times longer as there are tiles. 'auto' where the grid of points would miss what anybody "
        "sees: longer than 6,400 pixels, or than 2,048 and four times as long as wide; 'on' for all above 1,024; 'off'",
        choices=LARGE_IMAGES,
        advanced=OBJECTS,
    )
    largest_object: int | None = param(
        None,
        label="Largest object (px)",
        help="pixels that the largest objects of a large image are long: tiles overlap by as much, and those that only "
        "larger objects need are left out; objects of any size where left empty",
        minimum=1,
        maximum=1_000_000,
        advanced=OBJECTS,
    )
    precision: str = param(
        "fp32",
        label="Precision",
        help="of the image encoders: 'bf16' or 'fp16' are faster on CUDA, and give slightly other labels; 'auto' is "
        "'bf16' on CUDA devices that have it, 'fp32' elsewhere",
        choices=("fp32", "bf16", "fp16", "auto"),
        advanced=MODELS,
    )
    device: str | None = param(
        None,
        label="Device",
        help="'cuda', 'cuda:1', 'mps' or 'cpu', or several: 'cuda:0,cuda:1', 'all'; the best there is where left empty",
        advanced=MODELS,
    )
    compile: bool = param(
        False,
        label="Compile the models",
        help="faster on CUDA once they are compiled, which takes minutes: for many images",
        advanced=MODELS,
    )
    use_index: bool = param(
        True,
        label="Use the candidate cache",
        help="what is in the cache (the 'index' of the commands, not FiftyOne's similarity index) needs no model and "
        "gives the same labels; what is not is computed and added",
        advanced=CACHE,
    )
    index_dir: str | Path | None = param(
        None,
        label="Folder of the candidate cache",
        help="where the cache lies; FIFTYONE_NTT_INDEX, or else a cache folder, where left empty",
        advanced=CACHE,
    )

    def changed(self, **changes: Any) -> StageOneSettings:
        """These settings with some changed.

        Raises:
            WrongTypeError: if there is no setting of that name.
        """
        names = [item.name for item in fields(StageOneSettings)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise WrongTypeError(
                f"expected no argument {', '.join(map(repr, unknown))}; besides its own, this function takes: "
                f"{', '.join(names)}"
            )
        return replace(self, **changes)


class StageOneFieldsButPreset(TypedDict, total=False):
    """The fields of ``StageOneSettings`` as plain keywords, for a service that names the preset by itself."""

    points_per_side: int | None
    points: str
    granularity: str
    second_look: bool
    large_images: str
    largest_object: int | None
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
