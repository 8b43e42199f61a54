"""What services say in Python's words, in those of the command line and of the App."""

import ast
import re
from pathlib import Path

import pytest

import fiftyone_ntt as ntt
from fiftyone_ntt.params.labelling import SegmentParams
from fiftyone_ntt.params.review import ExportParams
from fiftyone_ntt.params.wording import for_app, for_command_line

ROOT = Path(__file__).resolve().parents[2]
SERVICES = [path for room in ("params", "candidates", "dataset", "references", "runs", "review", "evaluation")
            for path in sorted((ROOT / "fiftyone_ntt" / room).rglob("*.py"))]  # fmt: skip
IN_PYTHON_ONLY = {"use_as_references"}  # that sentence names the App's button, too

WORDS = [
    ("pass overwrite=True, or take it back with undo_run", "pass --overwrite, or take it back with `runs undo`",
     "choose 'Overwrite: on', or take it back with 'NTT: Undo run'"),
    ("choose another label_field", "choose another --label-field", "choose another 'Write to'"),
    ("use_index=False", "--no-use-index", "'Use the candidate cache: off'"),
    ("export all (only='all').", "export all (--only all).", "export all ('Which labels: all')."),
    ("of a run with score_threshold=0", "of a run with --score-threshold 0", "of a run with 'Score threshold: 0'"),
    ("raise points_per_side", "raise --points-per-side", "raise 'Points per side'"),
    ("expected 'score_threshold' between 0 and 1, got 3", "expected --score-threshold between 0 and 1, got 3",
     "expected 'Score threshold' between 0 and 1, got 3"),
    ("the only classes in the images", "the only classes in the images", "the only classes in the images"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "in_a_shell", "in_the_app"), WORDS)
def test_each_door_has_words_of_its_own(said, in_a_shell, in_the_app):
    assert (for_command_line(said), for_app(said)) == (in_a_shell, in_the_app)


@pytest.mark.parametrize("said", [
    "field 'label_field' of run 'undo_run'", "/data/label_field/undo_run", "label_field.detections", "my_label_field",
    "no_such_thing=True", 'called "overwrite=True"',
])  # fmt: skip
def test_names_that_people_gave_stay_as_they_are(said):
    assert for_command_line(said) == for_app(said) == said


def test_a_form_calls_a_parameter_by_its_own_label():
    assert for_app("pass overwrite=True", ExportParams) == "choose 'Replace an earlier export: on'"
    assert for_app("pass overwrite=True", SegmentParams) == "choose 'Overwrite: on'"


def messages():
    """Every text of a service that is no docstring."""
    for path in SERVICES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        pieces = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield path.name, "".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | pieces:
                yield path.name, node.value


def test_no_message_speaks_python_at_a_door():
    """Whatever a service is given to say from now on: an argument or a function that a door has no word for fails."""
    texts = [(file, text) for file, text in messages() if " " in text]
    assert len(texts) > 500
    functions = "|".join({name for name in ntt.__all__ if re.match("[a-z]+_", name)} - IN_PYTHON_ONLY)
    python = re.compile(rf"(?<![\w.'])(?:[a-z_]+=(?:True|False)|{functions})\b(?!')")
    # What only those read who call these functions of the protocols and the core; code to be pasted.
    spared = {("found.py", "masks=False"), ("fields.py", "sample_frames=True")}
    left = {(file, found) for file, text in texts for door in (for_command_line, for_app)
            for found in python.findall(door(text))}  # fmt: skip
    assert left - spared == set()
