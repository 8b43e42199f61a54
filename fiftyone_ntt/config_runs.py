"""The parameters of the services around runs; see ``config.py`` for what they have in common."""

from __future__ import annotations

from dataclasses import dataclass

from fiftyone_ntt.config import Params, param


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
