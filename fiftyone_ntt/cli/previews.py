"""``fiftyone-ntt previews``: small copies of images that the App cannot show."""

from __future__ import annotations

from typing import Any

from fiftyone_ntt.cli.common import (
    add_command,
    add_option,
    add_service,
    dataset_of,
    progress_bar,
    say,
    say_report,
    view_of,
)
from fiftyone_ntt.errors import counted
from fiftyone_ntt.params.labelling import MakePreviewsParams, RemovePreviewsParams


def add_commands(commands: Any) -> None:
    """Adds the commands of the group ``previews``."""
    text = "make small copies of images that a browser cannot show, and have the App show these"
    add_service(commands, "make", make_previews, MakePreviewsParams, text)
    parser = add_command(commands, "remove", remove_previews, "delete them; the App shows the images themselves again")
    parser.add_argument("dataset", help="name of a FiftyOne dataset")
    for info in RemovePreviewsParams.infos():
        add_option(parser, info)


def make_previews(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Makes previews and prints how many."""
    params = MakePreviewsParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress:
        report = ntt.make_previews(view, progress=progress, **params)
    return say_report(report)


def remove_previews(dataset: str, **options: Any) -> int:
    """Removes previews and prints how many."""
    params = RemovePreviewsParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    say(f"{counted(ntt.remove_previews(dataset_of(dataset), **params), 'preview')} removed")
    return 0
