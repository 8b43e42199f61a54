"""Forms made from parameter dataclasses: label, help, default, choices and limits of a field come from there."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection
from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import check_detections_field, check_reference_field
from fiftyone_ntt.errors import NttError, as_text, counted, listing
from fiftyone_ntt.params.base import Params
from fiftyone_ntt.params.param_info import ParamInfo
from fiftyone_ntt.params.wording import for_app

if TYPE_CHECKING:
    from fiftyone_ntt.references.banks import BankSummary

_SWITCH = "_advanced"
_IN_SIGHT = 3
"""Rarely needed settings that are shown at once."""
_LONGEST_TEXT = 10_000
# What Markdown means something by, as GitHub's dialect has it: anywhere, between words, and where a line begins.
_MEANINGFUL = re.compile(r"[\\`*\[\]<~|]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|^[#>+=-]")
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
# It makes links of these after backslashes are gone: an invisible character, at which no line breaks, keeps it from it.
_LINKS = re.compile(r"(?:https?|ftp)(?=://)|www(?=\.)|(?<=[\w.+-])@(?=[\w-])", re.IGNORECASE)
_JOINER = "\u2060"


def as_markdown(text: object, most: int = _LONGEST_TEXT) -> str:
    """Text as it is, in one line, where the App takes Markdown: no name becomes a picture, a link or a heading.

    Whatever comes from outside (names of classes, files, runs, fields; reports and errors that carry such names) goes
    through this on its way into Markdown.

    Args:
        text: the text, or what tells it.
        most: letters; what comes after them is cut.
    """
    escaped = _MEANINGFUL.sub(lambda match: f"\\{match[0]}", as_text(text, most))
    return _LINKS.sub(lambda match: f"{match[0]}{_JOINER}", _NUMBERED.sub(r"\1\\\2", escaped))


def as_sentence(text: object, params: type[Params] | None = None) -> str:
    """What a service says, as Markdown: an argument is called as the field of the form that ``params`` declare."""
    return as_markdown(for_app(text, params))


def as_plot_text(name: object) -> str:
    """A name as it is, where Plotly takes a little HTML and, in what it shows under the mouse, ``%{...}``."""
    return html.escape(as_text(name), quote=False).replace("{", "&#123;")


def in_app(ctx: Any) -> bool:
    """Whether the App waits for the answer: its requests name the operator, those of callers in Python do not."""
    return not ctx.delegated and "operator_uri" in ctx.request_params


class Form:
    """The form of an operator, as it is filled in at this moment.

    Args:
        ctx: FiftyOne's context.
        params: the dataclass whose parameters the form asks for.

    Attributes:
        ctx: FiftyOne's context.
        inputs: FiftyOne's form.
    """

    def __init__(self, ctx: Any, params: type[Params]) -> None:
        self.ctx, self.inputs = ctx, types.Object()
        self._params, self._infos = params, {info.name: info for info in params.infos()}
        self._defaults: dict[str, Any] = {}
        self._choices: dict[str, Mapping[str, str]] = {}
        self._suggestions: dict[str, Iterable[str]] = {}

    def _words(self, message: str) -> str:
        """The message in the App's words, for whom it is; in Python's, for who calls from there."""
        return for_app(message, self._params) if in_app(self.ctx) else message

    def value(self, name: str) -> Any:
        """What the form holds for a parameter: the user's value, else the default; nothing is checked."""
        value = self.ctx.params.get(name)
        return self._defaults.get(name, self._infos[name].default) if value is None else value

    def add(
        self,
        *names: str,
        choices: Mapping[str, Mapping[str, str]] | None = None,
        suggestions: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """Adds a field a parameter.

        Args:
            *names: the parameters, in the order of the dataclass whatever theirs; all of them where there are none.
            choices: parameter -> the values there are, each with its label; no other can be given. They hold for
                fields that are added later, too.
            suggestions: parameter -> values to offer; others can still be typed. Likewise.
        """
        self._choices |= choices or {}
        self._suggestions |= suggestions or {}
        for info in self._infos.values():
            if names and info.name not in names:
                continue
            fixed = self._choices.get(info.name)
            if fixed is None and info.choices is not None:
                fixed = {choice: choice for choice in info.choices}
            _add_field(self.inputs, info, fixed, list(self._suggestions.get(info.name, ())))

    def offer_banks(self, empty: str) -> dict[str, BankSummary]:
        """Lets the parameter ``bank`` be one of the memory banks kept with the dataset; returns them by name.

        Args:
            empty: what it is called to choose none.
        """
        from fiftyone_ntt.references.banks import bank_summaries  # with torch, which registration does not need

        banks = bank_summaries(self.ctx.dataset)
        labels = {
            name: f"{name} ({counted(len(bank.shots), 'class', 'classes')}, preset {bank.preset})"
            for name, bank in banks.items()
        }
        self._choices["bank"] = {"": empty, **labels}
        return banks

    def add_advanced(self) -> None:
        """Adds a switch, and behind it the fields that are not there yet; one that was changed shows in any case.

        Many of them come in groups, each behind a switch of its own.
        """
        rest = [info for info in self._infos.values() if not self.has(info.name)]
        if not rest:
            return
        self._add_switch(_SWITCH, f"Advanced: {counted(len(rest), 'more setting')}")
        opened = bool(self.ctx.params.get(_SWITCH))
        groups: dict[str, list[str]] = {}
        for info in rest:
            groups.setdefault(info.group if len(rest) > _IN_SIGHT else "", []).append(info.name)
        for group, names in groups.items():
            key = f"{_SWITCH}_{group.lower().replace(' ', '_').replace(',', '')}"
            if group and opened:
                self._add_switch(key, f"{group}: {counted(len(names), 'setting')}")
            whole = opened and (not group or self.ctx.params.get(key))
            shown = [name for name in names if whole or self.is_changed(name)]
            if shown:
                self.add(*shown)

    def _add_switch(self, key: str, label: str) -> None:
        self.inputs.bool(key, default=False, required=False, label=label, view=types.SwitchView())

    def has(self, name: str) -> bool:
        """Whether there is a field for a parameter by now."""
        return self.inputs.get_property(name) is not None

    def is_changed(self, name: str) -> bool:
        """Whether a parameter has another value than its default."""
        default = _plain(self._infos[name])
        return self.ctx.params.get(name, default) not in (default, None, "", [])

    def set_default(self, name: str, value: Any) -> None:
        """Sets a field to a value that only this dataset knows."""
        self.inputs.get_property(name).default = self._defaults[name] = value

    def notice(self, name: str, text: str, *, warning: bool = False) -> None:
        """Adds a line of plain words."""
        kind = types.Warning if warning else types.Notice
        self.inputs.view(f"_{name}", kind(label=as_sentence(text, self._params)))

    def refuse(self, name: str, message: str) -> None:
        """Marks a field as unusable: the App shows the message and disables Execute, a call from Python raises it."""
        field = self.inputs.get_property(name)
        if field is None:  # hidden so far, but the message has to be somewhere
            self.add(name)
            field = self.inputs.get_property(name)
        field.invalid = True
        field.error_message = self._words(message)

    def refuse_all(self, message: str) -> None:
        """Marks the whole form as unusable."""
        line = self.inputs.view("_refused", types.Error(label=as_markdown(self._words(message))))
        line.invalid, line.error_message = True, self._words(message)

    def require_detections(self, name: str, view: SampleCollection) -> bool:
        """Refuses the form unless the field that a parameter names holds detections; returns whether it does."""
        try:
            check_detections_field(view, str(self.value(name)))
        except NttError as error:
            self.refuse(name, str(error))
            return False
        return True

    def require_labels(self, view: SampleCollection, fields: Sequence[str]) -> bool:
        """Refuses the form unless labels of every field can be references; returns whether they can.

        Args:
            view: the target.
            fields: the first in ``label_field``, any others in ``more_fields``.
        """
        for i, name in enumerate(fields):
            try:
                check_reference_field(view, name)
            except NttError as error:
                self.refuse("more_fields" if i else "label_field", str(error))
                return False
        return True

    def require_choice(self, name: str, there: Collection[str], unknown: str, empty: str) -> bool:
        """Refuses the form unless what is chosen for a parameter is there; returns whether something that is there is.

        Args:
            name: the parameter.
            there: what there is to choose from.
            unknown: what to say of something else; what was chosen stands in for ``{!r}`` in it.
            empty: what to say where there is nothing to choose from.
        """
        chosen = self.value(name)
        if not there:
            self.refuse(name, empty)
        elif chosen and chosen not in there:
            self.refuse(name, f"{unknown.format(chosen)}; there is: {listing(there, like=chosen)}")
        return chosen in there

    def finished(self, label: str) -> types.Property:
        """The form as FiftyOne takes it."""
        return types.Property(self.inputs, view=types.View(label=label))


def _add_field(inputs: types.Object, info: ParamInfo, choices: Mapping[str, str] | None, suggested: list[str]) -> None:
    # Not required where there is a default: FiftyOne fills in no defaults for callers in Python, our dataclass does.
    common = {"label": info.label, "description": info.help, "required": info.required, "default": _plain(info)}
    if info.kind is tuple:
        view = _autocomplete(suggested, multiple=True, allow_duplicates=False)
        inputs.list(info.name, types.String(), view=view, **common)
    elif choices is not None:
        view = types.DropdownView()
        for value, label in choices.items():
            view.add_choice(value, label=label)
        if info.default is None and "" in choices:
            common["default"] = ""
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


def listed(counts: Mapping[str, int], most: int = 12) -> str:
    """``"2 cat, 1 dog"``, in the order of the alphabet, as far as it can be read at a glance."""
    return listing((f"{count} {name}" for name, count in sorted(counts.items())), most)


def can_schedule() -> bool:
    """Whether this App offers scheduled runs."""
    return bool(fo.config.allow_legacy_orchestrators)
