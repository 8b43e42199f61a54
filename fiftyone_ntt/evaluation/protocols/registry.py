"""All protocols by name. A new one is a file and a line here."""

from __future__ import annotations

from fiftyone_ntt.errors import InputError
from fiftyone_ntt.evaluation.protocols import cd_fsod, coco_fsod, folder, lvis, semantic_folds, voc_fsod
from fiftyone_ntt.evaluation.protocols.base import Protocol

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        coco_fsod.PROTOCOL,
        voc_fsod.PROTOCOL,
        cd_fsod.PROTOCOL,
        semantic_folds.COCO_20I,
        semantic_folds.PASCAL_5I,
        lvis.PROTOCOL,
        folder.PROTOCOL,
    )
}


def protocol_of(name: str) -> Protocol:
    """The protocol of a name."""
    if name not in PROTOCOLS:
        raise InputError(f"expected a protocol of {', '.join(PROTOCOLS)}, got {name!r}")
    return PROTOCOLS[name]
