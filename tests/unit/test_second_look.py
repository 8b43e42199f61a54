"""The second look: groups of masks, their crops, and what they add to similarities."""

import numpy as np
import pytest
import torch
from support.fake_models import FakeFeatures, FakeProposals, fake_segmenter
from support.masks import picture_of_shapes, three_shapes

from fiftyone_ntt.core import (
    CompactImage,
    ImageFrame,
    MatchConfig,
    MemoryBank,
    ReferenceItem,
    ReferenceSettings,
    Segmenter,
    compact,
)
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.options.second_look import blended, group_masks, look_at


class CropFeatures(FakeFeatures):
    """Tokens of a crop are mean colours too."""

    crop_size = 32

    def encode_crops(self, images):
        assert images.shape[1:] == (3, 32, 32)
        return torch.nn.functional.adaptive_avg_pool2d(images, (4, 4)).permute(0, 2, 3, 1)


def looking(second_look=True, **settings):
    plain = fake_segmenter()
    references = ReferenceSettings(**settings)
    return Segmenter(FakeProposals(), CropFeatures(), references=references, proposals=plain.proposals,
                     target_via=None, second_look=second_look)  # fmt: skip


def test_masks_nearly_the_same_are_one_group_under_the_best():
    best, group = group_masks(three_shapes())
    assert best.tolist() == [1, 2]
    assert group.tolist() == [0, 0, 1, -1]


def test_the_best_groups_are_made_first():
    best, group = group_masks(three_shapes(), most=1)
    assert best.tolist() == [1]
    assert group.tolist() == [0, 0, -1, -1]


def test_no_candidates_no_groups():
    none = three_shapes().select(torch.zeros(4, dtype=torch.bool))
    looks = look_at(CropFeatures(), picture_of_shapes(), none)
    assert looks.vectors.shape == (0, 3)
    assert looks.group.shape == (0,)


@pytest.mark.parametrize("frame", [ImageFrame.squash, ImageFrame.letterbox])
@pytest.mark.parametrize("size", [(256, 256), (512, 512), (100, 100)])
def test_a_crop_is_pooled_under_its_mask_only(size, frame):
    looks = look_at(CropFeatures(), picture_of_shapes(size), three_shapes(size, frame))
    colours = torch.nn.functional.normalize(looks.vectors, dim=1)
    assert torch.allclose(colours[0], torch.tensor([1.0, 0.0, 0.0]), atol=0.35)
    assert torch.allclose(colours[1], torch.tensor([0.0, 0.0, 1.0]), atol=0.35)
    assert colours[0, 0] > 0.9 < colours[1, 2]


def test_it_is_off_by_default_and_then_changes_no_index():
    plain, off, on = fake_segmenter(), looking(False), looking()
    image = picture_of_shapes()
    assert off.facts() == plain.facts()
    assert set(on.facts()) - set(plain.facts()) == {"second_look"}
    assert set(compact(plain.candidates(image)).to_arrays()) == set(compact(off.candidates(image)).to_arrays())
    assert set(compact(on.candidates(image)).to_arrays()) - set(compact(plain.candidates(image)).to_arrays()) == {
        "crop_vectors",
        "group",
    }


def test_what_was_seen_is_kept_in_the_index():
    segmenter, image = looking(), picture_of_shapes()
    found = compact(segmenter.candidates(image))
    again = CompactImage.from_arrays(found.to_arrays())
    assert np.array_equal(again.crop_vectors, found.crop_vectors)
    assert np.array_equal(again.group, found.group)
    assert len(found.crop_vectors) == found.group.max() + 1 > 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("group", lambda group: group + 1000),
        ("group", lambda group: group - 5),
        ("group", lambda group: group[1:]),
        ("group", lambda group: group.astype(np.int64)),
        ("crop_vectors", lambda vectors: vectors.astype(np.float32)),
        ("crop_vectors", lambda vectors: vectors[:, 1:]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, change):
    arrays = compact(looking().candidates(picture_of_shapes())).to_arrays()
    with pytest.raises(InputError):
        CompactImage.from_arrays({**arrays, name: change(arrays[name])})


def test_a_model_without_crops_cannot_look_twice():
    with pytest.raises(InputError, match="second_look"):
        Segmenter(FakeProposals(), FakeFeatures(), second_look=True)


def bank(segmenter, **options):
    image = picture_of_shapes()
    mask = image[..., 0] > 200
    other = image[..., 2] > 200
    items = [ReferenceItem(image, mask, "red", "a"), ReferenceItem(image, other, "blue", "b")]
    return segmenter.build_bank(items, ["red", "blue"], **options)


def test_a_bank_keeps_the_references_crops(tmp_path):
    made = bank(looking())
    assert made.crops.labels == ("red", "blue")
    assert made.crops.vectors.shape == (2, 3)
    again = MemoryBank.load(made.save(tmp_path))
    assert np.array_equal(again.crop_prototypes, made.crop_prototypes)
    assert again.content_hash == made.content_hash
    assert bank(fake_segmenter()).crop_prototypes is None, "the model cannot"
    assert bank(looking(), crops=False).crop_prototypes is None, "not asked for"


def test_crops_are_centred_where_the_preset_is():
    made = bank(looking(centre=True, context="image"))
    assert made.crop_center is not None
    assert np.allclose(
        made.project_crops(made.crops.vectors).mean(axis=0), (made.crops.vectors - made.crop_center).mean(0)
    )


def test_a_class_that_was_learned_since_has_no_crops():
    made = bank(looking())
    references = VectorSet(made.vectors, ("red", "green"), ("a", "learned/c"))
    more = made.changed(classes=("red", "green"), references=references)
    assert np.isfinite(more.crop_prototypes[0]).all()
    assert np.isnan(more.crop_prototypes[1]).all()


def test_a_weight_of_nothing_changes_nothing_and_any_other_does():
    segmenter, image = looking(), picture_of_shapes()
    made, found = bank(segmenter), compact(segmenter.candidates(image))
    blind = compact(fake_segmenter().candidates(image))
    scores = [segmenter.match(one, made, MatchConfig(second_look=w)).scores for one in (found, blind) for w in (0, 0.5)]
    assert np.array_equal(scores[0], scores[2]), "nothing is blended in"
    assert np.array_equal(scores[2], scores[3]), "nothing is there to blend in"
    assert not np.array_equal(scores[0], scores[1])


def test_blending():
    similarities = torch.tensor([[0.2, 0.4], [0.6, 0.0], [0.1, 0.1]])
    looks = np.array([[1.0, 0.0]]), np.array([0, -1, 0])
    prototypes = torch.tensor([[1.0, 0.0], [float("nan")] * 2])
    mixed = blended(similarities, looks, prototypes, 0.5)
    assert torch.allclose(mixed, torch.tensor([[0.6, 0.4], [0.6, 0.0], [0.55, 0.1]]))
    with pytest.raises(InputError, match="group for each"):
        blended(similarities[:2], looks, prototypes, 0.5)
    with pytest.raises(InputError, match="second_look"):
        MatchConfig(second_look=1.5)
