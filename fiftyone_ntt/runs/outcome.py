"""One sentence where a run, or a look at a few images, ends without a label: what happened, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fiftyone_ntt.dataset.fields import NO_IMAGES
from fiftyone_ntt.errors import as_text, counted

if TYPE_CHECKING:
    from fiftyone_ntt.runs.segment import SegmentReport


def ended_silently(report: SegmentReport, images: int, score_threshold: float) -> list[str]:
    """What to add to a report that holds no label.

    Args:
        report: of the run, complete but for this.
        images: in the view, references included.
        score_threshold: labels at or below this score do not count.
    """
    if not images:
        return [NO_IMAGES]
    if report.references_skipped == images:
        return [f"{only_references(images)}, or pass include_references=True"]
    if report.by_others or report.labelled:
        return []
    if not report.done:
        return [
            f"nothing was left to do: {counted(report.resumed, 'image')} done before; pass overwrite=True to label anew"
        ]
    if report.failed == report.done:
        return [all_failed(report.errors, f"see to them ('{report.label_field}_status' says why), then run it again")]
    if report.left_out:
        return [f"{all_weak(report.left_out)}; lower_threshold writes them, or choose others"]
    return [nothing_found(report.empty, score_threshold)]


def all_weak(count: int) -> str:
    """Of labels none of which is good enough."""
    below = "found lie below the score thresholds of their classes"
    return counted(count, "label found lies below the score threshold of its class", f"labels {below}")


def only_references(images: int) -> str:
    """Of a view that holds nothing to label."""
    of = "the only image of the view is a reference" if images == 1 else (
        f"all {counted(images, 'image')} of the view are references"
    )  # fmt: skip
    return f"{of}; choose a view that holds others"


def all_failed(errors: Mapping[str, str], where: str) -> str:
    """Of images none of which could be used: sample -> why."""
    sample_id, reason = next(iter(errors.items()))
    of = "the only image" if len(errors) == 1 else f"all {counted(len(errors), 'image')}"
    return f"{of} failed, e.g. sample {sample_id}: {as_text(reason, 300)}; {where}"


def nothing_found(images: int, score_threshold: float) -> str:
    """Of images in which there is nothing, as far as the references tell."""
    what = f"above a score of {score_threshold:g} " if score_threshold else ""
    advice = "lower score_threshold" if score_threshold else (
        "look whether the references show what is in these images, and try more points_per_side"
    )  # fmt: skip
    where = "the image" if images == 1 else f"any of {counted(images, 'image')}"
    return f"nothing was found {what}in {where}: {advice}"
