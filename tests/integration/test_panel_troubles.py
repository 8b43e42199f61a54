"""What cannot be shown in a tab of the panel is one sentence there: no tab fails, and the others still open."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from support.app import PanelSession

from fiftyone_ntt.panels.ntt_review import TABS


def picture(folder, name="a.png"):
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(folder / name)
    return str(folder / name)


def labels():
    return fo.Detections(detections=[fo.Detection(label="fig", bounding_box=[0.1, 0.1, 0.5, 0.5])])


def clouds(dataset, folder):
    """Groups of a picture and a point cloud, of which the clouds are shown."""
    dataset.add_group_field("group", default="left")
    group = fo.Group()
    (folder / "a.pcd").write_text("VERSION .7\n")
    dataset.add_samples([
        fo.Sample(picture(folder), group=group.element("left"), ground_truth=labels()),
        fo.Sample(str(folder / "a.pcd"), group=group.element("cloud")),
    ])  # fmt: skip
    dataset.group_slice = "cloud"
    return "holds point-cloud; choose another slice: 'left'"


def videos(dataset, folder):
    dataset.add_sample(fo.Sample(str(folder / "a.mp4"), ground_truth=labels()))
    return "expected images, got videos"


def colours(dataset, folder):
    """Semantic segmentation masks whose classes are named by colours."""
    mask = np.zeros((20, 30, 3), np.uint8)
    dataset.add_sample(fo.Sample(picture(folder), maps=fo.Segmentation(mask=mask), tags=["ntt:reference"]))
    dataset.mask_targets = {"maps": {"#ff0000": "cat"}}
    dataset.save()
    return "got colours"


@pytest.mark.parametrize("trouble", [clouds, videos, colours])
@pytest.mark.parametrize("tab", TABS)
def test_a_tab_says_what_is_wrong_in_one_sentence(dataset, tmp_path, trouble, tab):
    sentence = trouble(dataset, tmp_path)
    session = PanelSession(dataset, tab)
    assert "Traceback" not in session.drawn
    if tab == "references":
        assert sentence in session.drawn.replace("\\", "")
    for event in ("on_references_refresh", "on_review_refresh", "on_runs_refresh"):
        session.send(event)


def test_another_slice_takes_the_sentence_away(dataset, tmp_path):
    clouds(dataset, tmp_path)
    session = PanelSession(dataset, "references")
    dataset.group_slice = "left"
    session.view = dataset.view()
    session.send("on_change_group_slice")
    assert "No references yet" in session.drawn
