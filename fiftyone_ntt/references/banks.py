"""Reads tagged samples as references, and builds the memory bank from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from numpy.typing import NDArray

from fiftyone_ntt.dataset.fields import (
    check_name,
    dataset_of,
    field_names,
    image_samples,
)
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.negatives import image_centres, with_negatives
from fiftyone_ntt.method.references import ReferenceItem
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models import Preset, load_preset
from fiftyone_ntt.params.base import Progress
from fiftyone_ntt.params.references import TaggedBankParams
from fiftyone_ntt.references.label_kinds import Shown
from fiftyone_ntt.references.prompted_masks import Key, MadeMask, box_mask, make_masks
from fiftyone_ntt.references.reader import ReadSample, ReferenceReader
from fiftyone_ntt.references.tagging import tagged_negatives, tagged_references


def build_memory_bank(
    references: SampleCollection,
    label_field: str | Sequence[str] = "ground_truth",
    *,
    classes: Sequence[str] | None = None,
    preset: str | Preset = "lite",
    name: str | None = None,
    negatives: SampleCollection | None = None,
    ask_granularity: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> MemoryBank:
    """Turns labelled reference samples into a memory bank.

    Every label of the wanted classes counts as one reference, several an image included: detections with a mask, a mask
    file or just a box, keypoints, polylines and segmentation maps (``docs/references.md`` says how each is read). What
    has no mask gets one from the mask model. Labels tagged ``ntt:negative`` show what their class is not, samples
    tagged so show none of the classes.

    Args:
        references: any sample collection: tagged samples, a saved view, selected samples, a patches view.
        label_field: the field that holds the reference labels, or several fields.
        classes: the classes wanted, in this order; all labels found, sorted, where ``None``.
        preset: name of a preset, or a ``Preset`` with checkpoint paths of your own.
        name: keeps the bank with the dataset under this name, where the App and ``segment`` find it. A bank of the same
            name is replaced.
        negatives: more samples that show what is not wanted: by their labels tagged ``ntt:negative`` in the same
            fields, or as a whole where they have none.
        ask_granularity: find out which of the mask model's masks fit the references best, for ``granularity="auto"``;
            the answer is ``bank.granularity``. Encodes every reference image with the mask model too.
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message).

    Returns:
        The memory bank.

    Raises:
        InputError: if a field is missing, there are no samples, or a name is unusable.
        BadReferenceError: if a label cannot serve as a reference (names sample and label), or a class has none.
        MissingWeightsError: if the preset's weights are not on this machine.
    """
    references = image_samples(references)
    if name is not None:
        check_name(name)
    reader = ReferenceReader(references, field_names(label_field), classes, negatives)
    loaded = load_preset(preset, device)
    segmenter = loaded.segmenter()
    bank = bank_from(reader, segmenter, loaded.preset.name, progress, ask_granularity=ask_granularity)
    if name is not None:
        save_bank(dataset_of(references), name, bank)
    return bank


def bank_from(
    reader: ReferenceReader,
    segmenter: Segmenter,
    preset: str,
    progress: Progress | None = None,
    *,
    ask_granularity: bool = False,
) -> MemoryBank:
    """The memory bank of references that were read; see ``build_memory_bank``."""
    passes = 2 if reader.any_prompts else 1
    # Points have several answers, which are compared with all other references: those are looked at first.
    made = make_masks(reader, segmenter, _part(progress, 0, passes)) if reader.any_prompts else None
    unwanted = _Unwanted()
    builder = segmenter.bank_builder(reader.classes, preset=preset, ask_granularity=ask_granularity)
    for item in read_references(reader, segmenter, made, unwanted, _part(progress, passes - 1, passes)):
        builder.add(item)
    bank = builder.bank()
    vectors = unwanted.vectors(segmenter)
    return with_negatives(bank, vectors, unwanted.labels, unwanted.ids) if len(vectors) else bank


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Progress of one of several equal parts, as part of the whole."""
    if progress is None or parts == 1:
        return progress
    return lambda done, total, message: progress(number * total + done, parts * total, message)


@dataclass
class _Unwanted:
    """What is not wanted, gathered while the references are read.

    Attributes:
        items: instances.
        images: vectors of whole images, and the ids of these vectors.
    """

    items: list[ReferenceItem] = field(default_factory=list)
    images: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def labels(self) -> list[str | None]:
        """The class that each vector is not."""
        return [item.label or None for item in self.items] + [None] * len(self.images)

    @property
    def ids(self) -> list[str]:
        """Where each vector came from."""
        return [*(item.reference_id for item in self.items), *self.images]

    def vectors(self, segmenter: Segmenter) -> NDArray[np.float32]:
        """float32 ``[n, C]``: instances as references are encoded, then the whole images."""
        found: list[NDArray[np.float32]] = []
        if self.items:
            found = list(segmenter.reference_vectors(self.items))
        return np.array([*found, *self.images.values()], np.float32)


def read_references(
    reader: ReferenceReader,
    segmenter: Segmenter,
    made: Mapping[Key, MadeMask] | None,
    unwanted: _Unwanted,
    progress: Progress | None = None,
) -> Iterator[ReferenceItem]:
    """Yields every reference instance; those of one image follow each other and share its pixels.

    Args:
        reader: the references.
        segmenter: makes masks from boxes where a label has no mask.
        made: the masks made before; made on the way where ``None``.
        unwanted: negatives are put here.
        progress: called with (done, total, message) after each sample.
    """
    for done, sample in enumerate(reader.samples(), start=1):
        if sample is not None:
            shown = [*sample.shown, *sample.negatives]
            masks = _masks(sample, shown, segmenter, made)
            items = [_item(sample, one, mask) for one, mask in zip(shown, masks, strict=True)]
            yield from items[: len(sample.shown)]
            unwanted.items += items[len(sample.shown) :]
            if sample.empty:
                centres = image_centres(segmenter.image_tokens(sample.image))
                unwanted.images |= {f"{sample.sample_id}/image.{k}": one for k, one in enumerate(centres)}
        if progress is not None:
            progress(done, len(reader), f"encoding references ({done} of {len(reader)})")


def _item(sample: ReadSample, shown: Shown, mask: NDArray[np.bool_]) -> ReferenceItem:
    return ReferenceItem(sample.image, mask, shown.label or "", f"{sample.sample_id}/{shown.label_id}", shown.box)


def _masks(
    sample: ReadSample, shown: Sequence[Shown], segmenter: Segmenter, made: Mapping[Key, MadeMask] | None
) -> list[NDArray[np.bool_]]:
    size = (int(sample.image.shape[0]), int(sample.image.shape[1]))
    if made is not None:
        return [made[sample.sample_id, one.label_id].mask.full(size) if one.mask is None else one.mask for one in shown]
    boxes = np.array([one.box for one in shown if one.mask is None])
    found = iter(segmenter.box_masks(sample.image, boxes) if len(boxes) else [])
    masks = [next(found) if one.mask is None else one.mask for one in shown]
    return [
        box_mask(one.box, size).full(size) if one.mask is None and one.box is not None and not mask.any() else mask
        for one, mask in zip(shown, masks, strict=True)
    ]


def build_tagged_bank(
    target: SampleCollection, params: TaggedBankParams, progress: Progress | None = None
) -> MemoryBank:
    """``build_memory_bank`` from what is tagged in a target, as forms and the command line ask for it.

    Raises:
        InputError: see ``tagged_references`` and ``build_memory_bank``.
    """
    arguments, fields, reference_tag, negative_tag = params.split()
    references = tagged_references(target, reference_tag, fields)
    negatives = tagged_negatives(target, fields, negative_tag)
    return build_memory_bank(references, fields, negatives=negatives, progress=progress, **arguments)


def without_references(view: SampleCollection, bank: MemoryBank) -> SampleCollection:
    """The view without the samples that the bank's references came from."""
    used = {reference.split("/")[0] for reference in bank.reference_ids}
    return view.exclude(sorted(sample_id for sample_id in used if ObjectId.is_valid(sample_id)))


METHOD = "ntt/memory_bank"
_TENSORS = ("vectors", "class_index", "center", "negatives", "negative_class", "crop_vectors", "crop_center")


def save_bank(dataset: fo.Dataset, name: str, bank: MemoryBank) -> None:
    """Keeps a bank with a dataset; a bank of the same name is replaced.

    Raises:
        InputError: if the name is unusable or belongs to a run that is no memory bank.
    """
    check_name(name)
    if dataset.has_run(name) and dataset.get_run_info(name).config.method != METHOD:
        raise InputError(f"{name!r} is the key of another run of {dataset.name!r}; choose another name for the bank")
    config = dataset.init_run(
        method=METHOD,
        preset=bank.preset,
        classes=list(bank.classes),
        shots=list(bank.shots.values()),  # in the order of the classes, whose names need not do as keys
        content_hash=bank.content_hash,
    )
    dataset.register_run(name, config, overwrite=True)
    keep_with_run(dataset, name, bank)


def load_bank(dataset: fo.Dataset, name: str) -> MemoryBank:
    """The bank that ``save_bank`` kept under ``name``.

    Raises:
        InputError: if there is none; names those there are.
    """
    known = list_banks(dataset)
    if name not in known:
        raise InputError(
            f"no memory bank {name!r} with dataset {dataset.name!r}; there is: "
            f"{', '.join(map(repr, known)) or 'none yet, build one from tagged references first'}"
        )
    return bank_of_run(dataset, name)


def keep_with_run(dataset: fo.Dataset, run_key: str, bank: MemoryBank) -> None:
    """Makes a bank the results of a run; ``bank_of_run`` gives it back."""
    tensors, description = bank.to_parts()
    results = dataset.init_run_results(run_key, description=description, **tensors)
    dataset.save_run_results(run_key, results)


def bank_of_run(dataset: fo.Dataset, run_key: str) -> MemoryBank:
    """The bank that ``keep_with_run`` kept."""
    results = dataset.load_run_results(run_key)
    kept = {key: getattr(results, key, None) for key in _TENSORS}
    tensors = {key: np.asarray(value) for key, value in kept.items() if value is not None}
    return MemoryBank.from_parts(tensors, getattr(results, "description", None) or "")


def list_banks(dataset: fo.Dataset) -> list[str]:
    """Names of the banks kept with a dataset."""
    return [str(name) for name in dataset.list_runs(method=METHOD)]


@dataclass(frozen=True)
class BankSummary:
    """What there is to know of a bank without loading it.

    Attributes:
        name: its name.
        shots: class -> references.
        preset: preset of models that it belongs to.
        content_hash: what it holds, in short.
    """

    name: str
    shots: dict[str, int]
    preset: str
    content_hash: str


def bank_summaries(dataset: fo.Dataset) -> dict[str, BankSummary]:
    """Name of each bank kept with a dataset -> what it is."""
    summaries = {}
    for name in list_banks(dataset):
        config = dataset.get_run_info(name).config
        shots = dict(zip(config.classes, config.shots, strict=True))
        summaries[name] = BankSummary(name, shots, config.preset, config.content_hash)
    return summaries
