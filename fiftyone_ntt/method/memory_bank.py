"""The memory bank: reference vectors per class, their prototypes, and where they came from (docs/method.md 2.6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fiftyone_ntt.errors import (
    BadReferenceError,
    InputError,
    PresetMismatchError,
    WrongTypeError,
    as_text,
    counted,
    listing,
)
from fiftyone_ntt.method.bank_parts import Head, TextVote, VectorSet
from fiftyone_ntt.pixels.files import check_sizes, expanded, read_file, write_files, write_problem

FORMAT_VERSION = 1
_WITH_NEGATIVES, _WITH_HEAD, _WITH_TEXT = 2, 3, 4
"""Formats of banks with negatives, a head, names: a version that knows none must not take such a bank for what it is
not."""
_MOST_TENSOR_BYTES, _MOST_TEXT_BYTES = 1 << 31, 1 << 27
"""Of the files of a bank: hundreds of times what a thousand classes take."""
_TENSORS, _DESCRIPTION = "bank.safetensors", "bank.json"


@dataclass(frozen=True, eq=False, init=False, repr=False)
class MemoryBank:
    """What the method remembers of the references.

    Attributes:
        classes: class names; a label's index is its position here.
        references: M vectors, one a reference instance, each of one of the classes.
        center: float32 ``[C]`` to subtract from every vector, of references and candidates alike, or ``None``.
        preset: name of the preset that made the vectors.
        weights: model name -> sha256 of its weights.
        preprocessing: how references were shown to the feature model.
        negatives: vectors of what a class, or ``None`` for every class, is *not*, or ``None``; see
            ``options.negatives``.
        crops: vectors of references for the second look (``options.second_look``), or ``None``. Their labels need not
            be those of ``references``: what was learned since has no crop.
        crop_center: float32 ``[C]`` to subtract from crop vectors, or ``None``.
        head: what decisions have taught of the classes, or ``None``; see ``options.head``.
        text: embedded names of the classes, or ``None``; see ``options.text_vote``.
        origin: plain values that decide no match, e.g. which image files it has seen; no part of ``content_hash``.

    Example:
        >>> bank = MemoryBank(("coin",), np.ones((2, 3)), [0, 0], ("photo 1", "photo 2"))
        >>> bank.shots
        {'coin': 2}
    """

    classes: tuple[str, ...]
    references: VectorSet
    center: NDArray[np.float32] | None
    preset: str
    weights: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    negatives: VectorSet | None
    crops: VectorSet | None
    crop_center: NDArray[np.float32] | None
    head: Head | None
    text: TextVote | None
    origin: Mapping[str, Any]

    def __init__(
        self,
        classes: Sequence[str],
        vectors: NDArray[np.floating],
        class_index: Sequence[int] | NDArray[np.integer],
        reference_ids: Sequence[str],
        center: NDArray[np.float32] | None = None,
        preset: str = "",
        weights: Mapping[str, str] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        *,
        negatives: VectorSet | None = None,
        crops: VectorSet | None = None,
        crop_center: NDArray[np.float32] | None = None,
        head: Head | None = None,
        text: TextVote | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        for name, texts in (("classes", classes), ("reference ids", reference_ids)):
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise WrongTypeError(f"expected {name} as a list of texts, got {texts!r}; no file could hold others")
        for name, given in (("negatives", negatives), ("crops", crops)):
            if given is not None and not isinstance(given, VectorSet):
                raise WrongTypeError(f"expected {name} as VectorSet(vectors, labels, ids), got {type(given).__name__}")
        index = np.asarray(class_index, np.int64)
        if index.shape != np.shape(vectors)[:1] or len(reference_ids) != len(index):
            raise InputError(
                f"expected vectors [M, C] with M class indices and M reference ids, got {np.shape(vectors)}, "
                f"{index.shape} and {len(reference_ids)}"
            )
        if len(index) and not (index.min() >= 0 and index.max() < len(classes)):
            raise InputError(f"expected class indices within 0..{len(classes) - 1}, got {index.min()}..{index.max()}")
        set_once = partial(object.__setattr__, self)
        set_once("classes", tuple(classes))
        set_once("references", VectorSet(vectors, tuple(classes[k] for k in index), tuple(reference_ids)))
        set_once("center", center)
        set_once("preset", preset)
        set_once("weights", weights or {})
        set_once("preprocessing", preprocessing or {})
        set_once("negatives", negatives if negatives is not None and len(negatives) else None)
        set_once("crops", crops)
        set_once("crop_center", None if crops is None else crop_center)
        set_once("head", head)
        set_once("text", text)
        set_once("origin", dict(origin or {}))
        self._check()

    def __repr__(self) -> str:
        shots = ", ".join(f"{as_text(name)}: {count}" for name, count in list(self.shots.items())[:20])
        return f"MemoryBank({{{shots}{', ...' if len(self.shots) > 20 else ''}}}, preset={self.preset!r})"

    def changed(
        self, *, classes: Sequence[str] | None = None, references: VectorSet | None = None, **others: Any
    ) -> MemoryBank:
        """The bank with other classes, references, or anything else that the constructor takes by name.

        A head stays only with the classes that it was trained for.

        Raises:
            InputError: if the parts do not fit each other, e.g. a reference whose label is not among the classes.
        """
        classes = self.classes if classes is None else classes
        references = self.references if references is None else references
        names = ("center", "preset", "weights", "preprocessing", "negatives", "crops", "crop_center", "text", "origin")
        kept = {name: getattr(self, name) for name in names}
        kept["head"] = self.head if tuple(classes) == self.classes else None
        index = references.index_in(classes)
        return MemoryBank(classes, references.vectors, index, references.ids, **{**kept, **others})

    def _check(self) -> None:
        channels = self.vectors.shape[1:]
        for name, center in (("centre", self.center), ("centre of crops", self.crop_center)):
            if center is not None and (np.shape(center) != channels or not np.isfinite(center).all()):
                raise InputError(f"expected a finite {name} of {channels[0]} channels, got one of {np.shape(center)}")
        names = None if self.text is None else self.text.names
        for name, vectors in (("negatives", self.negatives), ("crops", self.crops), ("names", names)):
            if vectors is not None and vectors.vectors.shape[1:] != channels:
                raise InputError(f"expected {name} [n, {channels[0]}], got {list(vectors.vectors.shape)}")
        if self.head is not None:
            self.head.check(len(self.classes), channels[0])
        if len(set(self.classes)) < len(self.classes):
            raise InputError("expected distinct class names, got one of them twice")
        if self.negatives is not None and len(self.negatives.ids) != len(self.negatives):
            raise InputError(f"expected an id for each of {counted(len(self.negatives), 'negative')}, got none")
        if self.negatives is not None and (strange := {*self.negatives.labels} - {*self.classes, None}):
            raise InputError(f"expected negatives of the classes of the bank, got some of {sorted(map(str, strange))}")
        missing = [name for name, count in self.shots.items() if not count]
        if missing or not self.classes:
            raise BadReferenceError(
                f"no reference for: {listing(missing) if missing else 'any class'}; tag "
                "at least one labelled sample of each class, or leave the class out"
            )

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 ``[M, C]``, one pooled vector a reference instance, not normalised."""
        return self.references.vectors

    @property
    def reference_ids(self) -> tuple[str, ...]:
        """M ids, where each vector came from."""
        return self.references.ids

    @cached_property
    def class_index(self) -> NDArray[np.int64]:
        """int64 ``[M]``, the class of each vector."""
        return self.references.index_in(self.classes)

    @property
    def negative_ids(self) -> tuple[str, ...]:
        """Where negatives came from."""
        return () if self.negatives is None else self.negatives.ids

    @property
    def shots(self) -> dict[str, int]:
        """Number of references of each class."""
        counts = np.bincount(self.class_index, minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}

    @cached_property
    def prototypes(self) -> NDArray[np.float32]:
        """float32 ``[K, C]``: mean of the unnormalised shot vectors of each class, l2-normalised (2.6)."""
        vectors, index = self.project(self.vectors), self.class_index
        by_class = np.split(vectors[np.argsort(index, kind="stable")], np.cumsum(np.bincount(index))[:-1])
        return _unit(np.stack([group.mean(axis=0) for group in by_class]))

    @cached_property
    def crop_prototypes(self) -> NDArray[np.float32] | None:
        """float32 ``[K, C]``, as ``prototypes`` of the references' crops; NaN for a class without any."""
        if self.crops is None:
            return None
        vectors, index = self.project_crops(self.crops.vectors), self.crops.index_in(self.classes)
        by_class = [vectors[index == k] for k in range(len(self.classes))]
        nothing = np.full(vectors.shape[1], np.nan, np.float32)
        return _unit(np.stack([group.mean(axis=0) if len(group) else nothing for group in by_class]))

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves pooled vectors ``[..., C]`` into the space of the prototypes (subtracts the centre, if any)."""
        return _without(self.center, vectors)

    def project_crops(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves vectors of crops ``[G, C]`` into the space of ``crop_prototypes``."""
        return _without(self.crop_center, vectors)

    @property
    def granularity(self) -> str | None:
        """What the references chose, see ``options.granularity``; ``None`` where they were not asked."""
        answer = self.preprocessing.get("granularity")
        return str(answer["choice"]) if isinstance(answer, Mapping) and "choice" in answer else None

    @cached_property
    def content_hash(self) -> str:
        """sha256 of everything that decides a match, hex."""
        digest = hashlib.sha256(self._description({}).encode())
        for tensor in self._tensors().values():
            digest.update(np.ascontiguousarray(tensor).tobytes())
        return digest.hexdigest()

    def check_preset(self, preset: str, weights: Mapping[str, str]) -> None:
        """Raises PresetMismatchError unless ``preset`` with these weights made the bank."""
        if preset != self.preset:
            raise PresetMismatchError(
                f"this memory bank was made with preset {self.preset!r}, not {preset!r}; use that, or build it again"
            )
        if dict(weights) != dict(self.weights):
            changed = sorted(name for name in {*weights, *self.weights} if weights.get(name) != self.weights.get(name))
            raise PresetMismatchError(
                f"the weights of {', '.join(changed)} differ from those that made this memory bank; build it again"
            )

    def save(self, path: str | Path) -> Path:
        """Writes ``bank.safetensors`` and ``bank.json`` into the folder ``path`` (made if absent); returns it.

        Raises:
            InputError: if one cannot be written, or not be loaded again; says why. A bank from before is whole then.
        """
        folder, (tensors, description) = expanded(path), self.to_parts()
        contents = {folder / _TENSORS: save(tensors), folder / _DESCRIPTION: description.encode("utf-8")}
        check_sizes(contents, (_MOST_TENSOR_BYTES, _MOST_TEXT_BYTES))
        try:
            write_files(contents)
        except OSError as error:
            raise InputError(write_problem(error)) from error
        return folder

    @classmethod
    def load(cls, path: str | Path) -> MemoryBank:
        """Reads what ``save`` wrote.

        Raises:
            InputError: if a file is missing, damaged or of another format version.
        """
        folder = expanded(path)
        try:
            tensors = load(read_file(folder / _TENSORS, _MOST_TENSOR_BYTES))
            description = read_file(folder / _DESCRIPTION, _MOST_TEXT_BYTES).decode("utf-8")
        except FileNotFoundError as error:
            name = Path(str(error.filename or folder)).name
            raise InputError(f"expected {_TENSORS} and {_DESCRIPTION} in {folder}, got no such file: {name}") from error
        # Whatever a stranger's bytes make the parser raise, the file is no good.
        except (SafetensorError, OSError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
            raise InputError(f"the memory bank in {folder} is damaged ({error}); build it again") from error
        return cls.from_parts(tensors, description)

    @classmethod
    def from_parts(cls, tensors: Mapping[str, NDArray[Any]], description: str) -> MemoryBank:
        """The bank from its tensors and its JSON description, both possibly from a stranger.

        Raises:
            InputError: if they do not describe a bank.
        """
        try:
            facts = json.loads(description)
            if facts["format"] not in (FORMAT_VERSION, _WITH_NEGATIVES, _WITH_HEAD, _WITH_TEXT):
                raise InputError(
                    f"expected a memory bank of format {FORMAT_VERSION} to {_WITH_TEXT}, got {facts['format']!r}; "
                    "build it again with this version"
                )
            classes = _names(facts["classes"])
            return cls(
                classes,
                np.asarray(tensors["vectors"], np.float32),
                np.asarray(tensors["class_index"]).astype(np.int64),
                _names(facts["reference_ids"]),
                np.asarray(tensors["center"], np.float32) if "center" in tensors else None,
                str(facts["preset"]),
                {str(name): str(sha256) for name, sha256 in dict(facts["weights"]).items()},
                dict(facts["preprocessing"]),
                negatives=_negatives(tensors, facts, classes) if "negative_ids" in facts else None,
                crops=_crops(tensors, facts) if "crop_vectors" in tensors else None,
                crop_center=np.asarray(tensors["crop_center"], np.float32) if "crop_center" in tensors else None,
                head=Head.from_parts(tensors, facts["head"]) if "head" in facts else None,
                text=TextVote.from_parts(tensors, facts["text"]) if "text" in facts else None,
                origin=dict(facts.get("origin") or {}),
            )
        except InputError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise InputError(f"not a memory bank: {type(error).__name__} {error}; build it again") from error

    def _tensors(self) -> dict[str, NDArray[Any]]:
        # In this order, which is part of ``content_hash``.
        tensors: dict[str, NDArray[Any]] = {"vectors": self.vectors, "class_index": self.class_index}
        if self.center is not None:
            tensors["center"] = np.ascontiguousarray(self.center, np.float32)
        if self.negatives is not None:
            tensors["negatives"] = self.negatives.vectors
            tensors["negative_class"] = self.negatives.index_in(self.classes)
        if self.crops is not None:
            tensors["crop_vectors"] = self.crops.vectors
            if self.crop_center is not None:
                tensors["crop_center"] = np.ascontiguousarray(self.crop_center, np.float32)
        for part in (self.head, self.text):
            tensors |= {} if part is None else part.tensors()
        return tensors

    def to_parts(self) -> tuple[dict[str, NDArray[Any]], str]:
        """Tensors and JSON description, as ``from_parts`` takes them."""
        return self._tensors(), self._description(self.origin)

    def _description(self, origin: Mapping[str, Any]) -> str:
        negatives = {} if self.negatives is None else {"negative_ids": list(self.negative_ids)}
        crops = {} if self.crops is None else {"crop_labels": list(self.crops.labels)}
        head = {} if self.head is None else {"head": self.head.facts()}
        text = {} if self.text is None else {"text": self.text.facts()}
        needs = ((self.text, _WITH_TEXT), (self.head, _WITH_HEAD), (self.negatives, _WITH_NEGATIVES))
        return json.dumps(
            {
                **negatives,
                **crops,
                **head,
                **text,
                **({"origin": dict(origin)} if origin else {}),
                "format": next((number for part, number in needs if part is not None), FORMAT_VERSION),
                "classes": list(self.classes),
                "reference_ids": list(self.reference_ids),
                "preset": self.preset,
                "weights": dict(self.weights),
                "preprocessing": dict(self.preprocessing),
            },
            indent=2,
            sort_keys=True,
        )


def _negatives(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any], classes: tuple[str, ...]) -> VectorSet:
    index = np.asarray(tensors["negative_class"]).astype(np.int64)
    if index.ndim != 1 or (index < -1).any() or (index >= len(classes)).any():
        raise InputError(f"expected classes of negatives within -1..{len(classes) - 1}, got others")
    labels = tuple(None if k < 0 else classes[k] for k in index)
    return VectorSet(np.asarray(tensors["negatives"], np.float32), labels, _names(facts["negative_ids"]))


def _crops(tensors: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> VectorSet:
    return VectorSet(np.asarray(tensors["crop_vectors"], np.float32), _names(facts["crop_labels"]))


def _without(center: NDArray[np.float32] | None, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors if center is None else np.asarray(vectors - center, np.float32)


def _unit(means: NDArray[np.floating]) -> NDArray[np.float32]:
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(norms, 1e-12), np.float32)


def _names(names: Any) -> tuple[str, ...]:
    """Names from a description; raises ValueError for what no file or database could hold."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a list of names, got {type(names).__name__}")
    "".join(names).encode()  # half a surrogate pair is text in JSON only
    return tuple(names)
