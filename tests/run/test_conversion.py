"""Published checkpoints: the same logits in PyTorch and here, in both directions."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from casejax.data.pickles.torch_files import read_torch, write_torch
from casejax.errors import CheckpointError, DataError, OptionError
from casejax.methods.case import published as convert
from casejax.run import conversion, state
from casejax.run.config import Config
from casejax.run.state import initial_state
from casejax.runtime.checkpoint import Checkpoints

HIDDEN, CLASSES, CLUSTERS, DIMS = 32, 5, 6, (7, 9)
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def published_state(rng, hidden=HIDDEN, classes=CLASSES, clusters=CLUSTERS, dims=DIMS):
    """Random weights by the published names, of the scale at which the published program starts."""

    def uniform(*shape, fan_in):
        return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(fan_in**0.5)

    state = {}
    for stream, dim in zip(("rgb", "flow"), dims, strict=True):
        for name, outputs, inputs in (
            (f"cas_module_{stream}.0", hidden, dim),
            (f"cas_module_{stream}.2", classes, hidden),
            (f"base_module_{stream}.0", hidden, dim),
            (f"att_module_{stream}", 1, hidden),
        ):
            state[f"{name}.weight"] = uniform(outputs, inputs, 1, fan_in=inputs)
            state[f"{name}.bias"] = uniform(outputs, fan_in=inputs)
        state[f"clu_head_{stream}.prototypes.weight"] = uniform(clusters, hidden, fan_in=hidden)
    return state


@pytest.fixture(scope="module", autouse=True)
def kept_states():
    """Networks of the same arguments are made once: tracing their start is what takes the time here."""
    kept = functools.cache(state.initial_state)

    def initial_state(config, dims, num_classes, **options):
        return kept(config, tuple(dims), num_classes, **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in (conversion, sys.modules[__name__]):
            patch.setattr(module, "initial_state", initial_state)
        yield


@pytest.fixture
def files(rng, tmp_path):
    """A published model and its cluster labels."""
    write_torch(tmp_path / "best_model.pkl", published_state(rng))
    labels = rng.dirichlet([1, 1], CLUSTERS).astype(np.float32)
    np.save(tmp_path / "cls_gt.npy", np.asfortranarray(labels))  # the published array is a transposed one
    return tmp_path / "best_model.pkl", tmp_path / "cls_gt.npy"


def restored(run):
    """Meta and state of a run, by nothing but what the checkpoint says."""
    with Checkpoints(run / "checkpoints") as checkpoints:
        meta = checkpoints.meta()
        graphdef, template = initial_state(
            Config.from_dict(meta["config"]), tuple(meta["data"]["dims"]), len(meta["data"]["classes"])
        )
        return meta, graphdef, checkpoints.restore(template)


def forward(graphdef, params, features):
    return nnx.merge(graphdef, params)([jnp.asarray(x, jnp.float32) for x in features])


def assert_same_logits(ours, theirs):
    """Outputs of the network against (cas, attention, cluster logits), each a pair of rgb and flow."""
    for s in range(2):
        for got, want in zip((ours.cas, ours.attention, ours.cluster_logits), theirs, strict=True):
            np.testing.assert_allclose(got[s], want[s], **EXACT)


# Without torch


def test_published_forward_pass(golden, tmp_path):
    """The initial weights of the golden, through both files and our checkpoint, give the golden's outputs."""
    arrays = golden.arrays("case_forward")
    state = {name.removeprefix("p0/"): value for name, value in arrays.items() if name.startswith("p0/")}
    write_torch(tmp_path / "best_model.pkl", state)
    np.save(tmp_path / "cls_gt.npy", arrays["it1/Q_C"])
    published = conversion.convert(tmp_path / "best_model.pkl", tmp_path / "cls_gt.npy", tmp_path / "run")
    x = arrays["x"]
    half, num_classes = x.shape[2] // 2, arrays["label"].shape[1]
    num_clusters, hidden = arrays["p0/clu_head_rgb.prototypes.weight"].shape
    assert published.sizes == ((half, half), hidden, num_classes, num_clusters)
    _, graphdef, run = restored(tmp_path / "run")
    np.testing.assert_array_equal(run.cluster_labels, np.stack([arrays["it1/Q_C"]] * 2))
    ours = forward(graphdef, run.params, [x[:, :, :half], x[:, :, half:]])
    for s, stream in enumerate(("rgb", "flow")):
        np.testing.assert_allclose(ours.cas[s], arrays[f"it1/cas_{stream}"], **EXACT)
        np.testing.assert_allclose(ours.attention[s].ravel(), arrays[f"it1/att_{stream}"], **EXACT)
        logits = ours.cluster_logits[s].reshape(-1, num_clusters)
        np.testing.assert_allclose(logits, arrays[f"it1/clu_{stream}"], **EXACT)


def test_checkpoint_of_a_run(files, tmp_path):
    config = Config.of("case").changed(num_snippets=50, num_clusters=3, hidden=8, seed=4)
    names = ("run", "jump", "throw", "swim", "dive")
    conversion.convert(*files, tmp_path / "run", classes=names, config=config)
    meta, _, state = restored(tmp_path / "run")
    assert Config.from_dict(meta["config"]) == config.changed(num_clusters=CLUSTERS, hidden=HIDDEN)
    assert meta["data"] == {
        "source": str(files[0]),
        "classes": list(names),
        "streams": ["rgb", "flow"],
        "dims": list(DIMS),
        "timing": {"frames": 16.0, "stride": 16.0, "fps": 25.0, "first_frame": 0.0, "rescaled": False},
        "provenance": {},
        "train_videos": 0,
        "longest_train_video": 0,
        "train_snippets": 0,
    }
    assert int(state.step) == 0
    assert all(float(jnp.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(state.opt_state))
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(jax.random.key(4)))
    published = published_state(np.random.default_rng(0))
    flow = state.params["streams"][1]
    np.testing.assert_array_equal(
        flow["class_encoder"]["kernel"][...], published["cas_module_flow.0.weight"][:, :, 0].T
    )
    np.testing.assert_array_equal(flow["clusters"]["directions"][...], published["clu_head_flow.prototypes.weight"])


def test_there_and_back_is_the_same_bits(files, tmp_path):
    conversion.convert(*files, tmp_path / "run")
    conversion.export_published(tmp_path / "run", tmp_path / "model.pkl", tmp_path / "labels.npy")
    before, after = read_torch(files[0]), read_torch(tmp_path / "model.pkl")
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, strict=True)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), np.load(files[1]), strict=True)
    assert not list(tmp_path.glob(".*"))


def test_the_selected_state_is_exported(files, tmp_path):
    conversion.convert(*files, tmp_path / "run")
    meta, _, state = restored(tmp_path / "run")
    better = jax.tree.map(lambda leaf: leaf + 1, state.params)
    with Checkpoints(tmp_path / "run" / "selected", keep=1) as best:
        best.save(state._replace(step=jnp.int32(5), params=better), meta | {"score": 0.5})
    conversion.export_published(tmp_path / "run", tmp_path / "model.pkl", tmp_path / "labels.npy")
    bias = "att_module_rgb.bias"
    np.testing.assert_allclose(read_torch(tmp_path / "model.pkl")[bias], read_torch(files[0])[bias] + 1)


def test_streams_in_the_other_order():
    _, state = initial_state(Config.of("case").changed(num_clusters=CLUSTERS, hidden=HIDDEN, seed=3), DIMS, CLASSES)
    params = state.params
    q = np.full((2, CLUSTERS, 2), 0.5, np.float32)
    one, _ = convert.to_published(params, q)
    other, _ = convert.to_published(params, jnp.asarray(q), streams=("flow", "rgb"))
    np.testing.assert_array_equal(one["cas_module_rgb.0.weight"], other["cas_module_flow.0.weight"])
    np.testing.assert_array_equal(one["clu_head_flow.prototypes.weight"], other["clu_head_rgb.prototypes.weight"])


@pytest.mark.parametrize("nest", [*convert.NESTED, None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_nested_and_prefixed_state_dicts(rng, files, nest, prefix, monkeypatch):
    state = {prefix + name: value for name, value in published_state(rng).items()}
    saved = state if nest is None else {nest: state, "epoch": 3, "best": 0.5}
    monkeypatch.setattr(convert, "read_torch", lambda path: saved)
    published = convert.from_published(*files)
    assert published.sizes == (DIMS, HIDDEN, CLASSES, CLUSTERS)
    bias = published.params["streams"][1]["classifier"]["bias"][...]
    np.testing.assert_array_equal(bias, state[f"{prefix}cas_module_flow.2.bias"])


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_parameters_become_float32(rng, files, dtype):
    state = {name: value.astype(jnp.dtype(dtype)) for name, value in published_state(rng).items()}
    write_torch(files[0], state)
    for leaf in jax.tree.leaves(convert.from_published(*files).params):
        assert leaf.dtype == jnp.float32


def test_all_that_does_not_fit_is_listed(rng, files):
    def refused(**changes):
        state = published_state(np.random.default_rng(0)) | {k.replace("__", "."): v for k, v in changes.items()}
        write_torch(files[0], {name: value for name, value in state.items() if value is not None})
        with pytest.raises(DataError) as error:
            convert.from_published(*files)
        assert str(error.value).startswith(f"{files[0]}: is no state dict of the published CASE: ")
        assert str(error.value).endswith("Name a model that main_case.py saved")
        return str(error.value)

    message = refused(
        att_module_rgb__bias=None,
        clu_head_flow__prototypes__weight=None,
        cas_module_flow__2__weight=np.zeros((CLASSES + 1, HIDDEN, 1), np.float32),
        base_module_rgb__0__weight=np.zeros((HIDDEN, DIMS[0], 3), np.float32),
        cas_module_rgb__0__bias=np.full(HIDDEN, np.nan, np.float32),
        base_module_flow__0__bias=np.zeros(HIDDEN, np.int64),
        fc__weight=np.zeros(3, np.float32),
    )
    for part in (
        "att_module_rgb.bias is missing",
        "clu_head_flow.prototypes.weight is missing",
        f"cas_module_flow.2.weight is {(CLASSES + 1, HIDDEN, 1)}, to fit the others it would be {(CLASSES, HIDDEN, 1)}",
        f"base_module_rgb.0.weight is {(HIDDEN, DIMS[0], 3)}",
        "cas_module_rgb.0.bias is not finite",
        "base_module_flow.0.bias is of type int64",
        "'fc.weight' is unknown",
    ):
        assert part in message
    assert "cas_module_rgb.0.weight is missing" in refused(cas_module_rgb__0__weight=None)
    assert "cas_module_rgb.0.weight is ()" in refused(cas_module_rgb__0__weight=np.array(1, np.float32))
    assert "and 60 more" in refused(**{f"extra__{n}": np.zeros(1) for n in range(100)})
    write_torch(files[0], published_state(rng, classes=0))
    with pytest.raises(DataError, match="its sizes are"):
        convert.from_published(*files)


@pytest.mark.parametrize("saved", [{}, [1, 2], 3, {1: np.zeros(2)}, {"state_dict": {}}])
def test_files_without_a_state_dict(files, saved, monkeypatch):
    monkeypatch.setattr(convert, "read_torch", lambda path: saved)
    with pytest.raises(DataError, match="holds no state dict"):
        convert.from_published(*files)


def test_cluster_labels_of_each_stream(rng, files):
    labels = rng.dirichlet([1, 1], (2, CLUSTERS))
    np.save(files[1], labels)
    np.testing.assert_array_equal(convert.from_published(*files).cluster_labels, np.float32(labels))
    np.save(files[1], np.full((CLUSTERS, 2), 1 / CLUSTERS))  # as before the first step
    np.testing.assert_allclose(convert.from_published(*files).cluster_labels, 1 / CLUSTERS)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((CLUSTERS + 1, 2), 0.5), r"shape \(7, 2\)"),
        (np.full((CLUSTERS, 3), 0.5), r"shape \(6, 3\)"),
        (np.full((CLUSTERS, 2), 1.5), r"from 1\.5 to 1\.5"),
        (np.full((CLUSTERS, 2), -0.5), "not probabilities"),
        (np.full((CLUSTERS, 2), np.nan), "not probabilities"),
        (np.full((CLUSTERS, 2), 1), "holds int64"),
        (np.array([{"a": 1}]), "means a pickle, which is never loaded"),
    ],
)
def test_cluster_labels_that_cannot_be(files, labels, message):
    np.save(files[1], labels)
    with pytest.raises(DataError, match=message) as error:
        convert.from_published(*files)
    assert str(files[1]) in str(error.value)


def test_files_that_cannot_be_read(files, tmp_path):
    model, labels = files
    with pytest.raises(DataError, match="no such file"):
        convert.from_published(tmp_path / "none.pkl", labels)
    with pytest.raises(DataError, match="check the path"):
        convert.from_published(model, tmp_path / "none.npy")
    with pytest.raises(DataError, match=r"not a \.npy file"):
        convert.from_published(model, model)
    whole = labels.read_bytes()
    for damage in (b"", whole[:20], whole[:-1], b"text"):
        labels.write_bytes(damage)
        with pytest.raises(DataError, match=r"cls_gt\.npy: .*; name the cls_gt\.npy that"):
            convert.from_published(model, labels)


def test_nothing_is_overwritten_or_half_written(files, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(DataError, match="has 5 classes, but 2 names were given"):
        conversion.convert(*files, run, classes=["a", "b"])
    with pytest.raises(DataError, match="4 of them different"):
        conversion.convert(*files, run, classes=["a", "b", "c", "d", "a"])
    with pytest.raises(OptionError, match="epochs"):
        conversion.convert(*files, run, config=Config.of("case").changed(epochs=0))
    assert not run.exists()
    conversion.convert(*files, run)
    with pytest.raises(CheckpointError, match=r"already holds a checkpoint \(step 0\); choose another"):
        conversion.convert(*files, run)


def test_models_that_the_published_program_cannot_hold(files, tmp_path):
    conversion.convert(*files, tmp_path / "run")
    meta, _, state = restored(tmp_path / "run")
    out = tmp_path / "model.pkl", tmp_path / "labels.npy"

    def refused(name, message, change=lambda data, config: None, **fields):
        changed = {**meta, "data": dict(meta["data"]), "config": {k: v for k, v in meta["config"].items()}}
        change(changed["data"], changed["config"])
        with Checkpoints(tmp_path / name / "checkpoints") as checkpoints:
            checkpoints.save(state._replace(**fields), changed)
        with pytest.raises(CheckpointError, match=message) as error:
            conversion.export_published(tmp_path / name, *out)
        assert str(tmp_path / name) in str(error.value)

    labels = np.array(state.cluster_labels)
    labels[1] = labels[1, ::-1]
    refused("own-labels", "differ by up to .*co_label_clusters", cluster_labels=jnp.asarray(labels))
    refused("depth", "streams are rgb, depth", lambda data, config: data.update(streams=["rgb", "depth"]))
    for n, (name, value, fixed) in enumerate(
        [("head_temperature", 5.0, 10.0), ("cluster_context", 9, 1), ("transformed_streams", "product", "mean")]
    ):
        other = Config.from_dict(meta["config"]).changed(**{name: value}).as_dict()
        refused(f"other-{n}", f"{name} is {value}, but {fixed}", lambda data, config, other=other: config.update(other))
    refused("newer", "no option x", lambda data, config: config.update(novelty={"x": 1}))
    refused("other-dims", "of another shape", lambda data, config: data.update(dims=[3, 4]))
    baseline = Config.of("baseline").changed(hidden=HIDDEN)
    _, bare = initial_state(baseline, DIMS, CLASSES)
    own = {**meta, "config": baseline.as_dict()}
    with Checkpoints(tmp_path / "baseline" / "checkpoints") as checkpoints:
        checkpoints.save(bare, own)
    with pytest.raises(CheckpointError, match="method baseline has no clusters"):
        conversion.export_published(tmp_path / "baseline", *out)
    with pytest.raises(CheckpointError, match="holds no checkpoints/; name the folder of a run"):
        conversion.export_published(tmp_path / "none", *out)
    assert not out[0].exists()
    assert not out[1].exists()


# Against torch itself


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch==2.13.0")


@pytest.fixture(scope="module")
def make_module(torch):
    """A network of the published names and forward pass, written for this test."""
    nn = torch.nn

    class Head(nn.Module):
        def __init__(self, width, clusters):
            super().__init__()
            self.prototypes = nn.Linear(width, clusters, bias=False)

        def forward(self, embedding):
            unit = nn.functional.normalize
            return 10 * unit(embedding, dim=2) @ unit(self.prototypes.weight, dim=1).T

    class Network(nn.Module):
        def __init__(self, dims=DIMS, hidden=HIDDEN, classes=CLASSES, clusters=CLUSTERS):
            super().__init__()
            self.dims = dims
            for stream, dim in zip(("rgb", "flow"), dims, strict=True):
                cas = nn.Sequential(nn.Conv1d(dim, hidden, 1), nn.ReLU(), nn.Conv1d(hidden, classes, 1))
                self.add_module(f"cas_module_{stream}", cas)
                self.add_module(f"base_module_{stream}", nn.Sequential(nn.Conv1d(dim, hidden, 1), nn.ReLU()))
                self.add_module(f"att_module_{stream}", nn.Conv1d(hidden, 1, 1))
                self.add_module(f"clu_head_{stream}", Head(hidden, clusters))

        def forward(self, rgb, flow):
            """Cas, attention and cluster logits, each for rgb and flow."""
            outputs = []
            for stream, features in (("rgb", rgb), ("flow", flow)):
                cas, base, attention, clusters = (
                    getattr(self, f"{name}_{stream}")
                    for name in ("cas_module", "base_module", "att_module", "clu_head")
                )
                channels_first = features.transpose(1, 2)
                embedding = base(channels_first)
                foreground = torch.sigmoid(attention(embedding))[:, 0]
                scores = cas(channels_first).transpose(1, 2)
                outputs.append((scores, foreground, clusters(embedding.transpose(1, 2))))
            return tuple(zip(*outputs, strict=True))

    def make(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Network().eval()

    return make


def run_module(torch, module, features):
    with torch.no_grad():
        outputs = module(*map(torch.from_numpy, features))
    return [[array.numpy() for array in pair] for pair in outputs]


def random_features(rng):
    return [rng.normal(size=(3, 11, dim)).astype(np.float32) for dim in DIMS]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_logits_of_a_torch_model(torch, make_module, rng, tmp_path, zipped, wrapped):
    module, features = make_module(), random_features(rng)
    assert set(module.state_dict()) == set(published_state(rng))
    state = module.state_dict()
    if wrapped:
        parallel = torch.nn.DataParallel(module)
        state = {"epoch": 3, "state_dict": parallel.state_dict(), "map": 46.2}
    model, labels = tmp_path / "best_model.pkl", tmp_path / "cls_gt.npy"
    torch.save(state, model, _use_new_zipfile_serialization=zipped)
    np.save(labels, rng.dirichlet([1, 1], CLUSTERS).astype(np.float32))
    conversion.convert(model, labels, tmp_path / "run")
    _, graphdef, run = restored(tmp_path / "run")
    assert_same_logits(forward(graphdef, run.params, features), run_module(torch, module, features))
    np.testing.assert_array_equal(run.cluster_labels, np.stack([np.load(labels)] * 2))


def test_torch_loads_our_model(torch, make_module, rng, tmp_path):
    config = Config.of("case").changed(num_clusters=CLUSTERS, hidden=HIDDEN)
    meta = {"config": config.as_dict(), "data": {"streams": ["rgb", "flow"], "dims": DIMS, "classes": ["c"] * CLASSES}}
    meta["data"] |= {"train_videos": 0, "longest_train_video": 0, "timing": {}}
    graphdef, state = initial_state(config, DIMS, CLASSES)
    q = np.tile(rng.dirichlet([1, 1], CLUSTERS).astype(np.float32), (2, 1, 1))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        checkpoints.save(state._replace(cluster_labels=jnp.asarray(q)), meta)
    conversion.export_published(tmp_path / "run", tmp_path / "best_model.pkl", tmp_path / "cls_gt.npy")
    module, features = make_module(seed=1), random_features(rng)
    module.load_state_dict(torch.load(tmp_path / "best_model.pkl", weights_only=True), strict=True)
    assert_same_logits(forward(graphdef, state.params, features), run_module(torch, module, features))
    np.testing.assert_array_equal(np.load(tmp_path / "cls_gt.npy"), q[0])
