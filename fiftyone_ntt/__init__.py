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
    from fiftyone_ntt.dataset.previews import make_previews as make_previews
    from fiftyone_ntt.dataset.previews import remove_previews as remove_previews
    from fiftyone_ntt.evaluation.evaluate import evaluate as evaluate
    from fiftyone_ntt.evaluation.semantic import to_segmentation as to_segmentation
    from fiftyone_ntt.fleet.handing import index as index
    from fiftyone_ntt.method.config import MatchConfig as MatchConfig
    from fiftyone_ntt.method.memory_bank import MemoryBank as MemoryBank
    from fiftyone_ntt.params.base import StageOneSettings as StageOneSettings
    from fiftyone_ntt.references.banks import build_memory_bank as build_memory_bank
    from fiftyone_ntt.references.banks import list_banks as list_banks
    from fiftyone_ntt.references.banks import load_bank as load_bank
    from fiftyone_ntt.references.banks import save_bank as save_bank
    from fiftyone_ntt.references.editable_masks import make_reference_masks as make_reference_masks
    from fiftyone_ntt.references.gallery import describe_references as describe_references
    from fiftyone_ntt.references.selection import select_references as select_references
    from fiftyone_ntt.references.tagging import remove_references as remove_references
    from fiftyone_ntt.references.tagging import use_as_references as use_as_references
    from fiftyone_ntt.review.advice import advise_references as advise_references
    from fiftyone_ntt.review.decisions import accept_labels as accept_labels
    from fiftyone_ntt.review.decisions import clear_decisions as clear_decisions
    from fiftyone_ntt.review.decisions import reject_labels as reject_labels
    from fiftyone_ntt.review.done import clear_done as clear_done
    from fiftyone_ntt.review.done import mark_done as mark_done
    from fiftyone_ntt.review.export import export_labels as export_labels
    from fiftyone_ntt.review.learn import learn as learn
    from fiftyone_ntt.review.next_images import next_images as next_images
    from fiftyone_ntt.review.presence import judge_presence as judge_presence
    from fiftyone_ntt.review.ranking import doubtful as doubtful
    from fiftyone_ntt.review.refine_history import undo_refinement as undo_refinement
    from fiftyone_ntt.review.refining import refine_labels as refine_labels
    from fiftyone_ntt.review.thresholds import fit_thresholds as fit_thresholds
    from fiftyone_ntt.review.thresholds import load_thresholds as load_thresholds
    from fiftyone_ntt.runs.control import cancel_run as cancel_run
    from fiftyone_ntt.runs.control import lower_threshold as lower_threshold
    from fiftyone_ntt.runs.control import resume_run as resume_run
    from fiftyone_ntt.runs.listing import list_runs as list_runs
    from fiftyone_ntt.runs.preview import preview as preview
    from fiftyone_ntt.runs.segment import segment as segment
    from fiftyone_ntt.runs.undo import undo_run as undo_run

__version__ = "0.1.0"

# Resolved on first use, so that importing the package stays cheap for the App's server.
_LAZY = {
    "MatchConfig": "core",
    "MemoryBank": "core",
    "StageOneSettings": "params.base",
    "accept_labels": "review.decisions",
    "advise_references": "review.advice",
    "build_memory_bank": "references.banks",
    "cancel_run": "runs.control",
    "clear_decisions": "review.decisions",
    "clear_done": "review.done",
    "describe_references": "references.gallery",
    "doubtful": "review.ranking",
    "evaluate": "evaluation.evaluate",
    "export_labels": "review.export",
    "fit_thresholds": "review.thresholds",
    "index": "fleet.handing",
    "judge_presence": "review.presence",
    "learn": "review.learn",
    "list_banks": "references.banks",
    "list_runs": "runs.listing",
    "load_bank": "references.banks",
    "load_thresholds": "review.thresholds",
    "lower_threshold": "runs.control",
    "make_previews": "dataset.previews",
    "make_reference_masks": "references.editable_masks",
    "mark_done": "review.done",
    "next_images": "review.next_images",
    "preview": "runs.preview",
    "refine_labels": "review.refining",
    "reject_labels": "review.decisions",
    "remove_previews": "dataset.previews",
    "remove_references": "references.tagging",
    "resume_run": "runs.control",
    "save_bank": "references.banks",
    "segment": "runs.segment",
    "select_references": "references.selection",
    "to_segmentation": "evaluation.semantic",
    "undo_refinement": "review.refine_history",
    "undo_run": "runs.undo",
    "use_as_references": "references.tagging",
}
__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)  # what completion offers; nothing of it is imported yet


# In a source tree or a plugin folder `operators/` and `panels/` lie beside the package; the wheel maps them inside.
_root = Path(__file__).resolve().parents[1]
if (_root / "fiftyone.yml").is_file() and (_root / "operators").is_dir():
    __path__.append(str(_root))
