"""What a type checker sees of casejax in a user's program: arrays and named tuples, never Any."""

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np

import casejax
from casejax.inference import Prediction, Segment
from casejax.localize import localize
from casejax.ot import SinkhornOutput, sinkhorn
from casejax.records import SegmentTable, SnippetScores

transport = sinkhorn(jnp.eye(3), epsilon=0.5)
assert_type(transport, SinkhornOutput)
assert_type(transport.plan, jax.Array)
assert_type(casejax.losses.generalized_bce(transport.plan, jnp.eye(3)), jax.Array)
assert_type(localize(np.ones((1, 8, 2)), np.ones((1, 2)), np.full(1, 5.0)), SegmentTable)


def trained_and_used(folder: str, features: np.ndarray) -> list[float]:
    localizer = casejax.train(folder, "labels.csv", "run")
    assert_type(localizer, casejax.Localizer)
    prediction = localizer(features)
    assert_type(prediction, Prediction)
    assert_type(prediction.segments, tuple[Segment, ...])
    assert_type(prediction.snippet_scores, SnippetScores)
    return [segment.start for segment in prediction.segments]
