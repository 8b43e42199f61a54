"""Memory banks of a dataset: built from labelled samples, kept with the dataset as FiftyOne runs, loaded again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import fiftyone as fo
import numpy as np
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from fiftyone.core.runs import RunResults
from numpy.typing import NDArray

from fiftyone_ntt.candidates.tiles import is_tiled
from fiftyone_ntt.dataset.fields import (
    NEGATIVE_TAG,
    REFERENCE_TAG,
    check_name,
    dataset_of,
    field_names,
    image_samples,
)
from fiftyone_ntt.dataset.given import checked_dataset, class_list
from fiftyone_ntt.dataset.progress import with_bar
from fiftyone_ntt.dataset.storage import check_results_size, refresh
from fiftyone_ntt.errors import InputError, WrongTypeError, listing
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.options.negatives import image_centres, with_negatives
from fiftyone_ntt.method.options.text_vote import check_text, with_names
from fiftyone_ntt.method.references import BankBuilder, ReferenceItem
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.models import Preset, load_preset
from fiftyone_ntt.params.base import check_arguments
from fiftyone_ntt.params.references import BuildBankParams
from fiftyone_ntt.pixels.images import content_key, read_bytes
from fiftyone_ntt.references.prompted_masks import make_masks
from fiftyone_ntt.references.reader import MadeFrom, ReferenceReader
from fiftyone_ntt.references.reference_items import items_of
from fiftyone_ntt.references.tagging import tagged_negatives, tagged_references

if TYPE_CHECKING:
    from fiftyone_ntt.params.base import Progress
    from fiftyone_ntt.params.references import TaggedBankParams

logger = logging.getLogger(__name__)

METHOD = "ntt/memory_bank"
"""What FiftyOne knows a bank's run by."""
CONTENTS, _NOTES, HEAD_IMAGES = "contents", "notes", "head_images"
"""Keys of a bank's ``origin``: sample id -> ``content_key`` of its image, what a person should know of it, and ids of
the samples whose decisions trained its head."""
LEARNED = "learned/"
"""Ids of learned vectors begin like this. They do not begin with a sample's id: those name samples to leave out."""
_MOST_BYTES = 1 << 30
"""Of a bank kept with a dataset: ten times what a thousand classes of ten references take."""
_TENSORS = ("vectors", "class_index", "center", "negatives", "negative_class", "crop_vectors", "crop_center",
            "head_weights", "head_bias", "text_vectors")  # fmt: skip


@with_bar
def build_memory_bank(
    references: SampleCollection,
    label_field: str | Sequence[str] = "ground_truth",
    *,
    classes: Sequence[str] | None = None,
    preset: str | Preset = "lite",
    name: str | None = None,
    negatives: SampleCollection | None = None,
    ask_granularity: bool = False,
    large_images: str = "auto",
    text_weight: float = 0.0,
    device: str | None = None,
    progress: Progress | bool | None = None,
) -> MemoryBank:
    """Turns labelled reference samples into a memory bank.

    Every label of the wanted classes counts as one reference, several an image included: detections with a mask, a mask
    file or just a box, keypoints, polylines and segmentation maps (``docs/references.md`` says how each is read). What
    has no mask gets one from the mask model. Labels that are marked as a crowd, as difficult or as to be ignored are
    left out, which a warning says. Labels tagged ``ntt:negative`` show what their class is not, samples tagged so show
    none of the classes.

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
        large_images: references in large images are shown as tiles show objects there: ``"auto"``, ``"on"`` or
            ``"off"``, as for ``segment``.
        text_weight: how much the names of the classes count beside their references, 0..1; only with models that read
            (preset ``"tips"``).
        device: ``"cuda"``, ``"mps"`` or ``"cpu"``; the best there is where ``None``.
        progress: called with (done, total, message); ``None`` shows a bar where somebody looks, ``False`` none.

    Returns:
        The memory bank.

    Raises:
        InputError: if a field is missing, there are no samples, or a name is unusable.
        BadReferenceError: if one of ``classes`` has no reference, or none that can be used, or none can be used at all
            (names samples and labels). One that cannot be used costs itself otherwise, and its class where it was the
            only one, with a warning and a line in ``notes_of(bank)``.
        MissingWeightsError: if the preset's weights are not on this machine.

    Example:
        >>> references = dataset.match_tags("ntt:reference")  # doctest: +SKIP
        >>> bank = ntt.build_memory_bank(references, "ground_truth", preset="lite", name="coins")  # doctest: +SKIP
        >>> bank.shots  # doctest: +SKIP
        {'coin': 3}
    """
    progress, ask_granularity, large_images, text_weight = check_arguments(
        BuildBankParams, progress, ask_granularity=ask_granularity, large_images=large_images, text_weight=text_weight
    )
    references = image_samples(references)
    if name is not None:
        check_name(name)
    classes = class_list(classes)
    reader = ReferenceReader(references, field_names(label_field), classes, negatives)
    bank = bank_of_reader(reader, preset, ask_granularity, device, progress, large_images, text_weight)
    if name is not None:
        made_from = MadeFrom.of(references, reader.fields, classes, ask_granularity, negatives)
        save_bank(dataset_of(references), name, bank, made_from)
    return bank


def bank_of_reader(
    reader: ReferenceReader, preset: str | Preset, ask_granularity: bool, device: str | None,
    progress: Progress | None, large_images: str = "auto", text_weight: float = 0.0,
) -> MemoryBank:  # fmt: skip
    """The bank of the references that a reader reads; what was left out of it is logged too."""
    loaded = load_preset(preset, device)
    segmenter = loaded.segmenter()
    check_text(segmenter.feature_model, text_weight)
    builder = segmenter.bank_builder(reader.classes, preset=loaded.preset.name, ask_granularity=ask_granularity)
    bank = with_names(_filled(builder, reader, segmenter, progress, large_images), segmenter.feature_model, text_weight)
    for note in notes_of(bank):
        logger.warning("%s", note)
    return bank


def build_tagged_bank(
    target: SampleCollection, params: TaggedBankParams, progress: Progress | None = None
) -> MemoryBank:
    """``build_memory_bank`` from what is tagged in a target, as forms and the command line ask for it.

    Raises:
        InputError: see ``tagged_references`` and ``build_memory_bank``.
    """
    arguments, fields, reference_tag, negative_tag = params.split()
    check_name(params.name)
    references = tagged_references(target, reference_tag, fields)
    negatives = tagged_negatives(target, fields, negative_tag)
    arguments |= {"name": None, "negatives": negatives}
    bank = build_memory_bank(references, fields, progress=progress, **arguments)
    made_from = MadeFrom.of(references, fields, params.classes, params.ask_granularity, negatives)
    tagged = (reference_tag, negative_tag) == (REFERENCE_TAG, NEGATIVE_TAG)
    save_bank(dataset_of(image_samples(references)), params.name, bank, replace(made_from, tagged=tagged))
    return bank


def _filled(
    builder: BankBuilder, reader: ReferenceReader, segmenter: Segmenter, progress: Progress | None, large_images: str
) -> MemoryBank:
    """The bank of all samples of a reader."""
    passes = 2 if reader.any_prompts else 1
    # Points have several answers, which are compared with all other references: those are looked at first.
    masks = make_masks(reader, segmenter, _part(progress, 0, passes)) if reader.any_prompts else None
    tell = _part(progress, passes - 1, passes)
    unwanted: list[ReferenceItem] = []
    empty: dict[str, NDArray[np.float32]] = {}  # id -> vector of an image that shows none of the classes
    contents: dict[str, str] = {}
    labels: set[str] = set()
    for done, sample in enumerate(reader.samples(), start=1):
        if sample is not None:
            items = items_of(sample, segmenter, masks, is_tiled(sample.size, large_images))
            for item in items[: len(sample.positives)]:
                builder.add(item)
                labels.add(item.label)
            unwanted += items[len(sample.positives) :]
            if sample.empty:
                centres = image_centres(segmenter.image_tokens(sample.image))  # [k, C]
                empty |= {f"{sample.sample_id}/image.{k}": centre for k, centre in enumerate(centres)}
            contents[sample.sample_id] = sample.content
        if tell is not None:
            tell(done, len(reader), f"encoding references ({done} of {len(reader)})")
    bank = _with_unwanted(builder.bank(reader.drop_bare(labels)), segmenter, unwanted, empty)
    return bank.changed(origin={CONTENTS: contents, **({_NOTES: reader.notes} if reader.notes else {})})


def _part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Progress of one of several equal parts, as part of the whole."""
    if progress is None or parts == 1:
        return progress
    return lambda done, total, message: progress(number * total + done, parts * total, message)


def _with_unwanted(
    bank: MemoryBank, segmenter: Segmenter, items: Sequence[ReferenceItem], empty: Mapping[str, NDArray[np.float32]]
) -> MemoryBank:
    """The bank with negatives: objects, encoded as references are, then images that show none of the classes."""
    if not items and not empty:
        return bank
    encoded = list(segmenter.reference_vectors(items)) if items else []
    vectors = np.array([*encoded, *empty.values()], np.float32)  # [n, C]
    labels = [item.label or None for item in items] + [None] * len(empty)
    return with_negatives(bank, vectors, labels, [*(item.reference_id for item in items), *empty])


def notes_of(bank: MemoryBank) -> list[str]:
    """What a person should know of how a bank came about, e.g. labels that were left out of the references."""
    return list(bank.origin.get(_NOTES) or [])


def seen_images(bank: MemoryBank) -> dict[str, str]:
    """Id of each image that a bank has seen -> as what: ``"reference"``, ``"negative"`` or ``"learned"``."""
    seen: dict[str, str] = {}
    for kind, ids in (("reference", bank.reference_ids), ("negative", bank.negative_ids)):
        for key in ids:
            name = key.removeprefix(LEARNED).split("/")[0]
            seen.setdefault(name, "learned" if key.startswith(LEARNED) else kind)
    trained_on = () if bank.head is None else bank.origin.get(HEAD_IMAGES) or ()
    return {**dict.fromkeys(map(str, trained_on), "learned"), **seen}


def contents_of(bank: MemoryBank) -> dict[str, str]:
    """Id of an image that a bank has seen -> ``content_key`` of its file; banks of before know of none."""
    contents = bank.origin.get(CONTENTS)
    return {str(name): str(key) for name, key in contents.items()} if isinstance(contents, Mapping) else {}


def with_contents(bank: MemoryBank, paths: Mapping[str, str]) -> MemoryBank:
    """The bank with the content of more images that it has seen: id -> file. One that cannot be read stays unknown."""
    contents, seen = contents_of(bank), seen_images(bank)
    for name, path in paths.items():
        with suppress(InputError):
            contents[name] = content_key(read_bytes(path))
    return bank.changed(origin={**bank.origin, CONTENTS: {name: contents[name] for name in contents if name in seen}})


def without_references(view: SampleCollection, bank: MemoryBank) -> SampleCollection:
    """The view without the samples that the bank's references came from."""
    used = {reference.split("/")[0] for reference in bank.reference_ids}
    return view.exclude(sorted(sample_id for sample_id in used if ObjectId.is_valid(sample_id)))


def save_bank(dataset: fo.Dataset, name: str, bank: MemoryBank, made_from: MadeFrom | None = None) -> None:
    """Keeps a bank with a dataset, where ``segment`` and the App find it; a bank of the same name is replaced.

    For banks from elsewhere: built without FiftyOne, loaded from a folder, or kept with another dataset.

    Args:
        dataset: the dataset.
        name: the name to keep it by: letters, digits and underscores.
        bank: the bank.
        made_from: what it was built from, where that is known.

    Raises:
        InputError: if the name is unusable or belongs to a run that is no memory bank, or the bank is too large.
        WrongTypeError: if it is no memory bank.

    Example:
        >>> bank = ntt.MemoryBank.load("coins")  # doctest: +SKIP
        >>> ntt.save_bank(dataset, "coins", bank)  # doctest: +SKIP
        >>> ntt.segment(dataset, "coins")  # doctest: +SKIP
    """
    if not isinstance(bank, MemoryBank):
        raise WrongTypeError(f"expected a MemoryBank to keep as {name!r}, got {type(bank).__name__}")
    check_name(name)
    if dataset.has_run(name) and dataset.get_run_info(name).config.method != METHOD:
        raise InputError(f"{name!r} is the key of another run of {dataset.name!r}; choose another name for the bank")
    check_kept_size(bank)
    config = dataset.init_run(
        method=METHOD,
        preset=bank.preset,
        classes=list(bank.classes),
        shots=list(bank.shots.values()),  # in the order of the classes, whose names need not do as keys
        content_hash=bank.content_hash,
        made_from=None if made_from is None else asdict(made_from),
    )
    dataset.register_run(name, config, overwrite=True)
    keep_with_run(dataset, name, bank)


def load_bank(dataset: fo.Dataset, name: str) -> MemoryBank:
    """The bank that ``save_bank`` kept under ``name``.

    Raises:
        InputError: if there is none; names those there are.

    Example:
        >>> bank = ntt.load_bank(dataset, "coins")  # doctest: +SKIP
        >>> ntt.segment(dataset, bank)  # doctest: +SKIP
    """
    refresh(dataset)  # the App builds banks in processes of its own
    names = list_banks(dataset)
    if name not in names:
        there = listing(map(repr, names), like=repr(name))
        raise InputError(
            f"no memory bank {name!r} with dataset {dataset.name!r}; there is: "
            f"{there if names else 'none yet, build one from tagged references first'}"
        )
    return bank_of_run(dataset, name)


def check_kept_size(bank: MemoryBank) -> None:
    """Raises InputError if ``bank_of_run`` would not give the bank back, as it is too large."""
    tensors, description = bank.to_parts()
    size = sum(-(-tensor.nbytes // 3) * 4 for tensor in tensors.values()) + len(description)  # as text of base 64
    if size > _MOST_BYTES:
        raise InputError(f"expected a memory bank of at most {_MOST_BYTES} bytes, got {size}: take fewer references")


def keep_with_run(dataset: fo.Dataset, run_key: str, bank: MemoryBank) -> None:
    """Makes a bank the results of a run; ``bank_of_run`` gives it back."""
    tensors, description = bank.to_parts()
    results = dataset.init_run_results(run_key, description=description, **tensors)
    dataset.save_run_results(run_key, results)


def bank_of_run(dataset: fo.Dataset, run_key: str) -> MemoryBank:
    """The bank that ``keep_with_run`` kept."""
    check_results_size(dataset, run_key, _MOST_BYTES)
    # FiftyOne's own cache of results outlives what another process has put in their place.
    results = dataset.load_run_results(run_key, cache=False)
    if results is None:
        raise InputError(
            f"no memory bank is kept with {run_key!r}, which was stopped as it began: call segment as before, which "
            "keeps it, or build the bank again if it has this name"
        )
    return bank_of_results(results, run_key)


def bank_of_results(results: RunResults, run_key: str) -> MemoryBank:
    """The bank in what ``keep_with_run`` kept with a run."""
    kept = {key: getattr(results, key, None) for key in _TENSORS}
    try:
        tensors = {key: np.asarray(value) for key, value in kept.items() if value is not None}
    except ValueError as error:  # rows of different lengths
        raise InputError(f"the memory bank of {run_key!r} is damaged ({error}); build it again") from error
    return MemoryBank.from_parts(tensors, getattr(results, "description", None) or "")


def list_banks(dataset: fo.Dataset) -> list[str]:
    """Names of the banks kept with a dataset.

    Example:
        >>> ntt.list_banks(dataset)  # doctest: +SKIP
        ['coins']
    """
    return [str(name) for name in checked_dataset(dataset).list_runs(method=METHOD)]


@dataclass(frozen=True)
class BankSummary:
    """What there is to know of a bank without loading it.

    Attributes:
        name: its name.
        shots: class -> references.
        preset: preset of models that it belongs to.
        content_hash: what it holds, in short.
        made_from: what it was built from; ``None`` where nobody noted it.
    """

    name: str
    shots: dict[str, int]
    preset: str
    content_hash: str
    made_from: MadeFrom | None = None


def bank_summaries(dataset: fo.Dataset) -> dict[str, BankSummary]:
    """Name of each bank kept with a dataset -> what it is; the newest comes last."""
    refresh(dataset)
    summaries = {}
    infos = {name: dataset.get_run_info(name) for name in list_banks(dataset)}
    for name, info in sorted(infos.items(), key=lambda item: item[1].timestamp):
        config = info.config
        try:
            shots = dict(zip(config.classes, config.shots, strict=True))
            facts = getattr(config, "made_from", None)  # a version before this one noted none
            made_from = None if facts is None else MadeFrom.from_facts(facts)
            summaries[name] = BankSummary(name, shots, config.preset, config.content_hash, made_from)
        except (AttributeError, TypeError, ValueError) as error:  # one damaged record costs one bank
            logger.warning("passing over the memory bank %r, whose record is damaged: %s", name, error)
    return summaries
