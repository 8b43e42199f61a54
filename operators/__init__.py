"""The operators of the App: each turns a form into one call of a service in ``fiftyone_ntt.dataset``."""

from __future__ import annotations

from fiftyone_ntt.operators.advise_references import AdviseReferences
from fiftyone_ntt.operators.build_memory_bank import BuildMemoryBank
from fiftyone_ntt.operators.cancel_run import CancelRun
from fiftyone_ntt.operators.decide import AcceptLabels, ClearDecisions, RejectLabels
from fiftyone_ntt.operators.evaluate import Evaluate
from fiftyone_ntt.operators.export_labels import ExportLabels
from fiftyone_ntt.operators.fit_thresholds import FitThresholds
from fiftyone_ntt.operators.index_candidates import IndexCandidates
from fiftyone_ntt.operators.judge_presence import JudgePresence
from fiftyone_ntt.operators.learn import Learn
from fiftyone_ntt.operators.make_reference_masks import MakeReferenceMasks
from fiftyone_ntt.operators.metrics import METRIC_OPERATORS
from fiftyone_ntt.operators.preview import Preview
from fiftyone_ntt.operators.remove_reference import RemoveReference
from fiftyone_ntt.operators.resume_run import ResumeRun
from fiftyone_ntt.operators.segment import Segment
from fiftyone_ntt.operators.to_segmentation import ToSegmentation
from fiftyone_ntt.operators.undo_run import UndoRun
from fiftyone_ntt.operators.use_as_reference import UseAsReference

OPERATORS = (
    BuildMemoryBank,
    MakeReferenceMasks,
    IndexCandidates,
    Segment,
    Evaluate,
    CancelRun,
    ResumeRun,
    UndoRun,
    UseAsReference,
    RemoveReference,
    AcceptLabels,
    RejectLabels,
    ClearDecisions,
    Learn,
    FitThresholds,
    JudgePresence,
    Preview,
    AdviseReferences,
    ExportLabels,
    ToSegmentation,
    *METRIC_OPERATORS,
)
"""Every operator of the plugin; ``fiftyone.yml`` lists the same names."""
