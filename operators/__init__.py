"""The operators of the App: each turns a form into one call of a service in ``fiftyone_ntt.dataset``."""

from __future__ import annotations

from fiftyone_ntt.operators.build_memory_bank import BuildMemoryBank
from fiftyone_ntt.operators.cancel_run import CancelRun
from fiftyone_ntt.operators.evaluate import Evaluate
from fiftyone_ntt.operators.index_candidates import IndexCandidates
from fiftyone_ntt.operators.resume_run import ResumeRun
from fiftyone_ntt.operators.segment import Segment
from fiftyone_ntt.operators.undo_run import UndoRun

OPERATORS = (BuildMemoryBank, IndexCandidates, Segment, Evaluate, CancelRun, ResumeRun, UndoRun)
"""Every operator of the plugin; ``fiftyone.yml`` lists the same names."""
