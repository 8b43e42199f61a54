"""The referring task: for each reference the one best match in an image, with a score that tells whether it is there.

Each reference is asked for on its own: a candidate may answer to several of them, which the one label that a candidate
has in the generic task would not allow. The rest is the usual match. The score is the usual one too, with the cosine to
this very reference in place of the class's prototype: a reference's similarity to itself is 1, so that is how far the
match falls short of it, weighted by how whole and how clean the mask is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from fiftyone_ntt.method.config import MatchConfig
from fiftyone_ntt.method.matcher import SharedMasks, compare, in_space_of, match_similarities
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.proposals import CandidateSet
from fiftyone_ntt.method.results import Instances, StageOneResult


def one_class_each(bank: MemoryBank) -> MemoryBank:
    """A bank in which every reference is a class of its own, in the order of ``bank.vectors``.

    What a class is not, none of its references is. Crops for the second look stay those of the reference where the
    bank knows which is whose, and are those of its class otherwise.

    Returns:
        A bank whose M classes are called by their place, ``"0"``, ``"1"``, ...
    """
    names = tuple(str(i) for i in range(len(bank.vectors)))
    changes = {**_negatives(bank), **_crops(bank, names)}
    return replace(bank, classes=names, class_index=np.arange(len(names)), **changes)


def _negatives(bank: MemoryBank) -> dict[str, Any]:
    if bank.negatives is None or bank.negative_class is None:
        return {}
    rows: list[int] = []
    owners: list[int] = []
    for row, of_class in enumerate(bank.negative_class):
        against = [-1] if of_class < 0 else np.flatnonzero(bank.class_index == of_class).tolist()
        rows += [row] * len(against)
        owners += against
    return {
        "negatives": bank.negatives[rows],
        "negative_class": np.array(owners, np.int64),
        "negative_ids": tuple(bank.negative_ids[row] for row in rows),
    }


def _crops(bank: MemoryBank, names: tuple[str, ...]) -> dict[str, Any]:
    if bank.crop_vectors is None:
        return {}
    of_reference = [bank.classes[k] for k in bank.class_index]
    if list(bank.crop_labels) == of_reference:
        return {"crop_labels": names}
    labels = np.array(bank.crop_labels)
    rows = [np.flatnonzero(labels == name) for name in of_reference]
    return {
        "crop_vectors": bank.crop_vectors[np.concatenate(rows).astype(np.int64)],
        "crop_labels": tuple(name for name, some in zip(names, rows, strict=True) for _ in some),
    }


def refer(indexed: StageOneResult, references: MemoryBank, config: MatchConfig | None = None) -> Instances:
    """Stage two for the referring task. Light, needs no model; safe in any thread.

    Args:
        indexed: the image, from ``Segmenter.candidates`` or from the index.
        references: a bank of ``one_class_each``.
        config: defaults to ``MatchConfig()``.

    Returns:
        At most one instance a reference, in descending score; ``labels`` index the references.
    """
    config = config or MatchConfig()
    vectors, tokens, adjust = in_space_of(references, indexed, config)
    compared = compare(indexed.candidates, vectors, references.prototypes, config, adjust=adjust, tokens=tokens)
    return best_of_each(indexed.candidates, *compared, config)


def best_of_each(
    candidates: CandidateSet,
    features: Tensor,
    similarities: Tensor,
    explained: Tensor | None,
    config: MatchConfig,
) -> Instances:
    """The best instance of each column of similarities, each matched as if there were no other.

    Args:
        candidates: N mask proposals.
        features: float32 ``[N, C]``, l2-normalised pooled vectors.
        similarities: float32 ``[N, M]``, not negative.
        explained: float32 ``[N, M]``, see ``coverage``; all 1 where ``None``.
        config: settings of the match.

    Returns:
        At most M instances, in descending score; ``labels`` are the columns.
    """
    # As many candidates as ever enter the merge: only what is returned is cut.
    one = replace(config, max_instances=1, premerge_factor=config.premerge_factor * config.max_instances)
    found, shared = [], SharedMasks.of(candidates, config)
    for column in range(similarities.shape[1]):
        mine = None if explained is None else explained[:, [column]]
        best = match_similarities(candidates, features, similarities[:, [column]], one, explained=mine, shared=shared)
        found.append(replace(best, labels=np.full(len(best), column, np.int64)))
    return _together(found)


def _together(found: list[Instances]) -> Instances:
    """Instances of one image in one, in descending score."""
    scores = np.concatenate([one.scores for one in found])
    order = np.argsort(-scores, kind="stable")
    names = ("boxes", "scores", "labels", "predicted_iou", "similarity", "alternative", "alternative_similarity")
    columns = {name: np.concatenate([getattr(one, name) for one in found])[order] for name in names}
    packed = [mask for one in found for mask in one.packed]
    return Instances(packed=tuple(packed[i] for i in order), image_size=found[0].image_size, **columns)
