"""The operator that asks a preset whether it works on the machine that labels."""

from __future__ import annotations

from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.operators.base import NttOperator, Table, progress_of
from fiftyone_ntt.operators.forms import as_markdown, as_sentence
from fiftyone_ntt.params.labelling import SelfcheckParams


class Selfcheck(NttOperator):
    """Says whether a preset works, where the App runs or where a scheduled run does.

    Not in the background: what it says is all that it does, and the App shows that of what it waits for.
    """

    NAME, LABEL, ICON = "selfcheck", "NTT: Check the models", "health_and_safety"
    DESCRIPTION = "Says whether a preset works on the machine that labels: its weights, a drawn disc, photographs."
    PARAMS = SelfcheckParams
    OPTIONS = {"risk_level": types.RiskLevel.LOW}
    CHANGES = False
    SUMMARY = "What came of it"
    OUTPUTS = (
        Table("steps", "What was asked", {"ok": "holds", "asked": "what", "found": "found"}),
        Table("facts", "For a report of a fault", {"what": "what", "value": "value"}),
    )

    def perform(self, ctx: Any, params: SelfcheckParams) -> dict[str, Any]:
        from fiftyone_ntt.demo.selfcheck import run_selfcheck

        check = run_selfcheck(**params.to_mapping(), progress=progress_of(ctx))
        wrong = [f"- {as_markdown(step.name)}: {as_markdown(step.found)}" for step in check.steps if not step.ok]
        return {
            "sound": check.sound,
            "summary": "\n".join([as_sentence(check.verdict, self.PARAMS), *(["", *wrong] if wrong else [])]),
            "steps": [
                {"ok": "yes" if step.ok else "no", "asked": step.name, "found": step.found} for step in check.steps
            ],
            "facts": [{"what": name, "value": value} for name, value in check.facts.items()],
        }
