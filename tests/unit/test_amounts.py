"""Amounts in sentences: "1 label", not "1 labels", wherever a person reads one."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from support.amounts import NOUNS, wrong_amounts

from fiftyone_ntt.errors import counted

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fiftyone_ntt", "operators", "panels")
PLURAL = rf"(?:(?!has |for |as |of the )[a-z-]+ ){{0,2}}(?:{NOUNS})\b"
NO_AMOUNT = {
    "estimate.py": {"hours"},  # from an hour and a half on
    "storage.py": {"patience"},  # a setting in seconds
    "matcher.py": {"prototypes.shape[1]"},  # of a network
    "second_look.py": {"prototypes.shape[1]"},
    "memory_bank.py": {"channels[0]"},
    "sam2.py": {"list(pixels.shape)"},
    "evaluate.py": {"side"},  # words, here and below
    "tagging.py": {"it"},
    "export.py": {"also_hold"},
    "thresholds.py": {"given"},
}
"""File -> what is a word there, or is never one."""


def offenders(source: str, no_amount: Collection[str] = ()) -> Iterator[str]:
    """Each place where a sentence of a module puts a number before a plural, which reads badly for one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            for number, text in zip(node.values, node.values[1:], strict=False):
                if _is_amount(number, no_amount) and re.match(rf" {PLURAL}", _text(text)):
                    yield f"line {number.lineno}: {ast.unparse(number)}{_text(text)[:40]}"
        elif found := re.search(rf"(?:\{{\}}|%d) {PLURAL}", _text(node)):
            yield f"line {node.lineno}: {found[0]}"


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _is_amount(node: ast.AST, no_amount: Collection[str]) -> bool:
    """Whether an f-string's part may be a plain number: not ``counted``, no name in quotes, no constant, no share."""
    if not isinstance(node, ast.FormattedValue) or node.conversion != -1:
        return False
    if node.format_spec is not None and ast.unparse(node.format_spec).rstrip("'\"")[-1] in "%f":
        return False
    code = ast.unparse(node.value)
    return not (code.isupper() or code in no_amount or "counted(" in code)


def modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_amounts_no_sentence_says_one_labels() -> None:
    found = {
        f"{path.relative_to(ROOT)} {place}"
        for path in modules()
        for place in offenders(path.read_text(encoding="utf-8"), NO_AMOUNT.get(path.name, ()))
    }
    assert not found, "use fiftyone_ntt.errors.counted"


@pytest.mark.parametrize(
    ("line", "offends"),
    [
        ('f"{n} labels"', True),
        ('f"{len(x):,} rejected labels left out"', True),
        ('f"all {n} of them, {m} more classes"', True),
        ('f"{n} of {len(x)} samples have none"', True),
        ('"{} images".format(n)', True),
        ('log.info("wrote %d masks", n)', True),
        ("f\"{counted(n, 'label')}\"", False),
        ("f\"{n} of {counted(m, 'label')}\"", False),
        ('f"{name!r} holds labels"', False),
        ('f"{MOST} labels at most"', False),
        ('f"{share:.0%} of labels"', False),
        ('f"{path} has no labels"', False),
        ('f"{path} made labels"', True),  # rather one too many than one too few: a name goes into quotes
        ('f"{n} bytes"', False),
        ('"10 labels"', False),
    ],
)
def test_amounts_scan_finds_offenders(line: str, offends: bool) -> None:
    assert bool(list(offenders(line))) is offends


@pytest.mark.parametrize(
    ("number", "names", "text"),
    [
        (1, ("label",), "1 label"),
        (0, ("label",), "0 labels"),
        (1200, ("label",), "1,200 labels"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
        (1, ("label is", "labels are"), "1 label is"),
        (1.0, ("day",), "1 day"),
        (1.5, ("day",), "1.5 days"),
    ],
)
def test_counted_one_is_singular(number: float, names: tuple[str, ...], text: str) -> None:
    assert counted(number, *names) == text


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1 labels, 2 images", ["1 labels"]),
        ("of 1 weak labels", ["1 weak labels"]),
        ("1 label with masks, 1 of 2 images, 0.1 seconds, 11 labels", []),
    ],
)
def test_wrong_amounts_are_found_in_text(text: str, wrong: list[str]) -> None:
    assert wrong_amounts(text) == wrong
