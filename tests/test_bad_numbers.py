"""Every public function of arrays, given lists, integers, half precision, NaN, masks of numbers and wrong shapes.

What comes is the result of float32, or a sentence that says what is wrong.
"""

import inspect

import jax
import ml_dtypes
import numpy as np
import pytest
from every_function import JOBS, NO_ARRAYS, ROOMS, rooms


def call(name, given):
    room, function = name.split(".")
    return getattr(rooms[room], function)(**given)


def arrays(name):
    """Place and value of every array among the arguments of a job, and what puts others in their places."""
    leaves, tree = jax.tree.flatten_with_path(JOBS[name])
    values = [leaf for _, leaf in leaves]

    def with_other(i, value):
        return tree.unflatten([*values[:i], value, *values[i + 1 :]])

    places = {
        i: jax.tree_util.keystr(path)
        for i, (path, leaf) in enumerate(leaves)
        if isinstance(leaf, np.ndarray | np.generic)
    }
    return places, values, with_other


def plain(result):
    """A result as a tree of arrays; what isn't a tuple or list is looked into."""
    if hasattr(result, "__dict__") and not isinstance(result, jax.Array):
        return plain(vars(result))
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, tuple | list):
        return [plain(value) for value in result]
    return result if isinstance(result, str) or result is None else np.asarray(result)


def assert_same(got, want, **tolerance):
    def same(a, b):
        if isinstance(a, str):
            assert a == b
        else:
            np.testing.assert_allclose(np.float64(a), np.float64(b), **({"rtol": 1e-4, "atol": 1e-5} | tolerance))

    jax.tree.map(same, plain(got), plain(want))


def outcome(name, given):
    """The result, or the sentence with which the arguments are refused."""
    try:
        return call(name, given), None
    except (ValueError, TypeError) as error:
        return None, str(error)


def check_sentence(said, *parts):
    """One clear sentence that shows the value."""
    assert said, parts
    assert "\n" not in said, said
    assert len(said) < 300, said
    assert any(str(part).lower() in said.lower() for part in parts), (said, parts)


def test_all_functions_of_arrays_are_walked():
    found = {
        f"{room}.{name}"
        for room in ROOMS
        for name in rooms[room].__all__
        if inspect.isroutine(getattr(rooms[room], name))
    }
    assert found == set(JOBS) | NO_ARRAYS


@pytest.mark.parametrize("name", JOBS)
def test_lists_and_other_types(name):
    places, values, with_other = arrays(name)
    want = call(name, JOBS[name])
    for i, place in places.items():
        x = values[i]
        assert_same(call(name, with_other(i, x.tolist())), want)
        if x.dtype == bool:
            continue
        others = (np.float32, np.float64, np.int64) if x.dtype.kind in "iu" else (np.int64, np.int32)
        for dtype in others:
            base = x if x.dtype.kind in "iu" else np.rint(2 * x).astype(x.dtype)
            result, said = outcome(name, with_other(i, base))
            got, refused = outcome(name, with_other(i, base.astype(dtype)))
            assert refused == said, (place, dtype)
            assert_same(got, result)


@pytest.mark.parametrize("name", JOBS)
def test_half_precision_is_computed_in_float32(name):
    places, values, with_other = arrays(name)
    for i, place in places.items():
        if values[i].dtype.kind != "f":
            continue
        for dtype in (np.float16, ml_dtypes.bfloat16):
            for scale in (1, 300):
                x = (scale * values[i]).astype(dtype)
                result, said = outcome(name, with_other(i, x.astype(np.float32)))
                got, refused = outcome(name, with_other(i, x))
                assert (refused is None) == (said is None), (place, refused, said)
                assert_same(got, result)
