"""Operator: what is selected becomes references, in one click."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.operators import forms, selection

LABEL = "Use as NTT reference"
ICON = "bookmark_add"


class UseAsReference(foo.Operator):
    """Tags the selected labels, or else the selected samples."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "use_as_reference",
            LABEL,
            "Makes the selected labels (or else all labels of the selected images) examples of what to find.",
            ICON,
            allow_delegated_execution=False,
            risk_level=types.RiskLevel.LOW,
            view_target=False,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement:
        return forms.grid_button(LABEL, ICON, prompt=False)

    # No form: without one it runs as soon as its button is pressed.
    def execute(self, ctx: Any) -> dict[str, Any]:
        return selection.change_references(ctx, add=True)
