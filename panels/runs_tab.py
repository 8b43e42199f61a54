"""The panel's tab "Runs": what is at work, how far it is, and what can be done about it."""

from __future__ import annotations

from typing import Any

from fiftyone import ViewField as F
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import every_image
from fiftyone_ntt.panels import layout

PLUGIN = "@fiftyone-ntt/ntt"
WORDS = {
    "queued": "waiting for a worker",
    "running": "running",
    "interrupted": "stopped: resume it",
    "cancelled": "cancelled",
    "completed": "done",
    "failed": "failed",
}
"""What each state of a run is called on the screen."""
ACTIVE = ("queued", "running")
RESUMABLE = ("running", "interrupted", "cancelled", "failed", "completed")
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
    "index_candidates": "Indexing",
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
_EVERY = 2000  # milliseconds between two looks while something is at work


class RunsTab:
    """Draws the tab and answers its events; mixed into the panel."""

    def load_runs(self, ctx: Any) -> None:
        """Called when the tab is opened, and when what it shows may have changed."""
        from fiftyone_ntt.runs.listing import list_runs, scheduled_work

        runs = list(reversed(list_runs(ctx.dataset)))
        work = [one for one in scheduled_work(ctx.dataset) if _is_news(one)]
        state = ctx.panel.state
        was_active = state.runs_active
        # The keys of the rows: a row's action only tells the number of the row.
        state.runs_listed = [[run["run_key"], run["label_field"], run["state"], _failed(run)] for run in runs]
        state.runs_bars = [[run["run_key"], _bar_label(run)] for run in runs if run["state"] == "running"]
        state.runs_work = [_sentence(one) for one in work]
        state.runs_messages = [f"**{run['run_key']}** failed: {run['error']}" for run in runs if run.get("error")]
        waiting = [one for one in (*runs, *work) if one["state"] == "queued"]
        state.runs_waiting = bool(waiting)
        state.runs_active = bool(waiting or any(one["state"] == "running" for one in (*runs, *work)))
        ctx.panel.set_data("runs_table", [_row(run) for run in runs])
        for i, run in enumerate(run for run in runs if run["state"] == "running"):
            ctx.panel.set_data(f"runs_bar_{i}", _part(run) or 0.0)
        if was_active and not state.runs_active:
            ctx.ops.reload_dataset()  # new labels and fields, where someone is looking

    def draw_runs(self, ctx: Any, panel: types.Object) -> None:
        """Adds the tab's content to the panel."""
        state = ctx.panel.state
        row = panel.h_stack("runs_buttons", gap=1)
        row.btn("label", "Label images", icon="auto_awesome", variant="contained", on_click=self.on_runs_label)
        row.btn("refresh", "Refresh", icon="refresh", on_click=self.on_runs_refresh)
        row.btn("everything", "Show all images", icon="grid_view", on_click=self.on_runs_everything)
        if not state.runs_listed and not state.runs_work:
            panel.md(EMPTY, name="runs_empty")
        for i, (_key, label) in enumerate(state.runs_bars or []):
            panel.float(f"runs_bar_{i}", view=types.ProgressView(label=label))
        if state.runs_listed:
            panel.list("runs_table", types.Object(), view=self._runs_table())
        for i, message in enumerate([*(state.runs_messages or []), *(state.runs_work or [])]):
            panel.md(message, name=f"runs_message_{i}")
        if state.runs_waiting:
            panel.md(WAITING, name="runs_worker")
        if state.runs_active:
            panel.view("runs_timer", view=types.TimerView(interval=_EVERY, on_interval=self.on_runs_refresh))

    def _runs_table(self) -> types.TableView:
        table = layout.table(COLUMNS)
        for name, label, icon, handler in (
            ("labels", "Show its images", "visibility", self.on_runs_show_labels),
            ("errors", "Show failed images", "error_outline", self.on_runs_show_errors),
            ("resume", "Resume", "replay", self.on_runs_resume),
            ("cancel", "Cancel", "cancel", self.on_runs_cancel),
            ("undo", "Undo", "undo", self.on_runs_undo),
        ):
            table.add_row_action(name, handler, label=label, icon=icon, tooltip=label)
        return table

    def on_runs_refresh(self, ctx: Any) -> None:
        """Looks again: someone asks, an operator is through, or time has passed."""
        self.load_runs(ctx)

    def on_runs_label(self, ctx: Any) -> None:
        """Opens the form of a labelling run."""
        ctx.prompt(f"{PLUGIN}/segment", on_success=self.on_runs_refresh)

    def on_runs_everything(self, ctx: Any) -> None:
        """Shows all images again."""
        ctx.ops.clear_view()

    def on_runs_resume(self, ctx: Any) -> None:
        """Goes on with the run of a row."""
        self._prompt(ctx, "resume_run", RESUMABLE, "it waits for a worker to begin it; see below the table")

    def on_runs_cancel(self, ctx: Any) -> None:
        """Stops the run of a row."""
        self._prompt(ctx, "cancel_run", ("running", "interrupted"), "it is not at work")

    def on_runs_undo(self, ctx: Any) -> None:
        """Takes the run of a row back."""
        states = ("interrupted", "cancelled", "completed", "failed")
        self._prompt(ctx, "undo_run", states, "it is at work; cancel it first")

    def _prompt(self, ctx: Any, operator: str, states: tuple[str, ...], otherwise: str) -> None:
        key, _field, state, _failed = _chosen(ctx)
        if state not in states:
            ctx.ops.notify(f"Run {key}: {otherwise}", variant="info")
            return
        ctx.prompt(f"{PLUGIN}/{operator}", params={"run_key": key}, on_success=self.on_runs_refresh)

    def on_runs_show_labels(self, ctx: Any) -> None:
        """Shows the images in which the run of a row has found something."""
        self._show(ctx, "ok", "has found nothing yet")

    def on_runs_show_errors(self, ctx: Any) -> None:
        """Shows the images that failed in the run of a row."""
        self._show(ctx, "error", "has no failed images")

    def _show(self, ctx: Any, state: str, otherwise: str) -> None:
        from fiftyone_ntt.runs.listing import status_counts
        from fiftyone_ntt.runs.record import status_field

        key, field, _state, _failed = _chosen(ctx)
        status = status_field(field)
        there = ctx.dataset.has_field(status)
        if not there or not status_counts(ctx.dataset, status).get(key, {}).get(state):
            ctx.ops.notify(f"Run {key} {otherwise}", variant="info")
            return
        view = every_image(ctx.dataset).match((F(f"{status}.run_key") == key) & (F(f"{status}.state") == state))
        ctx.ops.set_view(view)
        if state == "error":
            ctx.ops.notify(f"Why: field {status}, 'error', in the sidebar or an opened image", variant="info")


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
    title = TITLES.get(work["operator"], work["operator"])
    if work["state"] == "failed":
        when = f" ({work['at']:%Y-%m-%d %H:%M})" if work["at"] else ""
        return f"**{title}**, scheduled, failed{when}: {work['error']}"
    if work["state"] == "queued":
        return f"**{title}** waits for a worker"
    share = "" if work["progress"] is None else f": {work['progress']:.0%}"
    return f"**{title}** is running{share}" + (f" ({work['message']})" if work["message"] else "")
