"""What a form or a command line needs to know of one parameter, and how a value is checked against it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import InputError, WrongTypeError

_KIND_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", tuple: "a list of texts"}


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
        advanced: whether it is rarely needed: a form hides it behind a switch, and names it last.
        group: what it has to do with, where a form hides many behind a switch.
        objects: classes of objects that only a caller in Python can give in place of a value.
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
    advanced: bool = False
    group: str = "More"
    objects: tuple[type, ...] = ()

    def checked(self, value: Any) -> Any:
        """The value in this parameter's own type.

        Raises:
            WrongTypeError: if it is of the wrong kind.
            InputError: if it is none of the choices, or out of bounds.
        """
        if value is None and self.optional:
            return None
        if isinstance(value, self.objects):
            return str(value) if isinstance(value, Path) else value
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


def checked_number(name: str, value: Any, kind: type, least: float | None = None) -> Any:
    """The value of an argument that no set of parameters declares, as ``ParamInfo.checked`` has it."""
    return ParamInfo(name, kind, False, True, None, "", "", minimum=least).checked(value)


def _between(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low:g} and {high:g}"
    return f"of at least {low:g}" if low is not None else f"of at most {high:g}"


def _convert(value: Any, kind: type) -> Any:
    """The value as ``kind``, or ``None`` if it is something else. JSON knows one type of number and no tuples."""
    value = _plain(value)
    if kind is tuple:
        is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
        items = tuple(value) if is_list else (None,)  # also of a generator, or an array
        return tuple(map(str, items)) if all(isinstance(item, str) for item in items) else None
    if isinstance(value, bool) or kind in (bool, str):
        return value if type(value) is kind else None
    if not isinstance(value, Real) or not math.isfinite(value):
        return None
    number: Any = value
    return None if kind is int and number != int(number) else kind(number)


def _plain(value: Any) -> Any:
    """A single value of numpy's (a text, a number, a truth) as one of Python's own, which is all a database knows."""
    single = callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0
    return value.item() if single else value
