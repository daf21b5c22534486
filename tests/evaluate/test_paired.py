"""The sign test and the bootstrap over seeds are what enumeration gives."""

import itertools

import numpy as np
import pytest

from casejax.evaluate.paired import resample_seeds, sign_test


@pytest.mark.parametrize("pairs", range(8))
def test_the_sign_test_counts_the_signs_that_are_as_uneven(pairs):
    every = [sum(signs) for signs in itertools.product((0, 1), repeat=pairs)]
    for ahead in range(pairs + 1):
        uneven = [abs(2 * other - pairs) >= abs(2 * ahead - pairs) for other in every]
        differences = [0.5] * ahead + [-3] * (pairs - ahead) + [0, 0]
        assert sign_test(differences) == pytest.approx(np.mean(uneven))


def test_a_difference_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"differences\[1\] is NaN"):
        sign_test([1, np.nan])


def test_seeds_are_drawn_with_replacement_and_together_for_all_of_a_resample(rng):
    values = np.array([[1.0], [4.0], [16.0]]) * np.ones(20_000)
    drawn = resample_seeds(values, seed=3)
    means, counts = np.unique(np.round(drawn, 9), return_counts=True)
    exact = {}
    for draw in itertools.product([1.0, 4.0, 16.0], repeat=3):
        mean = round(sum(draw) / 3, 9)
        exact[mean] = exact.get(mean, 0) + 1 / 27
    np.testing.assert_allclose(means, sorted(exact))
    np.testing.assert_allclose(counts / counts.sum(), [exact[mean] for mean in sorted(exact)], atol=0.01)
    np.testing.assert_array_equal(drawn, resample_seeds(values, seed=3))


def test_one_seed_is_itself_and_none_is_refused(rng):
    values = rng.random((1, 5))
    np.testing.assert_array_equal(resample_seeds(values), values[0])
    with pytest.raises(ValueError, match="at least one, got 0 rows"):
        resample_seeds(np.zeros((0, 5)))
