"""Detections of A2CL-PT against a walk over the snippets."""

import jax.numpy as jnp
import numpy as np
import pytest

from casejax import losses
from casejax.localize import confidences, localize_tcam


def stretches(tcams, divisor, share, least):
    """(video, class, first snippet, one past the last, score), one snippet after the other."""
    rows = []
    for v, tcam in enumerate(tcams):
        confidence = [np.mean(sorted(column)[::-1][: -(-len(column) // divisor)]) for column in tcam.T]
        for c, sure in enumerate(confidence):
            if sure <= max(confidence) * share or sure <= 0:
                continue
            run = []
            for t, value in enumerate([*tcam[:, c], -1]):
                if value > 0:
                    run.append(value)
                    continue
                if len(run) >= least:
                    rows.append((v, c, t - len(run), t, max(run) + sure))
                run = []
    return rows


@pytest.mark.parametrize(("divisor", "share", "least"), [(8, 0.5, 2), (3, 0.0, 1), (1, 0.9, 3)])
def test_detections_are_the_stretches_above_zero(rng, divisor, share, least):
    tcams = [rng.normal(0.3, 1, size=(t, 4)) for t in (30, 1, 2, 17)]
    tcams[3][:, 1] = 2  # one stretch from the first snippet to the last
    tcams[2][:] = [[-1, 0, -2, -3]] * 2  # nothing above zero
    got = localize_tcam(tcams, divisor=divisor, class_threshold=share, min_snippets=least, snippet_seconds=0.5)
    video, label, first, stop, score = map(np.array, zip(*stretches(tcams, divisor, share, least), strict=True))
    np.testing.assert_array_equal(got.video, video)
    np.testing.assert_array_equal(got.label, label)
    np.testing.assert_allclose(got.segment, np.stack([first, stop], axis=1) * 0.5, rtol=1e-15)
    np.testing.assert_allclose(got.score, score, rtol=1e-12)


def test_confidence_is_that_of_training(rng):
    tcam = rng.normal(size=(21, 5)).astype(np.float32)
    got = losses.top_k_mean(jnp.asarray(tcam[None]), divisor=8, rounding="up")[0]
    np.testing.assert_allclose(confidences(tcam, divisor=8), got, rtol=1e-5, atol=1e-6)


def test_no_video_and_no_detection():
    assert len(localize_tcam([]).score) == 0
    assert localize_tcam([-np.ones((3, 2))]).segment.shape == (0, 2)


def test_unusable_scores_are_refused():
    good = np.ones((3, 2))
    with pytest.raises(ValueError, match=r"video 1: scores must be \(T, 2\) .* got \(3, 4\)"):
        localize_tcam([good, np.ones((3, 4))])
    with pytest.raises(ValueError, match=r"video 1: scores must be .* got \(0, 2\)"):
        localize_tcam([good, good[:0]])
    with pytest.raises(ValueError, match="video 0: scores hold NaN or infinity"):
        localize_tcam([np.where(np.eye(3, 2), np.nan, good)])
    for options in ({"divisor": 0}, {"min_snippets": 0}, {"class_threshold": 1.5}, {"snippet_seconds": 0.0}):
        with pytest.raises(ValueError, match=f"got .*{next(iter(options.values()))}"):
            localize_tcam([good], **options)
