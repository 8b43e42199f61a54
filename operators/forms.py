"""Forms made from parameter dataclasses, and what the operators share."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import check_detections_field, check_reference_field, is_detections_field
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.params.base import ParamInfo, Params, Progress

_ERRORS_SHOWN = 20

CANNOT_SCHEDULE = (
    "This App cannot schedule runs. To let it: quit it, start it again with "
    "FIFTYONE_ALLOW_LEGACY_ORCHESTRATORS=true in its environment, and run `fiftyone delegated launch` beside it."
)


def add_params(
    inputs: types.Object,
    params: type[Params],
    *,
    choices: Mapping[str, Mapping[str, str]] | None = None,
    suggestions: Mapping[str, Iterable[str]] | None = None,
    only: Collection[str] | None = None,
    leave_out: Collection[str] = (),
) -> None:
    """Adds one form field a parameter: label, help, default, choices and bounds come from the dataclass.

    Args:
        inputs: the form.
        params: the dataclass.
        choices: parameter name -> the values there are, each with its label; no other can be given.
        suggestions: parameter name -> values to offer; others can still be typed.
        only: the parameters to add; all of them where ``None``.
        leave_out: parameters not to add.
    """
    for info in params.infos():
        if info.name in leave_out or (only is not None and info.name not in only):
            continue
        fixed = (choices or {}).get(info.name)
        if fixed is None and info.choices is not None:
            fixed = {choice: choice for choice in info.choices}
        _add_param(inputs, info, fixed, list((suggestions or {}).get(info.name, ())))


def add_advanced(
    inputs: types.Object,
    ctx: Any,
    params: type[Params],
    names: Collection[str],
    *,
    suggestions: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Adds a switch, and behind it the fields that are rarely needed; one that was changed shows in any case.

    Args:
        inputs: the form.
        ctx: the context.
        params: the dataclass.
        names: its parameters to hide.
        suggestions: see ``add_params``.
    """
    switch = types.SwitchView()
    label = f"Advanced: {counted(len(names), 'more setting')}"
    inputs.bool("_advanced", default=False, required=False, label=label, view=switch)
    defaults = {info.name: _plain(info) for info in params.infos()}
    changed = {name for name in names if ctx.params.get(name, defaults[name]) not in (defaults[name], None, "", [])}
    shown = names if ctx.params.get("_advanced") else changed
    add_params(inputs, params, suggestions=suggestions, only=shown)


def _add_param(inputs: types.Object, info: ParamInfo, choices: Mapping[str, str] | None, suggested: list[str]) -> None:
    # Not required where there is a default: FiftyOne fills in no defaults for callers in Python, our dataclass does.
    common = {"label": info.label, "description": info.help, "required": info.required, "default": _plain(info)}
    if info.kind is tuple:
        view = _autocomplete(suggested, multiple=True, allow_duplicates=False)
        inputs.list(info.name, types.String(), view=view, **common)
    elif choices is not None:
        view = types.DropdownView()
        for value, label in choices.items():
            view.add_choice(value, label=label)
        inputs.enum(info.name, view.values(), view=view, **common)
    elif info.kind is bool:
        inputs.bool(info.name, view=types.CheckboxView(), **common)
    elif info.kind is int:
        inputs.int(info.name, min=info.minimum, max=info.maximum, **common)
    elif info.kind is float:
        inputs.float(info.name, min=info.minimum, max=info.maximum, **common)
    else:
        inputs.str(info.name, allow_empty=True, view=_autocomplete(suggested) if suggested else None, **common)


def _plain(info: ParamInfo) -> Any:
    return list(info.default) if isinstance(info.default, tuple) else info.default


def _autocomplete(values: Iterable[str], **options: Any) -> types.AutocompleteView:
    view = types.AutocompleteView(allow_user_input=True, **options)
    for value in values:
        view.add_choice(value, label=value)
    return view


def current(ctx: Any, params: type[Params], name: str) -> Any:
    """What the form holds for a parameter right now: the user's value, else the default; nothing is checked."""
    info = next(info for info in params.infos() if info.name == name)
    value = ctx.params.get(name)
    return info.default if value is None else value


def notice(inputs: types.Object, name: str, text: str, *, warning: bool = False) -> None:
    """Adds a line of plain words to the form."""
    kind = types.Warning if warning else types.Notice
    inputs.view(f"_{name}", kind(label=text))


def refuse(inputs: types.Object, name: str, message: str) -> None:
    """Marks a form field as unusable: the App shows the message and disables Execute, the SDK raises it."""
    field = inputs.get_property(name)
    field.invalid = True
    field.error_message = message


def require_detections(inputs: types.Object, name: str, view: SampleCollection, field_name: Any) -> bool:
    """Refuses the form unless the field named by parameter ``name`` holds detections; returns whether it does."""
    try:
        check_detections_field(view, str(field_name))
    except NttError as error:
        refuse(inputs, name, str(error))
        return False
    return True


def require_labels(inputs: types.Object, view: SampleCollection, fields: Sequence[str]) -> bool:
    """Refuses the form unless labels of every field can be references; returns whether they can.

    Args:
        inputs: the form, with the first field in ``label_field`` and any others in ``more_fields``.
        view: the target.
        fields: names of the fields.
    """
    for i, name in enumerate(fields):
        try:
            check_reference_field(view, name)
        except NttError as error:
            refuse(inputs, "more_fields" if i else "label_field", str(error))
            return False
    return True


def detections_fields(view: SampleCollection) -> list[str]:
    """Names of the fields that hold detections."""
    return [name for name in view.get_field_schema() if is_detections_field(view, name)]


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """``"1 image"``, ``"2 images"``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def add_estimate(inputs: types.Object, target: SampleCollection, preset: str, values: Mapping[str, Any]) -> None:
    """Says how many images there are, how many are indexed, and how long the rest takes on this machine.

    Args:
        inputs: the form.
        target: the images to do.
        preset: name of the models.
        values: what the form holds for the parameters that decide how candidates are made.
    """
    from fiftyone_ntt.params.labelling import StageOneFields
    from fiftyone_ntt.runs.estimate import estimate

    given = {name: values[name] for name in StageOneFields.__annotations__ if values.get(name) not in (None, "")}
    try:
        notice(inputs, "estimate", str(estimate(target, **{**given, "preset": preset})))
    except (NttError, TypeError):  # a value that is being typed; its own field says what is wrong with it
        notice(inputs, "estimate", f"{counted(len(target), 'image')} in the target")


def add_execution_notice(inputs: types.Object) -> None:
    """Says how to get scheduling where this App has none, and what an immediate run is limited to."""
    if can_schedule():
        return
    minutes = fo.config.operator_timeout / 60
    limit = f" A run that is executed at once and takes more than {minutes:g} minutes ends with an error."
    notice(inputs, "execution", CANNOT_SCHEDULE + limit)


def can_schedule() -> bool:
    """Whether this App offers scheduled runs."""
    return bool(fo.config.allow_legacy_orchestrators)


def operator_config(name: str, label: str, description: str, icon: str, **options: Any) -> foo.OperatorConfig:
    """What the operators have in common: dynamic forms, at once or scheduled, safe to run again."""
    return foo.OperatorConfig(
        name=name,
        label=label,
        description=description,
        icon=icon,
        dynamic=True,
        allow_immediate_execution=True,
        rerunnable=True,
        **{"risk_level": types.RiskLevel.MEDIUM, "allow_delegated_execution": True, **options},
    )


def grid_button(label: str, icon: str, *, prompt: bool = True) -> types.Placement:
    """A button above the grid that opens the operator's form, or where ``prompt`` is false runs it at once."""
    return types.Placement(
        types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, types.Button(label=label, icon=icon, prompt=prompt)
    )


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
    """The first failed samples, as ``summary_and_errors`` shows them."""
    return [{"sample": sample_id, "error": error} for sample_id, error in list(errors.items())[:_ERRORS_SHOWN]]


def summary_and_errors(ctx: Any, label: str) -> types.Property:
    """The output of a run over samples: its ``summary``, and a table of its ``errors`` if there are any."""
    outputs = types.Object()
    outputs.str("summary", label="Done", view=types.MarkdownView())
    if (ctx.results or {}).get("errors"):
        table = types.TableView()
        table.add_column("sample", label="sample")
        table.add_column("error", label="why it failed")
        outputs.list("errors", types.Object(), view=table, label="Failed samples")
    return types.Property(outputs, view=types.View(label=label))


def finished(ctx: Any) -> None:
    """Shows what changed, where someone is looking."""
    if not ctx.delegated:
        ctx.ops.reload_dataset()


def call(
    operator: foo.Operator,
    samples: SampleCollection,
    params: Params,
    delegate: bool,
    delegation_target: str | None,
) -> Any:
    """Runs an operator from Python on a collection, at once or as a scheduled run."""
    name = "dataset" if isinstance(samples, fo.Dataset) else "view"
    return foo.execute_operator(
        operator.uri,
        {name: samples},
        params=params.to_mapping(),
        request_delegation=delegate,
        delegation_target=delegation_target,
    )
