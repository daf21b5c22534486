"""Every public function of arrays at the edge of numbers: a value, or a ValueError or TypeError of one line.

Drawn are the sizes, of a few so that programs are shared, one of all axes among them; and what stands in the arrays:
zeros, one value, the least and the greatest numbers, infinities and NaN, half precision, whole numbers, masks that hide
all. Input that is finite and of ordinary size gives output that is finite, but where the function says otherwise
(`INFINITE`). That no function is left out is asserted by `tests/test_bad_numbers.py`.
"""

import functools
import os

import jax
import ml_dtypes
import numpy as np
import pytest
from every_function import JOBS, Sizes, arguments, rooms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHEAP = sorted(
    name
    for name in JOBS
    if (name.startswith(("evaluate.", "localize.")) and name not in ("localize.fuse_instances", "localize.t_cam"))
    or name in ("ot.gaussian_rank_prior", "losses.unit", "losses.top_k_mean", "alignment.shuffle_and_learn_loss")
)
"""What needs few programs: tried with every run of the tests, all others with the slow ones."""
INFINITE = {
    f"evaluate.{name}"
    for name in (
        "classification_metrics",
        "judge",
        "evaluate_detections",
        "average_precision",
        "bootstrap_detections",
        "kinds_by_rank",
    )
} | {"losses.triplets"}
"""NaN for a class without instances and where nothing is there to measure, -inf where no other center is, as their
docstrings say."""
OUTSIDE = {
    "losses.generalized_bce": ("negative", "hundredfold"),
    "labels.power_margin": ("negative",),
    "alignment.smooth_min": ("mask",),
    "alignment.min_gamma": ("mask",),
    "alignment.hard_min": ("mask",),
}
"""Changes after which a result need not be finite: no probability, no length, and +inf for the minimum of nothing."""

ORDINARY = {
    "zeros": np.zeros_like,
    "ones": np.ones_like,
    "one value": lambda x: np.full_like(x, x.reshape(-1)[0] if x.size else 0),
    "reversed": lambda x: x[..., ::-1].copy() if x.ndim else x,
    "negative": lambda x: -x,
    "hundredfold": lambda x: x * np.float32(100),
}
EXTREME = {
    "greatest": lambda x: np.full_like(x, np.finfo(x.dtype).max),
    "great": lambda x: np.full_like(x, 1e30),
    "least": lambda x: np.full_like(x, np.finfo(x.dtype).tiny),
    "infinite": lambda x: np.full_like(x, np.inf),
    "one infinite": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, -np.inf, x).astype(x.dtype),
    "nan": lambda x: np.full_like(x, np.nan),
}
SIZES = {
    "usual": Sizes(),
    "one of all": Sizes(1, 1, 1, 1, 1, 1),
    "T = K = C = 1": Sizes(2, 1, 1, 3, 4, 1),
    "more columns than rows": Sizes(1, 2, 2, 5, 2, 4),
    "odd": Sizes(3, 7, 1, 1, 3, 2),
}
EXAMPLES = int(os.environ.get("CASEJAX_EXAMPLES", "60"))  # a function, of the slow test
TYPES = (np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.uint8)


arguments = functools.cache(arguments)


def places(job, kinds):
    leaves, tree = jax.tree.flatten(job)
    found = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in kinds
    ]
    return leaves, tree, found


def call(name, given_):
    room, function = name.split(".")
    return getattr(rooms[room], function)(**given_)


def numbers(result):
    """The floating arrays of a result."""
    if hasattr(result, "__dict__") and not isinstance(result, jax.Array):
        return numbers(vars(result))
    if isinstance(result, dict):
        return [x for value in result.values() for x in numbers(value)]
    if isinstance(result, tuple | list):
        return [x for value in result for x in numbers(value)]
    if result is None or isinstance(result, str):
        return []
    array = np.asarray(result)
    return [array.astype(np.float64)] if array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16 else []


def attack(name, data):
    sizes = data.draw(st.sampled_from(sorted(SIZES)), "sizes")
    job = arguments(SIZES[sizes])[name]
    leaves, tree, floats = places(job, "f")
    masks = places(job, "b")[2]
    changed, said, ordinary = list(leaves), [], True
    for _ in range(data.draw(st.integers(0, 2), "changes")):
        kind = data.draw(st.sampled_from(("ordinary", "extreme", "type", "mask")), "kind")
        where = masks if kind == "mask" else floats
        if not where:
            continue
        i = data.draw(st.sampled_from(where), "place")
        if changed[i] is not leaves[i]:
            continue
        value = np.asarray(changed[i])
        if kind == "mask":
            changed[i] = np.full_like(value, data.draw(st.booleans(), "shown"))
            said.append(f"mask {i}")
        elif kind == "type":
            dtype = data.draw(st.sampled_from(TYPES), "type")
            with np.errstate(all="ignore"):
                changed[i] = value.astype(dtype)
            said.append(f"{dtype.__name__} {i}")
            ordinary = False
        elif value.dtype.kind == "f" and value.dtype != ml_dtypes.bfloat16:
            how = data.draw(st.sampled_from(sorted(ORDINARY if kind == "ordinary" else EXTREME)), "how")
            with np.errstate(all="ignore"):
                changed[i] = (ORDINARY | EXTREME)[how](value)
            said.append(f"{how} {i}")
            ordinary = ordinary and kind == "ordinary"
    where = f"{name}, {sizes}, with {', '.join(said) or 'nothing changed'}"
    try:
        result = call(name, tree.unflatten(changed))
    except (ValueError, TypeError):
        return
    except Exception as error:
        pytest.fail(f"{where}: {type(error).__name__}: {error}")
    if hasattr(result, "column_potential"):
        # -inf for a column without mass, as its docstring says
        result = result._replace(column_potential=np.maximum(result.column_potential, np.finfo(np.float32).min))
    ordinary = ordinary and not any(change.split()[0] in OUTSIDE.get(name, ()) for change in said)
    if ordinary and name not in INFINITE:
        assert all(np.isfinite(x).all() for x in numbers(result)), f"{where}: not finite"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what overflows
@settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(CHEAP), data=st.data())
def test_cheap_functions_at_the_edge(name, data):
    attack(name, data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", JOBS)
def test_a_function_at_the_edge(name):
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def tried(data):
        attack(name, data)

    tried()
