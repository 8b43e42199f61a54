"""Operators that label images: the candidates ahead of time, a look at a few images, and the run over all of them."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import detections_fields, image_samples, reference_fields
from fiftyone_ntt.errors import NttError, as_text
from fiftyone_ntt.operators.base import GRID, NttOperator, error_rows, progress_of
from fiftyone_ntt.operators.forms import Form, as_markdown, as_sentence, counted
from fiftyone_ntt.operators.references import TAGGED, require_bank_or_references
from fiftyone_ntt.params.base import Params, StageOneSettings
from fiftyone_ntt.params.labelling import IndexAnywhereParams, IndexParams, SegmentParams
from fiftyone_ntt.params.review import PreviewParams

if TYPE_CHECKING:
    from fiftyone_ntt.references.banks import BankSummary
    from fiftyone_ntt.references.tagged_bank import BankPlan
    from fiftyone_ntt.runs.preview import PreviewImage
    from fiftyone_ntt.runs.segment import SegmentReport

REPLACED = (
    "The references or the settings have changed: the labels of the run before are replaced. What you accepted, "
    "rejected, edited or drew stays, and 'NTT: Undo run' goes back."
)
NOTHING_WRITTEN = (
    "Nothing has been written. If this looks right, label the rest: **Label images** in the panel, or the operator "
    "**NTT: Label images**."
)


class IndexCandidates(NttOperator):
    """Runs the heavy part ahead of time; it needs no references."""

    NAME, LABEL, ICON = "index_candidates", "NTT: Precompute candidates", "inventory_2"
    DESCRIPTION = (
        "Finds all objects of every image of the target ahead of time and keeps them in the candidate cache, so that "
        "labelling takes seconds later."
    )
    PARAMS, ACCEPTS = IndexParams, IndexAnywhereParams
    BUTTON = GRID
    LONG = True
    OPTIONS = {"allow_distributed_execution": True}  # each task of a distributed run indexes its own part
    CHANGES = False  # the cache lies outside the dataset

    def form_params(self) -> type[Params]:
        return IndexAnywhereParams if os.environ.get("RAY_ADDRESS") else IndexParams

    def fill(self, form: Form) -> None:
        form.add("preset")
        target = image_samples(form.ctx.target_view())
        if self.form_params() is IndexAnywhereParams:
            form.add("on_ray")
            if form.value("on_ray"):
                _add_cluster(form, target)
                return
        add_estimate(form, target, form.value("preset"))

    def perform(self, ctx: Any, params: IndexParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        report = ntt.index(ctx.target_view(), progress=progress_of(ctx), **params.to_mapping())
        return {
            "computed": report.computed,
            "found": report.found,
            "failed": report.failed,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 1),
            "errors": error_rows(report.errors),
            "notes": report.notes,
            "summary": as_sentence(report),
        }


class Segment(NttOperator):
    """Labels a view with what the references show."""

    NAME, LABEL, ICON = "segment", "NTT: Label images", "auto_awesome"
    DESCRIPTION = "Finds instances of your references' classes in every image of the target, with masks and scores."
    PARAMS = SegmentParams
    BUTTON = GRID
    LONG = True
    # Each task of a distributed run labels its own part of the target under the same run key.
    OPTIONS = {"allow_distributed_execution": True}

    def fill(self, form: Form) -> None:
        dataset, target = form.ctx.dataset, image_samples(form.ctx.target_view())
        banks = form.offer_banks(TAGGED)
        suggestions = {
            "label_field": sorted({"ntt", *detections_fields(target)}),
            "reference_field": reference_fields(target),
        }
        form.add("label_field", "score_threshold", suggestions=suggestions)
        plan = _plan(form, banks)
        if plan is None:
            return
        if form.is_changed("thresholds") or _has_thresholds(dataset, banks.get(plan.name)):
            form.add("thresholds")
        form.notice("bank", str(plan))
        _foresee(form, target, plan)
        _describe_target(form, target, plan.preset)

    def perform(self, ctx: Any, params: SegmentParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        return report_of(ntt.segment(ctx.target_view(), progress=progress_of(ctx), **params.to_mapping()))


class Preview(NttOperator):
    """Labels a few images, shows them, and writes no label."""

    NAME, LABEL, ICON = "preview", "NTT: Preview on 4 images", "visibility"
    DESCRIPTION = "Shows what your references find in a few images, and writes no label."
    PARAMS = PreviewParams
    BUTTON = GRID
    OUTPUTS = None  # shown image by image
    OPTIONS = {
        "execute_as_generator": True,
        "allow_delegated_execution": False,
        "risk_level": types.RiskLevel.LOW,
    }
    CHANGES = False

    def fill(self, form: Form) -> None:
        target = image_samples(form.ctx.target_view())
        form.offer_banks(TAGGED)
        form.add("images", "score_threshold", suggestions={"label_field": reference_fields(target)})
        require_bank_or_references(form)

    def perform(self, ctx: Any, params: PreviewParams) -> Iterator[Any]:
        import fiftyone_ntt as ntt

        yield ctx.ops.set_progress(label="Loading the models, looking at the references", progress=0.0)
        preview = ntt.preview(ctx.target_view(), **params.to_mapping())
        images: list[PreviewImage] = []
        for image in preview:
            images.append(image)
            label = as_text(f"{len(images)} of {preview.count}: {image}", 500)
            yield ctx.ops.set_progress(label=label, progress=len(images) / preview.count)
        estimate = f"{NOTHING_WRITTEN} **All of them:** {as_markdown(preview.estimate())}"
        summary = "\n\n".join([estimate, *map(as_markdown, preview.notes)])
        yield ctx.ops.show_output(_pictures(images).to_json(), _results(summary, images))


def add_estimate(form: Form, target: SampleCollection, preset: Any) -> None:
    """Says how many images there are, how many are in the cache, and how long the rest takes on this machine."""
    from fiftyone_ntt.runs.estimate import estimate

    # What the form holds of the settings of stage one: the estimate takes the same names.
    settings = {info.name: form.ctx.params.get(info.name) for info in StageOneSettings.infos()}
    given = {name: value for name, value in settings.items() if value not in (None, "")}
    try:
        cost = estimate(target, **{**given, "preset": preset})
    except (NttError, TypeError):  # a value that is being typed; its own field says what is wrong with it
        form.notice("estimate", f"{counted(len(target), 'image')} in the target")
        return
    form.notice("estimate", str(cost))


def _add_cluster(form: Form, target: SampleCollection) -> None:
    """Asks for what a Ray cluster needs to be told; nobody is connected to while something is typed."""
    from fiftyone_ntt.fleet.ray_runner import check_ray, check_store

    form.add("store", "workers", "cpus", "gpus")
    form.notice("estimate", f"{counted(len(target), 'image')} in the target; the cluster does what the store has not.")
    checks = {"on_ray": check_ray, "store": lambda: check_store(form.value("store"))}
    for name, check in checks.items():
        try:
            check()
        except NttError as error:
            form.refuse(name, str(error))


def report_of(report: SegmentReport) -> dict[str, Any]:
    """A run's report as an operator returns it."""
    return {
        "run_key": report.run_key,
        "label_field": report.label_field,
        "labelled": report.labelled,
        "empty": report.empty,
        "failed": report.failed,
        "resumed": report.resumed,
        "by_others": report.by_others,
        "references_skipped": report.references_skipped,
        "instances": report.instances,
        "from_index": report.from_index,
        "indexed": report.indexed,
        "left_out": report.left_out,
        "seconds": round(report.seconds, 1),
        "errors": error_rows(report.errors),
        "notes": report.notes,
        "summary": as_sentence(report),
    }


def _plan(form: Form, banks: Mapping[str, BankSummary]) -> BankPlan | None:
    """The memory bank that a run would have; ``None``, and the form says why, where there is none."""
    from fiftyone_ntt.references.tagged_bank import BankPlan, plan_or_kept

    dataset, chosen = form.ctx.dataset, form.ctx.params.get("bank")
    if chosen:
        if not form.require_choice("bank", banks, "no memory bank {!r} with this dataset", ""):
            return None
        return BankPlan(dataset, chosen, banks[chosen].shots, banks[chosen].preset)
    given = {name: form.ctx.params.get(name) or None for name in ("reference_field", "preset")}
    try:
        return plan_or_kept(
            dataset, given["reference_field"], preset=given["preset"],
            ask_granularity=form.value("granularity") == "auto",
        )  # fmt: skip
    except NttError as error:
        form.refuse("reference_field" if given["reference_field"] else "label_field", str(error))
        return None


def _foresee(form: Form, target: SampleCollection, plan: BankPlan) -> None:
    """Says what becomes of labels that are there, or refuses the form where the run would be refused."""
    from fiftyone_ntt.runs.control import foresee

    try:
        params = SegmentParams.from_mapping(form.ctx.params)
    except NttError:  # a value that is being typed; its own field says what is wrong with it
        return
    if params.overwrite and not form.has("overwrite"):
        form.add("overwrite")
    try:
        if foresee(target, params, plan):
            form.notice("again", REPLACED)
    except NttError as error:
        if form.ctx.dataset.has_field(params.label_field) and not form.has("overwrite"):
            form.add("overwrite")
        form.refuse("label_field", str(error))


def _has_thresholds(dataset: Any, bank: BankSummary | None) -> bool:
    """Whether thresholds were fitted to labels of the bank: otherwise there is nothing to choose."""
    from fiftyone_ntt.runs.applied_thresholds import are_fitted

    return bank is not None and are_fitted(dataset, bank.content_hash)


def _describe_target(form: Form, target: SampleCollection, preset: Any) -> None:
    from fiftyone_ntt.references.tagging import without_tagged

    if not form.value("include_references"):
        target, tagged = without_tagged(target)
        if tagged:
            form.notice("references", f"{counted(tagged, 'image')} with references left out.")
    add_estimate(form, target, preset)


def _pictures(images: list[PreviewImage]) -> types.Property:
    outputs = types.Object()
    outputs.str("summary", view=types.MarkdownView())
    for i, image in enumerate(images):
        outputs.str(f"line_{i}", view=types.MarkdownView())
        if image.picture:
            outputs.str(f"image_{i}", view=types.ImageView(alt=as_text(image.name)))
    return types.Property(outputs, view=types.View(label="What your references find"))


def _results(summary: str, images: list[PreviewImage]) -> dict[str, str]:
    results = {"summary": summary}
    for i, image in enumerate(images):
        results[f"line_{i}"] = as_markdown(image)
        if image.picture:
            results[f"image_{i}"] = f"data:image/jpeg;base64,{base64.b64encode(image.picture).decode()}"
    return results
