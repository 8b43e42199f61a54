"""The operators of the App: each parses a form, calls one service, and shows its result."""

from __future__ import annotations

from fiftyone_ntt.operators.done import ClearDone, MarkDone
from fiftyone_ntt.operators.evaluate import AR100, BoxAP, Evaluate, MaskAP, MaskAP50
from fiftyone_ntt.operators.labelling import IndexCandidates, Preview, Segment
from fiftyone_ntt.operators.outputs import ExportLabels, ToSegmentation
from fiftyone_ntt.operators.previews import MakePreviews, RemovePreviews
from fiftyone_ntt.operators.references import (
    AdviseReferences,
    BuildMemoryBank,
    MakeReferenceMasks,
    RemoveReference,
    UseAsReference,
)
from fiftyone_ntt.operators.refine import RefineLabels, UndoRefinement
from fiftyone_ntt.operators.review import (
    AcceptLabels,
    ClearDecisions,
    FitThresholds,
    JudgePresence,
    Learn,
    RejectLabels,
)
from fiftyone_ntt.operators.runs import CancelRun, LowerThreshold, ResumeRun, UndoRun
from fiftyone_ntt.operators.selfcheck import Selfcheck

OPERATORS = (
    BuildMemoryBank,
    MakeReferenceMasks,
    IndexCandidates,
    Segment,
    Evaluate,
    CancelRun,
    ResumeRun,
    LowerThreshold,
    UndoRun,
    UseAsReference,
    RemoveReference,
    AcceptLabels,
    RejectLabels,
    ClearDecisions,
    MarkDone,
    ClearDone,
    RefineLabels,
    UndoRefinement,
    Learn,
    FitThresholds,
    JudgePresence,
    Preview,
    AdviseReferences,
    ExportLabels,
    ToSegmentation,
    MakePreviews,
    RemovePreviews,
    Selfcheck,
    BoxAP,
    MaskAP,
    MaskAP50,
    AR100,
)
"""Every operator of the plugin; ``fiftyone.yml`` lists the same names."""
