"""Clustering-assisted scores against the published inference, from network outputs to class scores and fused CAS."""

import jax.numpy as jnp
import numpy as np
import pytest
from casejax.methods.case.outputs import Outputs

from casejax import localize
from casejax.methods.case import scores


def published_outputs(arrays, video):
    """The network outputs that the published inference was given, as a batch of one, flow stream last."""
    fill = arrays["cas_fill"]
    streams = {}
    for stream in ("rgb", "flow"):
        columns = arrays[f"{video}/cas_{stream}_cols"]
        cas = np.tile(fill, (len(arrays[f"{video}/cas_{stream}"]), 1))
        cas[:, columns] = arrays[f"{video}/cas_{stream}"]
        attention = arrays[f"{video}/att_{stream}"][:, 0]
        streams[stream] = (cas, attention, np.zeros((len(cas), 1), np.float32), arrays[f"{video}/clu_{stream}"])
    fields = zip(streams["rgb"], streams["flow"], strict=True)
    return Outputs(*(tuple(jnp.asarray(x)[None] for x in field) for field in fields))


def test_published_scores(golden):
    arrays, notes = golden.arrays("localize"), golden.notes("localize")
    length = notes["config"]["num_segments"]
    cluster_labels = jnp.asarray(np.stack([arrays["cls_gt"]] * 2))
    videos = sorted({name.split("/")[0] for name in arrays if name.startswith("v")})
    assert len(videos) == len(notes["videos"])
    for video in videos:
        got = scores.clustering_assisted(
            published_outputs(arrays, video),
            cluster_labels,
            cas_weight=1 / 5,
            transformed_weight=0.5,
            top_k_divisor=length // notes["config"]["topk"],
        )
        np.testing.assert_allclose(got.video[0], arrays[f"{video}/final_score"], rtol=2e-6, atol=1e-8, err_msg=video)
        kept = np.flatnonzero(localize.select_classes(np.asarray(got.video))[0])
        np.testing.assert_array_equal(kept, arrays[f"{video}/pred"])
        want = arrays[f"{video}/combined_cas_pred"]
        np.testing.assert_allclose(got.fused[0][:, kept], want, atol=3e-7, err_msg=video)


def test_streams_must_match_their_labels(golden):
    arrays = golden.arrays("localize")
    video = next(name.split("/")[0] for name in arrays if name.startswith("v"))
    with pytest.raises(ValueError, match="argument"):
        scores.clustering_assisted(published_outputs(arrays, video), jnp.asarray(arrays["cls_gt"])[None])
