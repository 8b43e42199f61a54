"""What comes after labelling: decisions, learning, export, score thresholds, image-level labels, semantic masks."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.table import Table

from fiftyone_ntt.cli.common import (
    add_command,
    add_option,
    add_service,
    console,
    dataset_of,
    narrow_table,
    plain,
    progress_bar,
    say,
    say_as_it_is,
    say_report,
    view_of,
)
from fiftyone_ntt.errors import as_text, counted
from fiftyone_ntt.params.base import Params
from fiftyone_ntt.params.review import (
    DecisionParams,
    ExportParams,
    FitThresholdsParams,
    JudgePresenceParams,
    LearnParams,
    NextImagesParams,
    RefineParams,
    ToSegmentationParams,
    UndoRefinementParams,
)


def add_commands(commands: Any) -> None:
    """Adds the commands."""
    for name, service, done, text in (
        ("accept", "accept_labels", "accepted", "mark labels as right: later runs keep them"),
        ("reject", "reject_labels", "rejected", "mark labels as wrong: they stay, but count no more"),
        ("clear", "clear_decisions", "without a decision now", "take acceptance and rejection of labels back"),
    ):
        add_service(commands, name, partial(decide, service=service, done=done), DecisionParams, text)
    for name, service, done, text in (
        ("done", "mark_done", "done now", "say that all that is wanted in images is accepted, edited or drawn"),
        ("not-done", "clear_done", "not done any more", "take back that images are done"),
    ):
        add_service(commands, name, partial(change_done, service=service, done=done), Params, text)
    text = "give accepted labels crisper masks, where the mask model is sure of them"
    add_service(commands, "refine", refine, RefineParams, text)
    parser = add_command(commands, "undo-refine", undo_refine, "bring the masks from before refining back")
    parser.add_argument("dataset", help="name of a FiftyOne dataset")
    for info in UndoRefinementParams.infos():
        add_option(parser, info)
    text = "name the images whose review is expected to teach most, the first one most"
    add_service(commands, "next", name_next, NextImagesParams, text)
    text = "learn from accepted and rejected labels, show what would change, and write it with --apply"
    add_service(commands, "learn", learn, LearnParams, text)
    add_service(commands, "export", export, ExportParams, "write labels and images to a folder, to train with")
    text = "find the score above which labels of each class count, from what was accepted and rejected"
    parser = add_command(commands, "fit-thresholds", fit_thresholds, text)
    parser.add_argument("dataset", help="name of a FiftyOne dataset")
    parser.add_argument("run_key", help="key of the run whose labels were reviewed, see `runs list`")
    for info in FitThresholdsParams.infos():
        if info.name != "run_key":
            add_option(parser, info)
    text = "write image-level labels: which classes are in each image and which are not"
    add_service(commands, "judge-presence", judge_presence, JudgePresenceParams, text)
    text = "paint the labels of each image into one semantic segmentation mask"
    add_service(commands, "to-segmentation", to_segmentation, ToSegmentationParams, text)


def decide(dataset: str, tag: str | None, saved_view: str | None, *, service: str, done: str, **options: Any) -> int:
    """Decides on labels and prints on how many."""
    params = DecisionParams.from_mapping(options)
    import fiftyone_ntt as ntt
    from fiftyone_ntt.review.decisions import check_classes

    view, decision = view_of(dataset, tag, saved_view), getattr(ntt, service)
    check_classes(view, params.label_field, params.classes)
    # Why none, is in the log.
    say(f"{counted(decision(view, **params.to_mapping()), 'label')} {done}")
    return 0


def change_done(dataset: str, tag: str | None, saved_view: str | None, *, service: str, done: str) -> int:
    """Says of images that they are done, or not, and prints of how many that was not said before."""
    import fiftyone_ntt as ntt

    changed = getattr(ntt, service)(view_of(dataset, tag, saved_view))
    say(f"{counted(changed, 'image')} {done}")
    return 0


def refine(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Refines masks and prints what became of them."""
    params = RefineParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    with progress_bar("images") as progress:
        report = ntt.refine_labels(view_of(dataset, tag, saved_view), progress=progress, **params)
    return say_report(report)


def undo_refine(dataset: str, **options: Any) -> int:
    """Brings the masks from before refining back, and prints how many."""
    params = UndoRefinementParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    say(f"{counted(ntt.undo_refinement(dataset_of(dataset), **params), 'mask')} as before refining")
    return 0


def name_next(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Prints ids and files of the images to review next, a line each."""
    params = NextImagesParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    images = ntt.next_images(view_of(dataset, tag, saved_view), **params)
    for sample_id, path in zip(*images.values(["id", "filepath"]), strict=True):
        say_as_it_is(f"{sample_id} {path}")
    if not len(images):
        say("every image is done, or all of its labels have a decision")
    return 0


def learn(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Learns from decisions and prints what changes."""
    params = LearnParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt
    from fiftyone_ntt.runs.workers import Origin, through

    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress, through(Origin("cli")):
        report = ntt.learn(view, progress=progress, **params)
    table = _table("class", "new", "gone", "other class before", "as before")
    for row in report.rows():
        cells = (str(row[key]) for key in ("gained", "lost", "relabelled", "unchanged"))
        table.add_row(plain(as_text(row["class"])), *cells)
    console().print(table)
    return say_report(report)


def export(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Writes labels and images to a folder, and prints how to load it."""
    params = ExportParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    view = view_of(dataset, tag, saved_view)
    with progress_bar("images") as progress:
        report = ntt.export_labels(view, progress=progress, **params)
    say(report)
    say_as_it_is(f"to load it in Python:\n{report.how_to_load}")
    return 1 if report.left_out else 0


def fit_thresholds(dataset: str, run_key: str, **options: Any) -> int:
    """Fits thresholds and prints them."""
    params = FitThresholdsParams.from_mapping({"run_key": run_key, **options}).to_mapping()
    import fiftyone_ntt as ntt

    fit = ntt.fit_thresholds(dataset_of(dataset), **params)
    table = _table("class", "threshold", "expected right", "expected found", "right", "wrong", "fitted on")
    for number, row in enumerate(fit.rows()):
        shares = ("-" if row[key] is None else f"{row[key]:.0%}" for key in ("precision", "recall"))
        cells = (f"{row['threshold']:.3f}", *shares, str(row["right"]), str(row["wrong"]), row["basis"])
        table.add_row(plain(as_text(row["name"])), *cells, style="bold" if number == 0 else None)
    console().print(table)
    say(fit)
    return 0


def judge_presence(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Writes image-level labels and prints in how many images each class is."""
    params = JudgePresenceParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    report = ntt.judge_presence(view_of(dataset, tag, saved_view), **params)
    table = _table("class", "images with it", "without it")
    for row in report.rows():
        table.add_row(plain(as_text(row["class"])), str(row["present"]), str(row["absent"]))
    console().print(table)
    say(report)
    return 0


def to_segmentation(dataset: str, tag: str | None, saved_view: str | None, **options: Any) -> int:
    """Writes semantic segmentation masks and prints what the values mean."""
    params = ToSegmentationParams.from_mapping(options).to_mapping()
    import fiftyone_ntt as ntt

    with progress_bar("images") as progress:
        report = ntt.to_segmentation(view_of(dataset, tag, saved_view), progress=progress, **params)
    return say_report(report, *(f"{value} = {as_text(name)}" for value, name in enumerate(report.classes, start=1)))


def _table(first: str, *others: str) -> Table:
    table = narrow_table()
    table.add_column(first, overflow="fold", min_width=12)
    for name in others:
        table.add_column(name, justify="left" if name == "fitted on" else "right")
    return table
