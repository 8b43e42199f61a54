"""A person is done with an image: only then does it say anything that no object is elsewhere in it."""

from __future__ import annotations

from collections.abc import Sequence

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.dataset.fields import DONE_TAG, whole_images
from fiftyone_ntt.dataset.given import checked_ids
from fiftyone_ntt.dataset.storage import tag_images


def mark_done(samples: SampleCollection, *, sample_ids: Sequence[str] | None = None) -> int:
    """Says that images have been gone through (tag ``ntt:done``): what is wanted there is accepted, edited or drawn.

    No label is touched. Without this, what nobody accepted may just not have been looked at. ``export_labels`` with
    ``only="done"`` writes these images alone, those without any object included.

    Args:
        samples: a dataset or view; of grouped samples, those of the active slice.
        sample_ids: only these of them.

    Returns:
        Number of images that were not marked before.

    Raises:
        InputError: if an id is none.
        WrongTypeError: if the samples are no whole images.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.mark_done(dataset.limit(20))  # doctest: +SKIP
        20
    """
    rest = _chosen(samples, sample_ids).match_tags(DONE_TAG, bool=False)
    count = len(rest)
    if count:
        tag_images(rest, DONE_TAG)
    return count


def clear_done(samples: SampleCollection, *, sample_ids: Sequence[str] | None = None) -> int:
    """Takes back that images have been gone through; no label is touched. Args and errors are those of ``mark_done``.

    Returns:
        Number of images that were marked.

    Example:
        >>> import fiftyone_ntt as ntt
        >>> ntt.clear_done(dataset)  # doctest: +SKIP
        20
    """
    marked = _chosen(samples, sample_ids).match_tags(DONE_TAG)
    count = len(marked)
    if count:
        tag_images(marked, DONE_TAG, add=False)
    return count


def count_done(samples: SampleCollection) -> int:
    """How many images of a collection are marked."""
    return len(whole_images(samples).match_tags(DONE_TAG))


def _chosen(samples: SampleCollection, sample_ids: Sequence[str] | None) -> SampleCollection:
    images = whole_images(samples)
    return images if sample_ids is None else images.select(checked_ids(sample_ids, "samples"))
