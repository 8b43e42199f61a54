"""Attributes by which a label says that it is no example of its class: a crowd, too difficult, or to be ignored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import fiftyone as fo
from fiftyone import ViewExpression
from fiftyone import ViewField as F

CROWD, IGNORED = ("iscrowd", "is_crowd", "crowd", "IsGroupOf"), ("ignore", "difficult")
"""Attributes by which COCO, BDD and Open Images mark regions of many objects, and others what is not to be counted.

They count in any spelling, such as ``isCrowd``, ``group_of`` and ``Difficult``.
"""
_NOT_SET = ("", "0", "0.0", "false", "no", "none", "null", "nan", "n/a", "na", "<na>")
"""Texts that mean "not set": importers keep those of XML files, and the empty cells of tables, as they are."""
_BETWEEN_WORDS = ("_", "-", " ")


@lru_cache(maxsize=4096)
def _word(name: object) -> str:
    """The name of an attribute without what spellings of it differ in."""
    word = str(name).lower()
    for letter in _BETWEEN_WORDS:
        word = word.replace(letter, "")
    return word


_CROWD_WORDS = frozenset([*map(_word, CROWD), "groupof"])
_WORDS = _CROWD_WORDS | frozenset(map(_word, IGNORED))


def marks_in(label: fo.Label | Mapping[str, Any]) -> list[str]:
    """Attributes of a label, set or not, that can say that it is no example; those for crowds first."""
    if isinstance(label, Mapping):
        names, old = list(label), label.get("attributes")
    else:
        names, old = list(label.field_names), getattr(label, "attributes", None)
    marks = {str(name) for name in (*names, *(old if isinstance(old, Mapping) else ())) if _word(name) in _WORDS}
    known = (*CROWD, *IGNORED)
    rank = {name: place for place, name in enumerate(known)}
    return sorted(marks, key=lambda name: (_word(name) not in _CROWD_WORDS, rank.get(name, len(known)), name))


def is_crowd(label: fo.Label | Mapping[str, Any]) -> bool:
    """Whether a label marks a region of many objects (COCO's ``iscrowd``), not one object."""
    return any(_is_set(label, name) for name in marks_in(label) if _word(name) in _CROWD_WORDS)


def is_ignored(label: fo.Label | Mapping[str, Any]) -> bool:
    """Whether a label is marked as to be ignored, or as too difficult to be counted (Pascal VOC)."""
    return any(_is_set(label, name) for name in marks_in(label) if _word(name) not in _CROWD_WORDS)


def left_out_mark(label: fo.Label | Mapping[str, Any]) -> str | None:
    """The attribute for which a label is no example of its class; ``None`` where it may be one."""
    return next((name for name in marks_in(label) if _is_set(label, name)), None)


def is_example() -> ViewExpression:
    """The same for the database: an expression on a label, whether it may be an example of its class."""
    old = {"input": _pairs(F("attributes")), "as": "mark", "in": {"k": "$$mark.k", "v": "$$mark.v.value"}}
    word: dict[str, Any] = {"$toLower": "$$mark.k"}
    for letter in _BETWEEN_WORDS:
        word = {"$replaceAll": {"input": word, "find": letter, "replacement": ""}}
    attributes = {"$concatArrays": [_pairs(F()), {"$map": old}]}
    marks = {"$filter": {"input": attributes, "as": "mark", "cond": {"$in": [word, sorted(_WORDS)]}}}
    text = {"$convert": {"input": "$$mark.v", "to": "string", "onError": "set", "onNull": ""}}
    plain = {"$toLower": {"$trim": {"input": text}}}
    texts = {"$map": {"input": marks, "as": "mark", "in": plain}}
    return ViewExpression({"$setIsSubset": [texts, list(_NOT_SET)]})


def _pairs(document: ViewExpression) -> dict[str, Any]:
    """Names and values of a document in the database; none where something else stands."""
    return {"$cond": [{"$eq": [{"$type": document}, "object"]}, {"$objectToArray": document}, []]}


def attribute_of(label: fo.Label | Mapping[str, Any], name: str) -> Any:
    """An attribute of a label, or of one as the database holds it; ``None`` where it has none of that name."""
    if isinstance(label, Mapping):
        old = label.get("attributes")
        old = old.get(name) if isinstance(old, Mapping) else None
        return label.get(name, old.get("value") if isinstance(old, Mapping) else None)
    read = getattr(label, "get_attribute_value", None)  # semantic segmentation masks have no attributes
    return None if read is None else read(name, None)


def _is_set(label: fo.Label | Mapping[str, Any], name: str) -> bool:
    value = attribute_of(label, name)
    return value is not None and str(value).strip().lower() not in _NOT_SET
