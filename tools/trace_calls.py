"""Tells which files and functions of the package each of its main calls runs through, and how large the package is.

    python tools/trace_calls.py                print the tables
    python tools/trace_calls.py --json FILE    also write the figures, with the names of all files and functions

The calls are made for real: a few pictures, the offline models, a database of their own in a temporary folder. A file
counts when one of its functions has run. The bodies of modules and classes, which run at import, are no functions;
neither are lambdas and comprehensions, nor what ``dataclass`` generates.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import fiftyone_ntt as ntt

if TYPE_CHECKING:
    import fiftyone as fo

ROOT = Path(ntt.__file__).resolve().parents[1]
PARTS = ("fiftyone_ntt", "operators", "panels")
MATCHERS = ("fiftyone_ntt/core/match.py", "fiftyone_ntt/method/matcher.py")
"""Where candidates are matched: before and after the modules were sorted into folders."""
REFERENCE, TARGETS, ONE_MORE = "coins_1", ("coins_2", "coins_3"), "chelsea"
POINTS_PER_SIDE = 8
"""Few, so that it does not take long; what runs does not depend on it."""
_FUNCTION = inspect.CO_OPTIMIZED | inspect.CO_NEWLOCALS
_TRUTH = "ground_truth"


@dataclass(frozen=True)
class Function:
    """A function of the package.

    Attributes:
        file: its file, relative to the folder that holds the package.
        line: where it begins.
        name: its name.
    """

    file: str
    line: int
    name: str


@dataclass
class Trace:
    """What one call ran through.

    Attributes:
        codes: the functions that ran, by identity: those of two files may be equal.
        matches: the ids of the samples that were matched, one a match.
    """

    codes: dict[int, CodeType] = field(default_factory=dict)
    matches: list[str] = field(default_factory=list)  # several threads append: a count would lose some

    @property
    def functions(self) -> set[Function]:
        """The functions of the package among ``codes``."""
        return {found for code in self.codes.values() if (found := function_of(code)) is not None}

    @property
    def files(self) -> set[str]:
        """Their files."""
        return files_of(self.functions)


def files_of(functions: Iterable[Function]) -> set[str]:
    """The files of some functions."""
    return {function.file for function in functions}


def function_of(code: CodeType) -> Function | None:
    """The function of the package that a code object is; ``None`` for everything else."""
    if code.co_flags & _FUNCTION != _FUNCTION or code.co_name.startswith("<"):
        return None
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in PARTS:
        return None
    return Function(path.relative_to(ROOT).as_posix(), code.co_firstlineno, code.co_name)


def traced(call: Callable[[], Any], sample_ids: Iterable[str] = ()) -> Trace:
    """Makes a call and notes every function that runs in any thread meanwhile.

    Args:
        call: the call.
        sample_ids: ids of the samples whose matches are counted.
    """
    trace, ids = Trace(), frozenset(sample_ids)
    matchers = {str(ROOT / name) for name in MATCHERS}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        trace.codes[id(frame.f_code)] = frame.f_code
        if frame.f_code.co_filename in matchers and is_a_match(frame, matchers):
            trace.matches.extend(samples_above(frame, ids)[:1])

    threading.setprofile(profile)  # for the threads that the call starts
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return trace


def is_a_match(frame: FrameType, matchers: set[str]) -> bool:
    """Whether a call into a matcher's file is a match of its own, and no helper or part of one."""
    if not frame.f_code.co_name.startswith("match"):
        return False
    outer = frame.f_back
    while outer is not None and not (outer.f_code.co_filename in matchers and outer.f_code.co_name.startswith("match")):
        outer = outer.f_back
    return outer is None


def samples_above(frame: FrameType, ids: frozenset[str]) -> list[str]:
    """The sample that a call is about: ids among the variables of its callers, the nearest caller's first."""
    found: list[str] = []
    outer = frame.f_back
    while outer is not None:
        if function_of(outer.f_code) is not None:
            found += [value for value in outer.f_locals.values() if isinstance(value, str) and value in ids]
        outer = outer.f_back
    return found


def use_own_fiftyone(folder: Path) -> None:
    """Gives FiftyOne a database, folders and settings in ``folder``, before it is imported."""
    from fiftyone_ntt.demo.database import start_database

    os.environ.pop("FIFTYONE_PRIVATE_DATABASE_PORT", None)
    os.environ.update(
        FIFTYONE_DATABASE_URI=start_database(folder / "database"),
        FIFTYONE_DATABASE_NAME="fiftyone",
        FIFTYONE_DATABASE_VALIDATION="false",
        FIFTYONE_DO_NOT_TRACK="true",
        FIFTYONE_PLUGINS_DIR=str(folder / "plugins"),
        FIFTYONE_DEFAULT_DATASET_DIR=str(folder / "datasets"),
        FIFTYONE_SHOW_PROGRESS_BARS="false",
        FIFTYONE_NTT_INDEX=str(folder / "index"),
        HF_HUB_OFFLINE="1",
    )
    for kind in ("", "APP_", "ANNOTATION_", "EVALUATION_"):  # files that are not there: plain defaults
        os.environ[f"FIFTYONE_{kind}CONFIG_PATH"] = str(folder / f"{kind.lower()}config.json")


def make_dataset(folder: Path) -> fo.Dataset:
    """The pictures of the demo that are used here, with the ground truth of the references."""
    import fiftyone as fo
    from PIL import Image

    from fiftyone_ntt.demo.data import load_images

    samples = []
    for image in load_images():
        if image.name not in (REFERENCE, *TARGETS, ONE_MORE):
            continue
        path = folder / f"{image.name}.png"
        Image.fromarray(image.pixels).save(path)
        sample = fo.Sample(str(path), tags=["ntt:reference"] if image.reference else [image.name])
        labels = [fo.Detection.from_mask(one.mask, label=one.label) for one in image.objects]
        if image.reference:
            labels[0].mask = None  # references that are only boxes take a way of their own
        sample[_TRUTH] = fo.Detections(detections=labels)
        samples.append(sample)
    dataset = fo.Dataset("ntt-trace", persistent=True)
    dataset.add_samples(samples)
    return dataset


def as_in_a_new_process() -> None:
    """Forgets the models that are loaded, and whatever else the package has cached."""
    from fiftyone_ntt.models.presets import clear_loaded

    clear_loaded()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fiftyone_ntt":
            for value in list(vars(module).values()):
                getattr(value, "cache_clear", int)()  # int() does nothing


def trace_all(folder: Path) -> dict[str, Trace]:
    """Makes the calls one after another and says what each ran through."""
    dataset = make_dataset(folder)
    references, targets = dataset.match_tags("ntt:reference"), dataset.match_tags(list(TARGETS))
    options: dict[str, Any] = {"device": "cpu", "points_per_side": POINTS_PER_SIDE}
    found: dict[str, Trace] = {}

    def build() -> None:
        ntt.build_memory_bank(references, _TRUTH, preset="lite", device="cpu", name="coins")

    found["build_memory_bank"] = traced(build)
    as_in_a_new_process()
    found["segment, models run"] = traced(lambda: ntt.segment(targets, "coins", "ntt", **options))
    _make_another_bank(references)
    ntt.index(targets, "lite", **options)
    found["segment, all indexed"] = traced(lambda: ntt.segment(targets, "fewer_coins", "again", **options))
    _decide(dataset)
    found["learn(apply=True)"] = traced(lambda: ntt.learn(dataset, "ntt", apply=True), dataset.values("id"))
    found |= _trace_one_image(dataset, folder, options)
    return found


def _make_another_bank(references: fo.DatasetView) -> None:
    """A bank of only some of the references, so that it is another one."""
    from fiftyone import ViewField as F

    some = references.filter_labels(_TRUTH, F("bounding_box")[0] < 0.4)
    ntt.build_memory_bank(some, _TRUTH, preset="lite", device="cpu", name="fewer_coins")


def _decide(dataset: fo.Dataset) -> None:
    """Accepts and rejects a few labels, the best and the worst."""
    scores = sorted(dataset.values("ntt.detections.confidence", unwind=True))
    ntt.accept_labels(dataset, "ntt", above=scores[-4])
    ntt.reject_labels(dataset, "ntt", below=scores[3])


def _trace_one_image(dataset: fo.Dataset, folder: Path, options: dict[str, Any]) -> dict[str, Trace]:
    """Two calls that differ in one image only.

    Each has an empty candidate cache, for which both ask the models what they are: only what is done for the image
    differs.
    """
    targets = dataset.match_tags(list(TARGETS))
    more = dataset.match_tags([*TARGETS, ONE_MORE])

    def resume(view: fo.DatasetView, index: str) -> None:
        ntt.segment(view, "coins", "one", index_dir=folder / index, **options)

    resume(targets, "index_0")
    return {
        "nothing to do": traced(lambda: resume(targets, "index_1")),
        "one more image": traced(lambda: resume(more, "index_2")),
    }


def files_for_an_image(found: dict[str, Trace]) -> set[str]:
    """The files that take part where there is one image to do, and not where there is none."""
    return found["one more image"].files - found["nothing to do"].files


def functions_for_an_image(found: dict[str, Trace]) -> set[Function]:
    """The same of functions. Their files are more: some hold both what every call does and what an image needs."""
    return found["one more image"].functions - found["nothing to do"].functions


def sources() -> Iterator[Path]:
    """The Python files of the package, its operators and its panels."""
    for part in PARTS:
        yield from sorted((ROOT / part).rglob("*.py"))


def body_lengths(source: str) -> list[int]:
    """Of every function its lines without signature and docstring."""
    lengths = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lengths.append(max((one.end_lineno or 0) for one in body) - body[0].lineno + 1 if body else 0)
    return lengths


def comment_lines(source: str) -> int:
    """Lines with a comment, alone or after code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def statistics_of_package() -> dict[str, float]:
    """How much code there is, and of what kind."""
    texts = [path.read_text(encoding="utf-8") for path in sources()]
    lengths = [length for text in texts for length in body_lengths(text)]
    lines = sum(len(text.splitlines()) for text in texts)
    filled = sum(bool(line.strip()) for text in texts for line in text.splitlines())
    return {
        "python files": len(texts),
        "functions": len(lengths),
        "lines": lines,
        "non-blank lines": filled,
        "share of lines with a comment": round(sum(map(comment_lines, texts)) / filled, 4),
        "median body of a function": statistics.median(lengths),
    }


def report(found: dict[str, Trace], package: dict[str, float]) -> str:
    """The tables as text."""
    lines = [f"{'call':<32}{'files':>8}{'functions':>12}"]
    lines += [f"{name:<32}{len(one.files):>8}{len(one.functions):>12}" for name, one in found.items()]
    lines += [f"{'following one image':<32}{len(files_for_an_image(found)):>8}", ""]
    image = functions_for_an_image(found)
    lines += [f"for one image run {len(image)} functions of {len(files_of(image))} files that else do not"]
    matched = Counter(Counter(found["learn(apply=True)"].matches).values())
    each = ", ".join(f"{count} images {times} times each" for times, count in sorted(matched.items()))
    lines += [f"learn(apply=True) matches: {each or 'no image'}", ""]
    return "\n".join([*lines, *(f"{name}: {value:g}" for name, value in package.items())])


def to_json(found: dict[str, Trace], package: dict[str, float]) -> dict[str, Any]:
    """The figures with all names."""
    matched = sorted(Counter(found["learn(apply=True)"].matches).values())
    return {
        "calls": {name: _described(one.functions) for name, one in found.items()},
        "following one image": sorted(files_for_an_image(found)),
        "functions for one image": _described(functions_for_an_image(found)),
        "matches of each image in learn": matched,
        "package": package,
    }


def _described(functions: set[Function]) -> dict[str, Any]:
    names: dict[str, list[str]] = {}
    for function in sorted(functions, key=lambda one: (one.file, one.line)):
        names.setdefault(function.file, []).append(function.name)
    return {"files": len(names), "functions": len(functions), "names": names}


def main() -> int:
    """Traces the calls and prints what they ran through."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ntt-trace-", ignore_cleanup_errors=True) as folder:
        use_own_fiftyone(Path(folder))
        found = trace_all(Path(folder))
    package = statistics_of_package()
    sys.stdout.write(report(found, package) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(to_json(found, package), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
