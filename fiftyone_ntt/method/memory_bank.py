"""The memory bank: reference vectors per class, their prototypes, and where they came from (ntt-algorithm 2.6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fiftyone_ntt.errors import BadReferenceError, InputError, PresetMismatchError

FORMAT_VERSION = 1
_WITH_NEGATIVES = 2
"""Format of banks with negatives: a version that knows none must not take such a bank for what it is not."""
_TENSORS, _DESCRIPTION = "bank.safetensors", "bank.json"


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """What the method remembers of the references.

    Attributes:
        classes: class names; a label's index is its position here.
        vectors: float32 ``[M, C]``, one pooled vector a reference instance, not normalised.
        class_index: int64 ``[M]``, the class of each vector.
        reference_ids: M ids, where each vector came from.
        center: float32 ``[C]`` to subtract from every vector, of references and candidates alike, or ``None``.
        preset: name of the preset that made the vectors.
        weights: model name -> sha256 of its weights.
        preprocessing: how references were shown to the feature model.
        negatives: float32 ``[M-, C]``, vectors of what is *not* wanted, or ``None``; see ``matching.less_negatives``.
        negative_class: int64 ``[M-]``, the class that each of them is not; -1 for none of them.
        negative_ids: M- ids, where they came from.
        crop_vectors: float32 ``[M', C]``, vectors of references for the second look (``second_look.py``), or ``None``.
        crop_labels: M' class names. They need not be those of ``vectors``: what was learned since has no crop.
        crop_center: float32 ``[C]`` to subtract from crop vectors, or ``None``.
    """

    classes: tuple[str, ...]
    vectors: NDArray[np.float32]
    class_index: NDArray[np.int64]
    reference_ids: tuple[str, ...]
    center: NDArray[np.float32] | None = None
    preset: str = ""
    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    negatives: NDArray[np.float32] | None = None
    negative_class: NDArray[np.int64] | None = None
    negative_ids: tuple[str, ...] = ()
    crop_vectors: NDArray[np.float32] | None = None
    crop_labels: tuple[str, ...] = ()
    crop_center: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        vectors = np.ascontiguousarray(self.vectors, np.float32)
        index = np.ascontiguousarray(self.class_index, np.int64)
        if vectors.ndim != 2 or index.shape != vectors.shape[:1] or len(self.reference_ids) != len(vectors):
            raise InputError(
                f"expected vectors [M, C] with M class indices and M reference ids, got {vectors.shape}, "
                f"{index.shape} and {len(self.reference_ids)}"
            )
        if not np.isfinite(vectors).all():
            raise InputError("expected finite reference vectors, got NaN or infinity")
        if len(index) and not (index.min() >= 0 and index.max() < len(self.classes)):
            raise InputError(
                f"expected class indices within 0..{len(self.classes) - 1}, got {index.min()}..{index.max()}"
            )
        if self.center is not None and np.shape(self.center) != vectors.shape[1:]:
            raise InputError(f"expected a centre of {vectors.shape[1]} channels, got {np.shape(self.center)}")
        if self.center is not None and not np.isfinite(self.center).all():
            raise InputError("expected a finite centre, got NaN or infinity")
        if len(set(self.classes)) < len(self.classes):
            raise InputError("expected distinct class names, got one of them twice")
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "class_index", index)
        self._check_negatives()
        self._check_crops()
        counts = np.bincount(index, minlength=len(self.classes))
        missing = [name for name, count in zip(self.classes, counts, strict=True) if not count]
        if missing or not self.classes:
            raise BadReferenceError(
                f"no reference for: {_some(missing) or 'any class'}; tag at least one labelled "
                "sample of each class, or leave the class out"
            )

    def _check_negatives(self) -> None:
        if self.negatives is None and self.negative_class is None and not self.negative_ids:
            return
        none = np.zeros((0, self.vectors.shape[1]), np.float32)
        negatives = none if self.negatives is None else np.ascontiguousarray(self.negatives, np.float32)
        not_class = np.ascontiguousarray([] if self.negative_class is None else self.negative_class, np.int64)
        if (
            negatives.shape != (len(self.negative_ids), self.vectors.shape[1])
            or not_class.shape != (len(negatives),)
            or not np.isfinite(negatives).all()
            or (not_class < -1).any()
            or (not_class >= len(self.classes)).any()
        ):
            raise InputError(
                f"expected finite negatives [M-, {self.vectors.shape[1]}] with M- ids and M- class indices within "
                f"-1..{len(self.classes) - 1}, got {negatives.shape}, {len(self.negative_ids)} and {not_class.shape}"
            )
        empty = not len(negatives)
        object.__setattr__(self, "negatives", None if empty else negatives)
        object.__setattr__(self, "negative_class", None if empty else not_class)

    def _check_crops(self) -> None:
        if self.crop_vectors is None:
            return
        crops, channels = np.ascontiguousarray(self.crop_vectors, np.float32), self.vectors.shape[1:]
        center = np.zeros(channels) if self.crop_center is None else np.asarray(self.crop_center)
        fits = crops.shape == (len(self.crop_labels), *channels) and center.shape == channels
        if not fits or not np.isfinite(crops).all() or not np.isfinite(center).all():
            raise InputError(
                f"expected finite crop vectors [M', {channels[0]}] with M' labels and a centre of as many channels, "
                f"got {crops.shape}, {len(self.crop_labels)} and {center.shape}"
            )
        object.__setattr__(self, "crop_vectors", crops)

    @property
    def shots(self) -> dict[str, int]:
        """Number of references of each class."""
        counts = np.bincount(self.class_index, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}

    @cached_property
    def prototypes(self) -> NDArray[np.float32]:
        """float32 ``[K, C]``: mean of the unnormalised shot vectors of each class, l2-normalised."""
        vectors = self.project(self.vectors)
        by_class = np.split(
            vectors[np.argsort(self.class_index, kind="stable")], np.cumsum(np.bincount(self.class_index))[:-1]
        )
        means = np.stack([group.mean(axis=0) for group in by_class])
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        return np.asarray(means / np.maximum(norms, 1e-12), np.float32)

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves pooled vectors ``[N, C]`` into the space of the prototypes (subtracts the centre, if any)."""
        projected: NDArray[np.float32] = vectors if self.center is None else (vectors - self.center).astype(np.float32)
        return projected

    @cached_property
    def crop_prototypes(self) -> NDArray[np.float32] | None:
        """float32 ``[K, C]``, as ``prototypes`` of the references' crops; NaN for a class without any."""
        if self.crop_vectors is None:
            return None
        vectors, labels = self.project_crops(self.crop_vectors), np.array(self.crop_labels)
        chosen = [vectors[labels == name] for name in self.classes]
        nothing = np.full(vectors.shape[1], np.nan, np.float32)
        means = np.stack([some.mean(axis=0) if len(some) else nothing for some in chosen])
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        return np.asarray(means / np.maximum(norms, 1e-12), np.float32)

    def project_crops(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves vectors of crops ``[G, C]`` into the space of ``crop_prototypes``."""
        projected: NDArray[np.float32] = (
            vectors if self.crop_center is None else (vectors - self.crop_center).astype(np.float32)
        )
        return projected

    @property
    def granularity(self) -> str | None:
        """What the references chose of ``levels.CHOICES``; ``None`` where they were not asked."""
        found = self.preprocessing.get("granularity")
        return str(found["choice"]) if isinstance(found, Mapping) and "choice" in found else None

    @cached_property
    def content_hash(self) -> str:
        """sha256 of everything that decides a match, hex."""
        digest = hashlib.sha256(self._description().encode())
        for tensor in self._tensors().values():
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def check_preset(self, preset: str, weights: Mapping[str, str]) -> None:
        """Raises PresetMismatchError unless ``preset`` with these weights made the bank."""
        if preset != self.preset:
            raise PresetMismatchError(
                f"this memory bank was made with preset {self.preset!r}, not {preset!r}; use "
                f"preset={self.preset!r} or build the bank again"
            )
        if dict(weights) != dict(self.weights):
            changed = sorted(name for name in {*weights, *self.weights} if weights.get(name) != self.weights.get(name))
            raise PresetMismatchError(
                f"the weights of {', '.join(changed)} differ from those that made this memory "
                "bank; build the bank again"
            )

    def save(self, path: str | Path) -> Path:
        """Writes ``bank.safetensors`` and ``bank.json`` into the folder ``path`` (made if absent); returns it."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors(), folder / _TENSORS)
        (folder / _DESCRIPTION).write_text(self._description(), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, path: str | Path) -> MemoryBank:
        """Reads what ``save`` wrote.

        Raises:
            InputError: if a file is missing, damaged or of another format version.
        """
        folder = Path(path)
        try:
            tensors = load_file(folder / _TENSORS)
            return cls.from_parts(tensors, (folder / _DESCRIPTION).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(
                f"expected {_TENSORS} and {_DESCRIPTION} in {folder}, got no such file: "
                f"{Path(str(error.filename or folder)).name}"
            ) from error
        except InputError:
            raise
        # Whatever a stranger's bytes make the parser raise, the file is no good.
        except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
            raise InputError(f"the memory bank in {folder} is damaged ({error}); build it again") from error

    @classmethod
    def from_parts(cls, tensors: Mapping[str, NDArray[Any]], description: str) -> MemoryBank:
        """The bank from its tensors and its JSON description, both possibly from a stranger.

        Raises:
            InputError: if they do not describe a bank.
        """
        try:
            facts = json.loads(description)
            if facts["format"] not in (FORMAT_VERSION, _WITH_NEGATIVES):
                raise InputError(
                    f"expected a memory bank of format {FORMAT_VERSION} or {_WITH_NEGATIVES}, got {facts['format']!r}; "
                    "build it again with this version"
                )
            return cls(
                _names(facts["classes"]),
                np.asarray(tensors["vectors"], np.float32),
                np.asarray(tensors["class_index"]).astype(np.int64),
                _names(facts["reference_ids"]),
                np.asarray(tensors["center"], np.float32) if "center" in tensors else None,
                str(facts["preset"]),
                {str(name): str(sha256) for name, sha256 in dict(facts["weights"]).items()},
                dict(facts["preprocessing"]),
                *(_negatives(tensors, facts) or (None, None, ())),
                *_crops(tensors, facts),
            )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"not a memory bank: {type(error).__name__} {error}; build it again") from error

    def _tensors(self) -> dict[str, NDArray[Any]]:
        tensors: dict[str, NDArray[Any]] = {"vectors": self.vectors, "class_index": self.class_index}
        if self.center is not None:
            tensors["center"] = np.ascontiguousarray(self.center, np.float32)
        if self.negatives is not None and self.negative_class is not None:
            tensors |= {"negatives": self.negatives, "negative_class": self.negative_class}
        if self.crop_vectors is not None:
            tensors["crop_vectors"] = self.crop_vectors
            if self.crop_center is not None:
                tensors["crop_center"] = np.ascontiguousarray(self.crop_center, np.float32)
        return tensors

    def to_parts(self) -> tuple[dict[str, NDArray[Any]], str]:
        """Tensors and JSON description, as ``from_parts`` takes them."""
        return self._tensors(), self._description()

    def _description(self) -> str:
        negatives = {} if self.negatives is None else {"negative_ids": list(self.negative_ids)}
        crops = {} if self.crop_vectors is None else {"crop_labels": list(self.crop_labels)}
        return json.dumps(
            {
                **negatives,
                **crops,
                "format": FORMAT_VERSION if self.negatives is None else _WITH_NEGATIVES,
                "classes": list(self.classes),
                "reference_ids": list(self.reference_ids),
                "preset": self.preset,
                "weights": dict(self.weights),
                "preprocessing": dict(self.preprocessing),
            },
            indent=2,
            sort_keys=True,
        )


def _negatives(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """The last arguments of a bank."""
    if facts["format"] != _WITH_NEGATIVES:
        return ()
    return (
        np.asarray(tensors["negatives"], np.float32),
        np.asarray(tensors["negative_class"]).astype(np.int64),
        _names(facts["negative_ids"]),
    )


def _crops(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """The last arguments of a bank that has crops."""
    if "crop_vectors" not in tensors:
        return ()
    center = np.asarray(tensors["crop_center"], np.float32) if "crop_center" in tensors else None
    return np.asarray(tensors["crop_vectors"], np.float32), _names(facts["crop_labels"]), center


def _some(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _names(names: Any) -> tuple[str, ...]:
    """Names from a description; raises ValueError for what no file or database could hold."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a list of names, got {type(names).__name__}")
    "".join(names).encode()  # half a surrogate pair is text in JSON only
    return tuple(names)
