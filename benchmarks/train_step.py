"""Time of one CASE training step beside PyTorch's, and what our step's time goes to.

Run:     python benchmarks/train_step.py              THUMOS14 size, feature dimensions 1024 and 128
         python benchmarks/train_step.py --dim 1024   one of them

THUMOS14 size is 16 videos x 750 snippets x 2 streams. Sampling, gathering, labels, gradients and Adam are all inside a
step, on both sides (`torch_case.py` is the peer); the features are in memory. The 200 videos have lengths like those of
THUMOS14's training videos, a median of 203 snippets, so most repeat snippets to fill 750 places. Our step computes a
repeated snippet once wherever that halves the batch, as in nearly every batch of such videos; the row `every place
computed` is our step without that.

The parts are programs compiled apart and timed with the step, in turns; what they do not explain is `the rest`, which
is negative where the whole step fuses what its parts write out and read again. The bound is arithmetic: the products
that the four encoders cannot do without, 4 forward and 4 for the gradient of their weights, as fast as XLA does them,
with their rate beside NumPy's and PyTorch's.

Last printout:

    AMD EPYC, 2 cores, cpu, jax 0.10.2, torch 2.13.0+cpu

    batch 16 x 750 x 2 streams of 1024; compiled in 4.9 s
    4,497 snippets a batch, at 12,000 places; 94% of batches fit in 6,000 rows
    step, loading included           time  ratio  snippets/s
    PyTorch, Conv1d                991 ms   2.96      12,104
    PyTorch, Linear                783 ms   2.34      15,335
    casejax, every place computed  730 ms   2.18      16,443
    casejax                        335 ms   1.00      35,829
    part                                                time  share
    encoder products, 6,000 rows (bound)              271 ms    81%
    biases, activations, heads, and their gradients  52.5 ms    16%
    sampling and gather                              9.41 ms     3%
    labels: selection, Q^A, Q^S                      7.15 ms     2%
    losses, prototypes, Q^C, metrics                 6.27 ms     2%
    optimizer                                        5.19 ms     2%
    the rest                                          -17 ms    -5%
    GFLOP/s of (6,000, 1024) by (1024, 512)  forward  gradient
    XLA                                          212       165
    NumPy                                        207       205
    PyTorch                                      193       193

    batch 16 x 750 x 2 streams of 128; compiled in 4.2 s
    4,497 snippets a batch, at 12,000 places; 94% of batches fit in 6,000 rows
    step, loading included            time  ratio  snippets/s
    PyTorch, Conv1d                 319 ms   3.91      37,600
    PyTorch, Linear                 255 ms   3.12      47,071
    casejax, every place computed   191 ms   2.34      62,862
    casejax                        81.7 ms   1.00     146,913
    part                                                 time  share
    encoder products, 6,000 rows (bound)                38 ms    47%
    biases, activations, heads, and their gradients   45.4 ms    56%
    sampling and gather                                1.3 ms     2%
    labels: selection, Q^A, Q^S                       6.98 ms     9%
    losses, prototypes, Q^C, metrics                  8.94 ms    11%
    optimizer                                         1.27 ms     2%
    the rest                                         -20.2 ms   -25%
    GFLOP/s of (6,000, 128) by (128, 512)  forward  gradient
    XLA                                        201       141
    NumPy                                      193       180
    PyTorch                                    180       167
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from measure import machine, medians, milliseconds, print_table

from casejax.data import sampling
from casejax.data.sampling import PackedSplit
from casejax.methods import Step
from casejax.methods.case.clustering import group_snippet_labels
from casejax.methods.case.objective import group_selection
from casejax.run.config import Config
from casejax.run.state import TrainState, initial_state
from casejax.runtime.mesh import make_mesh, replicated
from casejax.train.step import draw, make_train_steps, num_steps_per_epoch, update

try:
    import torch
    import torch_case
except ImportError:
    torch = None

Runs = dict[str, Callable[[], object]]
NUM_VIDEOS, NUM_CLASSES, THREADS = 200, 20, 2


def make_split(dim: int, rng: np.random.Generator) -> PackedSplit:
    """Random features of videos with lengths like those of THUMOS14, on the host."""
    lengths = np.clip(np.exp(rng.normal(np.log(203), 0.93, NUM_VIDEOS)), 38, 1456).astype(np.int32)
    total = int(lengths.sum())
    return PackedSplit(
        streams=tuple(rng.random((total, dim), np.float32) for _ in range(2)),
        offsets=(np.cumsum(lengths) - lengths).astype(np.int32),
        lengths=lengths,
        labels=np.eye(NUM_CLASSES, dtype=np.float32)[np.arange(NUM_VIDEOS) % NUM_CLASSES],
    )


def objective(params: Any, features: Any, labels: Any, state: TrainState, config: Config, graphdef: Any) -> Any:
    """The loss of a batch and what a step keeps."""
    return loss_of(nnx.merge(graphdef, params)(features), labels, state.cluster_labels.astype(labels.dtype), config)


def loss_of(outputs: Any, labels: Any, cluster_labels: Any, config: Config) -> Any:
    """The loss of predictions, and its terms with Q^C."""
    loss = config.method.loss(outputs, labels, Step(cluster_labels=cluster_labels), settings=config.settings)
    return loss.value, ({"loss": loss.value} | loss.terms, loss.cluster_labels)


def check(batch: Any, state: TrainState, config: Config, graphdef: Any, compiled: Any, packed: PackedSplit) -> None:
    """Stop unless both sides compute the same loss terms and gradients, and the timed program the same loss.

    Terms and gradients are compared in float64, where no near tie in the choice of snippets is left to rounding.
    """
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), state.params)
        params = config.method.prepare(params, config.settings)
        features, labels = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float64), (batch.streams, batch.labels)
        )
        gradient = jax.jit(jax.value_and_grad(partial(objective, config=config, graphdef=graphdef), has_aux=True))
        (_, (ours, _)), grads = gradient(params, features, labels, state)
        wanted = torch_case.TorchCase(nnx.to_pure_dict(grads), config.settings).state_dict()
        for linear in (False, True):
            model = torch_case.TorchCase(nnx.to_pure_dict(params), config.settings, linear=linear)
            terms = model([torch.tensor(np.asarray(x)) for x in features], torch.tensor(np.asarray(labels)))
            terms["loss"].backward()
            for name, value in terms.items():
                np.testing.assert_allclose(value.item(), ours[name], rtol=1e-6, err_msg=name)
            for name, parameter in model.named_parameters():
                scale = float(wanted[name].abs().max())
                np.testing.assert_allclose(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6 * scale, err_msg=name)
    model = torch_case.TorchCase(nnx.to_pure_dict(state.params), config.settings)
    model.project()
    terms = model([torch.tensor(np.asarray(x)) for x in batch.streams], torch.tensor(np.asarray(batch.labels)))
    _, metrics = compiled(jax.tree.map(jnp.copy, state), packed, jnp.int32(1))
    np.testing.assert_allclose(metrics["loss"], terms["loss"].item(), rtol=1e-4)


def torch_step(split: PackedSplit, state: TrainState, config: Config, *, linear: bool) -> Callable[[], object]:
    """One step of the peer, loading included."""
    model = torch_case.TorchCase(nnx.to_pure_dict(state.params), config.settings, linear=linear)
    schedule = config.schedule
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    cuts = split.offsets[1:]
    videos, rng = [np.split(stream, cuts) for stream in split.streams], np.random.default_rng(0)

    def run() -> None:
        chosen = rng.choice(NUM_VIDEOS, schedule.batch_size, replace=False)
        features, labels = torch_case.sample_batch(videos, split.labels, chosen, config.schedule.num_snippets, rng)
        torch_case.train_step(model, optimizer, features, labels)

    return run


def products(num_rows: int, dim: int, hidden: int, rng: np.random.Generator) -> dict[str, Runs]:
    """One forward and one gradient product of an encoder, by three libraries."""
    x, w, g = (rng.random(shape, np.float32) for shape in ((num_rows, dim), (dim, hidden), (num_rows, hidden)))
    forward, backward = jax.jit(lambda x, w: x @ w), jax.jit(lambda x, g: x.T @ g)
    jx, jw, jg = (jnp.asarray(a) for a in (x, w, g))
    both = {
        "XLA": {"forward": lambda: forward(jx, jw), "gradient": lambda: backward(jx, jg)},
        "NumPy": {"forward": lambda: x @ w, "gradient": lambda: x.T @ g},
    }
    if torch:
        tx, tw, tg = (torch.from_numpy(a) for a in (x, w, g))
        both["PyTorch"] = {"forward": lambda: tx @ tw, "gradient": lambda: tx.T @ tg}
    return both


def parts(packed: PackedSplit, state: TrainState, config: Config, graphdef: Any, num_rows: int) -> Runs:
    """The step cut into programs of their own, on as many rows as the step computes."""
    settings, schedule = config.settings, config.schedule
    shape = (schedule.batch_size, schedule.num_snippets)
    rows = jnp.arange(num_rows).repeat(-(-shape[0] * shape[1] // num_rows))[: shape[0] * shape[1]].reshape(shape)

    @jax.jit
    def gather(step: jax.Array) -> Any:
        batch = sampling.gather(packed, *draw(state.key, step, packed.lengths, config=config))
        return [x.reshape(-1, x.shape[-1])[:num_rows] for x in batch.streams]

    # Arrays come as arguments: what is known when compiling would be computed then.
    def apply(params: Any, features: Any, rows: jax.Array) -> Any:
        return nnx.merge(graphdef, params)(features, rows=rows)

    labels = jax.nn.one_hot(jnp.arange(shape[0]) % NUM_CLASSES, NUM_CLASSES)
    features = gather(jnp.int32(0))
    outputs = jax.jit(apply)(state.params, features, rows)
    cotangents = jax.tree.map(jnp.ones_like, outputs._replace(rows=None))

    @jax.jit
    def network(params: Any, features: Any, rows: jax.Array, cotangents: Any) -> Any:
        _, pullback = jax.vjp(lambda p: apply(p, features, rows)._replace(rows=None), params)
        return pullback(cotangents)[0]

    @jax.jit
    def make_labels(outputs: Any) -> Any:
        group = (0, 1)
        base, head = settings.base, settings.head
        selected, foreground = group_selection(outputs, group, labels, cas_weight=base.cas_weight, settings=base)
        flat = [x.reshape(-1, x.shape[-1]) for x in outputs.cluster_logits]
        attention = outputs.attention[0].reshape(-1)
        before = state.cluster_labels[0, :, 0]
        return selected, foreground, group_snippet_labels(flat, attention, before, settings=head)

    @jax.jit
    def losses(outputs: Any, rows: jax.Array) -> Any:
        return jax.grad(lambda o: loss_of(o._replace(rows=rows), labels, state.cluster_labels, config), has_aux=True)(
            outputs._replace(rows=None)
        )

    rate = schedule.learning_rate
    optimizer = config.method.optimizer(state.params, rate, settings=settings, schedule=schedule)
    apply_updates = jax.jit(optimizer.update)
    return {
        "gather": lambda: gather(jnp.int32(1)),
        "network": lambda: network(state.params, features, rows, cotangents),
        "labels": lambda: make_labels(outputs),
        "losses": lambda: losses(outputs, rows),
        "optimizer": lambda: apply_updates(state.params, state.opt_state, state.params),
    }


def benchmark(dim: int, *, num_steps: int, repeats: int) -> None:
    """Print the tables of one feature dimension."""
    config, rng = Config.of("case"), np.random.default_rng(0)
    train, num_snippets, hidden = config.schedule, config.schedule.num_snippets, config.settings.base.hidden
    split, mesh = make_split(dim, rng), make_mesh(1)
    packed = jax.device_put(split, replicated(mesh))
    graphdef, state = initial_state(config, (dim, dim), NUM_CLASSES)
    state = jax.device_put(state, replicated(mesh))
    first = jax.tree.map(jnp.copy, state)

    since = time.perf_counter()
    compiled = make_train_steps(graphdef, config, mesh).lower(state, packed, jnp.int32(1)).compile()
    compile_seconds = time.perf_counter() - since

    places = train.batch_size * num_snippets
    sample = jax.jit(lambda step: draw(first.key, step, packed.lengths, config=config))
    needed = np.array([np.minimum(split.lengths[sample(jnp.int32(n))[0]], num_snippets).sum() for n in range(200)])
    num_rows = -(-places // 2)
    print(f"\nbatch {train.batch_size} x {num_snippets} x 2 streams of {dim}; compiled in {compile_seconds:.1f} s")
    fits = (needed <= num_rows).mean()
    print(
        f"{needed.mean():,.0f} snippets a batch, at {places:,} places; {fits:.0%} of batches fit in {num_rows:,} rows"
    )

    runs: Runs = {}
    if torch:
        check(sampling.gather(packed, *sample(jnp.int32(0))), first, config, graphdef, compiled, packed)
        runs["PyTorch, Conv1d"] = torch_step(split, first, config, linear=False)
        runs["PyTorch, Linear"] = torch_step(split, first, config, linear=True)

    def ours() -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, packed, jnp.int32(num_steps))
        return metrics["loss"]

    epoch = num_steps_per_epoch(NUM_VIDEOS, config)

    @jax.jit
    def every_place(state: TrainState) -> Any:
        batch = sampling.gather(packed, *draw(state.key, state.step, packed.lengths, config=config))
        return update(state, batch, steps_per_epoch=epoch, graphdef=graphdef, config=config, mesh=mesh)

    runs["casejax, every place computed"] = lambda: every_place(first)
    runs["casejax"] = ours
    own = parts(packed, first, config, graphdef, num_rows)
    by_library = products(num_rows, dim, hidden, rng)
    runs |= own
    took = medians(runs, repeats=repeats)
    # A library at a time: threads of one that wait by spinning would take time from the next.
    for library, both in by_library.items():
        took |= {f"{library} {name}": t for name, t in medians(both, repeats=2 * repeats).items()}
    took["casejax"] /= num_steps
    step = took["casejax"]

    print_table(
        ["step, loading included", "time", "ratio", "snippets/s"],
        [
            [name, milliseconds(took[name]), f"{took[name] / step:.2f}", f"{places / took[name]:,.0f}"]
            for name in took
            if name.startswith(("PyTorch,", "casejax"))
        ],
    )
    bound = 4 * (took["XLA forward"] + took["XLA gradient"])
    shares = {
        f"encoder products, {num_rows:,} rows (bound)": bound,
        "biases, activations, heads, and their gradients": took["network"] - bound,
        "sampling and gather": took["gather"],
        "labels: selection, Q^A, Q^S": took["labels"],
        "losses, prototypes, Q^C, metrics": took["losses"] - took["labels"],
        "optimizer": took["optimizer"],
    }
    shares["the rest"] = step - sum(shares.values())
    print_table(["part", "time", "share"], [[n, milliseconds(s), f"{s / step:.0%}"] for n, s in shares.items()])
    gflop = 2 * num_rows * dim * hidden / 1e9
    print_table(
        [f"GFLOP/s of ({num_rows:,}, {dim}) by ({dim}, {hidden})", "forward", "gradient"],
        [
            [library, *(f"{gflop / took[f'{library} {name}']:,.0f}" for name in both)]
            for library, both in by_library.items()
        ],
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, nargs="+", default=[1024, 128], help="feature dimension of each stream")
    parser.add_argument("--steps", type=int, default=4, help="steps in one dispatch")
    parser.add_argument("--repeats", type=int, default=7, help="rounds timed")
    arguments = parser.parse_args()
    if torch:
        torch.set_num_threads(THREADS)
    else:
        print('PyTorch is not installed: pip install -e ".[bench]"')
    print(machine(*(["torch"] if torch else [])))
    for dim in arguments.dim:
        benchmark(dim, num_steps=arguments.steps, repeats=arguments.repeats)


if __name__ == "__main__":
    main()
