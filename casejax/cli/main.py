"""The `casejax` command: from features and video-level labels to segments, and to figures.

Nothing here loads JAX: the list of commands, what they start from, and the first line that a run prints.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import casejax

COMMANDS = {
    "extract": "make features of videos, which train and predict read",
    "train": "train a method on features with video-level labels, or on an embedded synthetic world, and evaluate it",
    "predict": "find the segments of a trained network in features of any videos",
    "eval": "evaluate a run, or a converted network, on the test videos of a data set",
    "evaluate": "judge a file of detections against annotations under a named protocol",
    "check": "say what is in a data set, and what is missing or odd in it",
    "report": "write one HTML page about runs, with charts, timelines and an analysis of errors",
    "compare": "print several runs side by side, with paired differences over seeds",
    "convert": "make a run of a network of the published CASE program",
    "export": "write a run as a folder for others, or as the two files of the published CASE program",
    "env": "print versions, devices and the revision of the code, for a bug report",
    "completion": "print the script that completes these commands in bash, zsh or tcsh",
}
"""The commands, each a module of this room, by the sentence that its help begins with."""

SYNTHETIC = MappingProxyType({"num_snippets": 256, "epochs": 60, "learning_rate": 1e-3, "log_every": 10})
"""Sizes for the embedded world, smaller than THUMOS14: fewer snippets and, for fewer steps, larger ones."""

PENN_UNTRIMMED = "penn-untrimmed"
"""What `--dataset` calls untrimmed motion composed of Penn Action's labels."""

UNTRIMMED_MOTION = MappingProxyType({"num_snippets": 256, "epochs": 45, "learning_rate": 1e-3})
"""Sizes for it."""


@dataclass(frozen=True)
class Defaults:
    """What `casejax train` starts from where no flag says otherwise.

    Attributes:
      method: what is trained.
      variant: of the methods that have variants.
      layout: of the folder of data; None for what it looks like.
      out: folder of the run; None for runs/METHOD, or runs/synthetic without data.
      sizes: options for the embedded world.
      help: what the help begins with.
    """

    method: str = "case"
    variant: str = "corrected"
    layout: str | None = None
    out: Path | None = None
    sizes: Mapping[str, Any] = field(default_factory=lambda: SYNTHETIC)
    help: str = COMMANDS["train"]


def main(words: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
      The exit status: 0; 1 for a finding of `check`; 2 for input or options that cannot be used, and for a run that
      diverged; 3 for a run that was stopped or lost a process, and can be resumed; 130 for Ctrl-C at a moment at which
      nothing can be saved.
    """
    words = list(sys.argv[1:] if words is None else words)
    show_any_text()
    name = words[0] if words else "--help"
    if name in COMMANDS:
        if name == "train" and not {"-h", "--help", "--help-all"} & set(words):
            stage("loading JAX")
        command = _load(name)
        return _interruptible(lambda: command.main(words[1:]))
    if name in ("-h", "--help", "--help-all"):
        lines = "\n".join(f"  {command:<11}{sentence}" for command, sentence in COMMANDS.items())
        stage(f"usage: casejax COMMAND ...\n\n{lines}\n\ncasejax COMMAND --help says more; casejax --version.")
        return 0 if words else 2
    if name == "--version":
        stage(f"casejax {casejax.__version__}")
        return 0
    print(f"error: there is no command {name!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)  # noqa: T201
    return 2


def train(words: Sequence[str] | None = None, defaults: Defaults = Defaults(), *, command: str) -> int:
    """Run `casejax train` with other defaults, as the examples do.

    Args:
      words: of the command line; default those of the process.
      defaults: of the flags.
      command: what stands before the words, for help and for the hint that resumes a stopped run.
    """
    words = list(sys.argv[1:] if words is None else words)
    if not {"-h", "--help", "--help-all"} & set(words):
        stage("loading JAX")
    show_any_text()
    module = _load("train")
    return _interruptible(lambda: module.main(words, defaults, command=command))


def show_any_text() -> None:
    """Have a terminal that cannot show a letter show a question mark instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _load(name: str) -> Any:
    """The module of a command; Ctrl-C while it is imported ends the process with one line.

    An exception in the middle of importing JAX can end the process with a crash, and there is nothing to clean up.
    """

    def leave(signum: int, frame: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        return importlib.import_module(f"casejax.cli.{name}")
    before = signal.signal(signal.SIGINT, leave)
    try:
        return importlib.import_module(f"casejax.cli.{name}")
    finally:
        signal.signal(signal.SIGINT, before)


def _interruptible(command: Callable[[], int]) -> int:
    """A command that says one line where Ctrl-C comes before it takes care of that itself."""
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130


def stage(text: str) -> None:
    """A line on standard output, at once: where a command is."""
    print(text, flush=True)  # noqa: T201
