"""The tab "References" through real panel events: the table, the gallery and the buttons."""

from __future__ import annotations

import fiftyone as fo
import pytest
from PIL import Image, ImageDraw
from support.app import PanelSession

from fiftyone_ntt.panels import references_tab

TAG = "ntt:reference"


@pytest.fixture
def things(dataset, tmp_path):
    """Six images with a disc or a square each; nothing is tagged."""
    for i in range(6):
        image = Image.new("RGB", (200, 160), (40 + 10 * i, 60, 80))
        shape = ImageDraw.Draw(image)
        corners = [20 + 12 * i, 30, 80 + 12 * i, 100]
        (shape.ellipse if i % 2 else shape.rectangle)(corners, fill=(200, 30 * i, 60))
        image.save(tmp_path / f"{i}.png")
        box = [corners[0] / 200, 30 / 160, 60 / 200, 70 / 160]
        label = fo.Detection(label="disc" if i % 2 else "square", bounding_box=box)
        dataset.add_sample(fo.Sample(str(tmp_path / f"{i}.png"), ground_truth=fo.Detections(detections=[label])))
    return dataset


def flat(data, prefix=""):
    for key, value in data.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def pictures_of(session):
    """The pictures that were sent to the panel: path in its data -> picture."""
    return {key: value for key, value in flat(session.data) if str(value).startswith("data:image/jpeg;base64,")}


def test_without_references_it_says_how_to_begin(things):
    opened = PanelSession(things, "references")
    text = opened.shown["references_empty"].view.label or opened.shown["references_empty"].default
    assert "No references yet" in text and "Use selection as references" in text
    assert "references_table" not in opened.shown and "references_next" not in opened.shown


def test_a_selection_becomes_references_and_is_shown(things):
    opened = PanelSession(things, "references").send("on_references_use", selected=things.values("id")[:3])
    assert things.count_sample_tags() == {TAG: 3}
    assert opened.data["references_table"] == [{"class": "disc", "count": 1}, {"class": "square", "count": 2}]
    assert list(opened.shown).index("references_table") < list(opened.shown).index("references_heading_0")
    while opened.state["references_pending"]:
        opened.send("on_references_more")
    assert len(pictures_of(opened)) == 3
    cards = opened.state["references_cards"]
    assert [card["class"] for card in cards] == ["disc", "square", "square"]
    assert cards[0]["warnings"] == ["the only one of its class: two or three more help"]
    for key in pictures_of(opened):
        group, card, _ = key.split(".")
        assert card in opened.shown[group].type.properties, "a picture is sent to where it is drawn"
    opened.send("on_references_remove", selected=things.values("id")[:3])
    assert things.count_sample_tags() == {} and "references_empty" in opened.shown


def test_pictures_that_are_there_are_not_sent_again(things):
    things.tag_samples(TAG)
    opened = PanelSession(things, "references")
    while opened.state["references_pending"]:
        opened.send("on_references_more")
    opened.send("on_references_more")
    assert not [key for key, value in flat(opened.sent) if str(value).startswith("data:")]


def test_at_most_so_many_are_shown(things, monkeypatch):
    monkeypatch.setattr(references_tab, "MOST_SHOWN", 4)
    things.tag_samples(TAG)
    opened = PanelSession(things, "references")
    assert len(opened.state["references_cards"]) == 4
    more = opened.shown["references_more"]
    assert "2 more" in (more.view.label or more.default)


@pytest.mark.parametrize(
    ("event", "operator", "params"),
    [
        ("on_references_build", "build_memory_bank", {"label_field": "ground_truth"}),
        ("on_references_advice", "advise_references", {"label_field": "ground_truth"}),
        ("on_references_preview", "preview", {"label_field": "ground_truth"}),
        ("on_references_label", "segment", None),
    ],
)
def test_buttons_open_the_operators(things, event, operator, params):
    asked = PanelSession(things, "references").send(event).prompts[-1]
    assert asked["operator_uri"] == f"@fiftyone-ntt/ntt/{operator}"
    assert (asked["params"], asked["skip_prompt"]) == (params, operator == "preview")


def test_another_field_is_another_gallery(things):
    things.clone_sample_field("ground_truth", "drafts")
    things.limit(1).tag_labels(TAG, "drafts")
    opened = PanelSession(things, "references")
    assert opened.state["references_field"] == "drafts", "where there are tagged labels"
    assert opened.data["references_table"] == [{"class": "square", "count": 1}]
    opened.send("on_references_field", value="ground_truth")
    assert opened.state["references_counts"] == {}


def test_a_dataset_without_labels(dataset):
    dataset.add_sample(fo.Sample("/nowhere.png"))
    opened = PanelSession(dataset, "references")
    assert "references_empty" in opened.shown
    opened.send("on_references_use", selected=dataset.values("id"))
    assert "no labels" in opened.messages[-1]
