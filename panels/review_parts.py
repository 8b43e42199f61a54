"""What the tab "Review" consists of: small parts, each drawn by one function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import ACCEPTED_TAG, REJECTED_TAG
from fiftyone_ntt.errors import as_text, counted
from fiftyone_ntt.operators.forms import as_markdown, as_plot_text
from fiftyone_ntt.operators.review import CHANGES_OF_LABELS
from fiftyone_ntt.panels.tabs import Button, Tab, add_plot, choice, table
from fiftyone_ntt.params.review import DOUBTS

if TYPE_CHECKING:
    from fiftyone_ntt.review.label_table import ClassScores, LabelTable
    from fiftyone_ntt.review.ranking import Grid
    from fiftyone_ntt.review.thresholds import Thresholds

NOTHING_YET = "**Nothing to review yet.**\n\nLabel your images first: go to the tab **Runs**."
NO_LABELS = "**No labels.**\n\nThe run has found nothing so far. Once it has, its labels appear here."
SELECT_FIRST = "Select labels first: open an image and click them there, or show patches in the grid and tick those."
GUESSED = "The suggested score thresholds are a guess: hardly any label was decided on when they were fitted."
LEFT_OUT = (
    "The run left out labels below {lowest:g}: they look too little like the references. **Bring weaker labels back** "
    "writes those above {value:g}, within seconds."
)
NOT_JUDGED = (
    "There are none yet: **Fit score thresholds** writes them, also before any decision (then as a guess from the "
    "references)."
)
UNCERTAIN_SINCE = dict(
    zip(DOUBTS, ("Near the threshold", "Two classes alike", "Uncertain mask", "Overlapped"), strict=True)
)
"""Why a label can be uncertain -> what the button that shows such labels is called."""
NEXT = (
    "**Images that teach most.** Many objects of classes of which little is known, no two images alike: go through "
    "them, mark them as done, then learn."
)
LEARN = (
    "**Learn.** What you accepted becomes a reference, what you rejected an example of what you do not want; then all "
    "images are matched again. You see what would change before anything is written."
)
ABOVE = "Above the threshold"
SHOWN: dict[str, tuple[str, ...]] = {ABOVE: (), "Accepted": (ACCEPTED_TAG,), "Rejected": (REJECTED_TAG,)}
"""What the grid can show -> the tags of these labels; none where the threshold decides."""
_COLUMNS = ("labels", "above", "accepted", "rejected", "undecided")
_STACKED_CLASSES = 8
_ROWS = 100
_HEIGHT = 210
_ORANGE = "#FF6D04"
_AXIS_LEFT, _AXIS_RIGHT = 44, 8  # pixels beside the histogram's axis
# FiftyOne puts 16 pixels beside a slider and 32 above and below it; these lay it along the axis, right below.
_UNDER_AXIS = {
    "display": "block", "ml": f"{_AXIS_LEFT - 16}px", "width": f"calc(100% - {_AXIS_LEFT + _AXIS_RIGHT - 32}px)",
    "mt": "-60px", "mb": "-64px",
}  # fmt: skip
WRAPPED = {
    "grid": {
        "sx": {
            "display": "flex", "flexWrap": "wrap",
            "& > div": {"width": "auto"}, "& button": {"whiteSpace": "nowrap"},
        }
    }
}  # fmt: skip
"""Buttons that do not fit beside each other go on below, and none is squeezed into two lines."""


def label_table(ctx: Any) -> LabelTable:
    """The labels of the chosen field."""
    from fiftyone_ntt.review.label_table import table_of

    return table_of(ctx.dataset, ctx.panel.state.review_field)


def grid(ctx: Any) -> Grid:
    """What the grid shows."""
    from fiftyone_ntt.review.ranking import Grid

    return Grid(ctx.dataset, ctx.request_params, ctx.panel.state.review_field)


def undecided(ctx: Any, labels: LabelTable, shown: Grid) -> dict[str, int | None]:
    """How many labels in the grid nobody has decided on, ``"above"`` and ``"below"`` the threshold, where known."""
    counts = shown.undecided(labels, threshold(ctx), chosen(ctx))
    return dict(zip(("above", "below"), counts or (None, None), strict=True))


def chosen(ctx: Any) -> str | None:
    """The chosen class, ``None`` for all."""
    name = ctx.panel.state.review_class
    return None if name is None else str(name)


def all_of(classes: Sequence[str]) -> str:
    """What stands for all classes in a list: the name of none of them, whatever strangers call a class."""
    word = "All classes"
    while word in classes:
        word = f"({word})"
    return word


def threshold(ctx: Any) -> float:
    """The chosen threshold."""
    value = ctx.panel.state.review_threshold
    return 0.5 if value is None else float(value)


def suggested(ctx: Any) -> float:
    """A threshold to begin with, for the chosen class: the fitted one where there is one."""
    from fiftyone_ntt.review.thresholds import first_threshold

    return first_threshold(ctx.dataset, ctx.panel.state.review_field, label_table(ctx), chosen(ctx))


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
    if not fit.measured:
        return f"{GUESSED} {fit.needed}" if fit.guessed else fit.needed
    expected = fit.expected(labels, threshold(ctx), chosen(ctx))
    decided = fit.overall.right + fit.overall.wrong
    what = in_words(expected.precision, expected.recall)
    return f"At {threshold(ctx):g}: {what} (from {counted(decided, 'decision')})."


def bar_start(x: float) -> float:
    """Where the bar with its middle at ``x`` begins."""
    from fiftyone_ntt.review.label_rows import BINS

    return int(x * BINS) / BINS


def show_counts(ctx: Any, labels: LabelTable, shown: Grid) -> None:
    """Fills the table and the histogram, and notes the numbers that are on buttons."""
    from fiftyone_ntt.review.decisions import last_decision
    from fiftyone_ntt.review.label_table import scores_of
    from fiftyone_ntt.review.thresholds import written_above

    state, name = ctx.panel.state, chosen(ctx)
    classes = scores_of(labels, threshold(ctx))
    state.review_classes = [scores.name for scores in classes]
    rows = [{"class": scores.name, **{key: getattr(scores, key) for key in _COLUMNS}} for scores in classes]
    total = {"class": all_of(state.review_classes), **{key: sum(row[key] for row in rows) for key in _COLUMNS}}
    state.review_undecided = undecided(ctx, labels, shown)
    run = written_above(ctx.dataset, state.review_field)
    state.review_lowest = 0.0 if run is None else run.lowest(name)
    last = last_decision(ctx.dataset, state.review_field)
    state.review_decided = None if last is None else str(last)
    state.review_expected = _expected(ctx, labels)
    ctx.panel.set_data("review_rows", [total, *rows[:_ROWS]])
    ctx.panel.set_data("review_plot", _bars(classes, name, _colours(ctx, state.review_classes)))
    # The App keeps what is in a row of controls under the row's name.
    shown_labels = state.review_shown or ABOVE
    state.review_choices = {
        "review_class": all_of(state.review_classes) if name is None else name,
        "review_field": state.review_field,
        "review_shown": shown_labels,
    }
    state.review_slider = threshold(ctx)


def _colours(ctx: Any, names: list[str]) -> dict[str, str]:
    """The colour of each class, which is the same in the grid and in pictures; none where there are many classes."""
    from fiftyone_ntt.pixels.drawing import hex_colour
    from fiftyone_ntt.runs.record import provenance_of

    if len(names) > _STACKED_CLASSES:
        return {}
    of_run = provenance_of(ctx.dataset, ctx.panel.state.review_field).get("classes", ())
    order = list(dict.fromkeys([*of_run, *sorted(names)]))
    return {name: hex_colour(name, order) for name in names}


def _bars(classes: list[ClassScores], name: str | None, colours: dict[str, str]) -> list[dict[str, Any]]:
    """The histogram: a colour a class, or one for all where there are many.

    Every class keeps its series, empty where another one is chosen: FiftyOne merges a shorter list with what was there.
    """
    from fiftyone_ntt.review.label_rows import BINS

    def counts(scores: ClassScores) -> list[int]:
        return list(scores.histogram) if name in (None, scores.name) else [0] * BINS

    if len(classes) > _STACKED_CLASSES:
        series = [("labels", [sum(column) for column in zip(*map(counts, classes), strict=True)])]
    else:
        series = [(scores.name, counts(scores)) for scores in classes]
    middles = [round((i + 0.5) / BINS, 4) for i in range(BINS)]
    return [
        {
            "type": "bar",
            "name": as_plot_text(label),
            "x": middles,
            "y": values,
            "width": 0.92 / BINS,
            "marker": {"color": colours.get(label, _ORANGE)},
            "hovertemplate": "labels: %{y}<br>score about %{x:.2f}<extra>" + as_plot_text(label) + "</extra>",
        }
        for label, values in series
    ]


def show_image_labels(ctx: Any) -> None:
    """Fills the table of images with and without each class; notes its classes, none where there are no such labels."""
    from fiftyone_ntt.runs.presence_fields import presence_counts

    counts = presence_counts(ctx.dataset, ctx.panel.state.review_field)
    rows = [{"class": name, "with": present, "without": absent} for name, (present, absent) in counts.items()]
    ctx.panel.state.review_judged = [row["class"] for row in rows[:_ROWS]]
    ctx.panel.set_data("review_image_labels", rows[:_ROWS])


def last_learned(ctx: Any) -> dict[str, Any] | None:
    """What the last learning on the field under review came to."""
    from fiftyone_ntt.review.learn import last_outcome

    field = ctx.panel.state.review_field
    return last_outcome(ctx.dataset, field) if field else None


def render_choices(tab: Tab, ctx: Any, panel: types.Object, fields: list[str]) -> None:
    """Which field, which class."""
    row = panel.h_stack("review_choices", componentsProps=WRAPPED, gap=2, align_y="center")
    if len(fields) > 1:
        row.enum("review_field", fields, view=choice(fields), label="Labels", on_change=tab.on("field"))
    names = [all_of(ctx.panel.state.review_classes), *ctx.panel.state.review_classes]
    row.enum("review_class", names, view=choice(names), label="Class", on_change=tab.on("class"))
    row.enum("review_shown", list(SHOWN), view=choice(SHOWN), label="Show", on_change=tab.on("shown"))
    tab.add_buttons(row, [("refresh", "Refresh", "refresh", None)])


def render_counts(tab: Tab, panel: types.Object) -> None:
    """How many labels of each class there are, and what was decided; a click on a row shows that class."""
    headings = {key: key.capitalize() for key in ("class", *_COLUMNS)}
    panel.list("review_rows", types.Object(), view=table(headings, on_click_row=tab.on("row")))


def render_threshold(tab: Tab, ctx: Any, panel: types.Object) -> None:
    """The histogram, and the score threshold in it."""
    state, value = ctx.panel.state, threshold(ctx)
    if state.review_filtered:
        text = f"Click a bar, or move the slider: the grid shows labels above **{value:g}**."
    else:
        text = f"Click a bar, or move the slider, and the grid shows only labels above it. It stands at **{value:g}**."
    panel.md(f"**Score threshold.** {text}", name="review_t")
    _render_histogram(tab, ctx, panel)
    slider = {"min": 0, "max": 1, "step": 0.01, "valueLabelDisplay": "off", "sx": _UNDER_AXIS}
    view = types.SliderView(componentsProps={"slider": slider})
    panel.float("review_slider", min=0, max=1, multipleOf=0.01, view=view, on_change=tab.on("threshold"))
    buttons: list[Button] = [
        ("suggest", "Suggest a threshold", "auto_fix_high", None),
        ("fit", "Fit score thresholds", "straighten", None),
    ]
    if value < (state.review_lowest or 0.0):
        panel.md(LEFT_OUT.format(lowest=state.review_lowest, value=value), name="review_left_out")
        buttons.append(("lower", "Bring weaker labels back", "vertical_align_bottom", "outlined"))
    if state.review_filtered:
        buttons.append(("show_all", "Show all", "filter_alt_off", None))
    tab.add_buttons(panel.h_stack("review_views", componentsProps=WRAPPED, gap=1), buttons)
    if state.review_expected:
        panel.md(state.review_expected, name="review_expectation")


def _render_histogram(tab: Tab, ctx: Any, panel: types.Object) -> None:
    value = threshold(ctx)
    line = {"type": "line", "x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper"}
    shape = {
        "barmode": "stack",
        "bargap": 0,
        "margin": {"l": _AXIS_LEFT, "r": _AXIS_RIGHT, "t": 28, "b": 32},
        "xaxis": {"range": [0, 1], "fixedrange": True},
        "yaxis": {"fixedrange": True},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "showlegend": chosen(ctx) is None,
        "shapes": [{**line, "line": {"color": "#888888", "width": 2, "dash": "dot"}}],
    }
    add_plot(panel, "review_plot", _HEIGHT, shape, on_click=tab.on("bar"))


def render_image_labels(tab: Tab, ctx: Any, panel: types.Object) -> None:
    """In how many images each class is; a click on a row shows those without it."""
    judged = bool(ctx.panel.state.review_judged)
    text = "Click a class: the grid shows the images labelled to be **without** it, the surest first."
    panel.md(f"**Image-level labels.** {text if judged else NOT_JUDGED}", name="review_images")
    if judged:
        headings = {"class": "Class", "with": "Images with it", "without": "Without it"}
        panel.list("review_image_labels", types.Object(), view=table(headings, on_click_row=tab.on("without")))


def render_decisions(tab: Tab, ctx: Any, panel: types.Object) -> None:
    """Buttons that decide on the selected labels, and on all that nobody has decided on."""
    state = ctx.panel.state
    of = "" if chosen(ctx) is None else f" of {as_text(chosen(ctx))!r}"
    panel.md("**Decide.** Select labels and say what they are; the rest by the threshold.", name="review_decide")
    buttons: list[Button] = [
        ("accept", "Accept selected", "thumb_up", None),
        ("reject", "Reject selected", "thumb_down", None),
        ("clear", "Clear decision", "restart_alt", None),
        ("done", "Selected images are done", "task_alt", None),
    ]
    tab.add_buttons(panel.h_stack("review_selected", componentsProps=WRAPPED, gap=1), buttons)
    row = panel.h_stack("review_bulk", componentsProps=WRAPPED, gap=1)
    counts = state.review_undecided or {}
    for event, verb, side, icon in (
        ("accept_above", "Accept", "above", "done_all"),
        ("reject_below", "Reject", "below", "remove_done"),
    ):
        count = counts.get(side)
        number = "" if count is None else f"{count:,} "
        button = (event, f"{verb} all {number}undecided{of} {side}", icon, "outlined")
        tab.add_buttons(row, [button], disabled=count == 0)
    if state.review_decided:
        tab.add_buttons(row, [("undo", f"Undo: {state.review_decided}", "undo", None)])


def render_uncertain(tab: Tab, panel: types.Object) -> None:
    """Buttons that bring the most uncertain labels to the top of the grid."""
    panel.md("**Most uncertain first.** The 200 undecided labels that most need a look.", name="review_doubts")
    row = panel.h_stack("review_doubt", componentsProps=WRAPPED, gap=1)
    for kind, label in UNCERTAIN_SINCE.items():
        row.btn(f"review_doubt_{kind}", label=label, on_click=tab.on("doubt"), params={"by": kind})
    panel.md(NEXT, name="review_next_text")
    tab.add_buttons(panel, [("next", "20 images to review next", "playlist_play", "outlined")])


def render_learn(tab: Tab, ctx: Any, panel: types.Object) -> None:
    """What the decisions teach: a look first, then what it would change, then the button that writes it."""
    panel.md(LEARN, name="learn_introduction")
    outcome = last_learned(ctx)
    # One button while there is nothing to show or write; more would only ask which to press first.
    buttons: list[Button] = [("learn_preview", "Learn from my decisions", "school", "contained")]
    if outcome is not None and outcome["changed"]:
        buttons.append(("learn_show", "Show changed images", "visibility", "outlined"))
        if not outcome["applied"]:
            buttons.append(("learn_apply", "Apply", "check", "outlined"))
    tab.add_buttons(panel.h_stack("learn_buttons", componentsProps=WRAPPED, gap=2, align_x="left"), buttons)
    if outcome is None:
        return
    panel.md(as_markdown(outcome["summary"]), name="learn_summary")
    ctx.panel.set_data("learn_rows", outcome["rows"])
    view = table(CHANGES_OF_LABELS.columns or {})
    panel.list("learn_rows", types.Object(), view=view, label=CHANGES_OF_LABELS.label)


def render_export(tab: Tab, panel: types.Object) -> None:
    """The way out, to a model that is trained on what was reviewed."""
    text = "**Export.** Reviewed labels, ready to train something smaller: COCO, YOLO or FiftyOne."
    panel.md(text, name="review_out")
    tab.add_buttons(panel, [("export", "Export labels", "file_download", None)])
