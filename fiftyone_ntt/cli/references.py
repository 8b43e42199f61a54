"""Commands ``fiftyone-ntt bank ...``: references, and the memory banks that are built from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.markup import escape

from fiftyone_ntt.cli.terminal import progress_bar
from fiftyone_ntt.params.references import MakeMasksFormParams, TaggedBankParams


def add_commands(commands: Any, service: Callable[..., None]) -> None:
    """Adds the commands of the group ``bank``.

    Args:
        commands: where to add them.
        service: makes the parser of one that works on samples.
    """
    service(commands, "build", bank_build, TaggedBankParams, "learn classes from tagged references of a dataset")
    text = "make masks of tagged boxes, points and scribbles, to look at and correct before they count"
    service(commands, "masks", bank_masks, MakeMasksFormParams, text)


def bank_build(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Builds a memory bank from tagged samples of a dataset."""
    params, fields, reference_tag, negative_tag = TaggedBankParams.from_mapping(options).split()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.cli.main import view_of
    from fiftyone_ntt.references.tagging import tagged_negatives, tagged_references

    view = view_of(dataset, tag, saved_view)
    references = tagged_references(view, reference_tag, fields)
    negatives = tagged_negatives(view, fields, negative_tag)
    with progress_bar("references") as progress:
        bank = ntt.build_memory_bank(references, fields, negatives=negatives, progress=progress, **params)
    shots = ", ".join(f"{count} x {name}" for name, count in bank.shots.items())
    shots += f"; {len(bank.negative_ids)} negatives" if bank.negative_ids else ""
    Console().print(f"memory bank [bold]{escape(params['name'])}[/] ({bank.preset}): {escape(shots)}", soft_wrap=True)
    return 0


def bank_masks(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Makes the masks of tagged references and prints where they are."""
    params, fields, reference_tag = MakeMasksFormParams.from_mapping(options).split()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.cli.main import view_of
    from fiftyone_ntt.references.tagging import tagged_references

    references = tagged_references(view_of(dataset, tag, saved_view), reference_tag, fields)
    with progress_bar("references") as progress:
        report = ntt.make_reference_masks(references, fields, progress=progress, **params)
    Console().print(escape(str(report)), soft_wrap=True)
    return 0
