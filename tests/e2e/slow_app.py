"""FiftyOne's App with a panel that can be made slow, as it is on a busy server: answers come late, and in any order.

``slow_app.py MAIN ARGUMENTS`` runs FiftyOne's ``main.py``. ``$NTT_TEST_DELAY`` names a file; while a number is in it,
each event of the panel waits up to so many seconds before the panel's code runs, and again before it answers.
"""

from __future__ import annotations

import os
import random
import runpy
import sys
import time
from pathlib import Path
from typing import Any

# What main.py does first: FiftyOne reads them when it is imported.
os.environ.pop("FIFTYONE_DISABLE_SERVICES", None)
os.environ["FIFTYONE_SERVER"] = "1"

from fiftyone_ntt.panels.ntt_review import NttReview  # noqa: E402

_answer = NttReview.execute
_delay = Path(os.environ["NTT_TEST_DELAY"])


def _wait() -> None:
    most = float(_delay.read_text() or 0) if _delay.is_file() else 0.0
    time.sleep(random.uniform(0, most))


def _answer_late(panel: NttReview, ctx: Any) -> Any:
    _wait()
    answer = _answer(panel, ctx)
    _wait()
    return answer


NttReview.execute = _answer_late
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
