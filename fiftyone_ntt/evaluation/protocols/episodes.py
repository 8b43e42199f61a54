"""Episodes of few-shot semantic segmentation as the community draws them (HSNet): a class, a query, supports.

All draws come from numpy's legacy stream, seeded once a fold. Pure: numpy only.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.files import plain_file, read_file

EPISODES = 1000
"""A fold has so many."""
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Episode:
    """One question: where is the class in the query, given supports that show it?

    Attributes:
        number: place in the fold.
        label: index of the class, from 0.
        query: name of the query image.
        supports: names of the support images; one may come twice.
    """

    number: int
    label: int
    query: str
    supports: tuple[str, ...]

    def line(self, short: Callable[[str], str] = str) -> str:
        """As text, the form in which the published lists are compared by hash."""
        return f"{self.label} {' '.join(short(name) for name in (self.query, *self.supports))}"


def coco_classes(fold: int) -> list[int]:
    """The twenty of eighty classes of a fold of COCO-20i: every fourth."""
    return [fold + 4 * v for v in range(20)]


def pascal_classes(fold: int) -> list[int]:
    """The five of twenty classes of a fold of PASCAL-5i."""
    return [5 * fold + v for v in range(5)]


def coco_episodes(lists: Mapping[int, Sequence[str]], fold: int, shots: int) -> Iterator[Episode]:
    """The episodes of COCO-20i: class, query and supports are all drawn.

    Args:
        lists: class index -> names of the images that show it, in the order of the published file.
        fold: 0 to 3.
        shots: supports of an episode.
    """
    stream, classes = np.random.RandomState(0), coco_classes(fold)
    missing = [k for k in classes if not lists.get(k)]
    if missing:
        raise InputError(f"expected images of each class of fold {fold}, got none of {missing}; get the list again")
    for number in range(EPISODES):
        label = int(_one_of(stream, classes))
        query = str(_one_of(stream, lists[label]))
        yield Episode(number, label, query, _supports(stream, lists[label], query, shots))


def pascal_episodes(lines: Sequence[tuple[str, int]], fold: int, shots: int) -> Iterator[Episode]:
    """The episodes of PASCAL-5i: queries are the lines of the published list in turn, supports are drawn.

    Args:
        lines: name and class index of each line.
        fold: 0 to 3; only its classes may be in the list.
        shots: supports of an episode.
    """
    stream, by_class = np.random.RandomState(0), {k: [n for n, label in lines if label == k] for _, k in lines}
    if not lines:
        raise InputError(f"expected images of fold {fold}, got an empty list; get it again")
    outside = sorted(set(by_class) - set(pascal_classes(fold)))
    if outside:
        raise InputError(f"expected classes {pascal_classes(fold)} in fold {fold}, got also {outside}")
    for number in range(EPISODES):
        query, label = lines[number % len(lines)]
        yield Episode(number, label, query, _supports(stream, by_class[label], query, shots))


def _one_of(stream: np.random.RandomState, names: Sequence[Any]) -> Any:
    return stream.choice(names, 1, replace=False)[0]


def _supports(stream: np.random.RandomState, names: Sequence[str], query: str, shots: int) -> tuple[str, ...]:
    if not any(name != query for name in names):
        raise InputError(f"expected another image of the class of {query} to support it, got none; get the list again")
    supports: list[str] = []
    while len(supports) < shots:
        name = str(_one_of(stream, names))
        if name != query:
            supports.append(name)
    return tuple(supports)


def pascal_lines(path: Path) -> list[tuple[str, int]]:
    """Name and class index (from 0) of every line of a list of PASCAL-5i, ``2007_000033__01``."""
    lines = plain_file(path).read_text(encoding="utf-8").split()
    try:
        return [(name, int(number) - 1) for name, number in (line.split("__") for line in lines)]
    except ValueError as error:
        raise InputError(f"expected lines such as 2007_000033__01 in {path}, got others ({error})") from error


def coco_lists(path: Path) -> dict[int, list[str]]:
    """Class index -> image names, of a published file ``fold{f}.pkl``; nothing in it is run.

    Raises:
        InputError: if it holds something else.
    """
    try:
        content = _plain_values(read_file(path, _MOST_BYTES))
        if all(isinstance(k, int) and all(isinstance(name, str) for name in names) for k, names in content.items()):
            return {int(k): list(names) for k, names in content.items()}
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise InputError(f"expected lists of names in {path}, got something else ({error}); get it again") from error
    raise InputError(f"expected class numbers and lists of names in {path}, got something else; get it again")


_MARK: Any = object()
_NEW: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "MARK": lambda: _MARK}
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_VALUES |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}


def _plain_values(data: bytes) -> Any:
    """Dictionaries, lists, texts and numbers of Python's own format, read step by step; any other step is refused."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for step, given, _ in pickletools.genops(data):
        name, value = step.name, cast(Any, given)
        if name in _NEW:
            stack.append(_NEW[name]())
        elif name in _VALUES:
            stack.append(value)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if value is None else int(value)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(value)])
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            _fill(stack, name)
        elif name in ("DICT", "LIST") and stack[-1] is _MARK:  # how the oldest form begins one
            stack[-1] = {} if name == "DICT" else []
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"expected plain lists of names, got the step {name}, which is not taken; get it again")
    return stack[-1]


def _fill(stack: list[Any], name: str) -> None:
    """Moves what was collected into the list or dictionary that waits for it."""
    first = len(stack) - 1 - stack[::-1].index(_MARK) if name.endswith("S") else len(stack) - 1 - (name == "SETITEM")
    items = stack[first + name.endswith("S") :]
    del stack[first:]
    if name.startswith("APPEND"):
        stack[-1].extend(items)
    else:
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
