"""Writes docs/api.md from the docstrings of the public names: ``python tools/api_docs.py [--check]``.

The sources are parsed, not imported, so this needs the standard library only. Public is what ``fiftyone_ntt``,
``fiftyone_ntt.core`` and ``fiftyone_ntt.models`` export. With ``--check`` nothing is written, and the exit status is 1
if the file is not up to date.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fiftyone_ntt"
API = ROOT / "docs" / "api.md"
INTRODUCTION = """# All public functions and classes

This page is made from the docstrings by `python tools/api_docs.py`; a test fails if it is not up to date.
The [guide](guide.md) tells the same as a story.
"""
CHAPTERS = {
    PACKAGE: "With FiftyOne: `import fiftyone_ntt as ntt`",
    f"{PACKAGE}.core": "Without FiftyOne: `from fiftyone_ntt.core import ...`",
    f"{PACKAGE}.models": "Models: `from fiftyone_ntt.models import ...`",
}
# Parts of a docstring in Google's style that have a heading, in the order in which they are shown.
PARTS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
WIDE = 100
_OWN = ("self", "cls")


@dataclass(frozen=True)
class Public:
    """A public name: the module that defines it, and its definition there."""

    name: str
    module: str
    node: ast.FunctionDef | ast.ClassDef


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    text = page()
    if not parser.parse_args().check:
        API.write_text(text, encoding="utf-8")
        return 0
    if API.is_file() and API.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(f"{API.relative_to(ROOT)} is not up to date: run `python tools/api_docs.py`\n")
    return 1


def page() -> str:
    """The whole page."""
    seen: set[tuple[str, str]] = set()
    lines = [INTRODUCTION]
    for module, title in CHAPTERS.items():
        # A name that a chapter before has shown is not shown again.
        names = [public for public in public_names(module) if (public.module, public.name) not in seen]
        seen |= {(public.module, public.name) for public in names}
        lines += [f"## {title}", "", *overview(names), ""]
        for public in names:
            lines += [*entry(public), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def overview(names: list[Public]) -> list[str]:
    """A table of the names with links to their entries."""
    rows = []
    for public in names:
        text = first_paragraph(split_docstring(ast.get_docstring(public.node) or "")[""])
        # The first sentence is enough here.
        text = re.split(r"(?<=[.])\s", text)[0]
        rows.append(f"| [{public.name}](#{public.name.lower()}) | {cell(text)} |")
    return ["| name | what it is |", "| --- | --- |", *rows]


def public_names(module: str) -> Iterator[Public]:
    """What a module exports through ``__all__`` (or ``_LAZY``), in alphabetical order, each followed to its source."""
    for name in sorted(exported(module), key=str.lower):
        public = resolve(module, name)
        if public is not None:
            yield public


def exported(module: str) -> list[str]:
    """The names that a module exports, without those that are no function, class or table."""
    values = dict(assignments(module))
    value = values["_LAZY"] if "_LAZY" in values else values["__all__"]
    return [str(name) for name in ast.literal_eval(value)]


def assignments(module: str) -> Iterator[tuple[str, ast.expr]]:
    """Top-level ``name = value`` of a module."""
    for node in tree(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


@cache
def tree(module: str) -> ast.Module:
    """A module of the package, parsed."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def resolve(module: str, name: str) -> Public | None:
    """Follows re-exports to where a name is defined; ``None`` for what is no function or class (a version, a table)."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return resolve(str(node.module), alias.name)
    for statement in tree(module).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name == name:
            return Public(name, module, statement)
    return None


def entry(public: Public) -> list[str]:
    """Heading, signature and docstring of one name."""
    node = public.node
    lines = [f"### {public.name}", "", "```python", signature(public), "```", ""]
    documented = [node, *bases(public)] if isinstance(node, ast.ClassDef) else [node]
    sections = [split_docstring(ast.get_docstring(item) or "") for item in documented]
    lines += [first_paragraph(sections[0][""]), ""]
    for part in PARTS:
        texts = [section[part] for section in sections if part in section]
        if texts:
            lines += [f"**{part}**", "", *shown(part, texts), ""]
    if isinstance(node, ast.ClassDef):
        lines += methods(node)
    return lines


def signature(public: Public) -> str:
    """How a function or class is called, one argument a line where one line would be too long."""
    node = public.node
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return laid_out(public.name, arguments(node.args), returns)

    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return laid_out(public.name, arguments(item.args), "")
    if is_dataclass(node):
        # Bases come first, as in the constructor that dataclass makes.
        fields = [text for item in (*bases(public)[::-1], node) for text in field_texts(item)]
        return laid_out(public.name, fields, "")
    return f"class {public.name}"


def laid_out(name: str, parts: list[str], returns: str) -> str:
    """``name(parts)returns``, on one line if that is short enough."""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDE:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def arguments(args: ast.arguments) -> list[str]:
    """The arguments of a function as texts, without ``self``."""
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    given = [(item, default) for item, default in zip(positional, defaults, strict=True) if item.arg not in _OWN]
    texts = [argument(item, default) for item, default in given]
    if args.vararg:
        texts.append(f"*{argument(args.vararg, None)}")
    elif args.kwonlyargs:
        texts.append("*")
    texts += [argument(item, default) for item, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    if args.kwarg:
        texts.append(f"**{argument(args.kwarg, None)}")
    return texts


def argument(item: ast.arg, default: ast.expr | None) -> str:
    """``name: type = default``."""
    kind = f": {ast.unparse(item.annotation)}" if item.annotation else ""
    if default is None:
        return f"{item.arg}{kind}"
    return f"{item.arg}{kind}{' = ' if kind else '='}{ast.unparse(default)}"


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether the class is decorated as a dataclass."""
    return any("dataclass" in ast.unparse(item) for item in node.decorator_list)


def field_texts(node: ast.ClassDef) -> list[str]:
    """The fields of a dataclass as arguments of its constructor."""
    texts = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            kind = ast.unparse(item.annotation)
            if not kind.startswith("ClassVar"):
                default = f" = {ast.unparse(item.value)}" if item.value is not None else ""
                texts.append(f"{item.target.id}: {kind}{default}")
    return texts


def bases(public: Public) -> list[ast.ClassDef]:
    """The base classes that this package defines, nearest first."""
    assert isinstance(public.node, ast.ClassDef)
    found = []
    for base in public.node.bases:
        parent = resolve(public.module, base.id) if isinstance(base, ast.Name) else None
        if parent is not None and isinstance(parent.node, ast.ClassDef):
            found += [parent.node, *bases(parent)]
    return found


def methods(node: ast.ClassDef) -> list[str]:
    """A table of the public methods and properties of a class; nothing where there are none."""
    rows = []
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
            text = first_paragraph(split_docstring(ast.get_docstring(item) or "")[""])
            is_property = any("property" in ast.unparse(decorator) for decorator in item.decorator_list)
            call = item.name if is_property else f"{item.name}({', '.join(bare_names(item.args))})"
            rows.append(f"| `{call}` | {cell(text)} |")
    return ["| method | what it does |", "| --- | --- |", *rows, ""] if rows else []


def cell(text: str) -> str:
    """Text that does not end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def bare_names(args: ast.arguments) -> list[str]:
    """The names of the arguments without types and defaults: short enough for a table."""
    return [text.split(":")[0].split("=")[0] for text in arguments(args)]


def split_docstring(text: str) -> dict[str, str]:
    """A docstring by its parts: ``""`` is what comes before the first heading."""
    parts, current = {"": ""}, ""
    for line in inspect.cleandoc(text).splitlines():
        heading = re.fullmatch(r"(\w+):", line)
        if heading and heading.group(1).removesuffix("s") in [part.removesuffix("s") for part in PARTS]:
            current = "Example" if heading.group(1).startswith("Example") else heading.group(1)
            parts[current] = ""
        else:
            parts[current] += line + "\n"
    return parts


def first_paragraph(text: str) -> str:
    """The first paragraph on one line, in Markdown."""
    return markdown(" ".join(text.strip().split("\n\n")[0].split()))


def shown(part: str, texts: list[str]) -> list[str]:
    """A part as Markdown: code, a list of names, or a sentence."""
    text = "\n".join(inspect.cleandoc("\n" + item) for item in texts)
    if part == "Example":
        return ["```pycon" if text.lstrip().startswith(">>>") else "```python", text.strip(), "```"]
    if part in ("Returns", "Yields"):
        return [markdown(" ".join(text.split()))]
    items: list[str] = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            name, _, rest = line.partition(":")
            items.append(f"* `{name.strip()}`: {rest.strip()}")
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
    return [markdown(item) for item in items]


def markdown(text: str) -> str:
    """Double backticks of docstrings are single ones in Markdown."""
    return text.replace("``", "`")


if __name__ == "__main__":
    raise SystemExit(main())
