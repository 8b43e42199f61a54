"""Models that lie in a folder as ``save_pretrained`` writes it: finding it, its hash, and loading it strictly."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError, as_text, counted
from fiftyone_ntt.models.specs import hub_reachable, sha256_of
from fiftyone_ntt.pixels.files import read_file

logger = logging.getLogger(__name__)

FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*")
"""What is fetched of a repository; the tokenizer for those that read."""
_LARGEST_INDEX, _LONGEST_REASON = 1 << 26, 500


def find_folder(path_or_repo: str | Path) -> Path:
    """Finds a model's folder: an explicit path, else the hub's cache, else a download from the hub.

    Raises:
        MissingWeightsError: neither a folder, nor in the hub's cache, nor to be had from the hub.
    """
    if Path(path_or_repo).is_dir():
        return Path(path_or_repo)
    repo = str(path_or_repo)
    if isinstance(path_or_repo, Path) or repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        raise MissingWeightsError(missing_text(repo, "there is no such folder"))
    folder = _from_hub(repo, local=True) or _from_hub(repo, local=False)
    if folder is None:
        raise MissingWeightsError(missing_text(repo, "not in the Hugging Face cache, and the hub did not give it"))
    return folder


def find_local_folder(repo: str) -> Path | None:
    """The repository in the Hugging Face cache; opens no connection."""
    return _from_hub(repo, local=True)


def _from_hub(repo: str, *, local: bool) -> Path | None:
    """The snapshot of a repository in the hub's cache, downloaded first if not ``local``; None if there is none."""
    from huggingface_hub import constants, snapshot_download

    if not local and (constants.HF_HUB_OFFLINE or not hub_reachable(constants.ENDPOINT)):
        return None
    try:
        folder = Path(snapshot_download(repo, allow_patterns=list(FILES), local_files_only=local))
    except Exception as error:  # the client raises its own, its transport's and the system's errors
        level = logging.DEBUG if local else logging.WARNING
        logger.log(level, "%s is not to be had from the hub: %s", repo, error)
        return None
    return folder if _is_complete(folder) else None


def _is_complete(folder: Path) -> bool:
    """Whether all that a model needs is there: a cache may hold a snapshot of which only a part was ever fetched."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    try:  # a model in several files says in another one which they are
        index = json.loads(read_file(folder / "model.safetensors.index.json", _LARGEST_INDEX))
        names = set(index["weight_map"].values())
        return bool(names) and all((folder / name).is_file() for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def hash_of_folder(folder: Path) -> str:
    """sha256 of the weights: of the one safetensors file, or of the list of hashes where there are several."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise MissingWeightsError(missing_text(str(folder), "the folder holds no *.safetensors file"))
    hashes = [sha256_of(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def hash_of_model(folder: Path) -> str:
    """sha256 of the weights' hash and that of config.json: what a network computes with its weights stands there."""
    config = folder / "config.json"
    if not config.is_file():
        raise MissingWeightsError(missing_text(str(folder), "the folder holds no config.json"))
    return hashlib.sha256(f"{hash_of_folder(folder)}\n{sha256_of(config)}".encode()).hexdigest()


def kind_of(folder: Path, known: Mapping[str, object]) -> str:
    """The ``model_type`` that a folder's config.json names.

    Args:
        folder: the model's folder.
        known: what may be there, by ``model_type``.

    Raises:
        MissingWeightsError: the file cannot be read.
        WeightsMismatchError: it names another kind of model.
    """
    try:
        kind = json.loads(read_file(folder / "config.json", 1 << 20)).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise MissingWeightsError(missing_text(str(folder), "its config.json cannot be read")) from error
    if not isinstance(kind, str) or kind not in known:
        raise WeightsMismatchError(f"expected a model of type {' or '.join(known)} in {folder}, found {kind!r}")
    return kind


def load_model(folder: Path, class_name: str, part: str | None = None) -> Any:
    """Loads a model in float32 and evaluation mode; refuses one with missing or misshapen weights.

    Args:
        folder: as ``save_pretrained`` writes it.
        class_name: of the model, in ``transformers``.
        part: of the folder's config, where the model is a part of what the folder holds.

    Raises:
        MissingWeightsError: the installed ``transformers`` has no such class, or a package that it needs is missing.
        WeightsMismatchError: the folder does not hold all of its weights, or its files cannot be read.
    """
    import transformers

    loader = getattr(transformers, class_name, None)
    if loader is None:
        raise MissingWeightsError(
            f"expected a transformers that has {class_name}, got {version('transformers')}; "
            "run `pip install --upgrade transformers`"
        )
    try:
        given: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        if part:
            given["config"] = getattr(transformers.AutoConfig.from_pretrained(folder, local_files_only=True), part)
        with _without_reports():  # of weights that are there and not needed; those that lack are an error below
            model, report = loader.from_pretrained(folder, **given)
    except ImportError as error:  # timm, for what transformers only wraps
        reason = " ".join(str(error).split())[:200]
        raise MissingWeightsError(f"{class_name} needs a package that is not installed: {reason}") from error
    except Exception as error:  # safetensors and the client of the hub have their own, which are no ValueError
        raise WeightsMismatchError(
            f"the weights in {folder} cannot be read, or do not fit its config.json: "
            f"{as_text(f'{type(error).__name__}: {error}', _LONGEST_REASON)}; fetch the files again"
        ) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise WeightsMismatchError(
            f"{folder} lacks {counted(len(report['missing_keys']), 'weight')} of its model, among them {missing}; "
            "fetch the files again"
        )
    return model.float().eval()


@contextmanager
def _without_reports() -> Iterator[None]:
    """Warnings of ``transformers`` are not shown inside."""
    from transformers.utils import logging as reports

    before = reports.get_verbosity()
    reports.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        reports.set_verbosity(before)


def missing_text(what: str, reason: str) -> str:
    """What to say of weights that are nowhere."""
    return (
        f"the weights {what!r} are not on this machine and could not be fetched ({reason}). Put config.json and "
        "model.safetensors of that Hugging Face repository into a folder and name the folder in the preset "
        "(its spec's path=...), or use the preset 'lite', which needs no hub"
    )
