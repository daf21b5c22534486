"""What a process runs on: versions, devices, and the state of the checkout."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "rich", "matplotlib", "grain", "av"),
    *("opencv-contrib-python-headless", "vl-convert-python", "safetensors", "huggingface_hub", "tensorboardX", "wandb"),
)
"""Whose versions are told, where they are installed."""


def environment() -> dict[str, Any]:
    """Plain values that say where a result comes from; no name of a user, a machine or a folder is among them."""
    devices = jax.devices()
    return {
        "casejax": _version("casejax"),
        "revision": _revision(Path(__file__).resolve().parents[2]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in devices],
        "processes": jax.process_count(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "variables": {
            name: "(a path)" if "/" in value else value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "CASEJAX_"))
        },
        "executable": Path(sys.executable).name,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _revision(checkout: Path) -> str | None:
    """The commit that a checkout is at, read without git; None where the package is installed otherwise."""
    git = checkout / ".git"
    try:
        if git.is_file():  # a worktree names its folder
            git = Path(git.read_text(encoding="utf-8").removeprefix("gitdir:").strip())
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        root = (git / common.read_text(encoding="utf-8").strip()) if common.is_file() else git
        loose = root / name
        if loose.is_file():
            return loose.read_text(encoding="utf-8").strip()
        for line in (root / "packed-refs").read_text(encoding="utf-8").splitlines():
            if line.endswith(f" {name}"):
                return line.split()[0]
    except OSError:
        pass
    return None
