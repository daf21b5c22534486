"""What devices tell each other in a step: parameters, prototypes and ranks, never snippets' features."""

import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from casejax.data.synthetic import make_world
from casejax.errors import OptionError
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.runtime import mesh
from casejax.train import loop

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from collectives import collectives, compiled_step

CONFIG = Config.of("case").changed(
    num_clusters=4, hidden=64, num_snippets=32, batch_size=8, learning_rate=1e-3, epochs=2, log_every=2, rank="true"
)
SNIPPETS = 8 * 32


def test_nothing_of_the_size_of_the_snippets_travels():
    parameters = jax.tree.leaves(initial_state(CONFIG, (6, 6), 4)[1].params)
    largest = max(SNIPPETS, *(p.size for p in parameters))
    found = collectives(compiled_step(CONFIG, (6, 6), 4, 8, 1))
    arrays = [math.prod(shape) for _, shapes, _ in found for shape in shapes]
    assert max(arrays) <= largest < SNIPPETS * 6  # not even the features, the narrowest that every snippet has
    gathered = [shapes for kind, shapes, _ in found if kind == "all-gather"]
    assert gathered == [[(SNIPPETS,)]]  # the attention, to be ranked
    # gradients once, prototypes and their gradients for two streams, and the small sums of the labels
    prototypes = 4 * 2 * (4 + 2) * (64 + 1)
    total = sum(size for kind, _, size in found if kind == "all-reduce")
    assert total < 4 * sum(p.size for p in parameters) + 2 * prototypes + 4000


def test_a_parser_of_programs_reads_shapes_and_bytes():
    program = """
      %a = f32[16]{0} all-reduce(%x), replica_groups={}
      %b = (bf16[2,3]{1,0}, s32[]) all-gather-start(%y, %z), dimensions={0}
      %c = f32[16]{0} add(%a, %a)
    """
    assert collectives(program) == [("all-reduce", [(16,)], 64), ("all-gather", [(2, 3), ()], 16)]


@pytest.fixture(scope="module")
def world():
    return make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=60, longest=400)


def test_a_network_split_over_devices_trains_the_same(world, tmp_path):
    """The hidden dimension over 2 devices, the batch over 4: the run of one device, in half the memory."""
    runs = {
        devices: loop.train(world, CONFIG.changed(model_devices=m), tmp_path / str(devices), devices=devices)
        for devices, m in ((1, 1), (8, 2))
    }
    for a, b in zip(*(jax.tree.leaves(run.state.params) for run in runs.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    state = runs[8].state
    encoder = state.params["streams"][0]["class_encoder"]["kernel"][...]
    assert encoder.addressable_shards[0].data.shape == (6, 32)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (6, 64)]
    assert len(moments) == 8  # two of each of four encoders
    assert all(leaf.addressable_shards[0].data.shape == (6, 32) for leaf in moments)
    assert state.cluster_labels.is_fully_replicated


@pytest.mark.parametrize(
    ("options", "devices", "message"),
    [
        ({"model_devices": 3}, 8, "--model-devices 3 does not divide 8 devices"),
        ({"model_devices": 8, "hidden": 12}, 8, "--hidden 12 does not divide over 8 devices"),
        ({"data_parts": 3}, 2, "--data-parts 3 does not divide a batch of 8 videos"),
    ],
)
def test_a_placement_that_cannot_be_is_refused(world, tmp_path, options, devices, message):
    with pytest.raises(OptionError, match=message):
        loop.train(world, CONFIG.changed(**options), tmp_path / "out", devices=devices)
    assert not (tmp_path / "out").exists()


def test_the_state_knows_where_its_leaves_belong():
    place = mesh.make_mesh(8, 2)
    _, state = initial_state(CONFIG, (6,), 4)
    shardings = mesh.state_shardings(state, place, CONFIG.method.split)
    split = [s for s in jax.tree.leaves(shardings) if not s.is_fully_replicated]
    assert len(split) == 3 * 7  # seven parameters with the hidden dimension, and two moments of each
