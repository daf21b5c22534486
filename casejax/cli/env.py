"""`casejax env`: what a bug report needs to say of the machine."""

from __future__ import annotations

import json
from collections.abc import Sequence

from casejax.cli.main import COMMANDS, stage
from casejax.cli.options import Parser, run_command
from casejax.runtime.environment import environment


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = Parser(prog="casejax env", description=COMMANDS["env"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_helps()
    parsed = parser.parse_args(words)

    def command() -> None:
        found = environment()
        if parsed.json:
            stage(json.dumps(found, indent=1))
            return
        for name, value in found.items():
            if isinstance(value, dict):
                stage("\n".join([f"{name}:", *(f"  {key} {each}" for key, each in value.items())]))
            else:
                stage(f"{name}: {', '.join(value) if isinstance(value, list) else value}")

    return run_command(command)
