"""Images that a person is through with: a tag of their own, and what is only said of them."""

import json

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.app import context, run

import fiftyone_ntt as ntt
from fiftyone_ntt.cli.main import main
from fiftyone_ntt.dataset.fields import ACCEPTED_TAG, DONE_TAG, REJECTED_TAG
from fiftyone_ntt.errors import InputError, NttError, WrongTypeError


@pytest.fixture
def pictures(dataset, tmp_path):
    """Four pictures: with an accepted label and an undecided one, with a rejected one, undecided, without labels."""
    for i, tags in enumerate(([[ACCEPTED_TAG], []], [[REJECTED_TAG]], [[]], [])):
        path = tmp_path / "pictures" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(path)
        labels = [
            fo.Detection(label="cat", confidence=0.5, bounding_box=[0.1 + 0.3 * k, 0.1, 0.2, 0.4], tags=tag,
                         mask=np.ones((8, 6), bool), predicted_iou=0.9)
            for k, tag in enumerate(tags)
        ]  # fmt: skip
        dataset.add_sample(fo.Sample(str(path), ntt=fo.Detections(detections=labels)))
    return dataset


def done(dataset):
    return [DONE_TAG in tags for tags in dataset.values("tags")]


def test_images_are_marked_and_unmarked_and_no_label_is_touched(pictures):
    before = [sample.ntt.to_dict() for sample in pictures]
    assert ntt.mark_done(pictures.limit(3)) == 3
    assert ntt.mark_done(pictures.limit(3)) == 0
    assert done(pictures) == [True, True, True, False]
    assert ntt.clear_done(pictures, sample_ids=[pictures.first().id]) == 1
    assert ntt.clear_done(pictures, sample_ids=[pictures.first().id]) == 0
    assert done(pictures) == [False, True, True, False]
    assert [sample.ntt.to_dict() for sample in pictures] == before


def test_a_view_with_chosen_fields_says_only_which_images(pictures):
    assert ntt.mark_done(pictures.select_fields("ntt").skip(3)) == 1
    assert done(pictures) == [False, False, False, True]


def test_of_grouped_images_those_in_sight_are_marked(dataset):
    dataset.add_group_field("group", default="left")
    for i in range(2):
        group = fo.Group()
        dataset.add_samples([fo.Sample(f"/{side}/{i}.png", group=group.element(side)) for side in ("left", "right")])
    assert ntt.mark_done(dataset.select_group_slices("right").limit(1)) == 1
    both = dataset.select_group_slices(["left", "right"])
    assert both.match_tags(DONE_TAG).values("filepath") == ["/right/0.png"]
    assert ntt.mark_done(dataset) == 2


@pytest.mark.parametrize("change", [ntt.mark_done, ntt.use_as_references])
def test_labels_that_a_view_hides_outlive_a_tag(pictures, change):
    """FiftyOne writes samples without a list of tags as the view shows them."""
    pictures.clear_sample_field("tags")
    before = pictures.values("ntt.detections.id")
    view = pictures.filter_labels("ntt", fo.ViewField("confidence") > 0.9, only_matches=False)
    change(view, **({"label_field": "ntt"} if change is ntt.use_as_references else {}))
    view = pictures.view()
    view.reload()
    assert view.values("ntt.detections.id") == before and all(view.values("tags"))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda dataset: ntt.mark_done(dataset, sample_ids=["x"]), "expected ids of samples"),
        (lambda dataset: ntt.clear_done(dataset, sample_ids=[None]), "expected ids of samples"),
        (lambda dataset: ntt.use_as_references(dataset, "ntt", sample_ids=["x"]), "expected ids of samples"),
        (lambda dataset: ntt.remove_references(dataset, "ntt", label_ids=["x"]), "expected ids of labels"),
        (lambda dataset: ntt.accept_labels(dataset, label_ids=["x"]), "expected ids of labels"),
        (lambda dataset: ntt.select_references(dataset, "3"), "whole number"),
        (lambda dataset: ntt.advise_references(dataset, suggest="3"), "suggest"),
    ],
)
def test_what_is_no_id_or_number_is_said(pictures, call, error):
    with pytest.raises(NttError, match=error):
        call(pictures)


def test_patches_are_no_images(pictures):
    with pytest.raises(WrongTypeError, match="expected whole images"):
        ntt.mark_done(pictures.to_patches("ntt"))


def test_an_export_holds_done_images_without_objects(pictures, tmp_path):
    with pytest.raises(InputError, match="4 images, none marked as done"):
        ntt.export_labels(pictures, tmp_path / "out", only="done")
    ntt.mark_done(pictures, sample_ids=[pictures.skip(i).first().id for i in (0, 1, 3)])
    report = ntt.export_labels(pictures, tmp_path / "out", only="done")
    assert (report.images, report.labels) == (3, 1)
    content = json.loads((tmp_path / "out" / "labels.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert sorted(names.values()) == ["0.png", "1.png", "3.png"]
    assert [names[one["image_id"]] for one in content["annotations"]] == ["0.png"]


def test_done_images_without_any_right_label_are_no_export(pictures, tmp_path):
    ntt.mark_done(pictures.skip(1))
    with pytest.raises(InputError, match="hold no accepted, edited or drawn label"):
        ntt.export_labels(pictures, tmp_path / "out", only="done")


@pytest.mark.parametrize("opened", [True, False])
def test_the_app_marks_the_open_image_or_else_those_selected(pictures, opened):
    ids = pictures.values("id")
    request = {"selected": ids[1:3], "current_sample": ids[0] if opened else None}
    result, asked = run("mark_done", pictures, **request)
    assert done(pictures) == ([True, False, False, False] if opened else [False, True, True, False])
    assert result["summary"] == (
        "1 image is done now; 1 in all are done" if opened else "2 images are done now; 2 in all are done"
    )
    assert "reload_samples" in asked
    assert run("clear_done", pictures, **request)[0]["changed"] == (1 if opened else 2)
    assert not any(done(pictures))


def test_the_app_asks_for_an_image_where_none_is_meant(pictures):
    assert "Open an image" in run("mark_done", pictures)[0]["summary"]
    assert not any(done(pictures))


def test_the_command_line_marks_a_view(pictures, capsys):
    pictures.save_view("two", pictures.limit(2))
    assert main(["done", pictures.name, "--saved-view", "two"]) == 0
    assert "2 images done now" in capsys.readouterr().out
    assert main(["not-done", pictures.name]) == 0
    assert not any(done(pictures))


def test_an_image_that_a_filter_hides_by_now_is_marked(pictures):
    """Its last label in sight got another class, and the sidebar shows one class."""
    opened = pictures.skip(1).first().id
    filters = {"ntt.detections.label": {"values": ["dog"], "exclude": False, "isMatching": False}}
    assert not len(context("mark_done", pictures, filters=filters).view)
    result, _ = run("mark_done", pictures, current_sample=opened, filters=filters)
    assert result["changed"] == 1 and done(pictures) == [False, True, False, False]
