"""What all public functions have in common: masks by keyword, keys last, options by keyword."""

import importlib
import inspect

import pytest

ROOMS = (
    "casejax.ot",
    "casejax.losses",
    "casejax.labels",
    "casejax.localize",
    "casejax.evaluate",
    "casejax.alignment",
    "casejax.methods",
    "casejax.methods.case",
    "casejax.methods.a2cl_pt",
    "casejax.alignment.networks",
    "casejax.inference",
    "casejax.features",
)


def functions(room):
    package = importlib.import_module(room)
    for name in package.__all__:
        each = getattr(package, name)
        if inspect.isclass(each) and "__call__" in vars(each):
            yield f"{name}.__call__", inspect.unwrap(vars(each)["__call__"])
        elif inspect.isfunction(inspect.unwrap(each)):
            yield name, inspect.unwrap(each)


@pytest.mark.parametrize("room", ROOMS)
def test_masks_by_keyword_and_keys_last(room):
    found = 0
    for name, function in functions(room):
        found += 1
        parameters = list(inspect.signature(function).parameters.values())
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        for parameter in parameters:
            if parameter.name == "mask" or parameter.name.endswith("_mask"):
                assert parameter.kind is parameter.KEYWORD_ONLY, f"{name}: {parameter.name}"
        if "key" in positional:
            assert positional[-1] == "key", f"{name}: {positional}"
        if parameters and function.__doc__ is None and not name.endswith("__call__"):
            pytest.fail(f"{room}.{name} has no docstring")
    assert found


def test_there_is_one_of_each():
    """One temporal IoU, one mean of the top k, one squared distance, one writer of whole files."""
    from casejax import alignment, localize, losses, runtime

    assert localize.temporal_iou.__module__ == "casejax.localize.overlap"
    assert losses.top_k_mean.__module__ == "casejax.losses.pooling"
    assert alignment.squared_distance.__module__ == "casejax.alignment.pairwise"
    assert runtime.whole_file.__module__ == "casejax.runtime.files"
