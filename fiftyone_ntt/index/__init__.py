"""The candidate index: what stage one found in each image, on disk, so that any question can be asked again cheaply.

    settings.py      what decides the content of a file: its signature
    files.py         one file, checked to the byte
    store.py         the files of one set of settings, shared by any number of workers
    maintenance.py   info, verify, prune

This package is also the SDK's function ``fiftyone_ntt.index(view, ...)``: calling the module calls
``fiftyone_ntt.dataset.indexing.index``. Python binds a sub-package to its name in the parent as soon as anything
imports it, so a function of that name would be there or not depending on the order of imports. A module that can be
called is both, always.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

from fiftyone_ntt.index.files import DamagedIndexError
from fiftyone_ntt.index.settings import IndexSettings, default_root, limit_in_bytes
from fiftyone_ntt.index.store import IndexStorageError, IndexStore, explain_missing

__all__ = [
    "DamagedIndexError",
    "IndexSettings",
    "IndexStorageError",
    "IndexStore",
    "default_root",
    "explain_missing",
    "limit_in_bytes",
]


class _CallableModule(ModuleType):
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        from fiftyone_ntt.dataset.indexing import index

        return index(*arguments, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        from fiftyone_ntt.dataset.indexing import index

        return inspect.signature(index)


sys.modules[__name__].__class__ = _CallableModule
