"""Errors a user can act on: each message says what was expected, what came, and what to do.

And how many of something, for these and all other messages.
"""

import difflib
import unicodedata
from collections.abc import Iterable

_LONGEST_NAME, _LONGEST_LISTED = 200, 60
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def as_text(name: object, most: int = _LONGEST_NAME) -> str:
    """A name as it may stand in a message or a report: one line, whatever a stranger called something.

    Line breaks and tabs become spaces. Other control characters, and those that turn the direction of what follows, are
    spelt out; a terminal obeys them otherwise. What has more than ``most`` letters is cut.
    """
    text = spelt_out(" ".join(str(name)[: 4 * most].split()))
    return text if len(text) <= most else f"{text[:most]}..."


def spelt_out(text: str) -> str:
    """A text without characters that a terminal obeys instead of showing them; line breaks stay."""
    return "".join(letter if letter == "\n" or _is_plain(letter) else ascii(letter)[1:-1] for letter in text)


def _is_plain(letter: str) -> bool:
    return letter not in _TURNING and unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp")


class NttError(Exception):
    """Base of every error this package raises on purpose. Its text is one line that no terminal obeys.

    What strangers called a class or a file stands in many of them.
    """

    def __str__(self) -> str:
        return spelt_out(super().__str__().replace("\n", " "))


class InputError(NttError, ValueError):
    """A value is of the right kind but cannot be used (empty mask, unknown class, wrong shape)."""


class WrongTypeError(NttError, TypeError):
    """A value is of the wrong kind (a field that holds no detections, a bank that is no bank)."""


class BadReferenceError(InputError):
    """A reference sample or label cannot serve as a reference; names the sample and the label."""


class MissingWeightsError(NttError, ValueError):
    """Model weights are not on this machine; names the file, the place and the way out."""


class WeightsMismatchError(InputError):
    """A weights file, or the weights a memory bank was made with, are not the expected ones."""


class PresetMismatchError(InputError):
    """A memory bank is used with another preset than the one that built it."""


class LeaseLostError(NttError):
    """A worker took so long that another one may have its samples: it must not write them any more."""


class RunCancelledError(NttError):
    """Someone has cancelled the run: a worker must write nothing more."""


class DatabaseGoneError(NttError):
    """The database has not answered for minutes; what a run has saved is there, and it can be resumed."""


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """``"1 image"``, ``"2 images"``, ``"1.5 days"``: for forms, commands and reports alike."""
    amount = f"{number:,g}" if isinstance(number, float) else f"{number:,}"
    return f"{amount} {singular if number == 1 else plural or singular + 's'}"


def listing(names: Iterable[object], most: int = 10, like: str | None = None) -> str:
    """The first of the names, and how many more there are: ``"cat, dog and 1,201 more"``, or ``"none"``.

    A message stays a sentence, however many classes, datasets or runs somebody has.

    Args:
        names: in the order to be named in.
        most: how many are named.
        like: what somebody has asked for: where not all are named, those written most alike come first.
    """
    there = [str(name) for name in names]
    shown = there[:most]
    if like is not None and len(there) > most:
        whole = {name[:_LONGEST_NAME]: name for name in reversed(there)}  # what is compared is not cut as what is shown
        shown = [whole[name] for name in difflib.get_close_matches(like[:_LONGEST_NAME], whole, most)]
        shown = list(dict.fromkeys([*shown, *there]))[:most]
    more = len(there) - len(shown)
    texts = [as_text(name, _LONGEST_LISTED) for name in shown]
    return (", ".join(texts) or "none") + (f" and {more:,} more" if more > 0 else "")


def empty_list(name: str) -> str:
    """What to say of an empty list from a caller, who may have found nothing to put in: it is not taken for all."""
    return f"expected at least one text in {name!r}, got an empty list; leave it out to take all"
