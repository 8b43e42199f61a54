"""fiftyone-ntt: reference-based instance segmentation inside FiftyOne. Nothing is trained."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

# In a source tree or a plugin folder `operators/` and `panels/` lie beside the package; the wheel maps them inside.
_root = Path(__file__).resolve().parents[1]
if (_root / "fiftyone.yml").is_file() and (_root / "operators").is_dir():
    __path__.append(str(_root))
