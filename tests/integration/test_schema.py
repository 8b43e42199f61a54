"""After a run the App's own editor takes its field, with the run's classes."""

import fiftyone as fo
import pytest

from fiftyone_ntt.dataset.schema import activate_schema
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.pixels.drawing import hex_colour
from fiftyone_ntt.runs.record import RunRecord, register


@pytest.fixture
def run(dataset):
    """Registers a run with these classes, as ``segment`` does before its first label."""
    dataset.add_sample(fo.Sample("/picture.png"))

    def begin(*classes):
        register(dataset, RunRecord("run", "found", list(classes), "lite", "0" * 64, {}, {}, 4))
        return dataset.label_schemas["found"]

    return begin


@pytest.mark.parametrize(("count", "component"), [(1, "radio"), (5, "radio"), (6, "dropdown"), (1001, "text")])
def test_a_run_makes_its_field_editable(dataset, run, count, component):
    classes = [f"class {i}" for i in range(count)]
    schema = run(*classes)
    assert dataset.active_label_schemas == ["found"]
    assert (schema["type"], schema["component"]) == ("detections", component)
    assert schema.get("classes", []) == ([] if component == "text" else classes)
    attributes = {one["name"]: one.get("read_only", False) for one in schema["attributes"]}
    assert attributes["confidence"] and not attributes["tags"]
    assert not {"written", "mask_path", "predicted_iou", "similarity", "alternative"} & set(attributes)


def test_what_a_person_changed_stays(dataset, run):
    schema = run("cat", "dog")
    schema["classes"] = ["dog", "bird"]
    schema["attributes"] = schema["attributes"][:1]
    dataset.update_label_schema("found", schema)
    dataset.deactivate_label_schemas(["found"])
    dataset.activate_label_schemas([])
    changed = run("cat", "dog")
    assert changed["classes"] == ["dog", "bird", "cat"], "only what cannot be chosen yet comes in"
    assert changed["attributes"] == schema["attributes"]
    assert dataset.active_label_schemas == []
    assert run("cat", "dog") == changed


def test_what_earlier_versions_showed_for_nothing_is_taken_off(dataset, run):
    schema = run("cat", "dog")
    own = {"name": "similarity", "type": "float", "component": "text"}  # a person made it one to type in
    old = {"name": "predicted_iou", "type": "float", "component": "text", "read_only": True}
    dataset.update_label_schema("found", {**schema, "attributes": [*schema["attributes"], own, old]})
    names = [attribute["name"] for attribute in run("cat", "dog")["attributes"]]
    assert names == [*(attribute["name"] for attribute in schema["attributes"]), "similarity"]


def test_a_class_has_the_same_colour_in_the_app(dataset, run):
    run("cat", "dog")
    scheme = dataset.app_config.color_scheme
    entry = scheme.fields[0]
    assert (scheme.color_by, entry["path"], entry["colorByAttribute"]) == ("value", "found", "label")
    assert [one["color"] for one in entry["valueColors"]] == [
        hex_colour(name, ["cat", "dog"]) for name in ("cat", "dog")
    ]
    entry["valueColors"][0]["color"], scheme.color_by = "red", "field"
    dataset.save()
    run("cat", "dog", "bird")
    scheme = dataset.app_config.color_scheme
    assert scheme.color_by == "field" and len(scheme.fields) == 1, "what a person chose stays"
    assert [one["value"] for one in scheme.fields[0]["valueColors"]] == ["cat", "dog", "bird"]
    assert scheme.fields[0]["valueColors"][0]["color"] == "red"


def test_more_classes_than_buttons(run):
    run("a", "b", "c", "d", "e")
    assert run("a", "f")["component"] == "dropdown"


def test_other_fields_and_refusals(dataset, run):
    run("cat")
    dataset.add_sample_field("mine", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    assert activate_schema(dataset, "mine", ["x"]) and not activate_schema(dataset, "mine", ["x"])
    assert dataset.active_label_schemas == ["found", "mine"]
    with pytest.raises(InputError, match="field 'nope'"):
        activate_schema(dataset, "nope")


def test_before_there_are_samples(dataset):
    dataset.add_sample_field("mine", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    assert activate_schema(dataset, "mine", ["x"]) is ("mine" in dataset.active_label_schemas)  # no media type yet
    dataset.add_sample(fo.Sample("/picture.png"))
    activate_schema(dataset, "mine", ["x"])
    assert dataset.active_label_schemas == ["mine"] and dataset.label_schemas["mine"]["classes"] == ["x"]
