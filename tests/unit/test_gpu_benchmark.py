"""The benchmark of a card's precisions, run on the CPU: its rows, its comparison with fp32, its refusals."""

from __future__ import annotations

import pytest
import torch
from support.tiny_checkpoints import tiny_preset

from benchmarks import gpu
from benchmarks.clock import DECODE, ENCODE, FEATURES


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    arguments = "--points 3 --images 2 --size 90x120 --classes 3 --device cpu --settings fp32,tf32,bf16"
    options = gpu.parser().parse_args(arguments.split())
    options.preset = tiny_preset(tmp_path_factory.mktemp("tiny"))
    before = torch.backends.cuda.matmul.allow_tf32
    rows, theirs, machine = gpu.run(options)
    assert torch.backends.cuda.matmul.allow_tf32 == before, "the switch is the process's"
    return rows, theirs, machine


def test_every_setting_is_a_row_with_every_stage(measured):
    rows, theirs, machine = measured
    assert list(rows) == ["fp32", "tf32", "bf16"]
    for row in rows.values():
        assert all(row.side.seconds[stage] > 0 for stage in (ENCODE, DECODE, FEATURES))
        assert row.images_per_second > 0
        assert row.cores > 0
    text = gpu.report(rows, theirs, machine)
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][-4:] == [
        "fp32", "tf32", "bf16", "plain, fp32"]  # fmt: skip
    assert rows["bf16"].to_json()["agreement_with_first"].keys() == {"instances", "found", "score", "pixels"}


def test_labels_are_compared_with_those_of_the_first_setting(measured):
    rows, _, _ = measured
    assert rows["fp32"].same is None
    same = rows["tf32"].same  # on the CPU the switch changes nothing
    assert same.instances == same.found > 0
    assert same.score == 0
    assert rows["bf16"].same.instances == same.instances


def test_unknown_settings_are_refused_before_anything_is_loaded(capsys):
    assert gpu.main(["--settings", "fp32,int4", "--preset", "no such preset"]) == 1
    assert "got int4" in capsys.readouterr().err
