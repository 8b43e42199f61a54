"""The text vote: what class names change in similarities, what they leave alone, and who cannot read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from support.fake_models import FakeFeatures, FakeProposals
from support.hub_models import tiny_hub_features, with_tokenizer
from support.masks import three_shapes
from torch import Tensor

from fiftyone_ntt.candidates.compact import compact
from fiftyone_ntt.core import IndexedImage, Matcher, MemoryBank, ReferenceItem, Segmenter
from fiftyone_ntt.errors import InputError, MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.method.backends import FeatureModel, TextEncoder
from fiftyone_ntt.method.bank_parts import TextVote, VectorSet
from fiftyone_ntt.method.options.text_vote import with_names
from fiftyone_ntt.method.scoring import normalise
from fiftyone_ntt.models.hub_folders import FILES
from fiftyone_ntt.models.hub_specs import HubFeatureSpec

COLOURS = {"red": [2.0, 0.1, 0], "green": [0, 3.0, 0.5], "nothing": [-1.0, -1.0, -1.0]}


class ReadingFeatures(FakeFeatures):
    """Reads the names of colours as their colours; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def encode_text(self, names: Any) -> Tensor:
        self.asked.append(tuple(names))
        return torch.tensor([COLOURS[name] for name in names])


@pytest.fixture
def bank() -> MemoryBank:
    """Red and green, of which red has two references; vectors lie about a centre."""
    vectors = np.array([[1, 0.2, 0.1], [0.8, 0.1, 0.3], [0.2, 0.9, 0.2]], np.float32)
    return MemoryBank(("red", "green"), vectors, [0, 0, 1], ("a", "b", "c"), center=vectors.mean(axis=0))


@pytest.fixture
def image() -> IndexedImage:
    vectors = torch.tensor([[1.0, 0.1, 0], [0.2, 1, 0], [0.5, 0.5, 1], [-1, -1, 0]])
    return IndexedImage(three_shapes(), vectors, torch.rand(2, 2, 3))


def saved(bank: MemoryBank, folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bank.save(folder).iterdir()}


# ---- What it changes ----


def test_similarities_are_blended_with_those_to_the_names(bank: MemoryBank, image: IndexedImage) -> None:
    reading = with_names(bank, ReadingFeatures(), 0.3)
    features, plain = Matcher(bank).compare(image)
    same_features, voted = Matcher(reading).compare(image)
    assert torch.equal(features, same_features)
    assert reading.text is not None and reading.text.gain > 0
    for i, vector in enumerate(image.vectors):  # as written down: on the vector itself, not on what the centre leaves
        for k, name in enumerate(bank.classes):
            text = torch.tensor(COLOURS[name])
            cosine = max(0.0, float(vector @ text / (vector.norm() * text.norm())))
            expected = 0.7 * float(plain[i, k]) + 0.3 * min(1.0, reading.text.gain * cosine)
            assert float(voted[i, k]) == pytest.approx(expected, abs=1e-6)


def test_a_class_without_a_name_keeps_its_similarities(bank: MemoryBank, image: IndexedImage) -> None:
    reading = with_names(bank, ReadingFeatures(), 0.3)
    assert reading.text is not None
    half = TextVote(VectorSet(reading.text.names.vectors[1:], ("green",)), 0.3, reading.text.gain)
    plain, voted = (Matcher(one).compare(image)[1] for one in (bank, bank.changed(text=half)))
    assert torch.equal(plain[:, 0], voted[:, 0]) and not torch.equal(plain[:, 1], voted[:, 1])
    turned = bank.changed(classes=("green", "red"), text=half)
    assert torch.equal(Matcher(turned).compare(image)[1], voted.flip(1)), "a name is its class's, wherever that stands"


def test_a_name_alone_can_decide(bank: MemoryBank, image: IndexedImage) -> None:
    """Two classes with references that look alike: what tells them apart is what they are called."""
    alike = MemoryBank(("red", "green"), np.ones((2, 3), np.float32), [0, 1], ("a", "b"))
    plain, voted = (Matcher(one).compare(image)[1] for one in (alike, with_names(alike, ReadingFeatures(), 0.5)))
    assert torch.equal(plain[:, 0], plain[:, 1])
    assert voted[0].argmax() == 0 and voted[1].argmax() == 1


def test_scores_stay_where_they_were(bank: MemoryBank) -> None:
    """A name says as much of the references, on the mean, as their prototypes may be expected to of further objects."""
    from fiftyone_ntt.method.starting_threshold import expected_similarity

    text = with_names(bank, ReadingFeatures(), 1.0).text
    assert text is not None
    names = normalise(torch.from_numpy(text.names.vectors))
    cosines = (normalise(torch.from_numpy(bank.vectors)) * names[torch.from_numpy(bank.class_index)]).sum(dim=1)
    assert text.gain * float(cosines.mean()) == pytest.approx(expected_similarity(bank).mean(), abs=1e-3)


def test_it_needs_no_model_and_works_from_the_cache(bank: MemoryBank, image: IndexedImage, tmp_path: Path) -> None:
    model = ReadingFeatures()
    reading = with_names(bank, model, 0.4)
    again = MemoryBank.load(reading.save(tmp_path / "bank"))
    assert model.asked == [("red", "green")], "the names are embedded once"
    cached = Matcher(again).compare(compact(image))[1]
    np.testing.assert_allclose(cached, Matcher(reading).compare(image)[1], atol=2e-3)
    assert again.content_hash == reading.content_hash != bank.content_hash


class Reader(ReadingFeatures):
    """Says what each name looks like."""

    def __init__(self, said):
        super().__init__()
        self.said = np.asarray(said, np.float32)

    def encode_text(self, texts):
        return torch.from_numpy(self.said)


@pytest.mark.parametrize(
    "said", [[[1, 0], [1e-4, 1]], [[1, 0], [-1, 0]], [[1, 0], [0, 0]]], ids=["hardly", "opposite", "none"]
)
def test_names_that_are_not_found_are_refused_by_name(said) -> None:
    """However well the other class's name fits: the mean over all of them would pass."""
    alike = MemoryBank(("red", "green"), np.array([[1, 0], [1, 0]], np.float32), [0, 1], ("a", "b"))
    with pytest.raises(InputError, match="finds in their references, got green, which"):
        with_names(alike, Reader(said), 0.5)


# ---- What it leaves alone ----


def test_without_weight_nothing_changes(bank: MemoryBank, tmp_path: Path) -> None:
    model = ReadingFeatures()
    assert with_names(bank, model, 0.0) is bank and model.asked == [] and Matcher(bank).steps == []
    item = ReferenceItem(np.full((40, 40, 3), 200, np.uint8), np.ones((40, 40), bool), "red", "a")
    made = [
        Segmenter(FakeProposals(), features, target_via=None).build_bank([item], crops=False, **options)
        for features, options in ((FakeFeatures(), {}), (ReadingFeatures(), {"text_weight": 0.0}))
    ]
    files = [saved(one, tmp_path / str(i)) for i, one in enumerate(made)]
    assert files[0] == files[1] and json.loads(files[0]["bank.json"])["format"] == 1
    assert "text" not in json.loads(files[0]["bank.json"]) and len(files) == 2


def test_a_bank_with_names_has_a_format_of_its_own(bank: MemoryBank, tmp_path: Path) -> None:
    """A version that knows no names refuses it, and does not take it for less than it is."""
    reading = with_names(bank, ReadingFeatures(), 0.4)
    assert json.loads(saved(reading, tmp_path)["bank.json"])["format"] == 4
    assert reading.changed(classes=("green", "red")).text is reading.text


@pytest.mark.parametrize(
    "damage", [{"weight": 0}, {"weight": 1.5}, {"gain": -1}, {"names": ["red"]}, {"names": "red"}, {"gain": "x"}]
)
def test_damaged_names_are_a_sentence(damage: dict[str, Any], bank: MemoryBank, tmp_path: Path) -> None:
    folder = with_names(bank, ReadingFeatures(), 0.4).save(tmp_path)
    facts = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps({**facts, "text": {**facts["text"], **damage}}))
    with pytest.raises(InputError):
        MemoryBank.load(folder)


def test_names_of_other_channels_are_refused(bank: MemoryBank, tmp_path: Path) -> None:
    tensors, description = with_names(bank, ReadingFeatures(), 0.4).to_parts()
    save_file({**tensors, "text_vectors": np.ones((2, 5), np.float32)}, tmp_path / "bank.safetensors")
    (tmp_path / "bank.json").write_text(description)
    with pytest.raises(InputError, match=r"names \[n, 3\]"):
        MemoryBank.load(tmp_path)


# ---- Who cannot read ----


def test_models_that_see_only_are_refused(bank: MemoryBank) -> None:
    assert not isinstance(FakeFeatures(), TextEncoder) and isinstance(ReadingFeatures(), TextEncoder)
    segmenter = Segmenter(FakeProposals(), FakeFeatures(), target_via=None)
    for refused in (
        lambda: with_names(bank, FakeFeatures(), 0.2),
        lambda: segmenter.build_bank([], text_weight=0.2),
    ):
        with pytest.raises(InputError, match="text_weight=0.2, got 'fake-features', which sees images only; leave"):
            refused()


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_bounds_is_refused(weight: float, bank: MemoryBank) -> None:
    with pytest.raises(InputError, match="text_weight between 0 and 1"):
        with_names(bank, ReadingFeatures(), weight)


def test_names_that_say_nothing_are_refused() -> None:
    bank = MemoryBank(("nothing",), np.ones((1, 3), np.float32), [0], ("a",))
    with pytest.raises(InputError, match="got nothing, which it does not find there; name these classes by words"):
        with_names(bank, ReadingFeatures(), 0.5)


# ---- TIPSv2 ----


@pytest.fixture(scope="module")
def tips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_tokenizer(tiny_hub_features(tmp_path_factory.mktemp("tips"), "tipsv2"))


def test_tips_reads_as_its_own_class_does(tips: Path) -> None:
    import transformers

    model: Any = HubFeatureSpec(path=tips).load(torch.device("cpu"))
    assert isinstance(model, FeatureModel) and isinstance(model, TextEncoder)
    embedded = model.encode_text(["cat", "red_car"])
    assert embedded.shape == (2, model.dim) and embedded.dtype == torch.float32
    texts = ["a photo of a cat", "a photo of a red car"]
    tokens = transformers.AutoTokenizer.from_pretrained(tips)(texts, padding=True, return_tensors="pt")
    whole = transformers.Tipsv2Model.from_pretrained(tips).eval()
    with torch.no_grad():
        own = whole.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    torch.testing.assert_close(embedded, own.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.encode_text(["cat"]), embedded[:1], rtol=1e-4, atol=1e-5)


def test_tips_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    assert "tokenizer*" in FILES
    folder = tiny_hub_features(tmp_path, "tipsv2")
    model: Any = HubFeatureSpec(path=folder).load(torch.device("cpu"))
    with pytest.raises(MissingWeightsError, match=r"put tokenizer\.json and tokenizer_config\.json"):
        model.encode_text(["cat"])
    with_tokenizer(folder)
    facts = json.loads((folder / "tokenizer.json").read_text())
    facts["model"]["vocab"]["cat"] = 99
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(WeightsMismatchError, match="at most 16 words"):
        model.encode_text(["cat"])


@pytest.mark.parametrize("kind", ["tipsv2_vision_model", "siglip"])
def test_models_without_text_beside_patches_cannot_read(kind: str, tmp_path: Path) -> None:
    model = HubFeatureSpec(path=tiny_hub_features(tmp_path, kind)).load(torch.device("cpu"))
    assert not isinstance(model, TextEncoder)
