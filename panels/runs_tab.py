"""The panel's tab "Runs": what is at work, how far it is, and what can be done about it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.operators.base import show_samples
from fiftyone_ntt.operators.forms import as_markdown
from fiftyone_ntt.operators.runs import CANCELLABLE, RESUMABLE
from fiftyone_ntt.panels.tabs import Handle, Tab, table

WORDS = {
    "queued": "waiting for a worker",
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
_EVERY = 2000  # milliseconds between two looks while something is at work


class RunsTab(Tab):
    """Shows the labelling runs and what is scheduled beside them."""

    KEY, TITLE = "runs", "2 Runs"

    def events(self) -> dict[str, Handle]:
        undoable = ("interrupted", "cancelled", "completed", "failed")
        waiting = "it waits for a worker to begin it; see below the table"
        return {
            "refresh": self.load,  # someone asks, an operator is through, or time has passed
            "label": lambda ctx: self.prompt(ctx, "segment", then="refresh"),
            "everything": lambda ctx: show_samples(ctx, ctx.dataset),
            "resume": partial(self._open, operator="resume_run", states=RESUMABLE, otherwise=waiting),
            "cancel": partial(self._open, operator="cancel_run", states=CANCELLABLE, otherwise="it is not at work"),
            "undo": partial(
                self._open, operator="undo_run", states=undoable, otherwise="it is at work; cancel it first"
            ),
            "show_labels": partial(_show, state="ok", otherwise="has found nothing yet"),
            "show_errors": partial(_show, state="error", otherwise="has no failed images"),
        }

    def load(self, ctx: Any) -> None:
        from fiftyone_ntt.runs.listing import list_runs, scheduled_work

        runs = list(reversed(list_runs(ctx.dataset)))
        work = [operation for operation in scheduled_work(ctx.dataset) if _is_news(operation)]
        running = [run for run in runs if run["state"] == "running"]
        waiting = [item for item in (*runs, *work) if item["state"] == "queued"]
        state = ctx.panel.state
        was_active = state.runs_active
        # The keys of the rows: a row's action only tells the number of the row.
        rows = [(run, layer) for run in runs for layer in (None, *_lessons(run))]
        state.runs_listed = [[run["run_key"], run["label_field"], run["state"], _failed(run)] for run, _ in rows]
        state.runs_bars = [[run["run_key"], _bar_label(run)] for run in running]
        state.runs_work = [_sentence(operation) for operation in work]
        state.runs_messages = [
            f"**{as_markdown(run['run_key'])}** failed: {as_markdown(run['error'])}" for run in runs if run.get("error")
        ]
        state.runs_messages += [
            f"**{as_markdown(run['run_key'])}**: {as_markdown(run['note'])}" for run in runs if run.get("note")
        ]
        state.runs_waiting = bool(waiting)
        state.runs_active = bool(waiting or any(item["state"] == "running" for item in (*runs, *work)))
        ctx.panel.set_data("runs_table", [_row(run) if layer is None else _lesson_row(layer) for run, layer in rows])
        for i, run in enumerate(running):
            ctx.panel.set_data(f"runs_bar_{i}", _part(run) or 0.0)
        if was_active and not state.runs_active:
            ctx.ops.reload_dataset()  # new labels and fields, where someone is looking

    def render(self, ctx: Any, panel: types.Object) -> None:
        state = ctx.panel.state
        buttons = [
            ("label", "Label images", "auto_awesome", "contained"),
            ("refresh", "Refresh", "refresh", None),
            ("everything", "Show all images", "grid_view", None),
        ]
        self.add_buttons(panel.h_stack("runs_buttons", gap=1), buttons)
        if not state.runs_listed and not state.runs_work:
            panel.md(EMPTY, name="runs_empty")
        for i, (_key, label) in enumerate(state.runs_bars or []):
            panel.float(f"runs_bar_{i}", view=types.ProgressView(label=label))
        if state.runs_listed:
            panel.list("runs_table", types.Object(), view=self._table())
        for i, message in enumerate([*(state.runs_messages or []), *(state.runs_work or [])]):
            panel.md(message, name=f"runs_message_{i}")
        if state.runs_waiting:
            panel.md(WAITING, name="runs_worker")
        if state.runs_active:
            panel.view("runs_timer", view=types.TimerView(interval=_EVERY, on_interval=self.on("refresh")))

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
        key, _field, state, _failed = _chosen(ctx)
        if state in states:
            self.prompt(ctx, operator, {"run_key": key}, then="refresh")
        else:
            ctx.ops.notify(f"Run {key}: {otherwise}", variant="info")


def _show(ctx: Any, state: str, otherwise: str) -> None:
    """The grid shows the images that the run of a row has brought to a state."""
    from fiftyone_ntt.runs.listing import images_of_run
    from fiftyone_ntt.runs.record import status_field

    key, field, _state, _failed = _chosen(ctx)
    view = images_of_run(ctx.dataset, key, field, state)
    if view is None:
        ctx.ops.notify(f"Run {key} {otherwise}", variant="info")
        return
    show_samples(ctx, view)
    if state == "error":
        text = f"Why: field {status_field(field)}, 'error', in the sidebar or an opened image"
        ctx.ops.notify(text, variant="info")


def _chosen(ctx: Any) -> list[Any]:
    """Key, field, state and failed images of the run whose row was clicked."""
    chosen: list[Any] = ctx.panel.state.runs_listed[int(ctx.params["row"])]
    return chosen


def _row(run: dict[str, Any]) -> dict[str, Any]:
    part = _part(run)
    return {
        "run": run["run_key"],
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
    workers = run.get("workers") or 0
    return f"running ({workers} workers)" if run["state"] == "running" and workers > 1 else WORDS[run["state"]]


def _done(run: dict[str, Any]) -> int:
    return sum(run["counts"].get(state, 0) for state in ("ok", "empty", "error"))


def _failed(run: dict[str, Any]) -> int:
    return int(run["counts"].get("error", 0))


def _part(run: dict[str, Any]) -> float | None:
    """How much of a run is done, 0..1; ``None`` where nobody knows."""
    if not run["counts"]:
        return None
    total = _done(run) + run["counts"]["left"]
    return _done(run) / total if total else 1.0


def _bar_label(run: dict[str, Any]) -> str:
    left = _duration(run.get("eta_seconds"))
    return f"{run['run_key']}: {_part(run) or 0:.0%}" + (f", {left} left" if left else "")


def _duration(seconds: float | None) -> str:
    """``"40 s"``, ``"12 min"``, ``"3 h 20 min"``; empty where unknown."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _is_news(work: dict[str, Any]) -> bool:
    """Labelling runs have rows of their own, unless they failed before they began."""
    return work["operator"] not in ("segment", "resume_run") or work["state"] == "failed"


def _sentence(work: dict[str, Any]) -> str:
    title = as_markdown(TITLES.get(work["operator"], work["operator"]))
    if work["state"] == "failed":
        when = f" ({work['at']:%Y-%m-%d %H:%M})" if work["at"] else ""
        return f"**{title}**, scheduled, failed{when}: {as_markdown(work['error'])}"
    if work["state"] == "queued":
        return f"**{title}** waits for a worker"
    share = "" if work["progress"] is None else f": {work['progress']:.0%}"
    return f"**{title}** is running{share}" + (f" ({as_markdown(work['message'])})" if work["message"] else "")
