"""The referring task: for each reference the one best match in an image, with a score that tells whether it is there.

Each reference is asked for on its own: a candidate may answer to several of them, which the one label that a candidate
has in the generic task would not allow. The rest is the usual match. The score is the usual one too, with the cosine to
this very reference in place of the class's prototype: a reference's similarity to itself is 1, so that is how far the
match falls short of it, weighted by how whole and how clean the mask is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.config import MatchConfig, checked_config
from fiftyone_ntt.method.matcher import Matcher, to_instances
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.merging import CandidateMasks, soft_merge, suppress
from fiftyone_ntt.method.results import Instances, StageOneResult
from fiftyone_ntt.method.scoring import label


def one_class_each(bank: MemoryBank) -> MemoryBank:
    """A bank in which every reference is a class of its own, in the order of ``bank.vectors``.

    What a class is not, none of its references is. Crops for the second look stay those of the reference where the
    bank knows which is whose, and are those of its class otherwise.

    Returns:
        A bank whose M classes are called by their place, ``"0"``, ``"1"``, ...
    """
    names = tuple(str(i) for i in range(len(bank.references)))
    references = VectorSet(bank.vectors, names, bank.reference_ids)
    parts = {"negatives": _negatives(bank), "crops": _crops(bank, names), "head": None}
    return bank.changed(classes=names, references=references, **parts)


def _negatives(bank: MemoryBank) -> VectorSet | None:
    """Those of a class once for each of its references; those of every class stay so."""
    if bank.negatives is None:
        return None
    rows: list[int] = []
    labels: list[str | None] = []
    for row, label_of in enumerate(bank.negatives.labels):
        own = [i for i, name in enumerate(bank.references.labels) if name == label_of]
        against = [None] if label_of is None else [str(i) for i in own]
        rows += [row] * len(against)
        labels += against
    chosen = bank.negatives.select(rows)
    return VectorSet(chosen.vectors, tuple(labels), chosen.ids)


def _crops(bank: MemoryBank, names: tuple[str, ...]) -> VectorSet | None:
    """Each reference's own crop where all are known, else all of its class."""
    if bank.crops is None:
        return None
    of_reference = bank.references.labels
    if bank.crops.labels == of_reference:
        return VectorSet(bank.crops.vectors, names)
    rows = [[row for row, label_of in enumerate(bank.crops.labels) if label_of == wanted] for wanted in of_reference]
    labels = tuple(name for name, of_class in zip(names, rows, strict=True) for _ in of_class)
    return VectorSet(bank.crops.vectors[[row for of_class in rows for row in of_class]], labels)


class ReferringMatcher:
    """A memory bank made ready for the referring task, as ``Matcher`` is for the generic one. Safe in any thread.

    Args:
        bank: the memory bank; its M references are asked for one by one.
        config: settings of the match; ``MatchConfig()`` where ``None``.
    """

    def __init__(self, bank: MemoryBank, config: MatchConfig | None = None) -> None:
        config = checked_config(config)
        self.matcher = Matcher(one_class_each(bank), config)
        # As many candidates as ever enter the merge: only what is returned is cut.
        premerge_factor = config.premerge_factor * config.max_instances
        self._config = replace(config, max_instances=1, premerge_factor=premerge_factor)

    def match(self, image: StageOneResult) -> Instances:
        """The best instance of each reference, matched as if there were no other. Light, needs no model.

        Args:
            image: what stage one found in it.

        Returns:
            At most one instance a reference, in descending score; ``labels`` index the references.
        """
        features, similarities = self.matcher.compare(image)  # [N, C], [N, M]
        explained = self.matcher.explained(image)  # [N, M]
        masks = CandidateMasks.of(image.candidates, self._config)  # of all references together
        best = []
        for column in range(similarities.shape[1]):
            own = None if explained is None else explained[:, [column]]
            labelled = label(image.candidates, features, similarities[:, [column]], own, self._config)
            merged = soft_merge(suppress(labelled, masks, self._config), masks, self._config)
            instances = to_instances(merged, masks, self._config)
            best.append(replace(instances, labels=np.full(len(instances), column, np.int64)))
        return _together(best)


def refer(image: StageOneResult, bank: MemoryBank, config: MatchConfig | None = None) -> Instances:
    """``ReferringMatcher`` for a single image."""
    return ReferringMatcher(bank, config).match(image)


def _together(parts: list[Instances]) -> Instances:
    """Instances of one image in one, in descending score."""
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")
    names = ("boxes", "scores", "labels", "predicted_iou", "similarity", "alternative", "alternative_similarity")
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names}
    packed = [mask for part in parts for mask in part.packed]
    return Instances(packed=tuple(packed[i] for i in order), image_size=parts[0].image_size, **columns)
