"""Scoring a whole split: every video as if it were alone, in its own place."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.data.sampling import uniform_snippets
from casejax.inference.scoring import make_scorer, score_videos
from casejax.records import Features
from casejax.run.config import Config
from casejax.run.state import initial_state


@pytest.mark.parametrize("num_snippets", [8, 40])
def test_a_video_scores_as_if_it_were_alone(rng, num_snippets):
    lengths = np.array([3, 60, 9, 41, 2, 7, 33, 5, 1, 90])  # in batches of 4 some fit in half the rows, some do not
    features = Features.end_to_end(tuple(rng.random((lengths.sum(), 5), np.float32) for _ in range(2)), lengths)
    config = Config.of("case").changed(num_clusters=3, hidden=8)
    graphdef, state = initial_state(config, (5, 5), 4)
    scorer = partial(
        make_scorer(graphdef, config),
        state.params,
        jnp.asarray(rng.dirichlet(np.ones(2), (2, 3)), jnp.float32),
    )
    shapes = set()

    def counted(streams, rows):
        shapes.add(streams[0].shape)
        return scorer(streams, rows)

    found = score_videos(counted, features, num_snippets=num_snippets, batch_size=4)
    assert shapes == {(4, num_snippets, 5), (2 * num_snippets, 5)}
    for v in range(len(lengths)):
        snippets = np.asarray(uniform_snippets(jnp.asarray(lengths[v : v + 1]), num_snippets))[0]
        # four times itself: what one alone gives needs no compilation of its own
        own = tuple(np.stack([stream[features.rows(v)][snippets]] * 4) for stream in features.streams)
        for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(scorer(own)), strict=True):
            np.testing.assert_allclose(got[v], want[0], rtol=1e-5, atol=1e-6)
