"""Which images' sizes are known."""

from __future__ import annotations

from fiftyone.core.collections import SampleCollection

from fiftyone_ntt.errors import InputError


def with_sizes(view: SampleCollection, notes: list[str]) -> SampleCollection:
    """The samples whose image size is known, after computing what is missing.

    Args:
        view: the samples.
        notes: gets a line where some are left out.

    Raises:
        InputError: if no image can be read.
    """
    unsized = view.exists("metadata.width", False)
    if len(unsized):
        unsized.compute_metadata(overwrite=True, progress=False)
    sized = view.exists("metadata.width")
    if not len(sized):
        raise InputError("no image of the view could be read; check the samples' filepath")
    if len(sized) < len(view):
        notes.append(f"{len(view) - len(sized)} samples left out: their images cannot be read")
    return sized
