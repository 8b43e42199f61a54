"""The method, in numpy and torch only. Read in this order:

``frames`` -> ``references`` -> ``memory`` -> ``proposals`` -> ``pooling`` -> ``matching`` -> ``merging`` -> ``masks``
-> ``match`` (stage two as a whole) -> ``segmenter`` (both stages) -> ``stream`` (many images at once).
"""

from fiftyone_ntt.core.backends import FeatureModel, ProposalModel
from fiftyone_ntt.core.compact import CompactImage, IndexedImage, compact
from fiftyone_ntt.core.config import MatchConfig, ProposalConfig
from fiftyone_ntt.core.frames import ImageFrame
from fiftyone_ntt.core.images import read_image
from fiftyone_ntt.core.instances import Instances
from fiftyone_ntt.core.match import match, match_vectors
from fiftyone_ntt.core.memory import MemoryBank
from fiftyone_ntt.core.pooling import pool
from fiftyone_ntt.core.proposals import Candidates
from fiftyone_ntt.core.references import ReferenceItem, ReferenceSettings
from fiftyone_ntt.core.segmenter import Segmenter
from fiftyone_ntt.core.stream import Outcome, stream

__all__ = [
    "Candidates",
    "CompactImage",
    "FeatureModel",
    "ImageFrame",
    "IndexedImage",
    "Instances",
    "MatchConfig",
    "MemoryBank",
    "Outcome",
    "ProposalConfig",
    "ProposalModel",
    "ReferenceItem",
    "ReferenceSettings",
    "Segmenter",
    "compact",
    "match",
    "match_vectors",
    "pool",
    "read_image",
    "stream",
]
