"""What the tab "Review" consists of: small parts, each drawn by one function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_ntt.panels import layout
from fiftyone_ntt.params.review import DOUBTS

if TYPE_CHECKING:
    from fiftyone_ntt.review.label_table import LabelTable
    from fiftyone_ntt.review.thresholds import Thresholds

ALL = "All classes"
NOTHING_YET = "**Nothing to review yet.**\n\nLabel your images first: go to the tab **Runs**."
NO_LABELS = "**No labels.**\n\nThe run has found nothing so far. Once it has, its labels appear here."
SELECT_FIRST = "Select labels first: open an image and click them there, or show patches in the grid and tick those."
GUESSED = "The suggested thresholds are a guess: no label was decided on yet. Accept some, reject some, then fit again."
NOT_JUDGED = (
    "Not judged yet: **Fit thresholds to my review** does it, also before any decision (then as a guess from the "
    "references)."
)
_DOUBT_LABELS = ("Near the threshold", "Two classes alike", "Unsure mask", "Overlapped")
_COLUMNS = ("labels", "above", "accepted", "rejected", "undecided")
_STACKED_CLASSES = 8
_ROWS = 100
_HEIGHT = 210
_COLOURS = ("#FF6D04", "#2E8BC0", "#3FA34D", "#B565D9", "#E0B000", "#D1495B", "#00A6A6", "#8D6E63")


def fields_of_runs(dataset: Any) -> list[str]:
    """Fields that a labelling run wrote."""
    schema = dataset.get_field_schema()
    return [name for name, field in schema.items() if "ntt" in (field.info or {}) and hasattr(field, "document_type")]


def run_of_field(dataset: Any, name: str) -> str | None:
    """Key of the run that wrote a field."""
    return ((dataset.get_field(name).info or {}).get("ntt") or {}).get("run_key")


def field_of_run(dataset: Any, run_key: Any) -> str | None:
    """The field that a run wrote."""
    return next((name for name in fields_of_runs(dataset) if run_of_field(dataset, name) == run_key), None)


def table(ctx: Any) -> LabelTable:
    """The labels of the chosen field."""
    from fiftyone_ntt.review.label_table import table_of

    return table_of(ctx.dataset, ctx.panel.state.review_field)


def chosen(ctx: Any) -> str | None:
    """The chosen class, ``None`` for all."""
    name = ctx.panel.state.review_class
    return None if name in (None, ALL) else str(name)


def threshold(ctx: Any) -> float:
    """The chosen threshold."""
    value = ctx.panel.state.review_threshold
    return 0.5 if value is None else float(value)


def suggested(ctx: Any) -> float:
    """A threshold to begin with, for the chosen class: the fitted one where there is one."""
    from fiftyone_ntt.review.label_table import suggest_threshold

    fit, name = fitted(ctx), chosen(ctx)
    if fit is None:
        return suggest_threshold(table(ctx), name)
    return round((fit.overall if name is None else fit.classes.get(name, fit.overall)).threshold, 3)


def fitted(ctx: Any) -> Thresholds | None:
    """The thresholds fitted to the chosen field, if there are any."""
    from fiftyone_ntt.review.thresholds import thresholds_of_field

    return thresholds_of_field(ctx.dataset, ctx.panel.state.review_field)


def _expected(ctx: Any, labels: LabelTable) -> str | None:
    """What to expect at the threshold, in one line; ``None`` without a fit."""
    from fiftyone_ntt.review.thresholds import in_words

    fit = fitted(ctx)
    if fit is None:
        return None
    if fit.guessed:
        return GUESSED
    found = fit.expected(labels, threshold(ctx), chosen(ctx))
    decided = fit.overall.right + fit.overall.wrong
    return f"At {threshold(ctx):g}: {in_words(found.precision, found.recall)} (from {decided:,} decisions)."


def bar_start(x: float) -> float:
    """Where the bar with its middle at ``x`` begins."""
    from fiftyone_ntt.review.label_table import BINS

    return int(x * BINS) / BINS


def show_counts(ctx: Any, labels: LabelTable) -> None:
    """Fills the table and the histogram, and notes the numbers that are on buttons."""
    from fiftyone_ntt.review.label_table import scores_of

    state, name = ctx.panel.state, chosen(ctx)
    scores = scores_of(labels, threshold(ctx))
    state.review_classes = [one.name for one in scores]
    rows = [{"class": one.name, **{key: getattr(one, key) for key in _COLUMNS}} for one in scores]
    total = {"class": ALL, **{key: sum(row[key] for row in rows) for key in _COLUMNS}}
    shown = [one for one in scores if name in (None, one.name)]
    state.review_accept_above = sum(one.undecided_above for one in shown)
    state.review_reject_below = sum(one.undecided - one.undecided_above for one in shown)
    state.review_expected = _expected(ctx, labels)
    ctx.panel.set_data("review_rows", [total, *rows[:_ROWS]])
    ctx.panel.set_data("review_plot", _bars(shown))
    # The App keeps what is in a row of controls under the row's name.
    state.review_choices = {"review_class": name or ALL, "review_field": state.review_field}
    state.review_slider = threshold(ctx)


def _bars(scores: list[Any]) -> list[dict[str, Any]]:
    from fiftyone_ntt.review.label_table import BINS

    if len(scores) > _STACKED_CLASSES:
        series = [("labels", [sum(column) for column in zip(*(one.histogram for one in scores), strict=True)])]
    else:
        series = [(one.name, list(one.histogram)) for one in scores]
    middles = [round((i + 0.5) / BINS, 4) for i in range(BINS)]
    return [
        {
            "type": "bar",
            "name": name,
            "x": middles,
            "y": counts,
            "width": 0.92 / BINS,
            "marker": {"color": _COLOURS[i % len(_COLOURS)]},
            "hovertemplate": "%{y} labels<br>score about %{x:.2f}<extra>" + name.replace("<", "&lt;") + "</extra>",
        }
        for i, (name, counts) in enumerate(series)
    ]


def draw_choices(tab: Any, ctx: Any, panel: types.Object, fields: list[str]) -> None:
    """Which field, which class."""
    row = panel.h_stack("review_choices", gap=2, align_y="center")
    if len(fields) > 1:
        view = types.DropdownView()
        for name in fields:
            view.add_choice(name, label=name)
        row.enum("review_field", fields, view=view, label="Labels", on_change=tab.on_review_field)
    names = [ALL, *ctx.panel.state.review_classes]
    view = types.DropdownView()
    for name in names:
        view.add_choice(name, label=name)
    row.enum("review_class", names, view=view, label="Class", on_change=tab.on_review_class)
    row.btn("review_refresh", label="Refresh", icon="refresh", on_click=tab.on_review_refresh)


def draw_counts(tab: Any, panel: types.Object) -> None:
    """How many labels of each class there are, and what was decided; a click on a row shows that class."""
    view = layout.table({key: key.capitalize() for key in ("class", *_COLUMNS)}, on_click_row=tab.on_review_row)
    panel.list("review_rows", types.Object(), view=view)


def draw_threshold(tab: Any, ctx: Any, panel: types.Object) -> None:
    """The histogram, and the threshold in it."""
    value = threshold(ctx)
    if ctx.panel.state.review_added:
        text = f"Click a bar, or move the slider: the grid shows labels above **{value:g}**."
    else:
        text = f"Click a bar, or move the slider, and the grid shows only labels above it. It stands at **{value:g}**."
    panel.md(f"**Scores.** {text}", name="review_t")
    line = {"type": "line", "x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper"}
    shape = {
        "barmode": "stack",
        "bargap": 0,
        "margin": {"l": 44, "r": 8, "t": 28, "b": 32},
        "xaxis": {"range": [0, 1], "fixedrange": True},
        "yaxis": {"fixedrange": True},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "showlegend": chosen(ctx) is None,
        "shapes": [{**line, "line": {"color": "#888888", "width": 2, "dash": "dot"}}],
    }
    layout.add_plot(panel, "review_plot", _HEIGHT, shape, on_click=tab.on_review_bar)
    panel.float(
        "review_slider",
        min=0,
        max=1,
        multipleOf=0.01,
        view=types.SliderView(
            componentsProps={"slider": {"min": 0, "max": 1, "step": 0.01, "valueLabelDisplay": "off"}}
        ),
        on_change=tab.on_review_threshold,
    )
    row = panel.h_stack("review_views", gap=1)
    row.btn("review_suggest", label="Suggest a threshold", icon="auto_fix_high", on_click=tab.on_review_suggest)
    row.btn("review_fit", label="Fit thresholds to my review", icon="straighten", on_click=tab.on_review_fit)
    if ctx.panel.state.review_added:
        row.btn("review_show_all", label="Show all", icon="filter_alt_off", on_click=tab.on_review_show_all)
    if ctx.panel.state.review_expected:
        panel.md(ctx.panel.state.review_expected, name="review_expectation")


def show_verdicts(ctx: Any) -> None:
    """Fills the table of images with and without each class; notes its classes, none where nothing was judged."""
    from fiftyone_ntt.runs.presence_fields import verdict_counts

    counts = verdict_counts(ctx.dataset, ctx.panel.state.review_field)
    rows = [{"class": name, "with": there, "without": not_there} for name, (there, not_there) in counts.items()]
    ctx.panel.state.review_judged = [row["class"] for row in rows[:_ROWS]]
    ctx.panel.set_data("review_verdicts", rows[:_ROWS])


def draw_verdicts(tab: Any, ctx: Any, panel: types.Object) -> None:
    """In how many images each class is; a click on a row shows those without it."""
    judged = bool(ctx.panel.state.review_judged)
    text = "Click a class: the grid shows the images judged to be **without** it, the surest first."
    panel.md(f"**Images.** {text if judged else NOT_JUDGED}", name="review_images")
    if judged:
        headings = {"class": "Class", "with": "Images with it", "without": "Without it"}
        view = layout.table(headings, on_click_row=tab.on_review_without)
        panel.list("review_verdicts", types.Object(), view=view)


def draw_decisions(tab: Any, ctx: Any, panel: types.Object) -> None:
    """Buttons that decide on the selected labels, and on all that nobody has decided on."""
    state = ctx.panel.state
    of = "" if chosen(ctx) is None else f" of {chosen(ctx)!r}"
    panel.md("**Decide.** Select labels and say what they are; the rest by the threshold.", name="review_decide")
    row = panel.h_stack("review_selected", gap=1)
    row.btn("review_accept", label="Accept selected", icon="thumb_up", on_click=tab.on_review_accept)
    row.btn("review_reject", label="Reject selected", icon="thumb_down", on_click=tab.on_review_reject)
    row.btn("review_clear", label="Undecide selected", icon="restart_alt", on_click=tab.on_review_clear)
    row = panel.h_stack("review_bulk", gap=1)
    above, below = state.review_accept_above or 0, state.review_reject_below or 0
    row.btn(
        "review_accept_above", label=f"Accept all {above:,} undecided{of} above", icon="done_all", disabled=not above,
        on_click=tab.on_review_accept_above, variant="outlined",
    )  # fmt: skip
    row.btn(
        "review_reject_below", label=f"Reject all {below:,} below", icon="remove_done", disabled=not below,
        on_click=tab.on_review_reject_below, variant="outlined",
    )  # fmt: skip


def draw_doubt(tab: Any, panel: types.Object) -> None:
    """Buttons that bring the most doubtful labels to the top of the grid."""
    panel.md("**Most doubtful first.** The 200 undecided labels that most need a look.", name="review_doubts")
    row = panel.h_stack("review_doubt", gap=1)
    for kind, label in zip(DOUBTS, _DOUBT_LABELS, strict=True):
        row.btn(f"review_doubt_{kind}", label=label, on_click=tab.on_review_doubt, params={"by": kind})


def draw_export(tab: Any, panel: types.Object) -> None:
    """The way out, to a model that is trained on what was reviewed."""
    panel.md("**Leave.** Reviewed labels, ready to train something smaller: COCO, YOLO or FiftyOne.", name="review_out")
    panel.btn("review_export", label="Export reviewed labels", icon="file_download", on_click=tab.on_review_export)
