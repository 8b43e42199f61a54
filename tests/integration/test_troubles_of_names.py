"""Names of strangers are text wherever they appear: in Markdown, plots, terminals, messages, files of an export.

Everything goes through the operators, the panel and the services; only the models are small ones without weights.
"""

import ast
import io
import json
import re
from collections import Counter
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console
from support.app import PanelSession, context, form, operator, run
from support.hostile import NAMES, detection, noise, small_models

import fiftyone_ntt
import fiftyone_ntt as ntt
from fiftyone_ntt.cli import common
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.errors import as_text, spelt_out
from fiftyone_ntt.operators.forms import as_markdown, as_plot_text
from fiftyone_ntt.review.label_table import table_of

# Public reports of names that were no text stand beside NAMES in support/hostile.py.

# What FiftyOne's App does with Markdown: CommonMark with GitHub's additions, which make links of bare addresses even
# where backslashes kept the parser from it (mdast-util-gfm-autolink-literal, `transformGfmAutolinkLiterals`).
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ADDRESSES = re.compile(r"(https?://|www(?=\.))([-.\w]+)|([-.\w+]+)@([-\w]+(?:\.[-\w]+)+)", re.IGNORECASE)
PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
FOREIGN = {"image", "link_open", "html_inline", "html_block", "address", "table_open", "heading_open", "s_open"}
"""What no text of ours has in it: all of this would be a stranger's."""
JOINER = "\u2060"


def parsed(text):
    """The kinds of things that a browser makes of Markdown, and the text that a person reads."""
    kinds, content = set(), ""
    for block in PARSER.parse(text):
        kinds.add(block.type)
        for token in block.children or []:
            kinds.add(token.type)
            content += token.content
    words = "".join(
        token.content for block in PARSER.parse(text) for token in block.children or [] if token.type == "text"
    )
    return kinds | ({"address"} if ADDRESSES.search(words) else set()), content


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_in_markdown_is_what_it_is(name):
    kinds, content = parsed(as_markdown(name, 200))
    assert kinds <= PLAIN
    assert content.replace(JOINER, "") == as_text(name)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_is_one_line_that_no_terminal_obeys(name):
    text = as_text(name)
    assert text == " ".join(text.split()) and len(text) <= 203
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    terminal = io.StringIO()
    Console(file=terminal, emoji=False, width=10_000).print(f"[bold]{common.plain(name)}[/]")
    shown = " ".join(terminal.getvalue().split())
    assert shown == " ".join(spelt_out(name).split()), "no markup either"


@pytest.mark.parametrize("text", ["plain words", "a_b_c", "12.5 of 13", "x-y", "50 %", "ünï 图 (1)", "it's 3 x 4"])
def test_ordinary_names_stay_as_they_are(text):
    assert as_markdown(text) == text == as_text(text)


# plotly/plotly.js#1307, zenitraM/malla#101, dathere/qsv#4331
def test_names_in_plots_have_no_tags_and_no_templates():
    text = as_plot_text('<b>x</b> <a href="http://host.invalid">y</a> %{x} &lt;')
    assert not re.search(r"<|%\{", text) and "&amp;lt;" in text


# All the way, with every name as a class


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A dataset with a reference of each class, labelled; two labels of each class are decided on."""
    folder = tmp_path_factory.mktemp("names") / "![x](http:)"
    folder.mkdir()
    with small_models():
        dataset = fo.Dataset("<b>![x](http://host.invalid)</b> # names", persistent=True)
        labels = [detection(name, (0.02 * i, 0.01 * i, 0.3, 0.3), mask=np.ones((18, 24), bool))
                  for i, name in enumerate(NAMES.values())]  # fmt: skip
        for i in range(3):
            path = folder / f"![{i}](http: host.invalid) =1+2 [bold].png"
            Image.fromarray(noise(seed=i)).save(path)
            truth = fo.Detections(detections=labels if i == 0 else [label.copy() for label in labels])
            dataset.add_sample(fo.Sample(str(path), ground_truth=truth, tags=["ntt:reference"] if i == 0 else []))
        ntt.build_memory_bank(dataset.match_tags("ntt:reference"), name="names")
        ntt.segment(dataset, "names", index_dir=folder.parent / "index")
        for sample in dataset.match_tags("ntt:reference", bool=False):
            drawn = [label.copy() for label in labels]
            for label in drawn:
                label.tags, label.confidence = ["ntt:accepted"], 0.9
                label["predicted_iou"], label["similarity"] = 0.9, 0.9
            found = sample["ntt"].detections if sample["ntt"] else []
            sample["ntt"] = fo.Detections(detections=[*found, *drawn])
            sample.save()
        yield dataset
        dataset.delete()


def markdown_in(node):
    """Every text in a form, an output or a panel, as it is sent to the App, that the App takes for Markdown."""
    if isinstance(node, list):
        for item in node:
            yield from markdown_in(item)
    if not isinstance(node, dict):
        return
    view = node.get("view")
    if isinstance(view, dict):
        yield from (view[key] for key in ("label", "description", "caption") if isinstance(view.get(key), str))
        if view.get("name") == "MarkdownView" and isinstance(node.get("default"), str):
            yield node["default"]
    for item in node.values():
        yield from markdown_in(item)


def foreign(texts):
    texts = [text for text in texts if isinstance(text, str)]
    assert texts, "nothing to look at"
    return [(text[:200], sorted(parsed(text)[0] & FOREIGN)) for text in texts if parsed(text)[0] & FOREIGN]


@pytest.mark.parametrize("tab", ["references", "runs", "review", "evaluate"])
def test_the_panel_draws_no_name(named, tab):
    ntt.evaluate(named, "ntt", "ground_truth")
    table_of(named, "ntt").refreshed()
    session = PanelSession(named, tab)
    for _ in range(20):
        if not session.state.get("references_pending"):
            break
        session.send("on_references_more")
    drawn = json.loads(session.drawn)
    assert foreign(markdown_in(drawn)) == []
    if tab == "references":
        assert sum("![x]" in as_text(card["class"]) for card in session.state["references_cards"]) == 1
    if tab == "evaluate":
        assert "category" in session.drawn
        assert not [name for bars in session.data["evaluate_plot"] for name in bars["x"] if "<" in name]


FORMS = {
    "build_memory_bank": {}, "make_reference_masks": {}, "index_candidates": {}, "segment": {}, "preview": {},
    "advise_references": {}, "learn": {}, "fit_thresholds": {"run_key": "ntt_ntt"}, "judge_presence": {},
    "evaluate": {}, "export_labels": {}, "to_segmentation": {}, "resume_run": {}, "cancel_run": {}, "undo_run": {},
    "selfcheck": {}, "make_previews": {}, "remove_previews": {},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_no_form_draws_a_name(named, name):
    properties, _ = form(name, named, FORMS[name])
    texts = list(markdown_in([item.to_json() for item in properties.values()]))
    assert foreign(texts) == []


@pytest.mark.parametrize("name", FORMS)
def test_no_refusal_of_a_form_draws_what_was_typed(named, name):
    typed = dict.fromkeys(
        ("label_field", "gt_field", "bank", "run_key", "reference_tag", "out_field"), NAMES["picture"]
    )
    properties, _ = form(name, named, typed)
    assert foreign(list(markdown_in([item.to_json() for item in properties.values()]))) == []


def test_what_a_view_says_is_escaped_where_it_is_made():
    """A new notice with a name in it would not be seen above unless a test brings it about."""
    root = Path(fiftyone_ntt.__file__).resolve().parents[1]
    views = [
        (path.name, node.lineno, ast.unparse(word.value))
        for path in [*(root / "operators").glob("*.py"), *(root / "panels").glob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("types.Notice", "types.Warning", "types.Error", "kind")
        for word in node.keywords
        if word.arg in ("label", "description", "caption") and not isinstance(word.value, ast.Constant)
    ]
    assert len(views) > 2
    assert [view for view in views if not view[2].startswith(("as_markdown(", "as_sentence("))] == []


RESULTS = {
    "build_memory_bank": lambda folder: {"name": "again", "reference_tag": "ntt:reference"},
    "advise_references": lambda folder: {"bank": "names"},
    "learn": lambda folder: {"label_field": "ntt"},
    "fit_thresholds": lambda folder: {"run_key": "ntt_ntt"},
    "judge_presence": lambda folder: {"label_field": "ntt"},
    "evaluate": lambda folder: {"label_field": "ntt", "gt_field": "ground_truth"},
    "export_labels": lambda folder: {"export_dir": str(folder / "![x](http:)"), "only": "all"},
    "to_segmentation": lambda folder: {"label_field": "ntt", "out_field": "ntt_semantic"},
}
"""What operators are called with that end in Markdown."""


@pytest.mark.parametrize("name", RESULTS)
def test_no_result_draws_a_name(named, tmp_path, name):
    result, _ = run(name, named, RESULTS[name](tmp_path))
    outputs = operator(name).resolve_output(context(name, named, results=result))
    assert foreign([result["summary"], *markdown_in(outputs.to_json())]) == []


def test_the_preview_draws_no_name(named):
    ctx = context("preview", named, {"bank": "names", "images": 2})
    messages = list(operator("preview").execute(ctx))
    shown = json.loads(json.dumps(messages[-1].to_json(), default=str))["body"]["params"]
    assert all(f"image_{i}" in shown["results"] for i in range(2)), "each is drawn, whatever its classes are called"
    texts = [value for key, value in shown["results"].items() if not key.startswith("image_")]
    assert foreign([*texts, *markdown_in(shown["outputs"])]) == []


COMMANDS = {
    "bank build": ["--name", "again"],
    "evaluate": ["--label-field", "ntt", "--gt-field", "ground_truth"],
    "fit-thresholds": ["ntt_ntt"],
    "judge-presence": ["--label-field", "ntt"],
    "to-segmentation": ["--label-field", "ntt", "--out-field", "ntt_shown"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_a_terminal_obeys(named, command, capsys):
    assert main([*command.split(), named.name, *COMMANDS[command]]) == 0
    text = capsys.readouterr().out
    assert "a b" in text and "\na\nb\n" not in text and "a\nb" not in text, "no line of it is made by a name"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)


# Files


# ultralytics/ultralytics#23754: names like `on`, `null` or `?` are no texts in YAML, or end its reading
def classes_in_yaml(folder):
    names = yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8"))["names"]
    return [names[number] for number in sorted(names)]


@pytest.mark.parametrize("kind", ["coco", "yolo", "fiftyone"])
def test_classes_keep_their_names_and_numbers(named, tmp_path, kind):
    folder = tmp_path / "export"
    report = ntt.export_labels(named, folder, "ntt", format=kind, classes=list(NAMES.values()))
    assert report.per_class == dict.fromkeys(NAMES.values(), 2)
    assert "\n" not in str(report).split("written to")[0], "the report counts them in one line"
    for path in folder.rglob("*"):
        assert not re.search("[\x00-\x1f]", path.name) and ".." not in path.relative_to(folder).parts
    if kind == "yolo":
        assert classes_in_yaml(folder) == list(NAMES.values())
        read = fo.Dataset.from_dir(
            str(folder), dataset_type=fo.types.YOLOv5Dataset, split="train", label_type="instances"
        )
        (field,) = [name for name in read.get_field_schema() if name not in ("id", "filepath", "tags", "metadata",
                    "created_at", "last_modified_at")]  # fmt: skip
        labels = [label.label for sample in read for label in sample[field].detections]
        read.delete()
        counts = Counter(labels)
        assert counts == dict.fromkeys(NAMES.values(), 2)
    if kind == "coco":
        content = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        assert [category["name"] for category in content["categories"]] == list(NAMES.values())


def test_undoing_takes_the_names_away(named):
    assert ntt.undo_run(named, ntt.list_runs(named)[0]["run_key"]) >= 0
    assert set(named.distinct("ntt.detections.label")) == set(NAMES.values()), "what a person drew stays"
