"""Annotations resolve, for users without jaxtyping and for those who load it."""

import json
import subprocess
import sys
import typing

import pytest

from casejax import array_types, inference, ot, records

EVERY_NAME = """
import importlib, inspect, json, pkgutil, sys, typing
import casejax

found, failed = 0, {}
for module in pkgutil.walk_packages(casejax.__path__, "casejax."):
    if not (module.ispkg or module.name in ("casejax.records", "casejax.errors")):
        continue
    room = importlib.import_module(module.name)
    for name in getattr(room, "__all__", [name for name in vars(room) if name[0] != "_"]):
        thing = getattr(room, name)
        if not getattr(thing, "__module__", "").startswith("casejax.") or not callable(thing):
            continue
        methods = [m for m in vars(thing).values() if inspect.isfunction(m)] if inspect.isclass(thing) else []
        for each in [thing, *methods]:
            found += 1
            try:
                typing.get_type_hints(each)
            except Exception as error:
                failed[f"{module.name}.{name}: {each}"] = repr(error)
print(json.dumps([found, failed, "jaxtyping" in sys.modules]))
"""


def test_every_public_name_has_hints_that_resolve_without_jaxtyping():
    done = subprocess.run([sys.executable, "-c", EVERY_NAME], capture_output=True, text=True, check=True)
    found, failed, loaded = json.loads(done.stdout.splitlines()[-1])
    assert failed == {}
    assert found > 500
    assert not loaded


@pytest.mark.parametrize("first", ["", "import jax; "])
def test_records_name_arrays_of_jax_without_loading_it(first):
    code = (
        f"{first}import sys, typing; from casejax import records; print('jax' in sys.modules);"
        "hints = typing.get_type_hints(records.Batch, include_extras=True); import jax;"
        "print(hints['labels'], hints['labels'].__origin__ is jax.Array)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, hint = done.stdout.splitlines()
    assert loaded == str(bool(first))
    assert hint.startswith("typing.Annotated[")
    assert hint.endswith("Array, Float, 'b c'] True")


def test_with_jaxtyping_hints_are_its_types_and_its_hook_checks_calls():
    hint = typing.get_type_hints(ot.sinkhorn)["scores"]
    assert "Array" in str(hint)
    assert typing.get_type_hints(records.Batch)["labels"].dim_str == "b c"
    with pytest.raises(Exception, match="Type-check error"):
        inference.print_segments("no console", {}, best=1, videos=1)


def test_a_word_that_is_not_there_is_said():
    with pytest.raises(AttributeError, match=r"'casejax.array_types' has no attribute 'Complex'"):
        array_types.Complex  # noqa: B018
