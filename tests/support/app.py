"""Operators and the panel as the App calls them: real requests, real contexts, and what they ask of the App."""

from __future__ import annotations

import functools
import json

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators.executor import ExecutionContext, Executor, ValidationContext

PLUGIN = "@fiftyone-ntt/ntt"
PANEL = f"{PLUGIN}/ntt_review"


def operator(name):
    """The operator as FiftyOne finds it, by its name or its whole URI."""
    return foo.get_operator(uri_of(name))


def uri_of(name):
    return name if "/" in name else f"{PLUGIN}/{name}"


def context(name, samples, params=None, **request):
    """The context that FiftyOne makes of the App's request; ``samples`` is the dataset or the view in the grid.

    Further keys of the request: ``selected``, ``selected_labels``, ``current_sample``, ``view_target``, ``results``.
    """
    view = samples.view() if isinstance(samples, fo.Dataset) else samples
    request = {"dataset_name": view._root_dataset.name, "view": view._serialize(), "params": params or {}, **request}
    return ExecutionContext(request_params=request, executor=Executor(), operator_uri=uri_of(name))


def form(name, samples, params=None, **request):
    """The form's properties, and what FiftyOne thinks of the parameters: property name -> reason."""
    ctx = context(name, samples, params, **request)
    inputs = operator(name).resolve_type(ctx, "inputs")
    errors = ValidationContext(ctx, inputs, operator(name)).to_json()["errors"]
    json.dumps(inputs.to_json())  # as it is sent to the browser
    return inputs.type.properties, {error["path"].lstrip("."): error["reason"] for error in errors}


def run(name, samples, params=None, **request):
    """What the operator returns, and what it asks the App to do: name -> parameters."""
    ctx = context(name, samples, params, **request)
    result = operator(name).execute(ctx)
    json.dumps(result, allow_nan=False)
    return result, dict(requests_of(ctx))


def requests_of(ctx):
    """(name, parameters) of all that was asked of the App."""
    return [(item.operator_uri.rpartition("/")[2], item.params) for item in ctx.executor._requests]


@functools.cache
def registered_panel():
    """The panel as FiftyOne finds it; looking for it takes longer than an event."""
    return foo.get_operator(PANEL)


def as_in_a_browser(value):
    """Numbers as JavaScript writes them: 1.0 comes back as 1."""
    if isinstance(value, dict):
        return {key: as_in_a_browser(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_in_a_browser(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class PanelSession:
    """The panel, opened on a dataset at a tab: keeps its state, data and view between events, as the App does.

    Attributes:
        state: the panel's state.
        data: all data that was sent to the panel.
        sent: the data that the last event sent.
        view: the view in the grid, without the sidebar's filters.
        filters: those filters.
        opened: id of the sample that is open, if one is.
        context: FiftyOne's context of the last event.
        requests: (name, parameters) of what the last event asked of the App.
        prompts: parameters of every operator that the panel opened.
        messages: every message that it showed.
        drawn: the panel as it was drawn last, as text.
    """

    def __init__(self, dataset, tab, view=None, filters=None):
        self.dataset, self.view, self.state, self.data = dataset, view or dataset.view(), {"tab_first": tab}, {}
        self.filters, self.opened = filters or {}, None
        self.prompts, self.messages, self.drawn = [], [], ""
        self.send("on_load")

    def send(self, event, selected=(), selected_labels=(), **params):
        """Fires an event; returns the session."""
        params = {"panel_id": "p", "panel_state": self.state, "__method__": event, **params}
        grid = {"selected": list(selected), "selected_labels": list(selected_labels), "filters": self.filters}
        grid["current_sample"] = self.opened
        self.context = context(PANEL, self.view, params, dataset_name=self.dataset.name, **grid)
        registered_panel().execute(self.context)
        self.state = json.loads(json.dumps(self.context.panel_state))
        self.requests, self.sent, self._shown = requests_of(self.context), {}, None
        for name, asked in self.requests:
            self._take(name, json.loads(json.dumps(asked, default=str)))
        self.data.update(self.sent)
        return self

    def _take(self, name, params):
        if name == "set_view":
            self.view = fo.DatasetView._build(self.dataset, params["view"])
        elif name == "set_filters":
            self.filters = as_in_a_browser(params)
        elif name == "patch_panel_data":
            self.sent.update(params["data"])
        elif name == "show_panel_output":
            self.drawn = json.dumps(params)
        elif name == "prompt_user_for_operation":
            self.prompts.append(params)
        elif name == "notify":
            self.messages.append(params["message"])

    def asked(self, name):
        """Parameters of each request of this name that the last event made."""
        return [params for asked, params in self.requests if asked == name]

    @property
    def open_tab(self):
        """Key of the tab that is open."""
        return self.state[f"tab_{self.state.get('tabs') or 'first'}"]

    @property
    def shown(self):
        """What the panel draws now: name -> property."""
        if self._shown is None:
            self._shown = registered_panel().render(self.context).type.properties
        return self._shown

    @property
    def grid(self):
        """What the grid shows: the view, with the sidebar's filters."""
        return context(PANEL, self.view, dataset_name=self.dataset.name, filters=self.filters).view

    @property
    def texts(self):
        """All text that the panel draws now."""
        items = self.shown.values()
        return " ".join(str(item.view.to_json().get("default") or item.default or "") for item in items)

    def question(self):
        """The form of the last prompt, as text."""
        prompt = self.prompts[-1]
        grid = {"dataset_name": self.dataset.name, "filters": self.filters}
        ctx = context(prompt["operator_uri"], self.view, prompt["params"], **grid)
        return json.dumps(operator(prompt["operator_uri"]).resolve_input(ctx).to_json())

    def execute(self):
        """What the App does with the last prompt, executed as it is; returns how many labels changed."""
        prompt = self.prompts[-1]
        grid = {"dataset_name": self.dataset.name, "filters": self.filters}
        ctx = context(prompt["operator_uri"], self.view, prompt["params"], **grid)
        assert not prompt["skip_prompt"] or operator(prompt["operator_uri"]).resolve_input(ctx) is None, "no questions"
        return operator(prompt["operator_uri"]).execute(ctx)["changed"]
