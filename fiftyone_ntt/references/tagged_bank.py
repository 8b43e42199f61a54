"""The memory bank of the references as they are tagged now: one that is kept with the dataset, or else a new one.

A bank under a name keeps what it was built from beside it. So anyone can tell, without reading an image or a bank,
whether the references are still the same; form, command line and Python ask here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import fiftyone as fo
from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.documents import tags_of
from fiftyone_ntt.dataset.fields import (
    REFERENCE_TAG,
    check_reference_field,
    dataset_of,
    has_labels,
    is_map_field,
    is_reference_field,
    is_tagged,
    label_path,
    reference_fields,
    root_dataset_of,
    with_labels,
)
from fiftyone_ntt.dataset.storage import database_collection
from fiftyone_ntt.errors import InputError, WrongTypeError, listing
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.params.base import DEFAULT_BANK_NAME, StageOneSettings
from fiftyone_ntt.params.references import MADE_FIELD
from fiftyone_ntt.references.banks import (
    CONTENTS,
    HEAD_IMAGES,
    LEARNED,
    BankSummary,
    bank_of_reader,
    bank_summaries,
    build_memory_bank,
    contents_of,
    load_bank,
    save_bank,
)
from fiftyone_ntt.references.reader import MadeFrom, ReferenceReader
from fiftyone_ntt.references.tagging import (
    NO_REFERENCES,
    count_labels,
    images_of,
    likely_field,
    tagged_negatives,
    tagged_references,
)

if TYPE_CHECKING:
    from fiftyone_ntt.models import Preset
    from fiftyone_ntt.params.base import Progress

logger = logging.getLogger(__name__)

_NAMED = 12
"""Classes that are named: as many as can be read at a glance."""


@dataclass(frozen=True, eq=False)
class BankPlan:
    """A memory bank that is there, or that the references would make.

    Attributes:
        dataset: the dataset.
        name: what it is kept under, or will be.
        shots: class -> references; of semantic segmentation masks only a look at them tells.
        preset: its models.
        made_from: what it is to be built from; ``None`` where it is there.
        references: the references, where it is to be built.
        negatives: what is not wanted, likewise.
        before: the last bank of these models, whose weight of names is taken over; likewise.
    """

    dataset: fo.Dataset
    name: str
    shots: dict[str, int]
    preset: str | Preset
    made_from: MadeFrom | None = None
    references: SampleCollection | None = None
    negatives: SampleCollection | None = None
    before: str | None = None

    @property
    def fresh(self) -> bool:
        """Whether the bank is there."""
        return self.made_from is None

    def __str__(self) -> str:
        names = (f"{count} {name}" for name, count in self.shots.items())
        shown = listing(names, _NAMED) if self.shots else "see their maps"
        how = f"memory bank {self.name!r}" if self.fresh else "their memory bank is built first"
        return f"References: {shown} ({how})."

    def bank(
        self, device: str | None = None, progress: Progress | None = None, large_images: str = "auto"
    ) -> MemoryBank:
        """The bank; built, and kept with the dataset, where it is not there."""
        if self.made_from is None or self.references is None:
            return load_bank(self.dataset, self.name)
        fields, classes = self.made_from.fields, self.made_from.classes
        # Nobody asks for these classes now: one whose references cannot be used is left out.
        reader = ReferenceReader(self.references, fields, classes, self.negatives, insist=False)
        text = None if self.before is None else load_bank(self.dataset, self.before).text
        bank = bank_of_reader(
            reader, self.preset, self.made_from.ask_granularity, device, progress, large_images,
            0.0 if text is None else text.weight,
        )  # fmt: skip
        save_bank(self.dataset, self.name, bank, self.made_from)
        return bank


def plan_bank(
    samples: SampleCollection,
    label_field: str | None = None,
    *,
    preset: str | Preset | None = None,
    ask_granularity: bool = False,
) -> BankPlan:
    """The memory bank of the references as they are tagged now, as it would be made; quick, no image is read.

    What was asked for when the last bank was built is asked for again: fields, models, granularity, and with the same
    models the weight of names. Classes that were left out then stay out; new ones come in.

    Args:
        samples: the dataset, or samples of it; the references of the whole dataset count.
        label_field: a field with reference labels. Labels of others that are tagged themselves count too.
        preset: the models; those of the last bank where ``None``, else ``"lite"``.
        ask_granularity: whether the references are to be asked which granularity fits them.

    Returns:
        The plan: ``fresh`` where a bank of these very references is kept already.

    Raises:
        InputError: if nothing is tagged, or there is no such field.
    """
    dataset = root_dataset_of(samples)
    images = images_of(dataset)
    if label_field is not None:
        check_reference_field(images, label_field)
    summaries = list(reversed(bank_summaries(dataset).values()))  # the newest first
    last = next((bank for bank in summaries if _is_about(bank, label_field)), None)
    before = last.made_from if last is not None else None
    # A field that was renamed or deleted since has no references any more.
    first = [name for name in (before.fields if before is not None else ()) if is_reference_field(images, name)]
    first = first or [label_field or _field_of_tagged(images)]
    fields, references = _tagged(images, first)
    negatives = tagged_negatives(images, fields)
    shots = dict(sorted(count_labels(references, fields).items()))
    classes = _classes(before, shots, any(is_map_field(images, name) for name in fields))
    ask_granularity = ask_granularity or (before is not None and before.ask_granularity)
    now = MadeFrom.of(references, fields, classes, ask_granularity, negatives)
    now = replace(now, left_out=() if before is None else before.left_out, tagged=True)
    models = preset or (summaries[0].preset if summaries else "lite")
    wanted = models if isinstance(models, str) else models.name
    shots = {name: count for name, count in shots.items() if classes is None or name in classes}
    for bank in summaries:
        # Equal counts say nothing: a bank that learned from rejections alone has those of the references it began with.
        if bank.preset == wanted and bank.made_from == now:
            return BankPlan(dataset, bank.name, bank.shots, models)
    reads = last.name if last is not None and last.preset == wanted else None
    return BankPlan(dataset, _name(dataset, summaries), shots, models, now, references, negatives, reads)


def plan_or_kept(samples: SampleCollection, label_field: str | None = None, **options: Any) -> BankPlan:
    """``plan_bank``; where nothing is tagged any more, the bank that was kept last.

    Raises:
        InputError: if there is neither.
    """
    dataset = root_dataset_of(samples)
    try:
        return plan_bank(samples, label_field, **options)
    except InputError as error:
        kept = list(bank_summaries(dataset).values())
        if label_field is not None or not kept:
            anything = any(map(dataset.has_field, [label_field] if label_field else reference_fields(dataset)))
            raise InputError(NO_REFERENCES) from error if anything else error
        return BankPlan(dataset, kept[-1].name, kept[-1].shots, kept[-1].preset)


def resolve_bank(
    samples: SampleCollection,
    bank: MemoryBank | str | SampleCollection | None,
    label_field: str | None = None,
    asked: StageOneSettings | None = None,
    progress: Progress | None = None,
) -> MemoryBank:
    """The memory bank that a caller means.

    Args:
        samples: what it is for.
        bank: a bank; the name of one kept with the dataset; reference samples; or ``None`` for the references as they
            are tagged now.
        label_field: the field with the reference labels, where there may be something to build.
        asked: which models, on which device, and whether references choose the granularity.
        progress: called with (done, total, message).

    Raises:
        InputError: if there is no such bank, or no reference.
        WrongTypeError: if it is none of these.
    """
    if isinstance(bank, MemoryBank):
        return bank
    if isinstance(bank, str):
        return load_bank(dataset_of(samples), bank)
    asked = asked or StageOneSettings()
    models, ask = cast("str | Preset | None", asked.preset), asked.granularity == "auto"
    if bank is None:
        if not len(dataset_of(samples)):
            raise InputError("the dataset holds no images; add some, and tag a few as references")
        plan = plan_or_kept(samples, label_field, preset=models, ask_granularity=ask)
        return plan.bank(asked.device, progress, asked.large_images)
    if not isinstance(bank, SampleCollection):
        raise WrongTypeError(
            f"expected a MemoryBank, the name of one, reference samples or None, got {type(bank).__name__}"
        )
    return build_memory_bank(
        bank, label_field or likely_field(bank), preset=models or "lite", ask_granularity=ask,
        large_images=asked.large_images, device=asked.device, progress=progress,
    )  # fmt: skip


def with_lessons_of(bank: MemoryBank, earlier: MemoryBank) -> MemoryBank:
    """A bank with what another one had learned from a person's decisions, so that new references do not undo it.

    A head is for the classes and the centre that it was trained with: with other ones it is left out, and is trained
    again by ``learn``.

    Args:
        bank: of the references.
        earlier: what a run was made with; nothing is taken from a bank of other models.
    """
    if (bank.preset, dict(bank.weights)) != (earlier.preset, dict(earlier.weights)):
        return bank
    learned = earlier.references.select([i for i, key in enumerate(earlier.reference_ids) if key.startswith(LEARNED)])
    references = bank.references.joined(learned)
    classes = [*bank.classes, *sorted({str(name) for name in learned.labels} - {*bank.classes})]
    negatives = bank.negatives
    if earlier.negatives is not None:
        known = earlier.negatives
        rows = [i for i, key in enumerate(known.ids) if key.startswith(LEARNED) and known.labels[i] in (*classes, None)]
        negatives = known.select(rows) if negatives is None else negatives.joined(known.select(rows))
    origin = {**bank.origin, CONTENTS: {**contents_of(earlier), **contents_of(bank)}}
    head = earlier.head if _same_space(bank, classes, earlier) else None
    if head is not None:
        origin[HEAD_IMAGES] = list(earlier.origin.get(HEAD_IMAGES) or [])
    elif earlier.head is not None:
        logger.warning("the references have changed, so the trained head is left out; learn again to train it anew")
    return bank.changed(classes=classes, references=references, negatives=negatives, head=head, origin=origin)


def _same_space(bank: MemoryBank, classes: Sequence[str], earlier: MemoryBank) -> bool:
    """Whether candidates are compared with the same classes, as seen from the same centre."""
    centres = [None if one.center is None else one.center.tolist() for one in (bank, earlier)]
    return tuple(classes) == earlier.classes and centres[0] == centres[1]


def _is_about(bank: BankSummary, label_field: str | None) -> bool:
    """Whether a bank tells how the next one is to be built."""
    return bank.made_from is not None and (label_field is None or label_field in bank.made_from.fields)


def _tagged(images: SampleCollection, fields: Sequence[str]) -> tuple[list[str], SampleCollection]:
    """The fields with references, and these. Beyond ``fields`` only labels count that are tagged themselves."""
    others = [name for name in _fields_with_tagged_labels(images) if name not in fields]
    names = [*fields, *others]
    try:
        references = tagged_references(images, REFERENCE_TAG, names)
    except InputError:
        raise InputError(NO_REFERENCES) from None
    for name in others:
        references = with_labels(references, name, is_tagged(REFERENCE_TAG), only_matches=False)
    return names, references


def _field_of_tagged(images: SampleCollection) -> str:
    """The field that is meant by tagged samples; where there are none, the one with tagged labels."""
    tagged = images.match_tags(REFERENCE_TAG)
    names = [name for name in reference_fields(images) if name != MADE_FIELD]
    # What a person drew comes before what a run wrote.
    written = {name for name in names if images.get_field(f"{name}.detections.predicted_iou") is not None}
    for name in sorted(names, key=lambda name: (name in written, name != "ground_truth")):
        if len(tagged.match(has_labels(tagged, name)).limit(1)):
            return name
    return likely_field(images)


def _fields_with_tagged_labels(images: SampleCollection) -> list[str]:
    """Fields with labels that are references by themselves; masks made from references are those once more."""
    names = [name for name in reference_fields(images) if name != MADE_FIELD and not is_map_field(images, name)]
    paths = {name: label_path(images, name, "tags") for name in names}
    if not paths:
        return []
    # One pass over the documents for all fields.
    found = database_collection(root_dataset_of(images)).aggregate([
        {"$match": {"$or": [{path: REFERENCE_TAG} for path in paths.values()]}},
        {"$project": dict.fromkeys(paths.values(), 1)},
    ])  # fmt: skip
    tagged = {name for document in found for name, path in paths.items() if REFERENCE_TAG in _tags(document, path)}
    return [name for name in names if name in tagged]


def _tags(document: dict[str, Any], path: str) -> set[str]:
    """All tags of the labels of a field."""
    value: Any = document
    for part in path.split(".")[:-1]:
        value = value.get(part) if isinstance(value, Mapping) else None
    labels = value if isinstance(value, list) else [value]
    return {tag for label in labels if isinstance(label, Mapping) for tag in tags_of(label)}


def _classes(before: MadeFrom | None, shots: dict[str, int], any_maps: bool) -> tuple[str, ...] | None:
    """The classes to ask for: those of before that are still there, and those that nobody has left out."""
    if before is None or before.classes is None:
        return None
    kept = [name for name in before.classes if any_maps or name in shots]
    return tuple(kept) + tuple(name for name in shots if name not in (*kept, *before.left_out))


def _name(dataset: fo.Dataset, summaries: Sequence[BankSummary]) -> str:
    """Where a new bank goes: in place of the last one of tagged references, but never of one made by hand."""
    ours = {bank.name for bank in summaries if bank.made_from is not None and bank.made_from.tagged}
    name, number = DEFAULT_BANK_NAME, 1
    while dataset.has_run(name) and name not in ours:
        number += 1
        name = f"{DEFAULT_BANK_NAME}_{number}"
    return name
