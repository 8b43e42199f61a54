"""Operators of the review: decisions on labels, and what is learned or fitted from them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import detections_fields, is_patches
from fiftyone_ntt.errors import NttError, as_text, listing
from fiftyone_ntt.operators.base import FAILED_SAMPLES, SAMPLE, NttOperator, Table, error_rows, progress_of
from fiftyone_ntt.operators.forms import Form, as_sentence, counted
from fiftyone_ntt.operators.references import selected_labels
from fiftyone_ntt.params.review import (
    DecisionFormParams,
    DecisionParams,
    FitThresholdsParams,
    JudgePresenceParams,
    LearnParams,
)

if TYPE_CHECKING:
    from fiftyone.core.collections import SampleCollection

    from fiftyone_ntt.review.in_sight import InSight
    from fiftyone_ntt.review.label_table import ClassScores

logger = logging.getLogger(__name__)

IN_GRID = "_in_grid"
"""Given by the panel for all undecided labels in the grid, on one side of the threshold: whether to ask first."""
ASK_ABOVE = 20
"""The panel does not decide on more labels than this without a question."""
CHANGES_OF_LABELS = Table("rows", "Labels of each class", {
    "class": "class", "gained": "new", "lost": "gone", "relabelled": "other class before", "unchanged": "as before",
})  # fmt: skip
"""What learning does to the labels."""
NOTHING_LEARNED = (
    "You have not decided on any of these labels yet. Accept some that are right, reject some that are wrong, and come "
    "back: about twenty are enough to begin with."
)
NOTHING_DECIDED = (
    "You have not decided on any of these labels yet: the thresholds will be a guess from the references alone. For "
    "better ones accept some labels that are right and reject some that are wrong first, about twenty in all."
)
DRY_RUN = "Nothing has been written yet. To write it, run this again with **Write the new labels** checked."
APPLIED = "Written. Your decisions stayed; **NTT: Undo run** brings the labels from before back."
NO_RUN = "this dataset has no labelling run yet: label some images first"
_MOST_CLASSES = 20


class _Decide(NttOperator):
    """Decides on labels: on those that are selected, or else on those that its form describes.

    Attributes:
        DONE: completes "3 labels ...".
        ASKS: what its form asks for where no label is selected.
    """

    PARAMS = DecisionParams
    OUTPUTS = None
    BUTTON = SAMPLE
    OPTIONS = {"allow_delegated_execution": False, "risk_level": types.RiskLevel.LOW, "view_target": False}
    CHANGES = False  # the samples are loaded again below, which is quicker
    DONE: str
    ASKS: tuple[str, ...] = tuple(info.name for info in DecisionFormParams.infos())

    def resolve_input(self, ctx: Any) -> types.Property | None:
        """What to decide on where nothing is selected; otherwise one line to confirm.

        Never nothing at all where a button in an open image asks for it: FiftyOne then waits in an empty dialog.
        """
        if IN_GRID in ctx.params:
            return self._question(ctx) if ctx.params[IN_GRID] else None
        selected = _in_sight(ctx).selected()
        if ctx.params.get("label_ids") or (selected and not ctx.current_sample):
            return None
        form = Form(ctx, DecisionFormParams)
        if selected:
            count = counted(sum(map(len, selected.values())), "label")
            form.notice("selected", f"This is about the {count} you have selected.")
        else:
            self.fill(form)
        return form.finished(self.LABEL)

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.runs.record import provenance_of

        samples, text = _in_sight(form.ctx).images()
        form.notice("where", f"No label is selected, so this is about the labels of {text}.")
        classes = provenance_of(form.ctx.dataset, form.value("label_field")).get("classes", ())
        form.add(*self.ASKS, suggestions={"label_field": detections_fields(samples), "classes": list(classes)})
        if form.require_detections("label_field", samples):
            self._check_classes(form, samples)

    def _check_classes(self, form: Form, samples: SampleCollection) -> None:
        from fiftyone_ntt.review.decisions import check_classes

        try:
            check_classes(samples, form.value("label_field"), form.value("classes"))
        except NttError as error:
            form.refuse("classes", str(error))

    def _question(self, ctx: Any) -> types.Property:
        """What is about to be decided on for the whole grid."""
        from fiftyone_ntt.review.decisions import amount

        params = DecisionParams.from_mapping(ctx.params)
        images, labels = amount(_in_sight(ctx).view, **params.to_mapping())
        form = Form(ctx, DecisionFormParams)
        side, bound = ("above", params.above) if params.above is not None else ("of at most", params.below)
        of = f" of {listing(params.classes)}" if params.classes else ""
        text = f"{counted(labels, 'label')}{of} {side} {bound:g} in {counted(images, 'image')}: all in the grid that "
        form.notice("how_many", f"{text}nobody has decided on. You can undo it in the panel.")
        return form.finished(self.LABEL)

    def perform(self, ctx: Any, params: DecisionParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        in_sight = _in_sight(ctx)
        of_selection = in_sight.selects(params)
        changed = in_sight.decide(getattr(ntt, self.NAME), params)
        summary = f"{counted(changed, 'label')} {self.DONE}"
        summary += "." if changed else as_sentence(f": {in_sight.why_unchanged(params)}.", DecisionFormParams)
        if of_selection:
            ctx.ops.clear_selected_labels()
            if is_patches(ctx.view):
                ctx.ops.clear_selected_samples()
        ctx.ops.reload_samples()
        ctx.ops.notify(summary, variant="success" if changed else "info")
        return {"changed": changed, "summary": summary}


class AcceptLabels(_Decide):
    """Tags labels as accepted."""

    NAME, LABEL, ICON, DONE = "accept_labels", "NTT: Accept labels", "thumb_up", "accepted"
    DESCRIPTION = (
        "Marks the selected labels (or else those that a form describes) as right: no later run replaces them."
    )

    def resolve_placement(self, ctx: Any) -> types.Placement | None:
        """Where its buttons are. FiftyOne asks whenever a sample is opened or closed, also where no panel is open."""
        try:
            if ctx.dataset is not None:
                guard_labels(ctx, tell=False)
        except Exception as error:  # of a view that is no longer valid, say: that must not cost the buttons
            logger.warning("labels that the view hides are not looked after: %s", error)
        return super().resolve_placement(ctx)


class RejectLabels(_Decide):
    """Tags labels as rejected."""

    NAME, LABEL, ICON, DONE = "reject_labels", "NTT: Reject labels", "thumb_down", "rejected"
    DESCRIPTION = (
        "Marks the selected labels (or else those that a form describes) as wrong: they take no part any more."
    )


class ClearDecisions(_Decide):
    """Takes the tags of acceptance and rejection away."""

    NAME, LABEL, ICON, DONE = "clear_decisions", "NTT: Clear decisions", "restart_alt", "without a decision"
    DESCRIPTION = "Takes back that the selected labels (or else those that a form describes) were accepted or rejected."
    ASKS = tuple(name for name in _Decide.ASKS if name != "undecided")  # of these, there is nothing to take back


class Learn(NttOperator):
    """Learns from decisions, shows what would change, and writes it if told to."""

    NAME, LABEL, ICON = "learn", "NTT: Learn from my decisions", "school"
    DESCRIPTION = (
        "Accepted labels become references, rejected ones examples of what you do not want; then matches again."
    )
    PARAMS = LearnParams
    OUTPUTS = (CHANGES_OF_LABELS, FAILED_SAMPLES)
    OPTIONS = {"view_target": False}

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.runs.record import labelled_fields

        dataset = form.ctx.dataset
        fields, field = labelled_fields(dataset), form.value("label_field")
        form.add("label_field", "method", "apply", suggestions={"label_field": fields})
        if not form.require_detections("label_field", dataset):
            return
        if field in fields:
            self._show_decisions(form, field)
            return
        there = ", ".join(fields) or "none yet, run 'NTT: Label images' first"
        form.refuse("label_field", f"no run wrote the labels in {field!r}; runs wrote: {there}")

    def perform(self, ctx: Any, params: LearnParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        report = ntt.learn(ctx.dataset, progress=progress_of(ctx), **params.to_mapping())
        return {
            "summary": f"{as_sentence(report, self.PARAMS)}\n\n{APPLIED if params.apply else DRY_RUN}",
            "rows": report.rows(),
            "changed": len(report.changed),
            "errors": error_rows(report.errors),
        }

    def changes(self, params: LearnParams) -> bool:
        return params.apply

    def writes(self, ctx: Any, params: LearnParams) -> str:
        return params.label_field

    def _show_decisions(self, form: Form, field: str) -> None:
        decided, others = _by_decisions(form, field)
        for i, scores in enumerate(decided[:_MOST_CLASSES]):
            counts = f"{scores.accepted} accepted, {scores.rejected} rejected, {scores.edited} edited"
            form.notice(f"decided_{i}", f"{as_text(scores.name)}: {counts}")
        if not decided:
            form.refuse("label_field", NOTHING_LEARNED)
        elif not any(scores.undecided for scores in (*decided, *others)):
            from fiftyone_ntt.review.learn import ALL_DECIDED

            form.notice("all_decided", ALL_DECIDED, warning=True)


class FitThresholds(NttOperator):
    """Fits thresholds to decisions and shows what to expect of them."""

    NAME, LABEL, ICON = "fit_thresholds", "NTT: Fit score thresholds", "straighten"
    DESCRIPTION = "Finds the score above which labels of a class count, from what you accepted and rejected."
    PARAMS = FitThresholdsParams
    OUTPUTS = (
        Table("rows", "Thresholds", {
            "name": "class", "threshold": "score threshold", "precision": "expected right", "recall": "expected found",
            "decided": "decisions", "basis": "fitted on",
        }),
    )  # fmt: skip
    OPTIONS = {"allow_delegated_execution": False, "risk_level": types.RiskLevel.LOW}

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.runs.record import fields_of_runs

        fields = fields_of_runs(form.ctx.dataset)
        form.add(choices={"run_key": {key: f"{key} (field {field})" for key, field in fields.items()}})
        if form.require_choice("run_key", fields, "no labelling run {!r} in this dataset", NO_RUN):
            self._show_decisions(form, fields[form.value("run_key")])

    def perform(self, ctx: Any, params: FitThresholdsParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        thresholds = ntt.fit_thresholds(ctx.dataset, **params.to_mapping())
        rows = [_readable(row) for row in thresholds.rows()]
        return {"summary": as_sentence(thresholds), "run_key": params.run_key, "rows": rows}

    def changes(self, params: FitThresholdsParams) -> bool:
        return params.write_image_labels

    def _show_decisions(self, form: Form, field: str) -> None:
        decided, others = _by_decisions(form, field)
        for i, scores in enumerate(decided[:_MOST_CLASSES]):
            right = scores.accepted + scores.edited - scores.drawn
            text = (
                f"{as_text(scores.name)}: {right} right, {scores.rejected} wrong, of {counted(scores.labels, 'label')}"
            )
            form.notice(f"decided_{i}", text)
        if not decided:
            form.notice("nothing_decided", NOTHING_DECIDED, warning=True)
            return
        from fiftyone_ntt.review.thresholds import LEAST, decisions_needed

        right = sum(scores.accepted + scores.edited - scores.drawn for scores in decided)
        wrong = sum(scores.rejected for scores in decided)
        if min(right, wrong) < LEAST:
            form.notice("needed", decisions_needed(right, wrong), warning=True)
        rest = len(decided) - _MOST_CLASSES
        if rest > 0:
            form.notice("decided_more", f"and decisions on {counted(rest, 'more class', 'more classes')}")
        if others:
            names = listing(scores.name for scores in others)
            form.notice("undecided", f"No decision yet on {names}: the other classes stand in.")


class JudgePresence(NttOperator):
    """Writes which classes are in the images, and which are not."""

    NAME, LABEL, ICON = "judge_presence", "NTT: Write image-level labels", "fact_check"
    DESCRIPTION = "Writes of each image which classes are in it and which are not, with probabilities, to filter by."
    PARAMS = JudgePresenceParams
    OUTPUTS = (
        Table("rows", "Classes", {"class": "class", "present": "images with it", "absent": "images without it"}),
    )
    OPTIONS = {"risk_level": types.RiskLevel.LOW}

    def fill(self, form: Form) -> None:
        from fiftyone_ntt.runs.record import fields_of_runs

        fields = list(fields_of_runs(form.ctx.dataset).values())
        form.add(choices={"label_field": {name: name for name in fields}})
        if not fields:
            form.refuse("label_field", NO_RUN)
            return
        form.set_default("label_field", fields[0])
        text = "The score thresholds are those that you fitted last; without any, a guess from the references."
        form.notice("thresholds", text)

    def perform(self, ctx: Any, params: JudgePresenceParams) -> dict[str, Any]:
        import fiftyone_ntt as ntt

        report = ntt.judge_presence(ctx.target_view(), **params.to_mapping())
        return {"summary": as_sentence(report), "rows": report.rows()}


def _in_sight(ctx: Any) -> InSight:
    """What the person looks at, and what she has selected there; of a question of the panel, what the grid would show
    on both sides of its threshold."""
    from fiftyone_ntt.review.in_sight import InSight

    if IN_GRID not in ctx.params:
        return InSight(ctx.view, ctx.selected or (), selected_labels(ctx), ctx.current_sample)
    from fiftyone_ntt.review.ranking import Grid

    field = DecisionParams.from_mapping(ctx.params).label_field
    return InSight(Grid(ctx.dataset, ctx.request_params, field).on_both_sides())


def _by_decisions(form: Form, field: str) -> tuple[list[ClassScores], list[ClassScores]]:
    """The classes that a person has decided on, and the others."""
    from fiftyone_ntt.review.label_table import summarise_scores

    classes = summarise_scores(form.ctx.dataset, field)
    return [scores for scores in classes if scores.decided], [scores for scores in classes if not scores.decided]


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of fitted thresholds as a person reads it."""
    shares = {key: "-" if row[key] is None else f"{row[key]:.0%}" for key in ("precision", "recall")}
    return {
        "name": row["name"],
        "threshold": f"{row['threshold']:.2f}",
        **shares,
        "decided": f"{row['right']} right, {row['wrong']} wrong",
        "basis": row["basis"],
    }


def guard_labels(ctx: Any, *, tell: bool) -> bool:
    """Keeps what FiftyOne's editor would drop of an opened sample, and puts back what it dropped of a closed one.

    Args:
        ctx: FiftyOne's context.
        tell: whether the App shows messages of this event.

    Returns:
        Whether to look again in a moment: the editor may still be saving.
    """
    from fiftyone_ntt.dataset.storage import app_view
    from fiftyone_ntt.review.guard import put_back, watch

    back = put_back(ctx.dataset, ctx.current_sample, tell=tell)
    if tell and back.labels:
        text = f"FiftyOne's editor had dropped {counted(back.labels, 'label')}, or decisions on them: they are back."
        ctx.ops.reload_samples()
        ctx.ops.notify(text, variant="warning")
    if ctx.current_sample:
        watch(ctx.dataset, app_view(ctx.dataset, ctx.request_params, {}), ctx.current_sample)
    return back.pending
