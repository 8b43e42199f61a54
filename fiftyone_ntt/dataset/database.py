"""Patience with a database that does not answer for a while."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pymongo.errors import ConnectionFailure

from fiftyone_ntt.errors import DatabaseGoneError, InputError

logger = logging.getLogger(__name__)

PATIENCE_VARIABLE = "FIFTYONE_NTT_DATABASE_PATIENCE"
_PATIENCE = 300.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0

T = TypeVar("T")


def patiently(call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """Calls what talks to the database; where that does not answer, again and again for some minutes.

    Args:
        call: must be safe to call again after it failed half-way.
        *arguments: its arguments.
        **keywords: its keyword arguments.

    Returns:
        What it returns.

    Raises:
        DatabaseGoneError: if the database has not come back in time. ``$FIFTYONE_NTT_DATABASE_PATIENCE`` says how many
            seconds that is, 300 unless told.
    """
    wait, failed_at = _FIRST_WAIT, None
    while True:
        try:
            return call(*arguments, **keywords)
        except ConnectionFailure as error:
            failed_at = failed_at or time.monotonic()
            patience = _patience()
            if time.monotonic() + wait > failed_at + patience:
                raise DatabaseGoneError(
                    f"expected the database to answer, and it did not for {patience:g} seconds; what is saved stays "
                    "saved: see that MongoDB runs and can be reached, then start the same run again to resume it"
                ) from error
            logger.warning("the database does not answer; trying again in %g seconds", wait)
            logger.debug("%s", error)
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT)


def _patience() -> float:
    text = os.environ.get(PATIENCE_VARIABLE) or str(_PATIENCE)
    try:
        return float(text)
    except ValueError:
        raise InputError(f"expected {PATIENCE_VARIABLE} to be a number of seconds, got {text!r}") from None
