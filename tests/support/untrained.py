"""The folder of a run whose network was never trained: as good as any for what is done with a network."""

import jax.numpy as jnp
import numpy as np

from casejax.records import Dataset, Features, Split, Timing
from casejax.run.config import Config
from casejax.run.folder import describe
from casejax.run.state import initial_state
from casejax.runtime.checkpoint import Checkpoints


def save_untrained(
    folder,
    method="case",
    *,
    dims=(6, 4),
    streams=("rgb", "flow"),
    classes=("a", "b", "c"),
    timing=Timing(),
    provenance=None,
    alike=False,
    **options,
):
    """Write the folder; returns its configuration. `alike`: the streams have one Q^C, as in the published program."""
    config = Config.of(method, **{"hidden": 8, "num_snippets": 32, **options})
    nothing = Features.end_to_end(tuple(np.zeros((0, dim), np.float32) for dim in dims), [])
    splits = (Split(name, (), nothing) for name in ("train", "test"))
    _, state = initial_state(config, dims, len(classes))
    if np.ndim(state.cluster_labels) == 3:
        rng = np.random.default_rng(1)
        drawn = rng.dirichlet(np.ones(2), state.cluster_labels.shape[:2])
        drawn = np.broadcast_to(drawn[:1], drawn.shape) if alike else drawn
        state = state._replace(cluster_labels=jnp.asarray(drawn, jnp.float32))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        dataset = Dataset("nowhere", classes, streams, *splits, timing, provenance or {})
        checkpoints.save(state, describe(config, dataset))
    return config
