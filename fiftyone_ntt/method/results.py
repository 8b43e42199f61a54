"""What the stages hand on: what stage one found in an image, its candidates with labels, and the labelled instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError, WrongTypeError
from fiftyone_ntt.method.proposals import Candidates, CandidateSet
from fiftyone_ntt.pixels.mask_codes import encode_crop
from fiftyone_ntt.pixels.packed_masks import PackedMask

if TYPE_CHECKING:
    from fiftyone_ntt.method.options.second_look import Looks


class StageOneResult(Protocol):
    """What stage one found in an image, in full (``IndexedImage``) or as the candidate cache keeps it.

    Attributes:
        candidates: N mask proposals.
        vectors: float ``[N, C]`` pooled means, not normalised. NaN for an empty mask.
        token_array: float32 ``[rows, columns, C]`` patch tokens; ``None`` where they are not known.
        look_arrays: crop vectors float32 ``[G, C]`` and each candidate's group int ``[N]``; ``None`` without a second
            look.
    """

    @property
    def candidates(self) -> CandidateSet: ...
    @property
    def vectors(self) -> Any: ...
    @property
    def token_array(self) -> NDArray[np.float32] | None: ...
    @property
    def look_arrays(self) -> tuple[NDArray[np.float32], NDArray[np.integer]] | None: ...


class SimilarityStep(Protocol):
    """An option that changes similarities before they are read; made ready for a memory bank once."""

    def __call__(self, similarities: Tensor, features: Tensor, image: StageOneResult) -> Tensor:
        """Other similarities float32 ``[N, K]``.

        Args:
            similarities: float32 ``[N, K]`` of candidates to classes.
            features: float32 ``[N, C]``, l2-normalised vectors of the candidates; NaN for an empty mask.
            image: all that stage one found in the image.
        """
        ...


@dataclass(frozen=True, eq=False)
class IndexedImage:
    """What stage one finds in an image; nothing in it depends on the references.

    Attributes:
        candidates: N mask proposals.
        vectors: float ``[N, C]`` pooled means, not normalised.
        tokens: float32 ``[rows, columns, C]`` patch tokens.
        looks: what a second look saw, where there was one.
    """

    candidates: Candidates
    vectors: Tensor
    tokens: Tensor
    looks: Looks | None = None

    @property
    def token_array(self) -> NDArray[np.float32]:
        """float32 ``[rows, columns, C]`` patch tokens."""
        return self.tokens.float().cpu().numpy()

    @property
    def look_arrays(self) -> tuple[NDArray[np.float32], NDArray[np.integer]] | None:
        """Crop vectors float32 ``[G, C]`` and each candidate's group int ``[N]``, where there was a second look."""
        return None if self.looks is None else (self.looks.vectors.float().numpy(), self.looks.group.numpy())


@dataclass(frozen=True, eq=False)
class Labelled:
    """n of the N candidates of an image on their way to instances.

    Attributes:
        index: int64 ``[n]``, which of the candidates.
        features: float32 ``[n, C]``, their l2-normalised vectors.
        similarities: float32 ``[n, K]`` to each class.
        labels: int64 ``[n]``.
        scores: float32 ``[n]``.
        predicted_iou: float32 ``[n]``.
    """

    index: NDArray[np.int64]
    features: Tensor
    similarities: Tensor
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.index)

    def select(self, places: NDArray[np.int64], scores: NDArray[np.float32] | None = None) -> Labelled:
        """Those at some places, int64 ``[m]``, in that order; with other scores, ``[m]``, where given."""
        return Labelled(
            self.index[places],
            self.features[places],
            self.similarities[places],
            self.labels[places],
            self.scores[places] if scores is None else scores,
            self.predicted_iou[places],
        )


@dataclass(frozen=True, eq=False, repr=False)
class Instances:
    """Labelled instances of one image, in descending score.

    Attributes:
        boxes: float32 ``[n, 4]`` xyxy in image pixels. ``x2`` and ``y2`` are outer edges, unless the match was made
            with ``MatchConfig.paper()``: then they are the last column and row.
        scores: float32 ``[n]`` in 0..1.
        labels: int64 ``[n]``, index of the class (of the prototype).
        predicted_iou: float32 ``[n]``, the mask model's own estimate of the mask's quality.
        packed: the n masks as packed bits.
        image_size: ``(height, width)`` of the image in pixels.
        similarity: float32 ``[n]`` to the class, before coverage, predicted IoU and the soft merge make a score of it.
        alternative: int64 ``[n]``, index of the second-best class; -1 where there is only one.
        alternative_similarity: float32 ``[n]``, similarity to that class; 0 where there is none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    predicted_iou: NDArray[np.float32]
    packed: tuple[PackedMask, ...]
    image_size: tuple[int, int]
    similarity: NDArray[np.float32] | None = None
    alternative: NDArray[np.int64] | None = None
    alternative_similarity: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Instances({len(self)} in an image of {width} x {height} pixels)"

    @property
    def masks(self) -> NDArray[np.bool_]:
        """bool ``[n, H, W]``, decoded now: n times the image's pixels in bytes. For large images use ``mask(i)``."""
        stack = np.zeros((len(self), *self.image_size), bool)
        for i in range(len(self)):
            stack[i] = self.mask(i)
        return stack

    def mask(self, i: int) -> NDArray[np.bool_]:
        """Mask ``i`` at image size: bool ``[H, W]``."""
        return self.packed[i].full(self.image_size)

    def crop(self, i: int) -> tuple[tuple[int, int, int, int], NDArray[np.bool_]]:
        """Extent ``(x1, y1, x2, y2)`` of mask ``i`` (x2, y2 exclusive) and the mask inside it, bool ``[h, w]``."""
        return self.packed[i].extent, self.packed[i].crop()

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The instances as COCO result dicts, which ``json`` can write and pycocotools' ``loadRes`` reads.

        Args:
            image_id: id of the image.
            category_ids: id of each class; 1, 2, ... in the order of the classes where ``None``.

        Returns:
            For each instance ``image_id``, ``category_id``, ``segmentation`` (compressed run lengths), ``bbox`` (xywh
            in pixels) and ``score``.

        Raises:
            InputError: if there are fewer ids than classes.
            WrongTypeError: if an id is no whole number.

        Example:
            >>> json.dump(instances.to_coco(image_id=139), file)  # doctest: +SKIP
        """
        ids = range(1, 2 + self.labels.max(initial=-1)) if category_ids is None else list(category_ids)
        if len(ids) <= self.labels.max(initial=-1):
            raise InputError(
                f"expected an id for each class, in their order, got {len(ids)}, and an instance of class number "
                f"{self.labels.max() + 1}; give category_ids one id a class"
            )
        for name, numbers in (("image_id", [image_id]), ("category_ids", ids)):
            if not all(isinstance(number, Integral) for number in numbers):
                raise WrongTypeError(f"expected {name} of whole numbers, as COCO has them, got {numbers[:5]}")
        results = []
        for i, (box, label) in enumerate(zip(self.boxes.tolist(), self.labels.tolist(), strict=True)):
            (left, top, _, _), crop = self.crop(i)
            rle = encode_crop(crop, left, top, self.image_size)
            x1, y1, x2, y2 = box
            results.append(
                {
                    "image_id": int(image_id),
                    "category_id": int(ids[label]),
                    "segmentation": {**rle, "counts": rle["counts"].decode("ascii")},
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "score": float(self.scores[i]),
                }
            )
        return results

    def above(self, thresholds: ArrayLike) -> Instances:
        """Only those with a score above the threshold of their class.

        Args:
            thresholds: float ``[K]``, one a class.
        """
        kept = np.flatnonzero(self.scores > np.asarray(thresholds, np.float64)[self.labels])
        if len(kept) == len(self):
            return self
        names = ("boxes", "scores", "labels", "predicted_iou", "similarity", "alternative", "alternative_similarity")
        columns = {name: getattr(self, name) for name in names}
        picked = {name: column[kept] for name, column in columns.items() if column is not None}
        return replace(self, packed=tuple(self.packed[i] for i in kept), **picked)
