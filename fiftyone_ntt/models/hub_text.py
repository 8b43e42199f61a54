"""TIPSv2 with its other half: one model that puts images and texts into one space, patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fiftyone_ntt.errors import MissingWeightsError, WeightsMismatchError, as_text
from fiftyone_ntt.models.hub_features import HubFeatures
from fiftyone_ntt.models.hub_folders import load_model

READERS = {"tipsv2": "Tipsv2TextModel"}
"""``model_type`` of a folder that holds both halves -> the class that reads; SigLIP's patches are not in its texts'
space."""
_PROMPT = "a photo of a {}"


class HubTextFeatures(HubFeatures):
    """A ``FeatureModel`` that is a ``TextEncoder`` too: arguments as of ``HubFeatures``.

    Its text half is loaded when names are embedded and forgotten afterwards: that is once a memory bank.
    """

    @torch.no_grad()
    def encode_text(self, names: Sequence[str]) -> Tensor:
        """Embeds K class names as "a photo of a ...": float32 ``[K, dim]``, on the CPU.

        Raises:
            MissingWeightsError: the folder has no tokenizer.
            WeightsMismatchError: it has one of another model.
        """
        texts = [_PROMPT.format(" ".join(name.replace("_", " ").split())) for name in names]
        tokens = _tokenizer(self.folder)(texts, padding=True, truncation=True, return_tensors="pt")
        model = load_model(self.folder, READERS[self.kind_name], "text_config")
        ids = tokens["input_ids"]
        if int(ids.max()) >= model.config.vocab_size:
            raise WeightsMismatchError(
                f"expected a tokenizer of at most {model.config.vocab_size} words in {self.folder}, got one of more; "
                "fetch the files again"
            )
        embedded: Tensor = model(input_ids=ids, attention_mask=tokens["attention_mask"]).pooler_output
        return embedded.float()


def _tokenizer(folder: Path) -> Any:
    """The folder's tokenizer."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the system's, the hub client's, and those of the tokenizers' own packages
        raise MissingWeightsError(
            f"expected a tokenizer in {folder}, got: {as_text(f'{type(error).__name__}: {error}', 300)}; put "
            "tokenizer.json and tokenizer_config.json of the model's repository there, or leave text_weight at 0"
        ) from error
