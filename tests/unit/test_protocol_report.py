"""Results beside what is published: what is compared, and with what."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from support.protocol_runs import fake_result

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols.report import by_presence, expected, markdown, read_results, rows_of, write_page


def test_report_marks_what_differs_by_more_than_half_a_point():
    box, mask = rows_of([fake_result()])
    assert (box.expected, box.measured, box.marked) == (36.6, pytest.approx(36.6), False)
    assert (mask.expected, mask.difference, mask.marked) == (33.8, pytest.approx(-0.8), True)
    text = markdown([box, mask])
    assert (
        "| 36.6 | 36.6 | +0.0 |  |" in text and "| 33.8 | 33.0 | -0.8 | ! |" in text and "ablation-coco-std.csv" in text
    )
    assert rows_of([fake_result(limit=100)])[0].expected is None, "a part of the images is not compared"


def test_report_never_mixes_known_and_unknown_presence():
    given = fake_result(protocol="coco-20i", part="0", shots=1, seed=None, presence="given", episodes=1000,
                        scores={"miou": {"metrics": {"miou": 0.5, "fb_iou": 0.7}}})  # fmt: skip
    groups = by_presence(rows_of([fake_result(), given]))
    assert {kind: {row.protocol for row in rows} for kind, rows in groups.items()} == {
        "unknown": {"coco-fsod"}, "given": {"coco-20i"}}  # fmt: skip
    first, second = markdown(rows_of([fake_result(), given])).split("### Presence given")
    assert "coco-20i" not in first and "coco-fsod |" not in second


def test_report_of_a_bundle_has_a_curve(tmp_path):
    values = {(1, 33): 0.25, (1, 42): 0.23, (10, 33): 0.36}
    for (shots, seed), value in values.items():
        content = fake_result(shots=shots, seed=seed, scores={"coco": {"metrics": {"box_ap": value}}})
        (tmp_path / f"{shots}-{seed}.json").write_text(json.dumps(content))
    text = markdown(rows_of(read_results([tmp_path])))
    assert "| 1 shot | 10 shots |" in text and "24.0 ± 1.4" in text and "| 36.0 |" in text
    page, picture = tmp_path / "page.md", tmp_path / "page_presence_unknown.svg"
    assert write_page(rows_of(read_results([tmp_path])), page) == [picture, page]
    assert f"]({picture.name})" in page.read_text()
    root = ElementTree.parse(picture).getroot()
    (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.get("points").split())
    assert x1 < x2 and y1 > y2, "more shots to the right, more points upwards"
    with pytest.raises(InputError, match="not there yet"):
        write_page(rows_of(read_results([tmp_path])), page)
    with pytest.raises(InputError, match="without 'failed'"):
        rows_of([{key: value for key, value in fake_result().items() if key != "failed"}])
    with pytest.raises(InputError, match="protocol run"):
        read_results([tmp_path / "none" if (tmp_path / "none").mkdir() else tmp_path / "none"])


@pytest.mark.parametrize(
    ("case", "value"),
    [
        (("coco-fsod", "novel", 1, 42, "coco", "box_ap"), 22.0),
        (("coco-fsod", "novel", 30, 99, "coco", "mask_ap"), 34.3),
        (("coco-fsod", "novel", 10, 7, "coco", "box_ap"), None),
        (("voc-fsod", "2", 2, 33, "ntt", "box_ap50"), 67.0),
        (("voc-fsod", "3", 10, 33, "fsod-vfm", "box_ap50"), 79.3),
        (("voc-fsod", "3", 10, 33, "voc07", "box_ap50"), None),
        (("cd-fsod", "DIOR", 5, 0, "coco", "box_ap"), 18.5),
        (("folder", "all", 1, 33, "coco", "box_ap"), None),
    ],
)
def test_published_figures(case, value):
    assert expected(*case) == value


@pytest.mark.parametrize(("size", "value"), [(518, 52.7), (400, None), ("image", None)])
def test_a_figure_of_episodes_is_compared_at_its_own_size(size, value):
    result = fake_result(protocol="coco-20i", part="0", shots=1, seed=None, presence="given", episodes=1000,
                         evaluation_size=size, scores={"miou": {"metrics": {"miou": 0.5}}})  # fmt: skip
    (row,) = rows_of([result])
    assert row.expected == value
