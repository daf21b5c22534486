"""A user's program as type checkers see it: its `assert_type` lines are what is asserted."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import casejax
from casejax import train

PROGRAM = Path(__file__).parent / "user_program.py"
HOUSE = Path(casejax.__file__).parent


@pytest.fixture
def checked(tmp_path, pytestconfig):
    """Checks a program, given as text, in a folder of its own, with casejax on the path as it would be installed."""
    cache = pytestconfig.rootpath / ".pytest_cache" / "mypy"

    def check(checker, text):
        (tmp_path / "program.py").write_text(text)
        options = ["--strict", "--follow-imports=silent"] if checker == "mypy" else ["--pythonpath", sys.executable]
        command = [sys.executable, "-m", checker, *options, "program.py"]
        where = {"MYPYPATH": str(HOUSE.parent), "PYTHONPATH": str(HOUSE.parent), "MYPY_CACHE_DIR": str(cache)}
        return subprocess.run(command, cwd=tmp_path, env={**os.environ, **where}, capture_output=True, text=True)

    return check


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_results_are_arrays_and_named_tuples(checker, checked):
    pytest.importorskip(checker)
    wrong = "\nassert_type(transport.plan, int)\ncasejax.ott\n"
    done = checked(checker, PROGRAM.read_text() + wrong)
    errors = [line for line in done.stdout.splitlines() if "error" in line]
    last = len(PROGRAM.read_text().splitlines())
    assert all(f":{last + line}:" in errors[line - 2] for line in (2, 3)), done.stdout + done.stderr
    assert len(errors) == 3  # these two, and the line that counts them


def test_the_program_runs():
    subprocess.run([sys.executable, str(PROGRAM)], check=True, env={**os.environ, "PYTHONPATH": str(HOUSE.parent)})


def test_checkers_know_every_name_of_the_room_that_can_be_called():
    tree = ast.parse(Path(train.__file__).read_text())
    (room,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    (names,) = (node for node in room.body if isinstance(node, ast.If))
    assert [node.targets[0].id for node in names.body] == train.__all__
