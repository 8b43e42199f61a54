"""What advice on references says, as words and as tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import dataset_of, every_image, image_samples
from fiftyone_ntt.errors import InputError, as_text, counted
from fiftyone_ntt.review.influence import ClassNeed

_CLEARLY = 0.01
"""A change of similarity that is worth a word."""


@dataclass(frozen=True)
class ReferenceAdvice:
    """What is known of one reference; a number is ``None`` where nothing can be said.

    Attributes:
        reference_id: as in the memory bank.
        sample_id: its sample; ``None`` where the bank does not come from samples.
        label_id: its label; ``None`` likewise.
        label: its class.
        name: the name of its image file; its id where there is none.
        change: how much wider the margins of the other references are with it than without it, in points of
            similarity (0..100); below 0 it does harm.
        on_reviewed: the same for labels that were accepted or rejected.
        similarity: to the mean of the others of its class, 0..1.
        looks_like: another class that it resembles more than its own.
        outlier: whether it is far from the others of its class.
        twins: ids of references that show nearly the same.
        flaws: what is wrong with it by itself: tiny, cut off, unusable.
    """

    reference_id: str
    sample_id: str | None
    label_id: str | None
    label: str
    name: str = ""
    change: float | None = None
    on_reviewed: float | None = None
    similarity: float | None = None
    looks_like: str | None = None
    outlier: bool = False
    twins: tuple[str, ...] = ()
    flaws: tuple[str, ...] = ()

    @property
    def assessment(self) -> str:
        """``"check"``, ``"harms"``, ``"adds little"``, ``"helps"`` or ``"no clear effect"``."""
        changes = [change / 100 for change in (self.change, self.on_reviewed) if change is not None]
        if self.outlier or self.looks_like is not None:
            return "check"
        if changes and min(changes) < -_CLEARLY:
            return "harms"
        if self.twins:
            return "adds little"
        return "helps" if changes and max(changes) > _CLEARLY else "no clear effect"

    @property
    def words(self) -> tuple[str, ...]:
        """What to know and do about it, in plain words; nothing where all is well."""
        sentences = []
        if self.looks_like is not None:
            sentences.append(
                f"looks more like your {self.looks_like!r} than like the other {self.label!r}: right class?"
            )
        elif self.outlier:
            sentences.append(f"unlike the other {self.label!r}: is its mask right, does it show the whole object?")
        if self.change is not None and self.change < -100 * _CLEARLY:
            sentences.append("the other references are told apart better without it")
        if self.on_reviewed is not None and self.on_reviewed < -100 * _CLEARLY:
            sentences.append("what you accepted and rejected is told apart better without it")
        if self.twins:
            sentences.append("nearly the same as another reference: a different one shows more")
        return (*sentences, *self.flaws)


@dataclass(frozen=True)
class Suggestion:
    """A label of a run that would help if a person decided on it.

    Attributes:
        sample_id: its sample.
        label_id: the label.
        label: the class that the run gave it.
    """

    sample_id: str
    label_id: str
    label: str


@dataclass
class Advice:
    """What to do about the references of a memory bank.

    Attributes:
        references: one entry a reference, in the bank's order.
        classes: class -> whether it needs more references.
        suggestions: labels of the run to decide on next, the most helpful first.
        reviewed_field: field of the run's labels.
        decided: accepted, edited and rejected labels that were taken into account.
        notes: what else is worth knowing.
    """

    references: list[ReferenceAdvice]
    classes: dict[str, ClassNeed]
    suggestions: list[Suggestion] = field(default_factory=list)
    reviewed_field: str = "ntt"
    decided: int = 0
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """A row a reference, those to look at first."""
        order = ("check", "harms", "adds little", "no clear effect", "helps")
        ranked = sorted(
            self.references,
            key=lambda reference: (order.index(reference.assessment), reference.label, reference.reference_id),
        )
        return [
            {
                "class": reference.label,
                "reference": reference.name,
                "assessment": reference.assessment,
                "change": _rounded(reference.change),
                "on_reviewed": _rounded(reference.on_reviewed),
                "advice": "; ".join(reference.words),
            }
            for reference in ranked
        ]

    def class_rows(self) -> list[dict[str, Any]]:
        """A row a class, those that need more references first."""
        ranked = sorted(self.classes.items(), key=lambda item: (not item[1].needs_more, item[0]))
        return [
            {"class": name, "references": need.count, "recognised": _share(need.accuracy), "advice": _need(need)}
            for name, need in ranked
        ]

    def view(self, samples: SampleCollection) -> SampleCollection:
        """The labels to decide on next, the most helpful image first; no others of their field are shown.

        Args:
            samples: the dataset, or a view of whole images.

        Raises:
            InputError: if there is nothing to suggest.
        """
        if not self.suggestions:
            raise InputError(
                "expected labels of a run to choose from, got none; label some images first, with the candidate cache"
            )
        order = list(dict.fromkeys(suggestion.sample_id for suggestion in self.suggestions))
        ids = [suggestion.label_id for suggestion in self.suggestions]
        return image_samples(samples).select(order, ordered=True).select_labels(ids=ids, fields=self.reviewed_field)

    def references_view(self, samples: SampleCollection) -> SampleCollection:
        """The samples of the references to look at: unlike their class, harmful, twins, or flawed."""
        ids = [
            reference.sample_id for reference in self.references if reference.sample_id is not None and reference.words
        ]
        return every_image(dataset_of(samples)).select(list(dict.fromkeys(ids)), ordered=True)

    def __str__(self) -> str:
        lines = [f"{counted(len(self.references), 'reference')} of {counted(len(self.classes), 'class', 'classes')}."]
        for reference in self.references:
            lines += [f"- {as_text(reference.label)} ({as_text(reference.name)}): {word}" for word in reference.words]
        needy = [f"{as_text(name)} ({_need(need)})" for name, need in self.classes.items() if need.needs_more]
        lines += [f"More references would help: {', '.join(needy)}."] if needy else []
        if self.suggestions:
            lines.append(
                f"Label next: {counted(len(self.suggestions), 'object')} that your references leave unsure and that "
                "would tell about many others."
            )
        return "\n".join([*lines, *self.notes])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.0f} %"


def _need(need: ClassNeed) -> str:
    if need.count < 2:
        return "the only one: two or three more help"
    if need.needs_more:
        return f"only {_share(need.accuracy)} of them are told from other classes by the rest: add different ones"
    return ""
