"""The pages say what is so: links lead somewhere, code compiles, commands, operators and files exist."""

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
SOURCES = [path for folder in ("fiftyone_ntt", "operators", "panels", "benchmarks", "examples", "tools", "tests")
           for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
# Where a path that a page names may begin.
ROOTS = [ROOT, ROOT / "fiftyone_ntt", ROOT / "fiftyone_ntt" / "method"]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page):
    return page.read_text(encoding="utf-8")


def prose_of(page):
    """A page without its blocks of code."""
    return FENCE.sub("", text_of(page))


def blocks_of(page, *languages):
    return [code for language, code in FENCE.findall(text_of(page)) if language in languages]


def headings_of(page):
    return re.findall(r"^(#+) (.+)$", prose_of(page), re.MULTILINE)


def anchors_of(page):
    """What GitHub calls the headings of a page."""
    anchors = []
    for _, title in headings_of(page):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        anchors.append(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return anchors


every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@every_page
def test_page_has_one_title(page):
    assert [level for level, _ in headings_of(page)].count("#") == 1


@every_page
def test_no_placeholder_is_left(page):
    words = CODE.sub("", prose_of(page))
    assert not re.findall(r"\b(?:[A-Z]{2,}_[A-Z_]+|TODO|FIXME|TBD|XXX)\b", words)


@every_page
def test_one_sentence_a_line(page):
    for line in prose_of(page).splitlines() if page.name != "api.md" else ():
        words = re.sub(r"\([^()]*\)", "", CODE.sub("x", re.sub(r"^\s*\d+\. ", "", line)))
        if not words.startswith(("|", "#", "    ", "![", "*Part")):
            assert not re.search(r"[a-z0-9)][.!?][\"*]* +[A-Z]", words), line


@every_page
def test_links_lead_somewhere(page):
    for target in LINK.findall(prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target


@every_page
def test_python_blocks_compile(page):
    for code in blocks_of(page, "python"):
        if page.name != "api.md":  # signatures, no statements
            compile(code, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@every_page
def test_files_that_are_named_exist(page):
    for name in CODE.findall(prose_of(page)):
        if re.fullmatch(r"[\w./-]+\.(?:py|md|npz|toml)", name):
            assert file_named(name), name


@every_page
def test_functions_named_beside_a_file_are_in_it(page):
    for name, what in re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", prose_of(page)):
        source = text_of(file_named(name))
        for dotted in CODE.findall(what):
            for part in dotted.split("."):
                assert re.search(rf"\b(?:def|class) {part}\b|^\s*{part}\b[:=\s]", source, re.MULTILINE), (name, dotted)


def file_named(name):
    """The file that a page means, or ``None``. A bare name may lie anywhere."""
    for root in ROOTS:
        if (root / name).is_file():
            return root / name
    return next((path for path in SOURCES if "/" not in name and path.name == name), None)


def test_pages_that_the_code_names_exist():
    sections = {title.split()[0] for _, title in headings_of(ROOT / "docs" / "method.md")}
    for path in SOURCES:
        text = text_of(path)
        for name in re.findall(r"\bdocs/[\w/-]+\.md", text):
            assert (ROOT / name).is_file(), (path.name, name)
        for section in re.findall(r"docs/method\.md (\d\.\d)", text):
            assert section in sections, (path.name, section)


def test_notice_names_files_that_exist():
    for name in re.findall(r"[\w/]+\.(?:json|py)\b", text_of(ROOT / "NOTICE")):
        assert (ROOT / name).is_file(), name


def test_every_operator_is_in_the_table():
    table = {name for line in text_of(ROOT / "README.md").splitlines() if line.startswith("| `")
             for name in CODE.findall(line.split("|")[1])}  # fmt: skip
    manifest = text_of(ROOT / "fiftyone.yml").split("operators:")[1].split("panels:")[0]
    assert set(re.findall(r"- (\w+)", manifest)) <= table


def test_operators_are_called_what_the_table_says():
    rows = [line.split("|")[1:3] for line in text_of(ROOT / "README.md").splitlines() if line.startswith("| `")]
    table = {name.strip(" `"): label.strip() for name, label in rows}
    labels = {}
    for path in (ROOT / "operators").glob("*.py"):
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                keys = [ast.unparse(target) for target in node.targets[0].elts]
                if {"NAME", "LABEL"} <= set(keys) and isinstance(node.value, ast.Tuple):
                    values = dict(zip(keys, map(ast.literal_eval, node.value.elts), strict=True))
                    labels[values["NAME"]] = values["LABEL"]
    assert len(labels) == 28
    assert {name: table[name] for name in labels} == labels


def commands_of(page):
    """The calls of the command line that a page shows, as lists of words."""
    lines = [line for code in blocks_of(page, "bash") for line in code.splitlines()]
    calls = [*lines, *CODE.findall(prose_of(page))]
    return [call.split("#")[0].split() for call in calls if re.match(r"fiftyone-ntt [a-z]", call)]


@every_page
def test_commands_that_are_shown_exist(page):
    from fiftyone_ntt.cli.main import _parser

    for words in commands_of(page):
        parser = _parser()
        for word in words[1:]:
            groups = [item for item in parser._actions if isinstance(item, argparse._SubParsersAction)]
            if groups and re.fullmatch(r"[a-z-]+", word):
                assert word in groups[0].choices, " ".join(words)
                parser = groups[0].choices[word]
            elif word.startswith("--"):
                assert word in parser._option_string_actions, " ".join(words)


@every_page
def test_benchmarks_and_targets_that_are_shown_exist(page):
    text = text_of(page)
    targets = re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE)
    for name in re.findall(r"python -m benchmarks\.(\w+)", text):
        assert (ROOT / "benchmarks" / f"{name}.py").is_file(), name
    for name in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        assert name in targets, name


def test_list_of_functions_is_up_to_date():
    command = [sys.executable, str(ROOT / "tools" / "api_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
