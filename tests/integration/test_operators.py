"""The operators through FiftyOne's own machinery: real contexts, real forms, real validation, real models."""

from __future__ import annotations

import json
import re

import fiftyone as fo
import fiftyone.operators as foo
import pytest
from fiftyone.operators import types
from fiftyone.operators.executor import ExecutionError
from support.app import PLUGIN, context, form, operator, run, uri_of
from support.pictures import add_discs_and_squares

import fiftyone_ntt as ntt
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError
from fiftyone_ntt.params.labelling import EvaluateParams, IndexParams, SegmentParams
from fiftyone_ntt.params.references import MakeMasksFormParams, TaggedBankParams
from fiftyone_ntt.references.banks import save_bank

PARAMS = {
    "build_memory_bank": TaggedBankParams,
    "make_reference_masks": MakeMasksFormParams,
    "index_candidates": IndexParams,
    "segment": SegmentParams,
    "evaluate": EvaluateParams,
}
POINTS = 4


@pytest.fixture
def shapes(dataset, tmp_path):
    add_discs_and_squares(dataset, tmp_path)
    return dataset


@pytest.fixture(scope="module")
def bank(lite, tmp_path_factory):
    """Built once: encoding two references takes seconds."""
    dataset = fo.Dataset()
    add_discs_and_squares(dataset, tmp_path_factory.mktemp("references"))
    bank = ntt.build_memory_bank(dataset.match_tags("ntt:reference"), device="cpu")
    dataset.delete()
    return bank


@pytest.fixture
def with_bank(shapes, bank):
    save_bank(shapes, "shapes", bank)
    return shapes


@pytest.fixture(params=[False, True], ids=["cannot schedule", "can schedule"])
def schedulable(request, monkeypatch):
    monkeypatch.setattr(fo.config, "allow_legacy_orchestrators", request.param)
    return request.param


def notices(properties):
    return [item.view.label for item in properties.values() if isinstance(item.view, (types.Notice, types.Warning))]


@pytest.mark.parametrize("name", PARAMS)
def test_configuration(name, database, schedulable):
    config = operator(name).config
    assert config.allow_immediate_execution and config.allow_delegated_execution and config.rerunnable
    assert config.default_choice_to_delegated is (schedulable and name in ("segment", "index_candidates"))
    assert config.risk_level is types.RiskLevel.MEDIUM
    assert config.icon and config.description.endswith(".") and config.description.count(".") == 1
    assert not config.execute_as_generator


@pytest.mark.parametrize("name", PARAMS)
def test_a_form_is_its_parameters(name, with_bank):
    infos = {info.name: info for info in PARAMS[name].infos()}
    groups = {f"_advanced_{info.group.lower().replace(' ', '_').replace(',', '')}": True for info in infos.values()}
    properties, _ = form(name, with_bank, {"label_field": "ground_truth", "_advanced": True, **groups})
    shown = {key: item for key, item in properties.items() if not key.startswith("_") and key != "view_target"}
    assert sorted(shown) == sorted(infos)
    for key, item in shown.items():
        info = infos[key]
        assert item.required is info.required, "FiftyOne fills in no default for a caller in Python"
        assert (item.view.label, item.view.description) == (info.label, info.help)
        if not info.required:
            assert (item.default or None) == (info.default or None)
        if isinstance(item.type, types.Number):
            assert (item.type.min, item.type.max) == (info.minimum, info.maximum)
    assert "view_target" in properties, "the App's own choice of view, selection or dataset"


def test_defaults_are_valid_where_the_data_is_there(with_bank):
    with_bank.clone_sample_field("ground_truth", "drafts")
    assert form("build_memory_bank", with_bank)[1] == {}
    assert form("index_candidates", with_bank)[1] == {}
    assert form("segment", with_bank, {"bank": "shapes"})[1] == {}
    assert form("evaluate", with_bank, {"label_field": "drafts"})[1] == {}


@pytest.mark.parametrize(
    ("name", "params", "field", "reason"),
    [
        ("build_memory_bank", {"preset": "huge"}, "preset", "Invalid enum value"),
        (
            "build_memory_bank",
            {"label_field": "nope"},
            "label_field",
            "field 'nope'.*'ground_truth'",
        ),
        (
            "build_memory_bank",
            {"label_field": "filepath"},
            "label_field",
            "field 'filepath'.*Detections",
        ),
        ("build_memory_bank", {"reference_tag": "x"}, "reference_tag", "5 samples.*'x'"),
        ("build_memory_bank", {"classes": "disc"}, "classes", "Invalid list"),
        ("index_candidates", {"preset": "huge"}, "preset", "Invalid enum value"),
        ("index_candidates", {"size_limit_gb": -1}, "size_limit_gb", "must be greater than 0"),
        ("segment", {"reference_field": "tags"}, "reference_field", "Detections"),
        ("segment", {"label_field": "drafts"}, "label_field", "no run of this plugin wrote"),
        ("segment", {"label_field": "filepath"}, "label_field", "does not hold Detections"),
        ("segment", {"label_field": "a field"}, "label_field", "letters, digits"),
        ("segment", {"bank": "circles"}, "bank", "memory bank 'circles'.*shapes"),
        ("segment", {"bank": "shapes", "points_per_side": 0}, "points_per_side", "must be greater than 1"),
        ("segment", {"bank": "shapes", "score_threshold": 2}, "score_threshold", "must be less than 1"),
        ("segment", {"bank": "shapes", "overwrite": "yes"}, "overwrite", "Invalid value type"),
        ("evaluate", {}, "label_field", "field 'ntt'"),
        ("evaluate", {"label_field": "ground_truth", "gt_field": "tags"}, "gt_field", "Detections"),
        ("evaluate", {"label_field": "ground_truth"}, "gt_field", "two different fields"),
        ("evaluate", {"label_field": "drafts", "gt_field": "only_references"}, "gt_field", "no ground truth"),
        ("evaluate", {"label_field": "drafts", "eval_key": "1st"}, "gt_field", "expected a name.*'1st'"),
        ("evaluate", {"label_field": "drafts", "classes": ["fig"]}, "gt_field", "no ground truth for any.*fig"),
    ],
)
def test_a_form_refuses_what_cannot_run(name, params, field, reason, with_bank):
    with_bank.clone_sample_field("ground_truth", "drafts")
    with_bank.match_tags("ntt:reference").clone_sample_field("ground_truth", "only_references")
    errors = form(name, with_bank, params)[1]
    assert list(errors) == [field]
    assert re.search(reason, errors[field]), errors


def test_without_a_bank_the_form_says_that_one_is_built(shapes):
    properties, errors = form("segment", shapes)
    assert not errors and notices(properties)[0] == "References: 1 disc, 1 square (their memory bank is built first)."


def test_forms_say_what_is_in_the_target(with_bank):
    with_bank.clone_sample_field("ground_truth", "drafts")
    assert "2 reference samples: 1 disc, 1 square" in notices(form("build_memory_bank", with_bank)[0])
    all_of_them = notices(form("build_memory_bank", with_bank, {"reference_tag": ""})[0])
    assert "5 reference samples: 3 disc, 2 square" in all_of_them
    said = " ".join(notices(form("index_candidates", with_bank)[0]))
    assert "5 images to do, none of them in the candidate cache yet." in said
    properties, _ = form("segment", with_bank, {"_advanced": True, "_advanced_references_and_memory_bank": True})
    said = notices(properties)
    assert said[:2] == [
        "References: 1 disc, 1 square (their memory bank is built first).",
        "2 images with references left out.",
    ]
    assert said[2].startswith("3 images to do, none of them in the candidate cache yet. How long that takes")
    labels = [choice.label for choice in properties["bank"].view.choices]
    assert labels == ["the references as they are tagged now", "shapes (2 classes, preset lite)"]
    assert properties["bank"].default == ""
    assert "1 image in the target" in notices(form("evaluate", with_bank.limit(1), {"label_field": "drafts"})[0])


def test_a_form_follows_the_selection(with_bank):
    selected = with_bank.skip(2).values("id")[:1]
    request = {"selected": selected, "view_target": "SELECTED_SAMPLES"}
    said = " ".join(notices(form("segment", with_bank, {"bank": "shapes"}, **request)[0]))
    assert "1 image to do" in said and "left out" not in said


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("build_memory_bank", ["label_field", "classes", "preset", "name"]),
        ("index_candidates", ["preset"]),
        ("segment", ["label_field", "score_threshold"]),
        ("evaluate", ["label_field", "gt_field", "eval_key"]),
        ("export_labels", ["export_dir", "label_field", "format", "only"]),
        ("preview", ["images", "score_threshold"]),
    ],
)
def test_a_form_shows_few_fields_until_more_are_wanted(name, fields, with_bank):
    if name in ("evaluate", "export_labels"):
        with_bank.clone_sample_field("ground_truth", "ntt")

    def shown(params):
        params = {"overwrite": True, **params} if name == "segment" else params
        keys = [key for key in form(name, with_bank, params)[0] if not key.startswith("_") and key != "view_target"]
        return [key for key in keys if key != "overwrite"]

    assert shown({}) == fields
    everything = [info.name for info in operator(name).PARAMS.infos() if info.name != "overwrite"]
    changed = {"device": "cpu"} if "device" in everything else {"classes": ["disc"]}
    assert shown(changed) == [*fields, *changed], "what was changed is not hidden"
    opened = shown({"_advanced": True})
    assert opened[: len(fields)] == fields and len(opened) <= len(fields) + 3, "no more than three at once"
    groups = {info.group for info in operator(name).PARAMS.infos()}
    switches = {f"_advanced_{group.lower().replace(' ', '_').replace(',', '')}": True for group in groups}
    assert sorted(shown({"_advanced": True, **switches})) == sorted(everything)


def test_form_asks_to_overwrite_where_there_are_labels(with_bank):
    assert "overwrite" not in form("segment", with_bank)[0]
    properties, errors = form("segment", with_bank, {"label_field": "ground_truth"}, operator_uri=uri_of("segment"))
    assert "overwrite" in properties and "choose 'Overwrite: on'" in errors["label_field"]
    assert form("segment", with_bank, {"label_field": "ground_truth", "overwrite": True})[1] == {}


def test_without_references_the_form_says_what_to_do(shapes):
    shapes.untag_samples("ntt:reference")
    assert "'NTT: Use as reference'" in form("build_memory_bank", shapes)[1]["label_field"]
    assert "'NTT: Use as reference'" in form("segment", shapes)[1]["label_field"]


def test_placements_need_no_dataset(database):
    for name in ("build_memory_bank", "index_candidates", "segment"):
        placement = operator(name).resolve_placement(None)
        assert placement.place == types.Places.SAMPLES_GRID_SECONDARY_ACTIONS
        assert placement.view.prompt is True


def test_references_may_be_tagged_labels(with_bank):
    from fiftyone_ntt.references.tagging import tagged_references

    with_bank.untag_samples("ntt:reference")
    with_bank.limit(3).filter_labels("ground_truth", fo.ViewField("label") == "disc").tag_labels(
        "ntt:reference", "ground_truth"
    )
    references = tagged_references(with_bank, "ntt:reference", "ground_truth")
    assert references.values("ground_truth.detections.label", unwind=True) == ["disc", "disc"]
    assert tagged_references(with_bank, "", "ground_truth") is with_bank


@pytest.mark.slow
def test_from_tags_to_scores(shapes, lite):
    built, asked = run("build_memory_bank", shapes, {"name": "shapes", "panel_id": "some-panel", "device": "cpu"})
    assert built["shots"] == [{"class": "disc", "references": 1}, {"class": "square", "references": 1}]
    assert built["preset"] == "lite" and "'shapes': 1 disc, 1 square" in built["summary"]
    assert "reload_dataset" in " ".join(asked)

    params = {"bank": "shapes", "points_per_side": POINTS, "device": "cpu"}
    written, _ = run("segment", shapes, params)
    assert (written["labelled"] + written["empty"], written["failed"]) == (3, 0)
    assert written["references_skipped"] == 2 and written["errors"] == []
    shapes.reload()
    assert shapes.count("ntt.detections") == written["instances"] > 0
    best = {s.id: max(s.ntt.detections, key=lambda d: d.confidence).label for s in shapes.skip(2)}
    assert list(best.values()) == ["disc", "square", "disc"], "the right shape is the best guess in each image"

    again, _ = run("segment", shapes, params)
    assert again["resumed"] == 3 and again["labelled"] == 0

    scored, _ = run("evaluate", shapes, {"eval_key": "ntt_eval"})
    assert [row["class"] for row in scored["table"]] == ["all", "disc", "square"]
    assert scored["images"] == 3 and scored["box"]["ap50"] > 0
    assert "2 reference samples" in scored["summary"]
    assert shapes.has_evaluation("ntt_eval")


def test_only_the_target_is_labelled(with_bank, lite):
    chosen = with_bank.skip(3).limit(1).values("id")
    result, _ = run(
        "segment",
        with_bank,
        {"bank": "shapes", "points_per_side": POINTS, "device": "cpu"},
        selected=chosen,
        view_target="SELECTED_SAMPLES",
    )
    assert result["labelled"] + result["empty"] == 1
    assert with_bank.exists("ntt").values("id") == chosen


def test_a_bad_image_is_listed_in_the_result(with_bank, lite, tmp_path):
    with_bank.add_sample(fo.Sample(str(tmp_path / "gone.png")))
    view = with_bank.skip(5)
    result, _ = run("segment", view, {"bank": "shapes", "points_per_side": POINTS, "device": "cpu"})
    assert result["failed"] == 1
    assert [row["sample"] for row in result["errors"]] == view.values("id")
    assert "gone.png" in result["errors"][0]["error"]


def test_unknown_parameters_are_refused(with_bank):
    with pytest.raises(InputError, match="'prompts'.*'bank'"):
        run("segment", with_bank, {"bank": "shapes", "prompts": 3})


def test_errors_reach_the_user_as_our_short_text(with_bank):
    bad = {"bank": "shapes", "label_field": "ground_truth", "device": "cpu"}
    expected = "field 'ground_truth'.*another label_field"
    with pytest.raises(ExecutionError, match=expected):
        foo.execute_operator(f"{PLUGIN}/segment", dataset=with_bank, params=bad)


@pytest.mark.slow
def test_called_from_python(shapes, lite):
    build, _, _, segment, evaluate = (operator(name) for name in PARAMS)
    built = build(shapes.limit(2), name="by_hand", device="cpu")
    assert built.result["bank"] == "by_hand"
    written = segment(shapes.skip(2).limit(1), "by_hand", points_per_side=POINTS, device="cpu")
    assert written.result["labelled"] + written.result["empty"] == 1
    shapes.reload()
    assert evaluate(shapes.skip(2).limit(1)).result["images"] == 1


def test_called_from_python_with_a_wrong_argument(shapes):
    with pytest.raises(WrongTypeError, match="'points_per_side'.*'4'"):
        operator("segment")(shapes, "by_hand", points_per_side="4")


def test_progress_is_throttled_and_ends_at_the_end(shapes):
    from fiftyone_ntt.operators.base import progress_of

    ctx, seen = context("segment", shapes, delegated=True), []
    ctx._set_progress = lambda _id, progress: seen.append((progress.progress, progress.label))
    report = progress_of(ctx, seconds=60)
    for done in range(101):
        report(done, 100, f"labelled {done}")
    assert seen == [(0.0, "labelled 0"), (1.0, "labelled 100")]
    report = progress_of(ctx, seconds=0)
    report(1, 4, "a quarter")
    assert seen[-1] == (0.25, "a quarter")


def test_an_immediate_run_piles_up_no_console_lines(shapes):
    from fiftyone_ntt.operators.base import progress_of

    ctx = context("segment", shapes)
    progress_of(ctx)(1, 1, "done")
    assert ctx.executor._requests == []


RESULTS = {"table": [{"class": "all"}], "errors": [{"sample": "s", "error": "not a readable image"}]}


def test_no_table_of_failures_where_nothing_failed(shapes):
    ctx = context("segment", shapes, results={"summary": "fine", "errors": []})
    assert list(operator("segment").resolve_type(ctx, "outputs").type.properties) == ["summary"]


@pytest.mark.parametrize("name", PARAMS)
def test_outputs_show_a_summary_and_a_table(name, shapes):
    ctx = context(name, shapes, results=RESULTS)
    outputs = operator(name).resolve_type(ctx, "outputs")
    json.dumps(outputs.to_json())
    assert list(outputs.type.properties)[0] == "summary"
    assert any(
        isinstance(item.view, types.TableView) and item.view.columns for item in outputs.type.properties.values()
    )


FROM_THE_APP = {"operator_uri": "named by every request of the App"}


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("segment", {"bank": "shapes", "prompts": 3}, "'prompts'"),
        ("build_memory_bank", {"label_field": "nope"}, "field 'nope'"),
        ("evaluate", {"label_field": "nope"}, "field 'nope'"),
        ("learn", {"label_field": "ground_truth"}, "'ground_truth'"),
        ("undo_run", {"run_key": "gone"}, "run 'gone'"),
        ("export_labels", {"export_dir": "here"}, "'here'"),
    ],
)
def test_a_users_error_is_a_sentence_in_the_app(name, params, reason, with_bank):
    result, asked = run(name, with_bank, params, **FROM_THE_APP)
    assert re.search(reason, result["refused"]) and not asked, "nothing has changed, nothing is loaded again"
    outputs = operator(name).resolve_type(context(name, with_bank, results=result), "outputs")
    (shown,) = outputs.type.properties.values()
    assert isinstance(shown.view, types.Error) and shown.view.description == result["refused"]
    with pytest.raises(NttError, match=reason):
        run(name, with_bank, params)
    with pytest.raises(NttError, match=reason):
        run(name, with_bank, params, **FROM_THE_APP, delegated=True)


def test_a_users_error_at_once_is_a_message(with_bank):
    params = {"label_field": "nope", "above": 0.5}
    result, asked = run("accept_labels", with_bank, params, **FROM_THE_APP)
    assert asked["notify"]["variant"] == "error" and "'nope'" in asked["notify"]["message"]
    assert list(result) == ["refused"]
    ctx = context("preview", with_bank, {"bank": "gone"}, **FROM_THE_APP)
    *_, last = operator("preview").execute(ctx)
    assert "memory bank 'gone'" in last.to_json_line()
    with pytest.raises(NttError, match="'gone'"):
        list(operator("preview").execute(context("preview", with_bank, {"bank": "gone"})))


@pytest.mark.parametrize("name", [*PARAMS, "preview"])
def test_a_form_that_cannot_be_made_says_why(name, dataset):
    dataset.media_type = fo.core.media.VIDEO
    _, errors = form(name, dataset)
    assert list(errors) == ["_refused"] and "videos" in errors["_refused"]
