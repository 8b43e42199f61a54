"""Every backend passes the same checks, with small random weights and no download; see ``support/conformance.py``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support import conformance
from support.conformance import BACKENDS, BEGIN, CHECKS, DOCS, END, applies
from support.stand_in_device import elsewhere

PAIRS = [(check, name) for name, backend in BACKENDS.items() for check in CHECKS if applies(check, backend)]
NEED_TORCHVISION = ("Sam2ImageProcessor", "Sam3ImageProcessor", "DINOv3ViTImageProcessor", "Tipsv2ImageProcessor")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.mark.parametrize(("check", "name"), PAIRS)
def test_conformance(check: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = BACKENDS[name]
    if backend.package and find_spec(backend.package) is None:
        pytest.skip(f"{name} needs {backend.package}")
    if check == "is_fed_as_by_its_processor" and backend.processor in NEED_TORCHVISION:
        pytest.importorskip("torchvision", reason=f"{backend.processor} needs torchvision")
    if check == "stays_on_its_device":
        # Whether our decoder gives the same as the model's own cannot be asked of tensors without values.
        for module in ("sam2", "hub_masks"):
            monkeypatch.setattr(f"fiftyone_ntt.models.{module}.decoder_that_agrees", lambda make, *_: make())
    CHECKS[check](backend, folder / name)


def test_the_stand_in_device_refuses_to_mix() -> None:
    """Otherwise the check of devices could not fail."""
    here, there = torch.ones(1, 3, 8, 8), torch.ones(1, 3, 8, 8, device="meta")
    for mix in (
        lambda: here + there,
        lambda: here.flatten(2) @ there.flatten(2).transpose(1, 2),
        lambda: torch.nn.functional.conv2d(there, torch.ones(2, 3, 3, 3)),
        lambda: torch.nn.functional.embedding(torch.zeros(2, dtype=torch.long), there[0, 0]),
    ):
        with elsewhere(), pytest.raises((RuntimeError, AssertionError), match="device|mixes"):
            mix()


def test_the_conformance_table_is_the_suites() -> None:
    text = DOCS.read_text(encoding="utf-8")
    written = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert written == conformance.table(), "run `python -m support.conformance` in tests/"
