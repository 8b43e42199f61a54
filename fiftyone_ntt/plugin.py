"""The entry FiftyOne executes each time it looks for operators: finds the package, registers, and nothing else.

FiftyOne loads this file by its path, under a name of its own: relative imports would resolve among *other* plugins.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def _make_importable() -> None:
    """Puts this repository on the path where the package is not installed (a copy or a link in the plugins folder).

    Appended, not inserted: nothing of the repository may hide an installed package. Child processes inherit the path.
    """
    spec = find_spec("fiftyone_ntt")
    if spec is not None and spec.origin is not None:
        return
    # Without an origin it is only a folder of that name somewhere on the path, e.g. the one a checkout lies in.
    sys.modules.pop("fiftyone_ntt", None)
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.append(root)


def register(plugin: Any) -> None:
    """Registers operators and panels. Called by FiftyOne, often: must stay quick, and import no model code."""
    _make_importable()
    from fiftyone_ntt.operators import OPERATORS
    from fiftyone_ntt.panels import PANELS

    for operator in (*OPERATORS, *PANELS):
        plugin.register(operator)
