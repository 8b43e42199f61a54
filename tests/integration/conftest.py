"""Pictures, models and a memory bank of the integration tests: small, and through every loader.

A module or a test says which pictures it needs: ``@pytest.mark.pictures(count=6, references=2)``, with the arguments of
``support.pictures.add_pictures``.
"""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A preset of two small models with random weights, in files like those of the real ones."""
    from support.tiny_checkpoints import tiny_preset

    return tiny_preset(tmp_path_factory.mktemp("weights"))


@pytest.fixture(autouse=True)
def starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs write all labels here unless a test says otherwise: what random models find looks like no reference.

    A module that is about starting thresholds has a fixture of its own of this name.
    """
    monkeypatch.setattr("fiftyone_ntt.runs.segment.STARTING", None)


@pytest.fixture
def pictures(request: pytest.FixtureRequest, dataset: Any, tmp_path: Any) -> Any:
    """A dataset of pictures of a square, the first of which is a reference with a mask."""
    from support.pictures import add_pictures

    return add_pictures(dataset, tmp_path, **_asked_for(request))


@pytest.fixture
def bank(request: pytest.FixtureRequest, pictures: Any, preset: Any) -> Any:
    """The memory bank of the references among the pictures."""
    import fiftyone_ntt as ntt

    field = _asked_for(request).get("field", "truth")
    return ntt.build_memory_bank(pictures.match_tags("ntt:reference"), field, preset=preset)


@pytest.fixture
def index_dir(tmp_path: Any) -> Any:
    """A folder for a candidate cache of the test's own."""
    return tmp_path / "index"


def _asked_for(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("pictures")
    return {} if marker is None else marker.kwargs


@pytest.fixture
def labelled(pictures: Any, bank: Any, preset: Any) -> Any:
    """Images that a run has labelled (random models find discs only), and what it wrote; see ``support.labelled``."""
    from support.labelled import IMAGES, labels_of

    import fiftyone_ntt as ntt

    assert ntt.segment(pictures, bank, "found", preset=preset).labelled == IMAGES
    return pictures, labels_of(pictures, "found")


@pytest.fixture
def named(labelled: Any, bank: Any, preset: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, with its memory bank kept with the dataset, and its models found by name."""
    from fiftyone_ntt.models import PRESETS
    from fiftyone_ntt.references.banks import save_bank

    monkeypatch.setitem(PRESETS, preset.name, preset)
    save_bank(labelled[0], "shapes", bank)
    return labelled[0], "shapes"


@pytest.fixture
def other_bank(pictures: Any, preset: Any) -> Any:
    """A memory bank of squares only."""
    import fiftyone_ntt as ntt

    return ntt.build_memory_bank(pictures.match_tags("ntt:reference"), "truth", classes=["square"], preset=preset)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a dataset as another process does: an object of its own, which hears of nothing."""
    import fiftyone as fo

    def load(dataset: Any) -> Any:
        monkeypatch.setattr(fo.config, "singleton_cache", False)
        copy = fo.load_dataset(dataset.name)
        monkeypatch.setattr(fo.config, "singleton_cache", True)
        assert copy is not dataset
        return copy

    return load
