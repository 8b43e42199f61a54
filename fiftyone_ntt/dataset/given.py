"""What a caller gives to a service: a dataset or a view, ids, names of classes. What is something else is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import fiftyone as fo
from bson import ObjectId
from fiftyone.core.collections import SampleCollection
from fiftyone.core.stages import Concat, Mongo

from fiftyone_ntt.errors import InputError, WrongTypeError, as_text, counted
from fiftyone_ntt.pixels.images import image_size


def checked_collection(given: SampleCollection) -> SampleCollection:
    """A dataset or a view; raises WrongTypeError where it is the name of one, a list of samples, or what not."""
    if isinstance(given, SampleCollection):
        return given
    raise WrongTypeError(f"expected a dataset or a view of one, got {_said(given)}; {_advice(given)}")


def checked_dataset(given: fo.Dataset) -> fo.Dataset:
    """A dataset; raises WrongTypeError where it is something else, a view of one included."""
    if isinstance(given, fo.Dataset):
        return given
    if isinstance(given, SampleCollection):
        name = given.dataset_name
        raise WrongTypeError(
            f"expected a dataset, got a view of {as_text(name)!r}; runs and memory banks are of the whole of it: give "
            f"fiftyone.load_dataset({name!r})"
        )
    raise WrongTypeError(f"expected a dataset, got {_said(given)}; {_advice(given)}")


def each_once(view: SampleCollection) -> SampleCollection:
    """The view itself; raises InputError where one made by ``concat`` or ``mongo`` shows a sample more than once.

    Its labels would be counted as often, and which of its copies is meant nobody can say.
    """
    if isinstance(view, fo.DatasetView) and any(isinstance(stage, (Concat, Mongo)) for stage in view._stages):
        seen = Counter(view.values("_id"))
        twice = sum(count > 1 for count in seen.values())
        if twice:
            raise InputError(
                f"expected a view of each sample once, got {counted(twice, 'sample')} of {len(seen):,} more than once "
                '(by concat or mongo); give dataset.select(list(set(view.values("id")))), and filter its labels then'
            )
    return view


def add_sizes(view: SampleCollection) -> None:
    """Writes the sizes of images that FiftyOne cannot open: of too many pixels for it, or of kinds it does not know."""
    ids, paths = view.values(["id", "filepath"])
    sizes = {sample_id: image_size(path) for sample_id, path in zip(ids, paths, strict=True)}
    known = {key: fo.ImageMetadata(height=size[0], width=size[1]) for key, size in sizes.items() if size is not None}
    if known:
        view.set_values("metadata", known, key_field="id")


def _advice(given: object) -> str:
    if isinstance(given, str):
        return f"load it first: fiftyone.load_dataset({given[:100]!r})"
    return "fiftyone.load_dataset gives a dataset, and its select(ids) a view of some samples"


def _said(given: object) -> str:
    return f"the text {as_text(given)!r}" if isinstance(given, str) else type(given).__name__


def checked_ids(ids: Iterable[object], what: str) -> list[str]:
    """Ids as FiftyOne takes them. ``what`` they are of is for the error.

    Raises:
        InputError: where one is none.
        WrongTypeError: if they are no list.
    """
    if not isinstance(ids, Iterable):
        raise WrongTypeError(f"expected a list of ids of {what}, got {ids!r}; leave it out to take all")
    texts = [ids] if isinstance(ids, str) else [str(one) for one in ids]
    for text in texts:
        if not ObjectId.is_valid(text):
            raise InputError(f"expected ids of {what}, 24 hexadecimal digits each, got {text[:60]!r}; see its field id")
    return texts


def class_list(classes: Iterable[str] | None) -> list[str] | None:
    """Names of classes from a list, a generator, an array; ``None`` where it is left out.

    Raises:
        InputError: if it is one text, or one of them is no text.
        WrongTypeError: if it is nothing that has names in it.
    """
    if classes is None:
        return None
    if not isinstance(classes, Iterable):
        raise WrongTypeError(f"expected a list of distinct class names, got {classes!r}; leave it out to take all")
    names = list(classes)
    if isinstance(classes, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"expected a list of distinct class names, got {classes!r}")
    return [str(name) for name in names]
