"""Messages in the words of whoever reads them: services name arguments and functions as a call from Python does.

The command line and the App pass what services say through here, so that no service has to know who asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

from fiftyone_ntt.params import labelling, references, review
from fiftyone_ntt.params.base import Params
from fiftyone_ntt.params.param_info import ParamInfo

_COMMANDS = {
    "build_memory_bank": "bank build",
    "cancel_run": "runs cancel",
    "export_labels": "export",
    "fit_thresholds": "fit-thresholds",
    "list_runs": "runs list",
    "lower_threshold": "runs lower",
    "make_previews": "previews make",
    "make_reference_masks": "bank masks",
    "mark_done": "done",
    "refine_labels": "refine",
    "remove_previews": "previews remove",
    "resume_run": "runs resume",
    "to_segmentation": "to-segmentation",
    "undo_refinement": "undo-refine",
    "undo_run": "runs undo",
}
_OPERATORS = {
    "build_memory_bank": "NTT: Build memory bank",
    "cancel_run": "NTT: Cancel run",
    "export_labels": "NTT: Export labels",
    "fit_thresholds": "NTT: Fit score thresholds",
    "list_runs": "the tab Runs of the panel",
    "lower_threshold": "NTT: Bring weaker labels back",
    "make_previews": "NTT: Make previews of large images",
    "make_reference_masks": "NTT: Make reference masks",
    "mark_done": "NTT: Image is done",
    "refine_labels": "NTT: Refine masks",
    "remove_previews": "NTT: Remove previews",
    "resume_run": "NTT: Resume run",
    "to_segmentation": "NTT: Write semantic segmentation masks",
    "undo_refinement": "NTT: Undo refining",
    "undo_run": "NTT: Undo run",
}
# Not in quotes, in a path or in a longer name: there it is what somebody called something.
_WORD = re.compile(r"(?<![\w'\"/.-])([a-z]+(?:_[a-z]+)*)(?:=(True|False|'[^']*'|\w[\w.]*\w|\w))?(?!['\"/-]|\w|\.\w)")
# The subject of what `ParamInfo.checked` says.
_SUBJECT = re.compile(r"^expected '([a-z_]+)'(?= (?:to be|between|of at) )")


def for_command_line(text: object) -> str:
    """``overwrite=True`` becomes ``--overwrite``, ``label_field`` ``--label-field``, ``undo_run`` `` `runs undo` ``."""

    def option(info: ParamInfo, value: str | None) -> str:
        name = info.name.replace("_", "-")
        if value in ("True", "False") and info.kind is bool:
            return f"--{name}" if value == "True" else f"--no-{name}"
        return f"--{name}" if value is None else f"--{name} {value}".replace("'", "")

    return _in_words(text, _COMMANDS, "`{}`", _infos(), option)


def for_app(text: object, params: type[Params] | None = None) -> str:
    """``pass overwrite=True`` becomes ``choose 'Overwrite: on'``, ``undo_run`` ``'NTT: Undo run'``.

    Args:
        text: the message.
        params: of the form at hand, where it is known: its labels, rather than those of another form.
    """

    def field(info: ParamInfo, value: str | None) -> str:
        value = {"True": "on", "False": "off"}.get(value or "", value)
        return f"'{info.label}'" if value is None else f"'{info.label}: " + value.strip("'") + "'"

    own = {info.name: info for info in params.infos()} if params is not None else {}
    return re.sub(r"\bpass (?='[^']+: )", "choose ", _in_words(text, _OPERATORS, "'{}'", _infos() | own, field))


def _in_words(
    text: object,
    functions: dict[str, str],
    quoted: str,
    infos: dict[str, ParamInfo],
    named: Callable[[ParamInfo, str | None], str],
) -> str:
    def word(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if value is None and name in functions:
            return quoted.format(functions[name])
        # A plain word is a word; only one with an underscore, or with a value, is surely an argument.
        is_argument = name in infos and (value is not None or "_" in name)
        return named(infos[name], value) if is_argument else match[0]

    def subject(match: re.Match[str]) -> str:
        return f"expected {named(infos[match[1]], None)}" if match[1] in infos else match[0]

    return _SUBJECT.sub(subject, _WORD.sub(word, str(text)))


@cache
def _infos() -> dict[str, ParamInfo]:
    """The parameters of all services, those of labelling first."""
    infos: dict[str, ParamInfo] = {}
    for module in (labelling, references, review):
        for params in _declared_in(module.__name__):
            infos = {info.name: info for info in params.infos()} | infos
    return infos


def _declared_in(module: str, parent: type[Params] = Params) -> Iterator[type[Params]]:
    for params in parent.__subclasses__():
        if params.__module__ == module:
            yield params
        yield from _declared_in(module, params)
