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
    from fiftyone_ntt.dataset.references import build_memory_bank as build_memory_bank
    from fiftyone_ntt.dataset.runs import list_runs as list_runs
    from fiftyone_ntt.dataset.segmentation import segment as segment
    from fiftyone_ntt.dataset.undo import undo_run as undo_run

__version__ = "0.1.0"

# Resolved on first use, so that importing the package stays cheap for the App's server.
_LAZY = {
    "MatchConfig": "core",
    "MemoryBank": "core",
    "build_memory_bank": "dataset.references",
    "cancel_run": "dataset.control",
    "evaluate": "dataset.evaluation",
    "list_banks": "dataset.banks",
    "list_runs": "dataset.runs",
    "load_bank": "dataset.banks",
    "resume_run": "dataset.control",
    "segment": "dataset.segmentation",
    "undo_run": "dataset.undo",
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
