"""Memory banks kept with their dataset, as FiftyOne runs."""

from __future__ import annotations

from dataclasses import dataclass

import fiftyone as fo
import numpy as np

from fiftyone_ntt.dataset.storage import check_name
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.memory_bank import MemoryBank

METHOD = "ntt/memory_bank"
_TENSORS = ("vectors", "class_index", "center", "negatives", "negative_class", "crop_vectors", "crop_center")


def save_bank(dataset: fo.Dataset, name: str, bank: MemoryBank) -> None:
    """Keeps a bank with a dataset; a bank of the same name is replaced.

    Raises:
        InputError: if the name is unusable or belongs to a run that is no memory bank.
    """
    check_name(name)
    if dataset.has_run(name) and dataset.get_run_info(name).config.method != METHOD:
        raise InputError(f"{name!r} is the key of another run of {dataset.name!r}; choose another name for the bank")
    config = dataset.init_run(
        method=METHOD,
        preset=bank.preset,
        classes=list(bank.classes),
        shots=list(bank.shots.values()),  # in the order of the classes, whose names need not do as keys
        content_hash=bank.content_hash,
    )
    dataset.register_run(name, config, overwrite=True)
    keep_with_run(dataset, name, bank)


def load_bank(dataset: fo.Dataset, name: str) -> MemoryBank:
    """The bank that ``save_bank`` kept under ``name``.

    Raises:
        InputError: if there is none; names those there are.
    """
    known = list_banks(dataset)
    if name not in known:
        raise InputError(
            f"no memory bank {name!r} with dataset {dataset.name!r}; there is: "
            f"{', '.join(map(repr, known)) or 'none yet, build one from tagged references first'}"
        )
    return bank_of_run(dataset, name)


def keep_with_run(dataset: fo.Dataset, run_key: str, bank: MemoryBank) -> None:
    """Makes a bank the results of a run; ``bank_of_run`` gives it back."""
    tensors, description = bank.to_parts()
    results = dataset.init_run_results(run_key, description=description, **tensors)
    dataset.save_run_results(run_key, results)


def bank_of_run(dataset: fo.Dataset, run_key: str) -> MemoryBank:
    """The bank that ``keep_with_run`` kept."""
    results = dataset.load_run_results(run_key)
    kept = {key: getattr(results, key, None) for key in _TENSORS}
    tensors = {key: np.asarray(value) for key, value in kept.items() if value is not None}
    return MemoryBank.from_parts(tensors, getattr(results, "description", None) or "")


def list_banks(dataset: fo.Dataset) -> list[str]:
    """Names of the banks kept with a dataset."""
    return [str(name) for name in dataset.list_runs(method=METHOD)]


@dataclass(frozen=True)
class BankSummary:
    """What there is to know of a bank without loading it.

    Attributes:
        name: its name.
        shots: class -> references.
        preset: preset of models that it belongs to.
        content_hash: what it holds, in short.
    """

    name: str
    shots: dict[str, int]
    preset: str
    content_hash: str


def bank_summaries(dataset: fo.Dataset) -> dict[str, BankSummary]:
    """Name of each bank kept with a dataset -> what it is."""
    summaries = {}
    for name in list_banks(dataset):
        config = dataset.get_run_info(name).config
        shots = dict(zip(config.classes, config.shots, strict=True))
        summaries[name] = BankSummary(name, shots, config.preset, config.content_hash)
    return summaries
