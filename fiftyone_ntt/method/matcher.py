"""Stage two as a whole: what stage one found in an image, and a memory bank, to labelled instances. Needs no model.

``Matcher.match`` is the algorithm of the paper in one function; each of its lines is a function of its own in the file
that the section of ``docs/method.md`` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fiftyone_ntt.errors import InputError, WrongTypeError, counted
from fiftyone_ntt.method.config import MatchConfig, checked_config
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.merging import CandidateMasks, soft_merge, suppress
from fiftyone_ntt.method.options import head, negatives, second_look, self_support, text_vote
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import Candidates, CandidateSet
from fiftyone_ntt.method.results import Instances, Labelled, SimilarityStep, StageOneResult
from fiftyone_ntt.method.scoring import coverage, label, normalise, second_best, similarity
from fiftyone_ntt.pixels.packed_masks import PackedMask

if TYPE_CHECKING:
    from fiftyone_ntt.method.segmenter import Segmenter


class Matcher:
    """A memory bank made ready to be compared with any number of images. Safe in any thread.

    Args:
        bank: the memory bank; or prototypes alone, float ``[K, C]``.
        config: settings of the match; ``MatchConfig()`` where ``None``.
        segmenter: the models of stage one; only needed where ``match`` is given images that are not through it yet.

    Example:
        The method in two steps, without FiftyOne:

        >>> from fiftyone_ntt.core import Matcher, ReferenceItem
        >>> from fiftyone_ntt.models import load_preset
        >>> segmenter = load_preset("lite").segmenter()  # doctest: +SKIP
        >>> references = [ReferenceItem(photo, mask, "coin", "photo 1")]  # doctest: +SKIP
        >>> bank = segmenter.build_bank(references)  # doctest: +SKIP
        >>> matcher = Matcher(bank, segmenter=segmenter)  # doctest: +SKIP
        >>> matcher.match(another_photo).to_coco(image_id=2)  # doctest: +SKIP
    """

    def __init__(
        self,
        bank: MemoryBank | Tensor | NDArray[np.floating],
        config: MatchConfig | None = None,
        *,
        segmenter: Segmenter | None = None,
    ) -> None:
        if segmenter is not None and not all(hasattr(segmenter, name) for name in ("prepare", "encode", "decode")):
            raise WrongTypeError(
                f"expected segmenter to be a Segmenter, got {segmenter!r}; load_preset('lite').segmenter() makes one"
            )
        self.config = checked_config(config)
        self.bank = bank if isinstance(bank, MemoryBank) else None
        self.prototypes = normalise(_checked(_as_float(bank.prototypes if isinstance(bank, MemoryBank) else bank)))
        self.steps = list(self._similarity_steps())
        self._segmenter = segmenter

    def match(self, image: StageOneResult | NDArray[np.uint8]) -> Instances:
        """Labels one image: the method in the order of the paper, N candidates, C channels, K classes.

        Args:
            image: what stage one found in it (``Segmenter.candidates``, or what the candidate cache keeps of that);
                or the image itself, uint8 ``[H, W, 3]`` RGB, where the matcher has a segmenter.

        Returns:
            At most ``config.max_instances`` instances in descending score; none where nothing matches.

        Raises:
            InputError: if image and bank do not fit each other.
        """
        # ======== Stage one, where that is not done yet: no reference has a say in it ========
        if isinstance(image, np.ndarray):
            models = self._models()
            # ---- 3.1  The image as both models want it ----
            prepared = models.prepare(image)  # [3, 1024, 1024] for the mask model, [3, 518, 518] for the feature model
            # ---- 3.2  Both encoders ----
            encoded = models.encode([prepared])[0]  # the mask model's embedding, patch tokens [rows, columns, C]
            # ---- 3.3  A mask for each point of a grid; 3.4, first half: the mean of the tokens under each ----
            image = models.decode(encoded)  # masks [N, 256, 256], predicted IoU [N], vectors [N, C]

        if not (hasattr(image, "candidates") and hasattr(image, "vectors")):
            raise WrongTypeError(
                f"expected an image, uint8 [H, W, 3], or what segmenter.candidates(image) found in it, got "
                f"{type(image).__name__}; read_image makes an image of a file"
            )

        # ======== Stage two: needs no model ========
        config, candidates = self.config, image.candidates
        # ---- 3.4  Each mask's vector against each class's prototype; the most similar class is the label ----
        features, similarities = self.compare(image)  # [N, C] of length 1, cosines [N, K] in 0..1
        explained = self.explained(image)  # [N, K] in 0..1: past the paper, how much of an object each mask is
        labelled = label(candidates, features, similarities, explained, config)  # labels and scores [n], n <= N
        # ---- 3.5  Within a label, a box that overlaps a better one is dropped ----
        masks = CandidateMasks.of(candidates, config)
        kept = suppress(labelled, masks, config)  # n <= 800, in descending priority
        # ---- 3.6  Masks at image size; a score falls by what better masks of its label cover of its mask ----
        merged = soft_merge(kept, masks, config)  # n <= 100, in descending score
        # ---- 3.7  Output ----
        return to_instances(merged, masks, config)  # boxes [n, 4], masks [n, H, W] as packed bits, scores [n]

    def compare(self, image: StageOneResult) -> tuple[Tensor, Tensor]:
        """How much each candidate looks like each prototype, each prototype on its own.

        Returns:
            Normalised vectors float32 ``[N, C]`` in the space of the prototypes (NaN for an empty mask), and
            similarities float32 ``[N, K]``.
        """
        vectors = _as_float(image.vectors)
        _check_shapes(image.candidates, vectors, self.prototypes)
        features = normalise(self._projected(vectors))  # [N, C]
        similarities = similarity(features, self.prototypes)  # [N, K]
        for step in self.steps:
            similarities = step(similarities, features, image)
        return features, similarities

    def explained(self, image: StageOneResult) -> Tensor | None:
        """How much of the evidence for each class around it each mask explains: float32 ``[N, K]``, see ``coverage``.

        ``None`` where that does not count, or the image's patch tokens are not there.
        """
        tokens = image.token_array if self.config.coverage else None
        if tokens is None:
            return None
        return coverage(image.candidates, normalise(self._projected(_as_float(tokens))), self.prototypes)

    def _similarity_steps(self) -> Iterator[SimilarityStep]:
        """The options that change similarities before they are read, in this order. An option's only hook is here."""
        bank, config = self.bank, self.config
        if config.self_support:
            yield self_support.similarity_step(self.prototypes, config.self_support)
        if config.second_look and bank is not None and bank.crops is not None:
            yield second_look.similarity_step(bank, config.second_look)
        if bank is not None and bank.text is not None:
            yield text_vote.similarity_step(bank, bank.text)
        if bank is not None and bank.negatives is not None:
            yield negatives.similarity_step(bank, bank.negatives)
        if bank is not None and bank.head is not None:
            yield head.similarity_step(bank.head)

    def _models(self) -> Segmenter:
        if self._segmenter is None:
            raise InputError(
                "expected what stage one found in an image, got an image; pass Matcher(bank, segmenter=...), or match "
                "segmenter.candidates(image)"
            )
        return self._segmenter

    def _projected(self, vectors: Tensor) -> Tensor:
        """Vectors or tokens ``[..., C]`` moved to where the prototypes are."""
        return vectors if self.bank is None else torch.from_numpy(self.bank.project(vectors.numpy()))


def match(
    candidates: Candidates, tokens: Tensor, prototypes: Tensor | NDArray[np.float32], config: MatchConfig | None = None
) -> Instances:
    """Labels the candidates of one image: pooling, then ``match_vectors``.

    Args:
        candidates: N mask proposals.
        tokens: float ``[rows, columns, C]`` patch tokens of the image.
        prototypes: float ``[K, C]``, one a class; l2-normalised inside.
        config: defaults to ``MatchConfig()``.

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.
    """
    return match_vectors(candidates, pool(candidates, tokens), prototypes, config, tokens=tokens)


def match_vectors(
    candidates: CandidateSet,
    vectors: Tensor | NDArray[np.floating],
    prototypes: Tensor | NDArray[np.float32],
    config: MatchConfig | None = None,
    *,
    tokens: Tensor | NDArray[np.floating] | None = None,
) -> Instances:
    """Labels candidates whose vectors are already there (docs/method.md 3.4 to 3.7).

    Args:
        candidates: N mask proposals, as stage one made them or from the candidate cache.
        vectors: float ``[N, C]``, one pooled vector a candidate; l2-normalised inside.
        prototypes: float ``[K, C]``, one a class; l2-normalised inside.
        config: defaults to ``MatchConfig()``.
        tokens: float ``[rows, columns, C]``, the image's patch tokens in the space of the prototypes; without them
            the score does not know how much of an object a mask is (``config.coverage``).

    Returns:
        At most ``config.max_instances`` instances; none where nothing matches.

    Raises:
        InputError: if the shapes do not fit each other.
    """
    token_array = None if tokens is None else _as_float(tokens).numpy()
    return Matcher(prototypes, config).match(_Vectors(candidates, vectors, token_array))


@dataclass(frozen=True, eq=False)
class _Vectors:
    """A ``StageOneResult`` of its parts."""

    candidates: CandidateSet
    vectors: Tensor | NDArray[np.floating]
    token_array: NDArray[np.float32] | None
    look_arrays: tuple[NDArray[np.float32], NDArray[np.integer]] | None = None


def to_instances(labelled: Labelled, masks: CandidateMasks, config: MatchConfig) -> Instances:
    """The result for one image (docs/method.md 3.7): what is left of the candidates, at image size.

    Args:
        labelled: n candidates in descending score, whose masks at image size are made.
        masks: the masks of all N candidates.
        config: says where boxes end.
    """
    packed = tuple(masks.made[int(i)] for i in labelled.index)
    similarities = labelled.similarities.numpy()  # [n, K]
    runner_up, its_similarity = second_best(similarities, labelled.labels)
    return Instances(
        boxes=_boxes(packed, config.inclusive_boxes),
        scores=labelled.scores,
        labels=labelled.labels,
        predicted_iou=labelled.predicted_iou,
        packed=packed,
        image_size=masks.candidates.frame.image_size,
        similarity=similarities[np.arange(len(labelled)), labelled.labels],
        alternative=runner_up,
        alternative_similarity=its_similarity,
    )


def _boxes(masks: tuple[PackedMask, ...], inclusive: bool) -> NDArray[np.float32]:
    boxes = np.array([mask.extent for mask in masks], np.float32).reshape(-1, 4)
    if inclusive:  # the published box ends on the last column and row
        boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
    return boxes


def _as_float(values: ArrayLike | Tensor) -> Tensor:
    try:
        return torch.as_tensor(values).float().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise WrongTypeError(
            f"expected a memory bank, or an array of numbers, got {type(values).__name__}; MemoryBank.load reads a bank"
        ) from error


def _checked(prototypes: Tensor) -> Tensor:
    if not torch.isfinite(prototypes).all():
        raise InputError("expected finite prototypes, got NaN or infinity; build the memory bank again")
    if prototypes.ndim != 2 or prototypes.shape[0] == 0:
        raise InputError(f"expected prototypes [K, C] with at least one class, got {list(prototypes.shape)}")
    return prototypes


def _check_shapes(candidates: CandidateSet, vectors: Tensor, prototypes: Tensor) -> None:
    if vectors.shape != (len(candidates), prototypes.shape[1]):
        raise InputError(
            f"expected one vector of {prototypes.shape[1]} channels for each of "
            f"{counted(len(candidates), 'candidate')}, got {list(vectors.shape)}; were bank and candidates made with "
            "the same preset?"
        )
