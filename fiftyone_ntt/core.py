"""The two-stage method for people without FiftyOne: the public names of ``method``, ``pixels`` and ``candidates``."""

from fiftyone_ntt.candidates.compact import CompactImage, compact
from fiftyone_ntt.candidates.stream import Outcome, stream
from fiftyone_ntt.method.backends import FeatureModel, ProposalModel
from fiftyone_ntt.method.bank_parts import VectorSet
from fiftyone_ntt.method.config import MatchConfig, ProposalConfig
from fiftyone_ntt.method.matcher import Matcher, match, match_vectors
from fiftyone_ntt.method.memory_bank import MemoryBank
from fiftyone_ntt.method.pooling import pool
from fiftyone_ntt.method.proposals import Candidates
from fiftyone_ntt.method.references import ReferenceItem, ReferenceSettings
from fiftyone_ntt.method.results import IndexedImage, Instances
from fiftyone_ntt.method.segmenter import Segmenter
from fiftyone_ntt.pixels.frames import ImageFrame
from fiftyone_ntt.pixels.images import read_image

__all__ = [
    "Candidates",
    "CompactImage",
    "FeatureModel",
    "ImageFrame",
    "IndexedImage",
    "Instances",
    "MatchConfig",
    "Matcher",
    "MemoryBank",
    "Outcome",
    "ProposalConfig",
    "ProposalModel",
    "ReferenceItem",
    "ReferenceSettings",
    "Segmenter",
    "VectorSet",
    "compact",
    "match",
    "match_vectors",
    "pool",
    "read_image",
    "stream",
]
