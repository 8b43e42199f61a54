"""The benchmark of a card's precisions, run on the CPU: its rows, its comparison with fp32, its refusals."""

from __future__ import annotations

import os
import re

import pytest
import torch
from support.tiny_checkpoints import tiny_preset

from benchmarks import gpu
from benchmarks.clock import DECODE, ENCODE, FEATURES
from fiftyone_ntt.models.compiling import GRAPHS_VARIABLE


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    arguments = "--points 3 --images 1 --size 90x120 --classes 3 --device cpu --settings fp32,tf32,bf16+graphs"
    options = gpu.parser().parse_args(arguments.split())
    options.preset = tiny_preset(tmp_path_factory.mktemp("tiny"))
    before, asked = torch.backends.cuda.matmul.allow_tf32, []

    def compiler(function, dynamic, mode):
        asked.append(mode)
        return function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compiler)
        patch.setitem(gpu.SETTINGS["bf16+graphs"], "precision", "fp32")  # bf16 takes a CPU ten times as long
        rows, theirs, machine = gpu.run(options)
    assert torch.backends.cuda.matmul.allow_tf32 == before, "the switch is the process's"
    assert GRAPHS_VARIABLE not in os.environ, "so is this one"
    assert asked == ["reduce-overhead"] * 2, "both encoders, for the last setting"
    return rows, theirs, machine


def test_every_setting_is_a_row_with_every_stage(measured):
    rows, theirs, machine = measured
    assert list(rows) == ["fp32", "tf32", "bf16+graphs"]
    for row in rows.values():
        assert all(row.side.seconds[stage] > 0 for stage in (ENCODE, DECODE, FEATURES))
        assert row.images_per_second > 0
        assert row.cores > 0
    text = gpu.report(rows, theirs, machine)
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][-4:] == [
        "fp32", "tf32", "bf16+graphs", "plain, fp32"]  # fmt: skip
    assert re.search(r"\| setting +\| +warm-up, s \|", text)
    assert rows["bf16+graphs"].to_json()["agreement_with_first"].keys() == {"instances", "found", "score", "pixels"}


def test_labels_are_compared_with_those_of_the_first_setting(measured):
    rows, _, _ = measured
    assert rows["fp32"].same is None
    same = rows["tf32"].same  # on the CPU the switch changes nothing
    assert same.instances == same.found > 0
    assert same.score == 0
    assert rows["bf16+graphs"].same.instances == same.instances


def test_unknown_settings_are_refused_before_anything_is_loaded(capsys):
    assert gpu.main(["--settings", "fp32,int4", "--preset", "no such preset"]) == 1
    assert "got int4" in capsys.readouterr().err
