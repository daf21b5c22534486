"""Every public function of arrays, given lists, integers, half precision, NaN, masks of numbers and wrong shapes.

What comes is the result of float32, or a sentence that says what is wrong.
"""

import inspect
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from every_function import JOBS, MASK, NO_ARRAYS, ROOMS, rooms

CENTRAL = {"ot.sinkhorn", "losses.top_k_mean", "labels.harden", "localize.hard_nms", "alignment.dtw", "evaluate.judge"}
# What compiles a lot is walked as a whole with the slow tests.
CENTRAL_FIRST = [name if name in CENTRAL else pytest.param(name, marks=pytest.mark.slow) for name in JOBS]


def call(name, given):
    room, function = name.split(".")
    return getattr(rooms[room], function)(**given)


def arrays(name, kinds="fiub"):
    """Places of the arrays among the arguments of a job, all arguments, and what puts another in a place."""
    leaves, tree = jax.tree.flatten_with_path(JOBS[name])
    values = [leaf for _, leaf in leaves]

    def with_other(i, value):
        return tree.unflatten([*values[:i], value, *values[i + 1 :]])

    places = {
        i: jax.tree_util.keystr(path)
        for i, (path, leaf) in enumerate(leaves)
        if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in kinds
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


def check_sentence(said, part=""):
    """One clear sentence that shows the value."""
    assert said
    assert "\n" not in said, said
    assert len(said) < 300, said
    assert str(part).lower() in said.lower(), (said, part)
    return said


def test_all_functions_of_arrays_are_walked():
    found = {
        f"{room}.{name}"
        for room in ROOMS
        for name in rooms[room].__all__
        if inspect.isroutine(getattr(rooms[room], name))
    }
    assert found == set(JOBS) | NO_ARRAYS


@pytest.mark.parametrize("name", CENTRAL_FIRST)
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


@pytest.mark.parametrize("name", CENTRAL_FIRST)
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


SHAPES = r"(got|and) .*\(\d*"
HOLDS_NOTHING = {"losses.without_padding", "losses.lengths"}  # what stands in x is not looked at
OWN_SIZES = {
    "ot.gaussian_rank_prior": ("attention", "cluster_foreground"),
    "losses.angular_distance": ("features", "centers"),
    "labels.cluster_logits": ("cluster_prototypes",),
    "localize.localize_tcam": ("tcams",),
    "localize.propose": ("curves", "thresholds"),
    "localize.temporal_iou": ("a", "b"),
    "localize.candidate_overlap": ("best", "candidate"),
    "alignment.soft_dtw_barycenter": ("init",),
    **{f"alignment.{name}": ("values", "where") for name in ("smooth_min", "min_gamma", "hard_min")},
    **{
        f"alignment.{name}": ("log_probabilities", "times")
        for name in ("classification", "regression_mse", "regression_mse_var", "regression_huber")
    },
    "evaluate.evaluate_detections": ("tious",),
}
"""Arguments whose sizes may be others without those of any other argument."""


def spoiled(x, value=np.nan):
    """The array with another first entry, which takes part in every job."""
    x = np.array(x)
    x[(0,) * x.ndim] = value
    return x


@pytest.mark.parametrize("name", [name for name in JOBS if name not in HOLDS_NOTHING])
def test_a_known_nan_is_refused(name):
    places, values, with_other = arrays(name, "f")
    for i, place in places.items():
        if not place.startswith("['result']"):  # of sinkhorn, which may say that it is none
            check_sentence(outcome(name, with_other(i, spoiled(values[i])))[1], "nan")


@pytest.mark.parametrize("name", CENTRAL_FIRST)
def test_masks_of_numbers(name):
    places, values, with_other = arrays(name, "b")
    want = call(name, JOBS[name])
    for i, place in places.items():
        x = values[i]
        for dtype in (int, np.float16):
            assert_same(call(name, with_other(i, x.astype(dtype))), want)
        for wrong in (2, 0.5, np.nan):
            check_sentence(outcome(name, with_other(i, spoiled(x.astype(float), wrong)))[1], f"{wrong:g}")
        if "['where']" not in place:  # that is spread over all values
            for other in (x[None], x[..., :-1]):
                assert re.search(SHAPES, check_sentence(outcome(name, with_other(i, other))[1]))


@pytest.mark.parametrize("name", JOBS)
def test_whole_numbers_must_be_whole(name):
    places, values, with_other = arrays(name, "iu")
    for i in places:
        for wrong in (0.5, np.nan):
            check_sentence(outcome(name, with_other(i, spoiled(values[i].astype(float), wrong)))[1], wrong)


@pytest.mark.parametrize("name", JOBS)
def test_sizes_must_agree(name):
    places, values, with_other = arrays(name, "fiu")
    own = OWN_SIZES.get(name, () if len(arrays(name)[0]) > 1 else ("",))
    for i, place in places.items():
        if values[i].ndim and not any(each in place for each in own):
            for other in (values[i][None], values[i][:-1]):
                said = check_sentence(outcome(name, with_other(i, other))[1])
                assert re.search(SHAPES, said) or any(words in said for words in ("index", "is not in", "is not {")), (
                    said
                )


# Functions of NumPy have their numbers at hand.
TRACED = [name for name in JOBS if not name.startswith(("localize.", "evaluate."))]
WITHOUT_FLOATS = {"losses.select_top_k", "losses.best_of_kinds", "losses.nearest_negative", "alignment.dtw_path"}
TAKES_NO_PART = {"labels.snippet_labels", "labels.contrast_rows"}  # an instance with NaN, as `used` says


def traced(name, kinds):
    """A job as a function of its arrays of some kinds, and these."""
    places, values, _ = arrays(name, kinds)
    leaves, tree = jax.tree.flatten(JOBS[name])

    def run(*inner):
        given = dict(zip(places, inner, strict=True))
        return call(name, tree.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)]))

    return run, [values[i] for i in places]


def has_nan(result):
    return any(np.isnan(np.asarray(x)).any() for x in jax.tree.leaves(result) if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in TRACED if name not in HOLDS_NOTHING | WITHOUT_FLOATS | TAKES_NO_PART]
)
def test_inside_jit_a_nan_is_seen(name):
    function, given = traced(name, "f")
    run = jax.jit(function)
    if not given:
        return
    assert not has_nan(run(*given))
    for i, (x, place) in enumerate(zip(given, arrays(name, "f")[0].values(), strict=True)):
        if name != "alignment.classification" or "times" not in place:  # they are not used there
            assert has_nan(run(*given[:i], spoiled(x), *given[i + 1 :])), place


@pytest.mark.slow
@pytest.mark.parametrize("name", TRACED)
def test_inside_jit_a_mask_of_numbers_is_refused(name):
    function, given = traced(name, "b")
    for i, x in enumerate(given):
        with pytest.raises(ValueError, match=f"must be boolean.*got {x.astype(np.int32).dtype}"):
            jax.eval_shape(function, *given[:i], x.astype(np.int32), *given[i + 1 :])


# The derivative of a matrix of visits is not defined.
SMOOTH = [name for name in TRACED if name not in HOLDS_NOTHING | WITHOUT_FLOATS | {"alignment.visitation_matrix"}]


def masks_of(name):
    return {key: x for key, x in JOBS[name].items() if key == "mask" or key.endswith("_mask")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMOOTH if any(x is MASK for x in masks_of(name).values())])
def test_empty_items_of_a_batch_are_inert(name):
    """Their numbers, NaN or not, change no value and have no gradient."""
    room, function = name.split(".")
    masks = {key: mask & np.array([[True], [False]]) for key, mask in masks_of(name).items()}
    inner = {
        key: x for key, x in JOBS[name].items() if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.ndim > 1
    }
    rest = {key: x for key, x in JOBS[name].items() if key not in inner} | masks
    none = masks.get("x_mask" if "cost" in inner else "mask", np.ones(()))
    covered = [key for key, x in inner.items() if x.shape[:2] == masks.get(f"{key}_mask", none).shape]

    def total(inner):
        result = getattr(rooms[room], function)(**inner, **rest)
        return sum(x.sum() for x in jax.tree.leaves(result) if jnp.issubdtype(x.dtype, jnp.floating))

    run = jax.jit(jax.value_and_grad(total))
    want = run(inner)
    filled = {key: np.stack([x[0], np.full_like(x[1], np.nan)]) if key in covered else x for key, x in inner.items()}
    assert covered
    assert_same(run(filled), want)
    for key, slope in want[1].items():
        assert np.isfinite(slope).all(), key
        assert key not in covered or not slope[1].any(), key


def numbers(name):
    """The options of a function that are single numbers, given or by default."""
    room, function = name.split(".")
    for key, parameter in inspect.signature(getattr(rooms[room], function)).parameters.items():
        value = JOBS[name].get(key, parameter.default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_options_are_scalars_of_numpy_too(name):
    for key, value in numbers(name):
        want = call(name, JOBS[name])
        others = (
            [np.int64(value), np.int32(value)] if isinstance(value, int) else [np.float64(value), np.asarray(value)]
        )
        for other in others:
            assert_same(call(name, JOBS[name] | {key: other}), want)
        if isinstance(value, float):
            assert_same(
                call(name, JOBS[name] | {key: np.float32(value)}),
                call(name, JOBS[name] | {key: float(np.float32(value))}),
            )
        for wrong in (np.nan, np.float32(np.nan)):
            check_sentence(outcome(name, JOBS[name] | {key: wrong})[1], "nan")
