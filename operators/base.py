"""What the operators have in common: a form, a call of one service, a result, and a call from Python."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import is_generated
from fiftyone_ntt.errors import InputError, NttError, empty_list
from fiftyone_ntt.operators.forms import Form, as_markdown, can_schedule, in_app
from fiftyone_ntt.params.base import Params, Progress
from fiftyone_ntt.params.wording import for_app
from fiftyone_ntt.runs.listing import is_given_up
from fiftyone_ntt.runs.workers import Origin, through

if TYPE_CHECKING:
    from fiftyone_ntt.review.ranking import Filters, Grid

GRID, SAMPLE = types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, types.Places.SAMPLES_VIEWER_ACTIONS
"""Where a button can be: above the grid, or in the open sample beside what acts on a selection there."""
STARTED = "started"
"""Key of a result that is yet to come: the operation in FiftyOne's queue that brings it."""
REFUSED = "refused"
"""In a result: why the operator could not do what it was asked for."""
_MOST_ERRORS = 20


@dataclass(frozen=True)
class Table:
    """A table below the summary of a result.

    Attributes:
        key: where its rows are in the result.
        label: its heading.
        columns: key in a row -> heading; the keys of the first row where ``None``.
        optional: it is shown only where it has rows.
    """

    key: str
    label: str
    columns: Mapping[str, str] | None = None
    optional: bool = False

    def add_to(self, outputs: types.Object, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds the table to what is shown of a result."""
        if self.optional and not rows:
            return
        columns = self.columns
        if columns is None:
            columns = {key: key.replace("_", " ") for key in (rows[0] if rows else ())}
        view = types.TableView()
        for key, heading in columns.items():
            view.add_column(key, label=heading)
        outputs.list(self.key, types.Object(), view=view, label=self.label)


FAILED_SAMPLES = Table("errors", "Failed samples", {"sample": "sample", "error": "why it failed"}, optional=True)


class NttOperator(foo.Operator):
    """Base of the plugin's operators: a subclass says what it is called and asks for, and calls its service.

    Attributes:
        NAME: in the manifest, and in addresses.
        LABEL: in the App.
        ICON: a name of Google's material icons.
        DESCRIPTION: one sentence.
        PARAMS: what its form asks for; ``None`` runs it without a form, as soon as its button is pressed.
        ACCEPTS: what it takes, where that is more than its form asks for on every machine; see ``form_params``.
        OUTPUTS: the tables of its result; ``None`` where it tells the App itself what came of it.
        SUMMARY: heading of the summary of its result.
        BUTTON: where it has a button of its own, if anywhere.
        OPTIONS: of FiftyOne's ``OperatorConfig``, as far as it differs from the other operators.
        LONG: it is offered as a scheduled run first, where runs can be scheduled; executed in the App, it goes on in a
            process of its own, and the form closes.
        CHANGES: it changes the dataset, so that the App has to load it again.
        CALL_DEFAULTS: defaults that are others where it is called from Python.
    """

    NAME: ClassVar[str]
    LABEL: ClassVar[str]
    ICON: ClassVar[str]
    DESCRIPTION: ClassVar[str]
    PARAMS: ClassVar[type[Params] | None] = None
    ACCEPTS: ClassVar[type[Params] | None] = None
    OUTPUTS: ClassVar[tuple[Table, ...] | None] = (FAILED_SAMPLES,)
    SUMMARY: ClassVar[str] = "Done"
    BUTTON: ClassVar[Any] = None
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    LONG: ClassVar[bool] = False
    CHANGES: ClassVar[bool] = True
    CALL_DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    def form_params(self) -> type[Params] | None:
        """What the form asks for on this machine, as it is set up now."""
        return self.PARAMS

    @property
    def accepted(self) -> type[Params] | None:
        """What a call may give, wherever it comes from: a scheduled one may come from a machine set up otherwise."""
        return self.ACCEPTS or self.PARAMS

    def fill(self, form: Form) -> None:
        """Adds the main fields of the form and what it says about them; the other parameters go behind a switch."""
        form.add()

    def perform(self, ctx: Any, params: Any) -> Any:
        """Calls the service.

        Args:
            ctx: FiftyOne's context.
            params: an object of ``PARAMS``.

        Returns:
            The result: a mapping fit for JSON with a ``summary``, and the rows of the tables.
        """
        raise NotImplementedError

    def changes(self, params: Any) -> bool:
        """Whether the App has to load the dataset again after a call with these parameters."""
        return self.CHANGES

    def writes(self, ctx: Any, params: Any) -> str | None:
        """The field whose labels it has changed, which the App then shows; ``None`` where it is about none."""
        return None

    @property
    def config(self) -> foo.OperatorConfig:
        # At once or scheduled, with a form that follows what is typed; safe to run again.
        options = {"risk_level": types.RiskLevel.MEDIUM, "allow_delegated_execution": True, **self.OPTIONS}
        if self.LONG:
            options["default_choice_to_delegated"] = can_schedule()
        return foo.OperatorConfig(
            name=self.NAME,
            label=self.LABEL,
            description=self.DESCRIPTION,
            icon=self.ICON,
            dynamic=True,
            allow_immediate_execution=True,
            rerunnable=True,
            **options,
        )

    def resolve_placement(self, ctx: Any) -> types.Placement | None:
        if self.BUTTON is None:
            return None
        # Without a form there is nothing to prompt for: the button runs the operator.
        button = types.Button(label=self.LABEL, icon=self.ICON, prompt=self.PARAMS is not None)
        return types.Placement(self.BUTTON, button)

    def resolve_input(self, ctx: Any) -> types.Property | None:
        params = self.form_params()
        if params is None:
            return None
        form = Form(ctx, params)
        try:
            self.fill(form)
        except NttError as error:  # of what is in the grid, say: nothing that could be typed helps
            form.refuse_all(str(error))
            return form.finished(self.LABEL)
        form.add_advanced()
        return form.finished(self.LABEL)

    def execute(self, ctx: Any) -> Any:
        try:
            params = None if self.accepted is None else self.accepted.from_mapping(ctx.params)
            if self.LONG and in_app(ctx):
                return self._start(ctx)
            # Whatever the service writes down about its caller: it was this user, in the App or in a scheduled run.
            with through(origin_of(ctx)):
                result = self.perform(ctx, params)
        except NttError as error:
            return self._refused(ctx, error)
        if isinstance(result, Iterator):  # of an operator that shows how far it is: it has not begun yet
            return self._each(ctx, result)
        if self.changes(params) and not ctx.delegated:
            ctx.ops.reload_dataset()
            tick(ctx, self.writes(ctx, params))
        return result

    def resolve_output(self, ctx: Any) -> types.Property | None:
        if self.OUTPUTS is None or STARTED in (ctx.results or {}):
            return None
        reason = (ctx.results or {}).get(REFUSED)
        if reason is not None:
            return _refusal(reason, self.LABEL)
        outputs = types.Object()
        outputs.str("summary", label=self.SUMMARY, view=types.MarkdownView())
        for table in self.OUTPUTS:
            table.add_to(outputs, (ctx.results or {}).get(table.key) or [])
        return types.Property(outputs, view=types.View(label=self.LABEL))

    def _start(self, ctx: Any) -> dict[str, str]:
        """Goes on in the background: the App would block its page, and throw the result away after ten minutes."""
        from fiftyone_ntt.runs.background import start

        operation = start(ctx.dataset, self.uri, ctx.request_params)
        name = self.LABEL.removeprefix("NTT: ")
        ctx.ops.notify(f"{name}: started in the background, see the tab Runs of the panel", variant="success")
        return {STARTED: operation}

    def _refused(self, ctx: Any, error: NttError) -> dict[str, str]:
        """A user's error as a result: of whatever is raised, FiftyOne shows the traceback.

        Raises:
            NttError: the same error, where no person waits in the App: to a caller in Python, in a scheduled run.
        """
        if not in_app(ctx):
            raise error
        reason = for_app(error, self.accepted)
        if self.OUTPUTS is None:
            ctx.ops.notify(reason, variant="error")
        return {REFUSED: reason}

    def _each(self, ctx: Any, messages: Iterator[Any]) -> Iterator[Any]:
        """What a generator yields; a user's error is shown in place of its result."""
        try:
            yield from messages
        except NttError as error:
            if not in_app(ctx):
                raise
            yield ctx.ops.show_output(_refusal(for_app(error, self.PARAMS), self.LABEL).to_json(), {})

    def __call__(
        self,
        sample_collection: SampleCollection,
        *values: Any,
        delegate: bool = False,
        delegation_target: str | None = None,
        **arguments: Any,
    ) -> Any:
        """Runs the operator from Python.

        A run at once is cut off after FiftyOne's operator timeout; the functions of ``fiftyone_ntt`` are not.

        Args:
            sample_collection: a dataset or view.
            *values: the first parameters, in the order of ``accepted``.
            delegate: schedule it instead of doing it now.
            delegation_target: the orchestrator to schedule it on.
            **arguments: the other parameters, by name.

        Returns:
            What FiftyOne's ``execute_operator`` returns.

        Raises:
            InputError: if a parameter is missing, unknown or not allowed.
            WrongTypeError: if one is of the wrong kind.
        """
        params = self._called_with(values, arguments)
        target = "dataset" if isinstance(sample_collection, fo.Dataset) else "view"
        return foo.execute_operator(
            self.uri,
            {target: sample_collection},
            params=params.to_mapping(),
            request_delegation=delegate,
            delegation_target=delegation_target,
        )

    def _called_with(self, values: Sequence[Any], arguments: Mapping[str, Any]) -> Params:
        accepted = self.accepted
        if accepted is None:
            raise InputError(f"operator {self.NAME!r} works on what is selected in the App; it cannot be called")
        names = [info.name for info in accepted.infos()]
        if len(values) > len(names):
            raise InputError(f"expected at most {len(names)} parameters ({', '.join(names)}), got {len(values)}")
        by_order = dict(zip(names, values, strict=False))
        if twice := sorted(set(by_order) & set(arguments)):
            raise InputError(f"expected {', '.join(map(repr, twice))} once, got it by its place and by its name")
        given = {**by_order, **arguments}
        for info in accepted.infos():  # a list that is empty in a form was left out; a caller gave it
            empty = info.kind is tuple and given.get(info.name) in ([], ())
            if empty and info.name not in accepted.EMPTY_IS_NONE:
                raise InputError(empty_list(info.name))
        return accepted.from_mapping({**self.CALL_DEFAULTS, **given})


def tick(ctx: Any, label_field: str | None) -> None:
    """The App shows a field's labels in the grid, beside those that it shows already."""
    if label_field is not None and ctx.dataset.has_field(label_field):
        ctx.ops.set_active_fields(list(dict.fromkeys([*(ctx.active_fields or ()), label_field])))


def origin_of(ctx: Any) -> Origin:
    """Where a run that an operator starts comes from; a scheduled one is given up by marking it as failed."""
    user = {"user": str(ctx.user_id)} if ctx.user_id else {}
    operation = ctx.request_params.get("run_doc") if ctx.delegated else None
    if operation is None:
        return Origin("app", **user)
    return Origin("delegated", **user, operation=str(operation), stopped=is_given_up(operation))


def _refusal(reason: str, label: str) -> types.Property:
    """A user's error as the App shows it: a sentence in place of a result."""
    outputs = types.Object()
    outputs.view(REFUSED, types.Error(label="This could not be done", description=as_markdown(reason)))
    return types.Property(outputs, view=types.View(label=label))


def progress_of(ctx: Any, seconds: float = 1.0) -> Progress:
    """A progress callback for a service that reports to the run, at most once in ``seconds`` (and at the end).

    An immediate run has nowhere to show progress: FiftyOne would deliver every report as a console line, afterwards.
    """
    last = float("-inf")

    def report(done: int, total: int, message: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds or done >= total:
            last = now
            ctx.set_progress(progress=done / total if total else 1.0, label=message)

    def ignore(done: int, total: int, message: str) -> None:
        pass

    return report if ctx.delegated else ignore


def error_rows(errors: Mapping[str, str]) -> list[dict[str, str]]:
    """The first failed samples, as rows of ``FAILED_SAMPLES``."""
    return [{"sample": sample_id, "error": for_app(error)} for sample_id, error in list(errors.items())[:_MOST_ERRORS]]


def show_in_grid(ctx: Any, grid: Grid) -> None:
    """The App's grid becomes what ``grid`` says: by filters of its sidebar, which hide no label from the editor.

    To be called before anything else that the App is asked for: while it is busy with something else that changes its
    page, it takes the filters, and goes back to those of before once it is through.
    """
    ctx.trigger("set_filters", grid.filters)
    if not grid.has_view_of(ctx.request_params):
        ctx.ops.set_view(grid.view())


def shows_whole_images(ctx: Any) -> bool:
    """Whether the grid shows images; otherwise says so, as filters on labels of images change nothing of patches."""
    if not is_generated(ctx.view):
        return True
    ctx.ops.notify("The grid shows patches: go back to whole images first.", variant="warning")
    return False


def show_samples(ctx: Any, view: SampleCollection) -> Filters:
    """The App's grid shows other samples; the review's filters, which were made for those before, are taken away.

    Returns:
        The filters that are left: the person's own.
    """
    from fiftyone_ntt.review.ranking import plain_filters

    filters = plain_filters(ctx.request_params.get("filters") or {})
    ctx.trigger("set_filters", filters)
    ctx.ops.set_view(view.view())
    return filters
