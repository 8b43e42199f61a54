"""The panel's tab "Runs": what is at work, how far it is, and what can be done about it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.errors import NttError, counted
from fiftyone_ntt.operators.forms import as_markdown, as_sentence
from fiftyone_ntt.operators.runs import CANCELLABLE, RESUMABLE
from fiftyone_ntt.panels.tabs import Handle, Tab, go_to, show_images, table
from fiftyone_ntt.params.wording import for_app

WORDS = {
    "queued": "waiting for a worker",
    "starting": "starting",
    "running": "running",
    "interrupted": "stopped: resume it",
    "cancelled": "cancelled",
    "completed": "done",
    "failed": "failed",
}
"""What each state of a run is called on the screen."""
COLUMNS = {
    "run": "run",
    "state": "state",
    "images": "images",
    "speed": "images/s",
    "left": "time left",
    "failed": "failed",
}
TITLES = {
    "segment": "Labelling",
    "index_candidates": "Precomputing candidates",
    "build_memory_bank": "Memory bank",
    "resume_run": "Resuming a run",
    "undo_run": "Undoing a run",
    "evaluate": "Evaluation",
    "export_labels": "Export",
    "learn": "Learning",
    "refine_labels": "Refining masks",
    "undo_refinement": "Undoing refining",
    "lower_threshold": "Bringing weaker labels back",
    "make_reference_masks": "Reference masks",
    "advise_references": "Checking references",
    "judge_presence": "Image-level labels",
    "to_segmentation": "Semantic segmentation masks",
    "make_previews": "Previews",
    "remove_previews": "Removing previews",
    "selfcheck": "Checking the models",
}
EMPTY = """
**No run yet.** Choose references in the first tab, then press **Label images**. What is at work shows up here: how
far it is, how long it will take, and which images failed.
"""
WAITING = """
Something waits for a worker. If nothing begins within a minute, none is running: start one in a terminal, and leave it
open:

```
fiftyone delegated launch
```
"""
LEARNING = "learning"
Key = list[str | None]
"""Name of a run or of other work, and the operation of the latter; a list, as it comes back from the App."""
ACTIVE = ("queued", "starting", "running")
# Milliseconds between two looks: while something is at work, and to see what somebody starts elsewhere.
_EVERY, _NOW_AND_THEN = 2000, 15_000


class RunsTab(Tab):
    """Shows the labelling runs and what is scheduled beside them."""

    KEY, TITLE = "runs", "2 Runs"

    def events(self) -> dict[str, Handle]:
        undoable = ("interrupted", "cancelled", "completed", "failed")
        resumable = [state for state in RESUMABLE if state not in ("queued", "starting")]
        return {
            "refresh": self.load,  # someone asks, an operator is through, or time has passed
            "started": self._open_here,
            "lowering": self._follow_lowering,
            "label": lambda ctx: self.prompt(ctx, "segment", then="started"),
            "everything": lambda ctx: show_images(ctx, ctx.dataset),
            "resume": partial(self._open, operator="resume_run", states=resumable, otherwise="it has not begun yet"),
            "cancel": self._cancel,
            "undo": partial(
                self._open, operator="undo_run", states=undoable, otherwise="it is at work; cancel it first"
            ),
            "show_labels": partial(_show, state="ok", otherwise="has found nothing yet"),
            "show_errors": partial(_show, state="error", otherwise="has no failed images"),
        }

    def load(self, ctx: Any) -> None:
        from fiftyone_ntt.runs.listing import list_runs, scheduled_work

        runs, work = list(reversed(list_runs(ctx.dataset))), scheduled_work(ctx.dataset)
        at_work = [item for item in work if item["state"] in ACTIVE]
        moving = [*[run for run in runs if run["state"] == "running"], *at_work]
        rows = [*at_work, *runs]
        state = ctx.panel.state
        # The keys of the rows: a row's action only tells the number of the row.
        listed = [(row, layer) for row in rows for layer in (None, *_lessons(row))]
        state.runs_listed = [
            [_name(row), row.get("label_field"), row["state"], _failed(row), row.get("operation")] for row, _ in listed
        ]
        state.runs_bars = [_bar_label(row) for row in moving]
        state.runs_messages = [
            *[_failure(run) for run in runs if run.get("error")],
            *[f"**{as_markdown(run['run_key'])}**: {as_sentence(run['note'])}" for run in runs if run.get("note")],
            *[_sentence(item) for item in work if item["state"] not in ACTIVE],
        ]
        state.runs_waiting = any(row["state"] == "queued" for row in rows)
        ctx.panel.set_data("runs_table", [_row(row) if layer is None else _lesson_row(layer) for row, layer in listed])
        for i, row in enumerate(moving):
            ctx.panel.set_data(f"runs_bar_{i}", _part(row) or 0.0)
        ended = _tell_what_ended(ctx, rows, [_key(item) for item in work if item not in at_work])
        done = [run["label_field"] for run in runs if _key(run) in ended and run["state"] == "completed"]
        if done:
            state.runs_next = done[0]
        if ended and state.runs_next and not state.runs_active:
            field, state.runs_next = state.runs_next, None
            self.panel.tabs["review"].open_on(ctx, field)  # where a person goes on

    def render(self, ctx: Any, panel: types.Object) -> None:
        state = ctx.panel.state
        buttons = [
            ("label", "Label images", "auto_awesome", "contained"),
            ("refresh", "Refresh", "refresh", None),
            ("everything", "Show all images", "grid_view", None),
        ]
        self.add_buttons(panel.h_stack("runs_buttons", gap=1), buttons)
        if not state.runs_listed and not state.runs_messages:
            panel.md(EMPTY, name="runs_empty")
        for i, label in enumerate(state.runs_bars or []):
            panel.float(f"runs_bar_{i}", view=types.ProgressView(label=label))
        if state.runs_listed:
            panel.list("runs_table", types.Object(), view=self._table())
        for i, message in enumerate(state.runs_messages or []):
            panel.md(message, name=f"runs_message_{i}")
        if state.runs_waiting:
            panel.md(WAITING, name="runs_worker")
        # Under names of their own: a timer that is there already keeps its pace.
        name, interval = ("runs_timer", _EVERY) if state.runs_active else ("runs_idle_timer", _NOW_AND_THEN)
        panel.view(name, view=types.TimerView(interval=interval, on_interval=self.on("refresh")))

    def _table(self) -> types.TableView:
        view = table(COLUMNS)
        for event, label, icon in (
            ("show_labels", "Show its images", "visibility"),
            ("show_errors", "Show failed images", "error_outline"),
            ("resume", "Resume", "replay"),
            ("cancel", "Cancel", "cancel"),
            ("undo", "Undo", "undo"),
        ):
            view.add_row_action(event, self.on(event), label=label, icon=icon, tooltip=label)
        return view

    def _open(self, ctx: Any, *, operator: str, states: Collection[str], otherwise: str) -> None:
        """Opens a form about the run of a row, where that can be done with a run in its state."""
        key, field, state, *_others = _chosen(ctx)
        if field is None:
            ctx.ops.notify(f"{key}: only a labelling run can be resumed or undone", variant="info")
        elif state in states:
            self.prompt(ctx, operator, {"run_key": key}, then="started")
        else:
            ctx.ops.notify(f"Run {key}: {otherwise}", variant="info")

    def _open_here(self, ctx: Any) -> None:
        """A run was asked for in a form, maybe from another tab: here is where it is followed."""
        go_to(ctx, self.KEY)
        self.load(ctx)

    def _follow_lowering(self, ctx: Any) -> None:
        """Weaker labels of a run were asked for: once they are there, the review goes on, however quickly that was."""
        from fiftyone_ntt.runs.record import fields_of_runs

        run_key = (ctx.params.get("original_params") or {}).get("run_key")
        ctx.panel.state.runs_next = fields_of_runs(ctx.dataset).get(run_key)
        self._open_here(ctx)

    def _cancel(self, ctx: Any) -> None:
        """Stops what a row is about, or takes it out of the queue."""
        from fiftyone_ntt.runs.background import cancel
        from fiftyone_ntt.runs.control import cancel_run

        key, field, state, _failed_images, operation = _chosen(ctx)
        if state not in (*ACTIVE, *CANCELLABLE):
            ctx.ops.notify(f"{key}: it is not at work", variant="info")
            return
        try:
            if field is None:
                cancel(ctx.dataset, operation)
            else:
                cancel_run(ctx.dataset, key)
            ctx.ops.notify(f"{key} is cancelled; what it has written stays", variant="success")
            ended = [key, None if field is not None else operation]
            ctx.panel.state.runs_active = [item for item in ctx.panel.state.runs_active or [] if item != ended]
            ctx.ops.reload_dataset()
        except NttError as error:  # it ended while the person was clicking
            ctx.ops.notify(for_app(error), variant="info")
        self.load(ctx)


def _tell_what_ended(ctx: Any, rows: list[dict[str, Any]], failed: list[Key]) -> list[Key]:
    """Notes what is at work; returns what is no more, says so, and lets the App load what it has written."""
    state = ctx.panel.state
    before, active = state.runs_active or [], [_key(row) for row in rows if row["state"] in ACTIVE]
    state.runs_active = active
    ended = [key for key in before if key not in active]
    states = [*((_key(row), row["state"]) for row in rows), *((key, "failed") for key in failed)]
    for key in ended:
        word = WORDS[next((its for other, its in states if other == key), "completed")]
        ctx.ops.notify(f"{key[0]}: {word}", variant="error" if word == WORDS["failed"] else "success")
    if ended:
        ctx.ops.reload_dataset()  # new labels and fields, where someone is looking
    return ended


def _name(row: dict[str, Any]) -> str:
    """Key of a run, or what other work is called."""
    return str(row.get("run_key") or TITLES.get(row["operator"], row["operator"]))


def _key(row: dict[str, Any]) -> Key:
    """What tells a row from all others: a run by its key, other work of one name by its operation."""
    return [_name(row), None if row.get("run_key") else row.get("operation")]


def _show(ctx: Any, state: str, otherwise: str) -> None:
    """The grid shows the images that the run of a row has brought to a state."""
    from fiftyone_ntt.runs.listing import images_of_run
    from fiftyone_ntt.runs.record import status_field

    key, field, *_others = _chosen(ctx)
    if field is None:
        ctx.ops.notify(f"{key} has no images of its own", variant="info")
        return
    view = images_of_run(ctx.dataset, key, field, state)
    if view is None:
        ctx.ops.notify(f"Run {key} {otherwise}", variant="info")
        return
    show_images(ctx, view)
    if state == "error":
        text = f"Why: field {status_field(field)}, 'error', in the sidebar or an opened image"
        ctx.ops.notify(text, variant="info")


def _chosen(ctx: Any) -> list[Any]:
    """Name, field, state, failed images and operation of the row that was clicked; only a run has a field."""
    chosen: list[Any] = ctx.panel.state.runs_listed[int(ctx.params["row"])]
    return chosen


def _row(run: dict[str, Any]) -> dict[str, Any]:
    part = _part(run) if run.get("counts") else None
    return {
        "run": _name(run),
        "state": _state(run),
        "images": "" if part is None else f"{_done(run):,} of {_done(run) + run['counts']['left']:,}",
        "speed": f"{run['throughput']:.2g}" if run.get("throughput") else "",
        "left": _duration(run.get("eta_seconds")),
        "failed": _failed(run) or "",
    }


def _lessons(run: dict[str, Any]) -> list[dict[str, Any]]:
    """What learning wrote on top of a run, the last first: each has a row below that of its run."""
    return [layer for layer in reversed(run.get("layers") or ()) if layer["what"] == LEARNING]


def _lesson_row(layer: dict[str, Any]) -> dict[str, Any]:
    when = f", {layer['at'][:16].replace('T', ' ')}" if layer["at"] else ""
    return {**dict.fromkeys(COLUMNS, ""), "run": f"↳ {layer['what']}{when}", "state": WORDS["completed"]}


def _state(run: dict[str, Any]) -> str:
    workers, word = run.get("workers") or 0, WORDS[run["state"]]
    if run["state"] == "running" and workers > 1:
        return f"running ({counted(workers, 'worker')})"
    return f"{word}: {run['message']}" if run.get("message") else word


def _done(run: dict[str, Any]) -> int:
    return sum(run["counts"].get(state, 0) for state in ("ok", "empty", "error"))


def _failed(run: dict[str, Any]) -> int:
    return int(run.get("counts", {}).get("error", 0))


def _part(run: dict[str, Any]) -> float | None:
    """How much of a run or of other work is done, 0..1; ``None`` where nobody knows."""
    if not run.get("counts"):
        return run.get("progress")
    total = _done(run) + run["counts"]["left"]
    return _done(run) / total if total else 1.0


def _bar_label(run: dict[str, Any]) -> str:
    left = _duration(run.get("eta_seconds"))
    return f"{_name(run)}: {_part(run) or 0:.0%}" + (f", {left} left" if left else "")


def _duration(seconds: float | None) -> str:
    """``"40 s"``, ``"12 min"``, ``"3 h 20 min"``; empty where unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _sentence(work: dict[str, Any]) -> str:
    """What to say of work that failed."""
    when = f" ({work['at']:%Y-%m-%d %H:%M})" if work["at"] else ""
    how = "" if work["in_background"] else ", scheduled,"
    return f"**{as_markdown(_name(work))}**{how} failed{when}: {as_sentence(work['error'])}"


def _failure(run: dict[str, Any]) -> str:
    return f"**{as_markdown(run['run_key'])}** failed: {as_sentence(run['error'])}"
