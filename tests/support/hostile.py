"""Models without weights that fail on demand, and what to feed them."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import fiftyone as fo
import numpy as np
import pytest
import torch
from PIL import Image

from fiftyone_ntt.candidates import source as candidates
from fiftyone_ntt.core import ProposalConfig, Segmenter
from fiftyone_ntt.models.presets import PRESETS
from fiftyone_ntt.references import banks as references
from support.fake_models import FakeFeatures, FakeProposals

ROOT = Path(__file__).resolve().parents[2]
RED, GREEN, BLUE = (254, 0, 0), (0, 254, 0), (0, 0, 254)


class Proposals(FakeProposals):
    """Red images need more memory than the GPU has, green ones more than the machine has, blue ones find a bug."""

    def encode(self, pixels, frame):
        colour = tuple(int(round(float(value) * 255)) for value in pixels.mean(dim=(1, 2)))
        if colour == GREEN:
            raise MemoryError
        if colour == BLUE:
            raise ZeroDivisionError(f"in {ROOT}")
        return pixels.mean(dim=0) + (100.0 if colour == RED else 0.0)

    def decode_among(self, embedding, points, threshold, among):
        if embedding.mean() > 50:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().decode_among(embedding, points, threshold, among)


class Features(FakeFeatures):
    """The same, in a tenth of the time."""

    def encode(self, images):
        return images.reshape(len(images), 3, 8, 8, 8, 8).mean(dim=(3, 5)).permute(0, 2, 3, 1)


def segmenter():
    return Segmenter(Proposals(), Features(), proposals=ProposalConfig(points_per_side=4), target_via=None)


@contextmanager
def small_models():
    """The services take these models meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "load_segmenters", lambda *_, **__: [segmenter()])
        loaded = SimpleNamespace(preset=PRESETS["lite"], segmenter=segmenter)
        patch.setattr(references, "load_preset", lambda *_: loaded)
        yield


def noise(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(60, 255, (height, width, 3), dtype=np.uint8)


def picture(height=60, width=80):
    return Image.fromarray(noise(height, width))


def reference(path, *labels):
    noise_of = Image.fromarray(noise(seed=len(labels)))
    noise_of.save(path)
    return fo.Sample(str(path), ground_truth=fo.Detections(detections=list(labels)), tags=["ntt:reference"])


def detection(label="fig", box=(0.25, 0.25, 0.5, 0.5), **changes):
    return fo.Detection(**{"label": label, "bounding_box": list(box), "mask": np.ones((30, 40), bool), **changes})


# What may lie where an image should
