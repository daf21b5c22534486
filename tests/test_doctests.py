"""Every public function has an example in its docstring, and every example runs as it is printed."""

import doctest
import importlib
import inspect
import io
import os
import shutil

import pytest
from drawn_weights import write_drawn_weights
from untrained import save_untrained

# The rooms whose public functions all have an example.
ROOMS = (
    "casejax.ot",
    "casejax.losses",
    "casejax.labels",
    "casejax.localize",
    "casejax.arrays",
    "casejax.methods",
    "casejax.alignment",
    "casejax.evaluate",
    "casejax.data",
    "casejax.run",
    "casejax.report",
    "casejax.inference",
    "casejax.runtime",
    "casejax.train",
    "casejax.features",
)


def save_run(folder):
    """`run`, the folder of a run."""
    save_untrained(folder / "run", dims=(8, 8), classes=("CliffDive", "Dive"), alike=True)


# What examples of a room find in the folder that they begin in, and what must be installed for them.
GIVEN = {"casejax.run": save_run, "casejax.inference": save_run, "casejax.features": write_drawn_weights}
NEEDED = {"casejax.features": ("av", "cv2")}

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def written_in(room):
    """The docstrings of a room's public names, and of the public methods of its classes, by name."""
    package = importlib.import_module(room)
    for name in package.__all__:
        each = getattr(package, name)
        if not callable(each) or not getattr(each, "__module__", "").startswith("casejax."):
            continue
        yield name, inspect.unwrap(each)
        if inspect.isclass(each):
            for member, thing in vars(each).items():
                if not member.startswith("_") or member == "__call__":
                    thing = getattr(thing, "__func__", getattr(thing, "fget", thing))
                    if inspect.isfunction(inspect.unwrap(thing)):
                        yield f"{name}.{member}", inspect.unwrap(thing)


@pytest.mark.usefixtures("kept_steps")
@pytest.mark.parametrize("room", ROOMS)
def test_examples_run_and_every_function_has_one(room, tmp_path, monkeypatch):
    for module in NEEDED.get(room, ()):
        pytest.importorskip(module)
    given = tmp_path / "given"
    given.mkdir()
    if room in GIVEN:
        GIVEN[room](given)
    runner, said = doctest.DocTestRunner(optionflags=OPTIONS), io.StringIO()
    without, failed = [], 0
    for name, thing in written_in(room):
        # Nothing is imported for an example: it is what a user types.
        test = doctest.DocTestParser().get_doctest(thing.__doc__ or "", {}, f"{room}.{name}", None, 0)
        if test.examples:
            own = tmp_path / "examples" / name  # they may write files
            # linked, since weights are large: no example writes into what it was given
            shutil.copytree(given, own, copy_function=os.link)
            monkeypatch.chdir(own)
            failed += runner.run(test, out=said.write).failed
        elif "." not in name and not inspect.isclass(thing):
            without.append(name)
    assert failed == 0, said.getvalue()
    assert without == []
