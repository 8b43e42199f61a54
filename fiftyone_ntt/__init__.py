"""fiftyone-ntt: reference-based instance segmentation inside FiftyOne. Nothing is trained.

import fiftyone_ntt as ntt

bank = ntt.build_memory_bank(dataset.match_tags("ntt:reference"), "ground_truth")
ntt.index(dataset)      # optional: the heavy part ahead of time, kept for every bank to come
report = ntt.segment(dataset, bank, label_field="ntt")
results = ntt.evaluate(dataset, "ntt", gt_field="ground_truth")
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fiftyone_ntt.core import MatchConfig as MatchConfig
    from fiftyone_ntt.core import MemoryBank as MemoryBank
    from fiftyone_ntt.dataset.banks import list_banks as list_banks
    from fiftyone_ntt.dataset.banks import load_bank as load_bank
    from fiftyone_ntt.dataset.control import cancel_run as cancel_run
    from fiftyone_ntt.dataset.control import resume_run as resume_run
    from fiftyone_ntt.dataset.evaluation import evaluate as evaluate
    from fiftyone_ntt.dataset.indexing import index as index
    from fiftyone_ntt.dataset.made_masks import make_reference_masks as make_reference_masks
    from fiftyone_ntt.dataset.references import build_memory_bank as build_memory_bank
    from fiftyone_ntt.dataset.runs import list_runs as list_runs
    from fiftyone_ntt.dataset.segmentation import segment as segment
    from fiftyone_ntt.dataset.semantic import to_segmentation as to_segmentation
    from fiftyone_ntt.dataset.undo import undo_run as undo_run
    from fiftyone_ntt.review.advice import advise_references as advise_references
    from fiftyone_ntt.review.choose import select_references as select_references
    from fiftyone_ntt.review.decisions import accept_labels as accept_labels
    from fiftyone_ntt.review.decisions import clear_decisions as clear_decisions
    from fiftyone_ntt.review.decisions import reject_labels as reject_labels
    from fiftyone_ntt.review.doubt import doubtful as doubtful
    from fiftyone_ntt.review.export import export_labels as export_labels
    from fiftyone_ntt.review.gallery import describe_references as describe_references
    from fiftyone_ntt.review.learn import learn as learn
    from fiftyone_ntt.review.presence import judge_presence as judge_presence
    from fiftyone_ntt.review.preview import preview as preview
    from fiftyone_ntt.review.references import remove_references as remove_references
    from fiftyone_ntt.review.references import use_as_references as use_as_references
    from fiftyone_ntt.review.thresholds import fit_thresholds as fit_thresholds
    from fiftyone_ntt.review.thresholds import load_thresholds as load_thresholds

__version__ = "0.1.0"

# Resolved on first use, so that importing the package stays cheap for the App's server.
_LAZY = {
    "MatchConfig": "core",
    "MemoryBank": "core",
    "accept_labels": "review.decisions",
    "advise_references": "review.advice",
    "build_memory_bank": "dataset.references",
    "cancel_run": "dataset.control",
    "clear_decisions": "review.decisions",
    "describe_references": "review.gallery",
    "doubtful": "review.doubt",
    "evaluate": "dataset.evaluation",
    "export_labels": "review.export",
    "fit_thresholds": "review.thresholds",
    "judge_presence": "review.presence",
    "learn": "review.learn",
    "list_banks": "dataset.banks",
    "list_runs": "dataset.runs",
    "load_bank": "dataset.banks",
    "load_thresholds": "review.thresholds",
    "make_reference_masks": "dataset.made_masks",
    "preview": "review.preview",
    "reject_labels": "review.decisions",
    "remove_references": "review.references",
    "resume_run": "dataset.control",
    "segment": "dataset.segmentation",
    "select_references": "review.choose",
    "to_segmentation": "dataset.semantic",
    "undo_run": "dataset.undo",
    "use_as_references": "review.references",
}
# A sub-package that can be called; it says why itself.
_CALLABLE_PACKAGE = "index"
__all__ = ["__version__", *sorted([*_LAZY, _CALLABLE_PACKAGE])]


def __getattr__(name: str) -> Any:
    if name == _CALLABLE_PACKAGE:
        return import_module(f"{__name__}.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


# In a source tree or a plugin folder `operators/` and `panels/` lie beside the package; the wheel maps them inside.
_root = Path(__file__).resolve().parents[1]
if (_root / "fiftyone.yml").is_file() and (_root / "operators").is_dir():
    __path__.append(str(_root))
