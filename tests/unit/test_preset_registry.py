"""Presets of one's own: by a call, and from installed packages by entry points."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint, PackageNotFoundError

import pytest
import torch

from fiftyone_ntt.errors import InputError, MissingWeightsError, WrongTypeError
from fiftyone_ntt.models import PRESETS, load_preset, register_preset
from fiftyone_ntt.models import hub_specs as specs
from fiftyone_ntt.models.hub_specs import CARDS, Card, Dinov2Spec, HubFeatureSpec, HubMaskSpec, card_of
from fiftyone_ntt.models.preset_registry import all_presets
from fiftyone_ntt.models.presets import clear_loaded, resolve_preset
from fiftyone_ntt.models.specs import Sam2Spec
from fiftyone_ntt.params import preset_names as names
from fiftyone_ntt.params.labelling import IndexParams, SegmentParams

MINE = replace(PRESETS["tiny"], name="mine", points_per_side=48)


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(names, "_registered", {})
    yield
    PRESETS.pop("mine", None)


def offer(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    point = EntryPoint(name, value, names.GROUP)
    monkeypatch.setattr(names, "entry_points", lambda group: [point] if group == names.GROUP else [])
    names.offered.cache_clear()


@pytest.fixture
def nothing_offered_later():
    yield
    names.offered.cache_clear()


def test_a_registered_preset_has_a_name_everywhere() -> None:
    with pytest.raises(InputError, match="'mine'"):
        IndexParams.from_mapping({"preset": "mine"})
    assert register_preset(MINE) is MINE and register_preset(MINE) is MINE
    assert resolve_preset("mine") is MINE
    assert IndexParams.from_mapping({"preset": "mine"}).preset == "mine"
    for params in (IndexParams, SegmentParams):
        (info,) = (info for info in params.infos() if info.name == "preset")
        assert info.choices is not None and info.choices[0] == "lite" and info.choices[-1] == "mine"


@pytest.mark.parametrize("name", ["", "  ", " mine", "lite"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected a"):
        register_preset(replace(MINE, name=name))
    assert PRESETS["lite"].points_per_side == 16


def test_another_preset_of_a_name_is_refused() -> None:
    register_preset(MINE)
    with pytest.raises(InputError, match="no other preset has"):
        register_preset(replace(MINE, points_per_side=12))
    with pytest.raises(WrongTypeError, match="expected a Preset"):
        register_preset("lite")  # type: ignore[arg-type]


@pytest.mark.parametrize("attribute", ["MINE", "make_mine"])
def test_a_package_offers_a_preset(
    attribute: str, monkeypatch: pytest.MonkeyPatch, nothing_offered_later: None
) -> None:
    import support.hub_models as module

    monkeypatch.setattr(module, attribute, MINE if attribute == "MINE" else lambda: MINE, raising=False)
    offer(monkeypatch, "mine", f"support.hub_models:{attribute}")
    assert IndexParams.from_mapping({"preset": "mine"}).preset == "mine", "the name is known before it is loaded"
    assert resolve_preset("mine") == MINE and all_presets()["mine"] == MINE


@pytest.mark.parametrize("value", ["no_such_module:x", "support.hub_models:VIT", "support.hub_models:nothing"])
def test_a_broken_offer_costs_itself_only(
    value: str, monkeypatch: pytest.MonkeyPatch, nothing_offered_later: None, caplog: pytest.LogCaptureFixture
) -> None:
    offer(monkeypatch, "mine", value)
    with pytest.raises(InputError, match="'mine'"):
        resolve_preset("mine")
    assert "mine" not in all_presets() and "lite" in all_presets()
    assert any("'mine'" in record.getMessage() for record in caplog.records)


def test_a_package_cannot_replace_a_built_in(monkeypatch: pytest.MonkeyPatch, nothing_offered_later: None) -> None:
    offer(monkeypatch, "lite", "no_such_module:x")
    assert names.offered() == {} and resolve_preset("lite") is PRESETS["lite"]


def test_of_two_offers_of_a_name_the_first_counts(
    monkeypatch: pytest.MonkeyPatch, nothing_offered_later: None, caplog: pytest.LogCaptureFixture
) -> None:
    points = [EntryPoint("mine", f"{package}:x", names.GROUP) for package in ("first", "second", "first")]
    monkeypatch.setattr(names, "entry_points", lambda group: points)
    names.offered.cache_clear()
    assert names.offered()["mine"].value == "first:x"
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "two packages offer a preset mine: first:x is taken, second:x is not" in warning


# ---- What a preset needs ----


def test_every_model_of_a_preset_has_a_card() -> None:
    for preset in PRESETS.values():
        for spec in (preset.proposal, preset.features):
            card = card_of(spec)
            assert card is not None and card.licence and card.parameters, (preset.name, spec)
    assert {name for name, card in CARDS.items() if card.gated} == {
        "facebook/sam3",
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
    }


@pytest.mark.parametrize(
    ("here", "card", "sentence"),
    [
        ({"transformers": "4.55.9"}, Card("x", transformers="4.56"), "needs transformers 4.56 or newer, and 4.55.9"),
        ({}, Card("x", transformers="4.56"), "and none is installed: run `pip install --upgrade transformers`"),
        ({"transformers": "5.0.0"}, Card("x", transformers="4.56", packages=("timm",)), "run `pip install timm`"),
        ({"transformers": "5.0.0"}, Card("x", transformers="5.0rc1"), ""),
        ({"transformers": "5.24.0", "timm": "1"}, Card("x", transformers="5.24", packages=("timm",)), ""),
    ],
)
def test_what_is_missing_is_one_sentence(
    here: dict[str, str], card: Card, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specs, "_installed", here.get)
    assert sentence in card.problem() and bool(sentence) == bool(card.problem())
    if sentence:
        with pytest.raises(MissingWeightsError, match="^the preset 'mine' needs [^\n]*$"):
            register_preset(replace(MINE, proposal=HubMaskSpec("a/b", card=card)))
            load_preset("mine", "cpu")


def test_all_that_is_missing_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should fetch a gigabyte for one model, to hear then what the other one lacks."""
    monkeypatch.setattr(specs, "_installed", {"transformers": "4.48"}.get)
    monkeypatch.setattr(Sam2Spec, "load", lambda *given, **options: pytest.fail("fetched"))
    for name in ("dinov3", "tips", "radio"):
        with pytest.raises(MissingWeightsError, match="needs the package sam2.*; it needs transformers") as caught:
            load_preset(name, "cpu")
        assert "\n" not in str(caught.value)
    own = Sam2Spec("configs/sam2.1/sam2.1_hiera_t.yaml", path="mine.pt")
    with pytest.raises(MissingWeightsError, match="run `pip install sam2`"):
        load_preset(replace(MINE, proposal=own), "cpu")  # type: ignore[arg-type]


def test_what_is_gated_is_fetched_first(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(spec: object, device: object, **options: object) -> object:
        fetched.append(type(spec).__name__)
        return spec

    for kind in (Sam2Spec, HubMaskSpec, HubFeatureSpec, Dinov2Spec):
        monkeypatch.setattr(kind, "load", fetch)
    monkeypatch.setattr(specs, "_installed", lambda package: "99")
    for name, order in (
        ("dinov3", ["HubFeatureSpec", "Sam2Spec"]), ("sam3", ["HubMaskSpec", "Dinov2Spec"]),
        ("large", ["Sam2Spec", "Dinov2Spec"]), ("radio", ["Sam2Spec", "HubFeatureSpec"]),
    ):  # fmt: skip
        fetched.clear()
        clear_loaded()
        loaded = load_preset(name, "cpu")
        assert fetched == order
        assert loaded.proposal_model is PRESETS[name].proposal and loaded.feature_model is PRESETS[name].features
    clear_loaded()


def test_a_package_under_another_name_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta's own repository installs the module sam2 as the package SAM-2."""
    from fiftyone_ntt.cli import doctor

    def unknown(package: str) -> str:
        raise PackageNotFoundError(package)

    for module in (specs, doctor):
        monkeypatch.setattr(module, "version", unknown)
    assert Card("x", packages=("sam2", "efficientnet-lite-pytorch")).problem() == ""
    assert "no-such-package" in Card("x", packages=("no-such-package",)).problem()
    check = doctor._package("sam2", "sam2")()
    assert check.ok and "unknown version" in check.found
    absent = doctor._package("sam2", "no_such_module")()
    assert not absent.ok and "pip install sam2" in absent.fix


def test_a_folder_of_nobodys_is_one_sentence() -> None:
    spec = HubFeatureSpec(path="~no-such-user/weights")
    with pytest.raises(InputError, match="nobody here has that name"):
        spec.load(torch.device("cpu"))


def test_gated_weights_say_how_to_come_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = HubFeatureSpec("somebody/gated", card=Card("x", gated=True))
    register_preset(replace(MINE, proposal=spec))  # type: ignore[arg-type]
    with pytest.raises(MissingWeightsError, match="accept its terms at https://huggingface.co/somebody/gated"):
        load_preset("mine", "cpu")
    open_spec = HubFeatureSpec("somebody/open", card=Card("x"))
    with pytest.raises(MissingWeightsError, match="somebody/open.*not on this machine"):
        open_spec.load(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [HubMaskSpec, HubFeatureSpec])
def test_a_spec_of_nothing_is_refused(spec: type) -> None:
    with pytest.raises(InputError, match="repository or a folder"):
        spec()
