"""Operator: what is selected stops being references, in one click."""

from __future__ import annotations

from typing import Any

import fiftyone.operators as foo
from fiftyone.operators import types

from fiftyone_ntt.operators import forms, selection

LABEL = "Remove from NTT references"
ICON = "bookmark_remove"


class RemoveReference(foo.Operator):
    """Untags the selected labels, or else the selected samples with their labels."""

    @property
    def config(self) -> foo.OperatorConfig:
        return forms.operator_config(
            "remove_reference",
            LABEL,
            "The selected labels (or else the selected images) stop being examples of what to find.",
            ICON,
            allow_delegated_execution=False,
            risk_level=types.RiskLevel.LOW,
            view_target=False,
        )

    # No form: without one it runs as soon as its button is pressed.
    def execute(self, ctx: Any) -> dict[str, Any]:
        return selection.change_references(ctx, add=False)
