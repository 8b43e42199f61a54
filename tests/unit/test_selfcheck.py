"""The check of a whole preset: sound with real weights, not with random ones or none; and the table of presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_models import FakeFeatures, FakeProposals
from support.tiny_checkpoints import tiny_dinov2_folder, tiny_preset

from fiftyone_ntt.cli import main as cli
from fiftyone_ntt.cli import presets as command
from fiftyone_ntt.demo import selfcheck
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.models import PRESETS, Preset
from fiftyone_ntt.models.hub_specs import Card
from fiftyone_ntt.models.presets import Dinov2Spec, clear_loaded

pytest.importorskip("skimage", reason="its photographs are looked at")


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    clear_loaded()


@pytest.mark.slow
def test_selfcheck_of_lite_is_sound(lite: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selfcheck", "--preset", "lite", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1].startswith("sound: preset lite on cpu: 8 of 8 checks, ")
    for digest in lite.weights.values():
        assert digest in printed
    for part in ("torch: ", "time an image: ", "memory: ", "device: cpu", "ms an image with 8 x 8 points"):
        assert part in printed


def test_random_weights_are_not_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "POINTS_PER_SIDE", 2)
    check = selfcheck.run_selfcheck(tiny_preset(tmp_path), "cpu")
    assert not check.sound and check.verdict.startswith("not sound: preset tiny-test on cpu: ")
    held = {step.name: step.ok for step in check.steps}
    assert held["the models load"] and held["every number is finite"], "the rest was not asked"
    assert not held["a box around a disc gives the disc"] and not held["the disc is among the candidates"]


@dataclass(frozen=True)
class OfAnotherPackage:
    """A spec whose model cannot be loaded, for a reason of its own."""

    cpu_only = True

    def load(self, device: object, **options: object) -> Any:
        raise KeyError("weights")


def test_a_preset_that_does_not_load_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = replace(PRESETS["lite"], name="broken", features=Dinov2Spec(path=tmp_path / "nothing"))
    check = selfcheck.run_selfcheck(broken, "cpu")
    assert not check.sound and [step.ok for step in check.steps] == [False]
    assert "nothing" in check.verdict and "\n" not in check.verdict
    folder = tiny_dinov2_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    cut_off = selfcheck.run_selfcheck(replace(broken, features=Dinov2Spec(path=folder)), "cpu")
    assert [step.ok for step in cut_off.steps] == [False] and str(folder) in cut_off.verdict
    foreign = selfcheck.run_selfcheck(replace(broken, features=OfAnotherPackage()), "cpu")  # type: ignore[arg-type]
    assert [step.ok for step in foreign.steps] == [False] and "KeyError: 'weights'" in foreign.verdict


class NoKernels(FakeFeatures):
    """What a card does for which torch was not built."""

    def encode(self, images: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")


@dataclass(frozen=True)
class Given:
    """A spec of a model that is there already."""

    model: Any
    cpu_only = True

    def load(self, device: object, **options: object) -> Any:
        return self.model()


def test_a_broken_device_is_a_verdict_not_a_traceback() -> None:
    check = selfcheck.run_selfcheck(Preset("no-kernels", Given(FakeProposals), Given(NoKernels)), "cpu")
    steps = {step.name: step for step in check.steps}
    assert steps["the models load"].ok
    assert not check.sound and "NotImplementedError" in check.verdict, "masks in boxes are asked for first"
    memory_bank = steps["references become a memory bank"]
    assert not memory_bank.ok and memory_bank.found == (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device"
    )
    assert "memory" in check.facts and "Python" in check.facts["system"], "the rest of the report is there"


def test_photographs_are_asked_for_before_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise InputError("pip install scikit-image")

    monkeypatch.setattr(selfcheck, "load_images", absent)
    monkeypatch.setattr(selfcheck, "load_preset", lambda *given, **options: pytest.fail("loaded"))
    with pytest.raises(InputError, match="scikit-image"):
        selfcheck.run_selfcheck("lite", "cpu")


def test_what_is_not_there_is_refused_before_anything_else(capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, no list of versions and steps."""
    for option, words in (
        ("--preset", "expected a Preset or one of the presets lite"),
        ("--device", "a device such as"),
    ):
        assert cli.main(["selfcheck", option, "no-such"]) == 2
        out = capsys.readouterr()
        assert out.out == "" and words in out.err and len(out.err.splitlines()) == 1


def test_a_wrong_mask_is_found(lite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows for columns: the disc lies off the middle, so that it shows."""
    segmenter = lite.segmenter(4)
    masks = segmenter.box_masks

    def mirrored(image: Any, boxes: Any) -> list[Any]:
        return [np.ascontiguousarray(mask[::-1, ::-1]) for mask in masks(image, boxes)]

    monkeypatch.setattr(segmenter, "box_masks", mirrored)
    check = selfcheck.SelfCheck("lite")
    selfcheck._disc(check, segmenter)
    assert [step.ok for step in check.steps][0] is False and check.steps[1].found.startswith("best mask IoU")


def test_the_table_of_presets_says_what_each_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fiftyone_ntt.models.hub_specs._installed", {"transformers": "4.56", "sam2": "1"}.get)
    rows = {row.name: row for row in command.preset_rows()}
    assert set(PRESETS) <= set(rows)
    assert (rows["sam3"].access, rows["dinov3"].access, rows["base"].access) == ("gated", "gated", "open")
    assert rows["dinov3"].licence == "Apache-2.0, DINOv3 License" and rows["dinov3"].here == "yes"
    assert rows["tips"].needs == "transformers>=5.13, sam2" and rows["tips"].here.startswith(
        "no: needs transformers 5.13"
    )
    assert "timm" in rows["edge"].here and rows["base"].parameters == "167 M"
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["presets"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{name}: {preset.summary}" in printed for name, preset in PRESETS.items())
    assert "run `pip install timm`" in printed


@pytest.mark.parametrize(
    ("versions", "needs"),
    [
        (("5.0rc1", "4.57"), "transformers>=5.0rc1"),
        (("4.57.0.dev0", "5.13"), "transformers>=5.13"),
        (("4.9", "4.10"), "transformers>=4.10"),
        (("newest", "4.57"), "transformers>=4.57"),
        (("", ""), ""),
        ((None, "4.57"), "transformers>=4.57"),
    ],
)
def test_versions_of_any_form_can_be_compared(versions: tuple[Any, Any], needs: str) -> None:
    assert command._needs([Card("x", transformers=version) for version in versions]) == needs
