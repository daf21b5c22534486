"""Networks by name from the Hugging Face hub, where `huggingface_hub` is installed."""

from __future__ import annotations

import re
from pathlib import Path

from casejax.errors import CheckpointError
from casejax.run.exported import SETTINGS, WEIGHTS

NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""A repository of the hub: OWNER/NAME."""


def network_folder(place: str | Path) -> Path:
    """The folder itself where it is one, else that of a repository of the hub, fetched unless it is in the cache.

    Only the weights (safetensors) and the options (JSON) are fetched.

    Raises:
      CheckpointError: neither, or the repository cannot be fetched.
    """
    folder = Path(place)
    if folder.exists() or not NAME.fullmatch(str(place)):
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{place}: no such folder; name the folder of a run, or install huggingface_hub to look for it there"
        ) from None
    try:
        return Path(snapshot_download(str(place), allow_patterns=[WEIGHTS, SETTINGS]))
    except Exception as error:  # its errors have no common ancestor of their own
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{place}: no such folder, and not on the Hugging Face hub ({reason}); name the folder of a run"
        ) from error
