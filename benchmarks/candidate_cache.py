"""Stage one on disk, so that many reference draws and settings are compared on one set of candidates.

A file an image, plain arrays (no pickle), in a folder named after everything that decides its content: preset, weights,
grid, frames. Mask logits are kept as float16; what is read back is also what a first run uses, so that a warm cache
gives the very same scores.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

from benchmarks.coco_data import TargetImage, read_target_image
from fiftyone_ntt.core import Candidates, ImageFrame, IndexedImage, Segmenter

FORMAT = 2


class CandidateCache:
    """Args:
    folder: where the files go; made if absent.
    segmenter: computes what is not there yet.
    """

    def __init__(self, folder: Path, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self.folder = folder / self._signature()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.computed = 0

    def _signature(self) -> str:
        facts = {"format": FORMAT, **self.segmenter.facts()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def __getitem__(self, image: TargetImage) -> IndexedImage:
        """The candidates of an image, from disk or computed now."""
        path = self.folder / f"{hashlib.sha256(image.path.read_bytes()).hexdigest()[:32]}.npz"
        if not path.is_file():
            _save(path, self.segmenter.candidates(read_target_image(image)))
            self.computed += 1
        return _load(path)


def _save(path: Path, indexed: IndexedImage) -> None:
    frame = indexed.candidates.frame
    largest = torch.finfo(torch.float16).max
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            mask_logits=indexed.candidates.mask_logits.clamp(-largest, largest).half().cpu().numpy(),
            predicted_iou=indexed.candidates.predicted_iou.float().cpu().numpy(),
            vectors=indexed.vectors.float().cpu().numpy(),
            tokens=indexed.tokens.float().cpu().numpy(),
            image_size=np.array(frame.image_size),
            side=np.array(frame.side),
            content=np.array(frame.content),
        )
    temporary.replace(path)  # a run that is stopped leaves no half file behind


def _load(path: Path) -> IndexedImage:
    with np.load(path, allow_pickle=False) as kept:
        height, width = (int(value) for value in kept["image_size"])
        content = (float(kept["content"][0]), float(kept["content"][1]))
        candidates = Candidates(
            torch.from_numpy(kept["mask_logits"]).float(),
            torch.from_numpy(kept["predicted_iou"]),
            ImageFrame((height, width), int(kept["side"]), content),
        )
        return IndexedImage(candidates, torch.from_numpy(kept["vectors"]), torch.from_numpy(kept["tokens"]))
