"""Commands ``fiftyone-ntt bank ...``: references, and the memory banks that are built from them."""

from __future__ import annotations

from typing import Any

from fiftyone_ntt.cli.common import add_service, console, plain, progress_bar, say, view_of
from fiftyone_ntt.errors import as_text, counted
from fiftyone_ntt.params.references import MakeMasksFormParams, TaggedBankParams


def add_commands(commands: Any) -> None:
    """Adds the commands of the group ``bank``."""
    add_service(commands, "build", bank_build, TaggedBankParams, "learn classes from tagged references of a dataset")
    text = "make masks of tagged boxes, points and scribbles, to look at and correct before they count"
    add_service(commands, "masks", bank_masks, MakeMasksFormParams, text)


def bank_build(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Builds a memory bank from tagged samples of a dataset."""
    params = TaggedBankParams.from_mapping(options)
    from fiftyone_ntt.references.banks import build_tagged_bank, notes_of

    view = view_of(dataset, tag, saved_view)
    with progress_bar("references") as progress:
        bank = build_tagged_bank(view, params, progress)
    shots = ", ".join(f"{count} x {as_text(name)}" for name, count in bank.shots.items())
    shots += f"; {counted(len(bank.negative_ids), 'negative')}" if bank.negative_ids else ""
    console().print(f"memory bank [bold]{plain(params.name)}[/] ({bank.preset}): {plain(shots)}", soft_wrap=True)
    for note in notes_of(bank):
        say(f"note: {note}")
    return 0


def bank_masks(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Makes the masks of tagged references and prints where they are."""
    params = MakeMasksFormParams.from_mapping(options)
    from fiftyone_ntt.references.editable_masks import make_tagged_masks

    view = view_of(dataset, tag, saved_view)
    with progress_bar("references") as progress:
        report = make_tagged_masks(view, params, progress)
    say(report)
    return 0
