"""What a person sees and has selected in the App, and what a decision there is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fiftyone.core.collections import SampleCollection
from fiftyone.core.patches import EvaluationPatchesView

from fiftyone_ntt.dataset.documents import label_parts
from fiftyone_ntt.dataset.fields import is_patches, label_fields
from fiftyone_ntt.errors import counted
from fiftyone_ntt.params.review import DecisionParams
from fiftyone_ntt.review.decisions import why_unchanged

Decision = Callable[..., int]
"""``accept_labels``, ``reject_labels`` or ``clear_decisions``."""


@dataclass(frozen=True)
class InSight:
    """What a person looks at in the App, and what she has selected there.

    Attributes:
        view: what the grid shows.
        samples: ids of the selected samples (or patches).
        labels: field and id of each selected label.
        opened: id of the sample that is open, if any.
    """

    view: SampleCollection
    samples: Sequence[str] = ()
    labels: Sequence[tuple[str, str]] = ()
    opened: str | None = None

    def selected(self) -> dict[str, list[str]]:
        """Field -> ids of the labels that are selected there; a selected patch is a selected label."""
        selected: dict[str, list[str]] = {}
        for field, label_id in self.labels:
            selected.setdefault(field, []).append(label_id)
        if selected or not self.samples or not is_patches(self.view):
            return selected
        patches = self.view.select(list(self.samples))
        # A patch of an evaluation shows the truth beside what was predicted: only the latter is decided on.
        fields = [patches.pred_field] if isinstance(patches, EvaluationPatchesView) else label_fields(patches)
        for field in fields:
            if patches.has_field(field):
                parts = label_parts(patches, field, ["_id"])
                selected[field] = [str(label["_id"]) for _, labels in parts for label in labels if label]
        return selected

    def images(self) -> tuple[SampleCollection, str]:
        """The images that a description is about, and what they are called: the open one, the selected ones, or all."""
        if self.opened:
            return self.view.select(self.opened), "this image"
        if self.samples:
            return self.view.select(list(self.samples)), counted(len(self.samples), "selected image")
        return self.view, "all images in the grid"

    def selects(self, params: DecisionParams) -> bool:
        """Whether a decision is about what is selected: something is, and ``params`` describe nothing."""
        return not params.describes_labels() and bool(self.selected())

    def decide(self, decision: Decision, params: DecisionParams) -> int:
        """Decides on what ``params`` describe; where they describe nothing, on what is selected, or else on all.

        Args:
            decision: what to do with the labels.
            params: as for a call from Python; ids of labels hold wherever in the grid these are.

        Returns:
            Number of labels whose decision changed.
        """
        if self.selects(params):
            return sum(decision(self.view, field, label_ids=ids) for field, ids in self.selected().items())
        return decision(self._where(params), **params.to_mapping())

    def why_unchanged(self, params: DecisionParams) -> str:
        """Why ``decide`` changed no label, and what to do."""
        if self.selects(params):
            return "nothing was left to change on what is selected"
        return why_unchanged(self._where(params), **params.to_mapping())

    def _where(self, params: DecisionParams) -> SampleCollection:
        return self.view if params.label_ids else self.images()[0]
