"""Fitted thresholds as the dataset keeps them, and the least scores by which a run leaves labels out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import fiftyone as fo
import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.dataset.storage import store
from fiftyone_ntt.errors import InputError, WrongTypeError, listing
from fiftyone_ntt.method.config import LATER_SETTINGS, REMOVED_OPTIONS, MatchConfig
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.starting_threshold import starting_thresholds
from fiftyone_ntt.runs.record import MODES, REFERRING

_STORE = "ntt_thresholds"

FITTED = "fitted"
"""Stands for the thresholds that were fitted last to labels of the same memory bank and settings."""
STARTING = "starting"
"""Stands for those that are guessed from the references, where nobody said which labels to write."""
Facts = dict[str, Any]


@runtime_checkable
class ScoreThresholds(Protocol):
    """What ``fit_thresholds`` returns: a threshold for each class, known or not."""

    def least(self, name: str) -> float:
        """Labels of this class with a confidence above it count."""


def meaning(bank_hash: str, match: Mapping[str, Any]) -> Facts:
    """What decides what a score means: the references and how they are compared, not which scores are written.

    Settings that were not there yet when a run was made count as published: they are off there. Options that are no
    more still count, at the value at which they did nothing, and settings that came later only where they do
    something: thresholds of before belong to the same settings.
    """
    settings = {**REMOVED_OPTIONS, **asdict(MatchConfig.paper()), **match}
    del settings["score_threshold"]
    for name, off in LATER_SETTINGS.items():
        if settings[name] == off:
            del settings[name]
    # 2 and 2.0 are the same setting.
    same = {name: float(value) if type(value) is int else value for name, value in settings.items()}
    return {"bank_hash": bank_hash, "match": same}


def keep(dataset: fo.Dataset, run_key: str, facts: Facts) -> None:
    """Keeps thresholds for their run, and for every other run that means the same by a score.

    Args:
        dataset: the dataset.
        run_key: key of the run.
        facts: the thresholds; ``fitted_on`` is their ``meaning``.
    """
    kept = store(dataset, _STORE)
    kept.set(run_key, facts)
    kept.set(_bank_key(facts["fitted_on"]), facts)


def kept_of_run(dataset: fo.Dataset, record: Mapping[str, Any]) -> Facts | None:
    """The thresholds fitted last to the labels of a run; ``None`` where its scores mean something else by now."""
    facts: Facts | None = store(dataset, _STORE).get(record["run_key"])
    wanted = meaning(str(record.get("bank_hash")), record.get("match") or {})
    return facts if facts is not None and facts["fitted_on"] == wanted else None


def kept_of_bank(dataset: fo.Dataset, bank_hash: str, match: Mapping[str, Any]) -> Facts | None:
    """The thresholds fitted last to labels of any run with this memory bank and these settings."""
    facts: Facts | None = store(dataset, _STORE).get(_bank_key(meaning(bank_hash, match)))
    return facts


def are_fitted(dataset: fo.Dataset, bank_hash: str) -> bool:
    """Whether thresholds were fitted to labels of a memory bank under the default settings."""
    return kept_of_bank(dataset, bank_hash, asdict(MatchConfig())) is not None


def applied(
    asked: str | Mapping[str, float] | ScoreThresholds | None, suggested: Mapping[str, float] | None,
    dataset: fo.Dataset, bank: MemoryBank, config: MatchConfig, run_key: str | None,
) -> tuple[list[float] | None, list[float] | None]:  # fmt: skip
    """Which labels a run writes, and where their review begins.

    Args:
        asked: ``STARTING``, or as ``score_thresholds`` takes it.
        suggested: class -> where review begins, as it was noted when the run's thresholds were guessed.
        dataset: where fitted thresholds are kept.
        bank: its classes are those meant.
        config: how the bank is compared.
        run_key: key of the run that goes on if it is there; ``None`` for a run that begins anew.

    Returns:
        Of each class the score to exceed, and the one above which labels are probably right; ``None`` where all labels
        are written, and where nothing was guessed.
    """
    if asked != STARTING:
        start = None if suggested is None else [suggested[name] for name in bank.classes]
        return score_thresholds(asked, dataset, bank, config), start
    before = _record(dataset, run_key)
    if list(before.get("classes") or ()) == list(bank.classes):
        # Plain lists: FiftyOne's own cannot be copied.
        least, start = (
            None if (kept := before.get(key)) is None else list(kept) for key in ("thresholds", "suggested")
        )
        if start is not None or least is None:  # guessed when it began, or begun when all labels were written
            return least, start
    guess = starting_thresholds(bank)
    return guess.written, guess.suggested


def _record(dataset: fo.Dataset, run_key: str | None) -> Mapping[str, Any]:
    """What is noted of a run, whatever version wrote it; nothing where it is not there, or the record is damaged."""
    config = dataset.get_run_info(run_key).config if run_key is not None and dataset.has_run(run_key) else None
    record = getattr(config, "record", None)
    return record if isinstance(record, Mapping) else {}


def check_mode(mode: str, thresholds: object) -> None:
    """Raises InputError if there is no such mode, or these thresholds cannot be those of a run in it."""
    if mode not in MODES:
        raise InputError(f"expected mode to be one of {', '.join(MODES)}, got {mode!r}")
    if mode == REFERRING and isinstance(thresholds, (str, ScoreThresholds)):
        raise InputError(
            "fitted thresholds are for mode='generic', whose scores are others; pass a mapping class -> threshold, or "
            "score_threshold"
        )


def score_thresholds(
    thresholds: str | Mapping[str, float] | ScoreThresholds | None, dataset: fo.Dataset, bank: MemoryBank,
    config: MatchConfig,
) -> list[float] | None:  # fmt: skip
    """The threshold of each class of a bank.

    Args:
        thresholds: ``"fitted"``, what ``fit_thresholds`` returned, or class -> threshold; classes that are left out
            have none.
        dataset: where fitted ones are kept.
        bank: its classes are those meant.
        config: how the bank is compared.

    Returns:
        As many as there are classes; ``None`` where ``thresholds`` is.

    Raises:
        InputError: if there are no fitted ones, or a class or a threshold cannot be.
        WrongTypeError: if it is none of these.
    """
    if thresholds is None:
        return None
    if isinstance(thresholds, ScoreThresholds):
        return [thresholds.least(name) for name in bank.classes]
    if isinstance(thresholds, str):
        return _fitted(thresholds, dataset, bank, config)
    if not isinstance(thresholds, Mapping):
        raise WrongTypeError(
            f"expected thresholds to be {FITTED!r}, class -> threshold, or what fit_thresholds returned, got "
            f"{type(thresholds).__name__}"
        )
    unknown = [str(name) for name in thresholds if name not in bank.classes]
    if unknown:
        raise InputError(
            f"expected thresholds of classes of the memory bank, got one of {listing(unknown)}; its classes are: "
            f"{listing(bank.classes, 20, like=unknown[0])}"
        )
    return [_checked(name, thresholds.get(name, 0.0)) for name in bank.classes]


def _fitted(word: str, dataset: fo.Dataset, bank: MemoryBank, config: MatchConfig) -> list[float]:
    if word != FITTED:
        raise InputError(f"expected thresholds to be {FITTED!r} or class -> threshold, got {word!r}")
    facts = kept_of_bank(dataset, bank.content_hash, asdict(config))
    if facts is None:
        raise InputError(
            "no thresholds were fitted yet for this memory bank with these settings: label some images with it, "
            "accept and reject some of the labels, call fit_thresholds, then try again"
        )
    by_class = {row["name"]: float(row["threshold"]) for row in facts["rows"][1:]}
    overall = float(facts["rows"][0]["threshold"])
    return [by_class.get(name, overall) for name in bank.classes]


def _checked(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are of this kind too
        raise WrongTypeError(f"expected the threshold of {name!r} to be a number, got {value!r}")
    if not 0 <= float(value) <= 1:
        raise InputError(f"expected the threshold of {name!r} between 0 and 1, got {value!r}")
    return float(value)


def _bank_key(fitted_on: Mapping[str, Any]) -> str:
    # Begins with what no run key can: those are identifiers.
    return "=" + hashlib.sha256(json.dumps(fitted_on, sort_keys=True).encode()).hexdigest()


def named(thresholds: Sequence[float] | None, classes: Sequence[str]) -> dict[str, float] | None:
    """Class -> threshold, from what a run record holds."""
    return None if thresholds is None else dict(zip(classes, thresholds, strict=True))


def parting(scores: NDArray[np.float64]) -> float:
    """Where scores fall apart into two groups best; 0.5 for fewer than two."""
    if len(scores) < 2:
        return 0.5
    counts, edges = np.histogram(scores, bins=100, range=(0, 1))
    centres = (edges[1:] + edges[:-1]) / 2
    below, sums = counts.cumsum(), (counts * centres).cumsum()
    weight = below * (len(scores) - below)
    apart = (sums[-1] * below - sums * len(scores)) ** 2 / np.maximum(weight, 1)
    best = np.flatnonzero(apart == apart.max())
    return round(float(edges[1:][best].mean()), 2)
