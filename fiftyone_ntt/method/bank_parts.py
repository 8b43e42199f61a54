"""What a memory bank is made of: sets of vectors, a trained head, embedded names. Arrays and numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fiftyone_ntt.errors import InputError


@dataclass(frozen=True, eq=False)
class VectorSet:
    """n pooled vectors, what each is of, and where it came from.

    Attributes:
        vectors: float32 ``[n, C]``, not normalised.
        labels: n class names; ``None`` stands for every class.
        ids: n ids of where they came from; empty where that is not kept.
    """

    vectors: NDArray[np.float32]
    labels: tuple[str | None, ...]
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        vectors = np.ascontiguousarray(self.vectors, np.float32)
        count = len(vectors)
        if vectors.ndim != 2 or len(self.labels) != count or len(self.ids) not in (0, count):
            raise InputError(
                f"expected vectors [n, C] with n labels and n ids, got {vectors.shape}, {len(self.labels)} and "
                f"{len(self.ids)}"
            )
        if not np.isfinite(vectors).all():
            raise InputError("expected finite vectors, got NaN or infinity")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "ids", tuple(self.ids))

    def __len__(self) -> int:
        return len(self.vectors)

    def index_in(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """int64 ``[n]``, the place of each label in ``classes``; -1 for one that is not there, or for every class."""
        places = {name: place for place, name in enumerate(classes)}
        return np.array([-1 if label is None else places.get(label, -1) for label in self.labels], np.int64)

    def select(self, rows: Sequence[int] | NDArray[np.int64]) -> VectorSet:
        """Those at some rows, in that order."""
        chosen = [int(row) for row in rows]
        labels, ids = tuple(self.labels[row] for row in chosen), tuple(self.ids[row] for row in chosen if self.ids)
        return VectorSet(self.vectors[chosen], labels, ids)

    def joined(self, other: VectorSet) -> VectorSet:
        """These and, behind them, those of another set."""
        vectors = np.concatenate([self.vectors, other.vectors])
        return VectorSet(vectors, self.labels + other.labels, self.ids + other.ids)


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier of candidates, trained on decisions; ``options.head`` says how its answers become scores.

    Attributes:
        weights: float32 ``[K + 1, C]``, a row a class in the order of the bank's; the last is "none of these".
        bias: float32 ``[K + 1]``.
        temperature: what logits are divided by before they become probabilities; above 0.
        share: how much of the score is the head's, above 0, at most 1; the rest is the cosine's.
        gain: what the head's part is multiplied by, so that scores of right labels stay as high as they were; above 0.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float
    share: float
    gain: float

    def __post_init__(self) -> None:
        for name in ("weights", "bias"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.float32))
        numbers = np.array([self.temperature, self.share, self.gain], np.float64)
        finite = np.isfinite(self.weights).all() and np.isfinite(self.bias).all() and np.isfinite(numbers).all()
        if not finite or not (numbers > 0).all() or self.share > 1:
            raise InputError(
                "expected a head of finite weights, temperature and gain above 0 and a share within 0..1, got others; "
                "learn again"
            )

    def check(self, classes: int, channels: int) -> None:
        """Raises InputError unless this is a head for so many classes and channels."""
        if self.weights.shape != (classes + 1, channels) or self.bias.shape != (classes + 1,):
            raise InputError(
                f"expected a head [{classes + 1}, {channels}], got {list(self.weights.shape)} with "
                f"{list(self.bias.shape)}; learn again"
            )

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Its arrays, by the names that a bank keeps them under."""
        return {"head_weights": self.weights, "head_bias": self.bias}

    def facts(self) -> dict[str, float]:
        """Its numbers, as JSON can hold them."""
        return {"temperature": self.temperature, "share": self.share, "gain": self.gain}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Head:
        """The head from ``tensors`` and ``facts``, both possibly from a stranger; raises what damaged ones make."""
        weights, bias = (np.asarray(tensors[name], np.float32) for name in ("head_weights", "head_bias"))
        return cls(weights, bias, *(float(facts[name]) for name in ("temperature", "share", "gain")))


@dataclass(frozen=True, eq=False)
class TextVote:
    """Embedded names of classes, and how much they count; see ``options.text_vote``.

    Attributes:
        names: a vector a name, in the space of the tokens; a class without one is judged by its references alone.
        weight: how much of a similarity is the name's, above 0, at most 1.
        gain: what the cosine with a name is multiplied by, so that it lies where those with prototypes do; above 0.
    """

    names: VectorSet
    weight: float
    gain: float

    def __post_init__(self) -> None:
        if not (0 < self.weight <= 1 and 0 < self.gain < float("inf")):
            raise InputError(
                f"expected names with a weight within 0..1 and a gain above 0, got {self.weight} and {self.gain}; "
                "build the memory bank again"
            )

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Its arrays, by the names that a bank keeps them under."""
        return {"text_vectors": self.names.vectors}

    def facts(self) -> dict[str, Any]:
        """What else it is, as JSON can hold it."""
        return {"names": list(self.names.labels), "weight": self.weight, "gain": self.gain}

    @classmethod
    def from_parts(cls, tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> TextVote:
        """The names from ``tensors`` and ``facts``, both possibly from a stranger; raises what damaged ones make."""
        names = facts["names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expected a list of names, got {type(names).__name__}")
        vectors = np.asarray(tensors["text_vectors"], np.float32)
        return cls(VectorSet(vectors, tuple(names)), float(facts["weight"]), float(facts["gain"]))
