"""A head over candidates: starts at the matcher, learns what prototypes cannot say, refused where it is no better."""

import json

import numpy as np
import pytest
import torch

from fiftyone_ntt.core import Candidates, ImageFrame, Matcher, MemoryBank, compact
from fiftyone_ntt.errors import InputError
from fiftyone_ntt.method.bank_parts import Head, VectorSet
from fiftyone_ntt.method.options.head import blended, probabilities, similarities_of
from fiftyone_ntt.method.options.referring import one_class_each
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.results import IndexedImage
from fiftyone_ntt.method.starting_threshold import starting_thresholds
from fiftyone_ntt.references.banks import seen_images
from fiftyone_ntt.references.tagged_bank import with_lessons_of
from fiftyone_ntt.review import head_fit
from fiftyone_ntt.review.head_fit import (
    LEAST_IMAGES,
    average_precision,
    balanced,
    fitted,
    logits_of,
    prior_of,
    thinned,
    train_head,
)
from fiftyone_ntt.review.head_rows import MOST_OF_NONE, NONE, Decided, Rows, overlaps_with, rows_of, unit

CHANNELS = 24


def world(images, looks, noise=0.5, seed=0):
    """Two classes of so many looks each, of which one reference shows the first, among much else."""
    rng = np.random.default_rng(seed)
    centres, others = rng.normal(size=(2, looks, CHANNELS)), rng.normal(size=(6, CHANNELS))
    objects = [(i, k) for i in range(images) for k in (0, 1, 0, 1)]
    vectors = [centres[k, rng.integers(looks)] for _, k in objects] + [others[i % 6] for i in range(20 * images)]
    classes = np.array([k for _, k in objects] + [NONE] * 20 * images)
    numbers = np.array([i for i, _ in objects] + [i // 20 for i in range(20 * images)])
    shown = centres[:, 0] + noise * rng.normal(size=(2, CHANNELS))
    bank = MemoryBank(("fig", "date"), shown, [0, 1], ("s1/a", "s2/b"), np.full(CHANNELS, 0.1, np.float32))
    noisy = np.asarray(vectors + noise * rng.normal(size=(len(vectors), CHANNELS)), np.float32)
    return bank, Rows(noisy, classes, np.ones(len(classes), np.float32), numbers)


@pytest.fixture
def bank():
    return world(1, 1)[0]


def head_of(bank, share=0.5, seed=0):
    rng = np.random.default_rng(seed)
    rows = len(bank.classes) + 1
    return Head(rng.normal(size=(rows, CHANNELS)), rng.normal(size=rows), 1.5, share, 0.7)


def test_few_decisions_leave_the_matcher_as_it_is():
    for images in range(1, LEAST_IMAGES):
        bank, rows = world(images, 3)
        head, report = train_head(rows, lambda images, bank=bank: bank)
        assert head is None and not report.used and report.head is None and "Mark images as done" in str(report)


def test_without_anything_wrong_there_is_no_head():
    bank, rows = world(8, 3)
    head, report = train_head(rows.select(rows.classes != NONE), lambda images: bank)
    assert head is None and report.matcher is None


def test_the_prior_orders_classes_as_the_matcher_does():
    bank, rows = world(4, 2)
    features = unit(rows.vectors, bank.center)
    targets = np.where(rows.classes == NONE, 2, rows.classes)
    weights, bias = prior_of(features, targets, balanced(targets, rows.counts, 2), bank.prototypes)
    cosines = features @ bank.prototypes.T
    np.testing.assert_array_equal(logits_of(features, weights, bias)[:, :2].argmax(1), cosines.argmax(1))
    tight = fitted(features, targets, balanced(targets, rows.counts, 2), bank.prototypes, pull=1e6)
    np.testing.assert_allclose(tight[0], weights, atol=1e-3)


def test_looks_that_no_reference_shows_are_learned():
    bank, rows = world(24, 3)
    head, report = train_head(rows.select(rows.images < 12), lambda images: bank)
    assert report.used and report.head > report.matcher + 0.2 and report.share == head.share
    unseen = rows.select(rows.images >= 12)
    likely = probabilities(head, torch.from_numpy(unit(unseen.vectors, bank.center))).numpy()
    assert likely.sum(axis=1) == pytest.approx(np.ones(len(likely)), abs=1e-5)
    wanted = unseen.classes != NONE
    assert (likely[wanted].argmax(1) == unseen.classes[wanted]).mean() > 0.9
    assert (likely[~wanted].argmax(1) == 2).mean() > 0.9
    assert f"{report.head:.3f}" in str(report) and f"{report.matcher:.3f}" in str(report)


def test_a_head_that_is_no_better_is_refused_with_both_figures():
    bank, rows = world(12, 1, noise=0.1)
    head, report = train_head(rows, lambda images: bank)
    assert head is None and not report.used and report.matcher == pytest.approx(1)
    assert "not used" in str(report) and f"{report.matcher:.3f}" in str(report)


def test_noise_teaches_nothing():
    """Decisions at random: whatever fits them does not hold on other images."""
    bank, rows = world(12, 1, noise=0.1)
    rng = np.random.default_rng(1)
    shuffled = Rows(rng.normal(size=rows.vectors.shape).astype(np.float32), rows.classes, rows.counts, rows.images)
    _, report = train_head(shuffled, lambda images: bank)
    assert report.head < 0.2


def test_of_very_many_rows_some_are_taken_of_every_image(monkeypatch):
    _, rows = world(20, 2)
    assert thinned(rows) is rows
    monkeypatch.setattr(head_fit, "MOST_ROWS", 60)
    few = thinned(rows)
    wanted = few.classes != NONE
    assert 30 < wanted.sum() <= 60 and 30 < (~wanted).sum() <= 60 and len(np.unique(few.images)) == 20


def test_each_image_is_judged_without_itself():
    bank, rows = world(12, 3)
    asked = []
    train_head(rows, lambda images: asked.append(set(images)) or bank)
    left_out = [images for images in asked if images]
    assert sorted(image for images in left_out for image in images) == list(range(12))


def test_scores_of_right_labels_stay_as_high():
    bank, rows = world(20, 3)
    head, _ = train_head(rows, lambda images: bank)
    right = rows.classes != NONE
    features = torch.from_numpy(unit(rows.vectors[right], bank.center))
    before = (features @ torch.from_numpy(bank.prototypes).T).clamp(min=0)
    after = blended(before, probabilities(head, features)[:, :-1], head)
    own = np.arange(int(right.sum())), rows.classes[right]
    assert after.numpy()[own].mean() == pytest.approx(before.numpy()[own].mean(), abs=0.15)
    assert starting_thresholds(bank.changed(head=head)) == starting_thresholds(bank)


def test_average_precision_is_of_labels_that_the_matcher_gives():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7], [0.3, 0.6]])
    counts = np.ones(4)
    assert average_precision(scores, np.array([0, NONE, 1, 1]), counts) == pytest.approx(1)
    assert average_precision(scores, np.array([NONE, 0, 1, 1]), counts) == pytest.approx(0.75)
    assert average_precision(scores, np.array([1, 0, 1, 1]), counts) == pytest.approx((0.5 + 2 / 3) / 2)


def test_rare_classes_count_nearly_as_much_as_frequent_ones():
    targets = np.array([0] * 9 + [1] + [2] * 90)
    weights = balanced(targets, np.ones(100), 2)
    assert weights.sum() == pytest.approx(1) and weights[targets == 2].sum() == pytest.approx(0.5)
    assert weights[targets == 0].sum() == pytest.approx(3 * weights[targets == 1].sum())


# ---- What the bank keeps ----


def test_a_bank_without_a_head_is_kept_as_before(bank):
    tensors, description = bank.to_parts()
    assert list(tensors) == ["vectors", "class_index", "center"]
    assert "head" not in description and json.loads(description)["format"] == 1
    again = bank.changed(head=head_of(bank)).changed(head=None)
    assert again.content_hash == bank.content_hash and again.to_parts()[1] == description


def test_a_head_comes_back_from_disk(bank, tmp_path):
    head = head_of(bank)
    kept = bank.changed(head=head, negatives=VectorSet(bank.vectors[:1], ("fig",), ("s3/c",)))
    folder = kept.save(tmp_path / "bank")
    again = MemoryBank.load(folder)
    np.testing.assert_array_equal(again.head.weights, head.weights)
    np.testing.assert_array_equal(again.head.bias, head.bias)
    assert again.head.facts() == head.facts() and again.negative_ids == ("s3/c",)
    assert again.content_hash == kept.content_hash != bank.content_hash
    assert json.loads((folder / "bank.json").read_text())["format"] == 3, "an older version refuses it"
    assert sorted(path.name for path in folder.iterdir()) == ["bank.json", "bank.safetensors"], "and nothing is pickled"


@pytest.mark.parametrize(
    "damage",
    [
        {"share": 2}, {"gain": 0}, {"temperature": -1}, {"temperature": float("nan")}, {"share": "much"},
        {"gain": None},
    ],
)  # fmt: skip
def test_damaged_heads_are_refused(bank, damage):
    tensors, description = bank.changed(head=head_of(bank)).to_parts()
    facts = json.loads(description)
    facts["head"] |= damage
    with pytest.raises(InputError):
        MemoryBank.from_parts(tensors, json.dumps(facts))


@pytest.mark.parametrize("name", ["head_weights", "head_bias"])
def test_a_head_of_another_shape_is_refused(bank, name):
    tensors, description = bank.changed(head=head_of(bank)).to_parts()
    for wrong in (tensors[name][:2], tensors[name][..., None]):
        with pytest.raises(InputError, match="head"):
            MemoryBank.from_parts({**tensors, name: wrong}, description)
    with pytest.raises(InputError):
        MemoryBank.from_parts({key: value for key, value in tensors.items() if key != name}, description)


def test_a_head_does_not_outlive_its_classes(bank):
    with_head = bank.changed(head=head_of(bank))
    assert with_head.changed(origin={"a": 1}).head is with_head.head
    references = VectorSet(bank.vectors, ("date", "fig"), bank.reference_ids)
    assert with_head.changed(classes=("date", "fig"), references=references).head is None


def test_referring_to_single_references_takes_no_head(bank):
    numbered = MemoryBank(("0", "1"), bank.vectors, [0, 1], bank.reference_ids, head=head_of(bank))
    assert one_class_each(numbered).head is None


def test_new_references_take_a_head_along_where_it_fits(bank):
    earlier = bank.changed(head=head_of(bank), origin={"head_images": ["s7"]})
    carried = with_lessons_of(bank, earlier)
    assert carried.head is earlier.head and seen_images(carried)["s7"] == "learned"
    assert with_lessons_of(bank.changed(center=bank.center + 1), earlier).head is None
    other = MemoryBank(("date", "fig"), bank.vectors, [0, 1], bank.reference_ids, bank.center)
    assert with_lessons_of(other, earlier).head is None and "s7" not in seen_images(with_lessons_of(other, earlier))


# ---- How it acts ----


def picture():
    """Three masks on tokens of two kinds."""
    tokens = torch.zeros(8, 8, CHANNELS)
    tokens[:, :4, 0], tokens[:, 4:, 1] = 1, 1
    logits = torch.full((3, 256, 256), -8.0)
    logits[0, 20:100, 20:100], logits[1, 20:100, 150:230], logits[2] = 8, 8, -8
    candidates = Candidates(logits, torch.tensor([0.9, 0.9, 0.9]), ImageFrame.squash((64, 64)))
    return IndexedImage(candidates, pool(candidates, tokens), tokens)


def plain_bank(**parts):
    return MemoryBank(("left", "right"), np.eye(2, CHANNELS, dtype=np.float32), [0, 1], ("s1/a", "s2/b"), **parts)


def test_matching_blends_the_head_into_similarities():
    image, head = picture(), head_of(plain_bank(), share=0.25)
    bank = plain_bank(head=head)
    features, plain = Matcher(plain_bank()).compare(image)
    _, similarities = Matcher(bank).compare(image)
    logits = (features.numpy() @ head.weights.T + head.bias) / 1.5
    likely = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.minimum(0.75 * plain.numpy() + 0.25 * 0.7 * likely[:, :2], 1)
    np.testing.assert_allclose(similarities[:2], expected[:2], rtol=1e-5)
    assert similarities[2].isnan().all(), "an empty mask is of no class"
    assert len(Matcher(bank).match(compact(image))) == 2


def test_a_head_can_turn_a_class_over():
    weights = np.zeros((3, CHANNELS), np.float32)
    weights[0, 1], weights[1, 0] = 20, 20
    bank = plain_bank(head=Head(weights, np.zeros(3), 1.0, 1.0, 1.0))
    names = [["left", "right"][k] for k in Matcher(plain_bank()).match(picture()).labels]
    turned = [["left", "right"][k] for k in Matcher(bank).match(picture()).labels]
    assert sorted(names) == sorted(turned) == ["left", "right"]
    before, after = Matcher(plain_bank()).match(picture()), Matcher(bank).match(picture())
    of_box = dict(zip(map(tuple, before.boxes.tolist()), before.labels.tolist(), strict=True))
    assert all(of_box[tuple(box)] != label for box, label in zip(after.boxes.tolist(), after.labels.tolist(),
                                                                 strict=True))  # fmt: skip


def test_what_it_is_compared_with_is_the_matcher():
    image = picture()
    vague = plain_bank()
    vague = vague.changed(references=VectorSet(vague.vectors + 0.2, ("left", "right"), vague.reference_ids))
    bank = vague.changed(negatives=VectorSet(vague.vectors - 0.2, ("left", None), ("s3/c", "s4/d")))
    features, similarities = Matcher(bank).compare(image)
    alone = similarities_of(bank.changed(head=head_of(bank)), features[:2].numpy())
    np.testing.assert_allclose(alone, similarities[:2], rtol=1e-6)
    assert (similarities[:2] != Matcher(vague).compare(image)[1][:2]).any()


# ---- What decisions say of candidates ----


def square(top, left, side=20):
    mask = np.zeros((64, 64), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def decided(*labels, done=False, ignored=()):
    """Labels as (mask, class)."""
    masks, classes = [mask for mask, _ in labels], np.array([k for _, k in labels], np.int64)
    return Decided(masks, classes, np.isin(np.arange(len(labels)), ignored), done)


def rows(what):
    bank = plain_bank()
    return rows_of(picture(), what, bank.prototypes, bank.center)


def test_overlaps_are_those_of_full_masks():
    image, mask = picture(), square(5, 5, 22)
    found = overlaps_with(image.candidates.mask_runs, 3, image.candidates.frame, [mask])
    full = np.kron(mask, np.ones((4, 4), bool))
    for i, logits in enumerate(image.candidates.mask_logits.numpy()):
        inside = logits > 0
        assert found[i, 0] == pytest.approx((inside & full).sum() / (inside | full).sum(), abs=1e-6)


def test_accepted_labels_say_what_covers_them():
    found = rows(decided((square(5, 5), 1)))
    assert found.classes.tolist() == [1] and found.counts.tolist() == [1], "and of other candidates nothing is known"


def test_only_images_that_are_done_speak_by_silence():
    found = rows(decided((square(5, 5), 1), done=True))
    assert found.classes.tolist() == [1, NONE] and len(rows(decided(done=True))) == 2 and not len(rows(decided()))


def test_rejected_labels_are_none_of_the_classes():
    assert rows(decided((square(5, 5), NONE))).classes.tolist() == [NONE]
    both = rows(decided((square(5, 5), NONE), (square(5, 5), 0)))
    assert both.classes.tolist() == [0], "unless something is accepted in their place"


def test_very_many_rows_are_halved():
    found = rows(decided((square(5, 5), 1), done=True))
    assert len(found.halved()) == 1 and found.halved().counts.sum() == found.counts.sum()
    assert found.halved().halved().counts.sum() == found.counts.sum()


def test_what_is_to_be_ignored_says_nothing():
    found = rows(decided((square(5, 5), 1), done=True, ignored=[0]))
    assert found.classes.tolist() == [NONE] and found.vectors[0, 1] > 0.9, "only the other candidate"


def test_of_much_that_is_none_some_is_taken():
    bank, many = world(1, 1)[0], 200
    logits = torch.full((many, 256, 256), -8.0)
    for i in range(many):
        logits[i, i : i + 20, 20:50] = 8
    vectors = np.random.default_rng(0).normal(size=(many, CHANNELS)).astype(np.float32)
    candidates = Candidates(logits, torch.ones(many), ImageFrame.squash((64, 64)))
    image = IndexedImage(candidates, torch.from_numpy(vectors), torch.zeros(8, 8, CHANNELS))
    found = rows_of(image, decided(done=True), bank.prototypes, bank.center)
    assert len(found) == MOST_OF_NONE and (found.classes == NONE).all()
    alike = (unit(vectors, bank.center) @ bank.prototypes.T).max(axis=1)
    hardest = vectors[np.argsort(-alike)[: MOST_OF_NONE // 2]]
    assert all((found.vectors == row).all(axis=1).any() for row in hardest)
