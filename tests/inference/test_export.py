"""A network exported: read back to the same segments, and run by a process that cannot import casejax."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import casejax
from casejax.cli.main import main
from casejax.errors import CheckpointError
from casejax.inference import Localizer
from casejax.inference.export import export_program
from casejax.inference.scoring import make_scorer
from casejax.methods import METHODS
from casejax.records import Dataset, Features, Split, Timing, Video
from casejax.run.config import Config
from casejax.run.exported import WEIGHTS
from casejax.run.folder import Restored, describe
from casejax.run.state import initial_state
from casejax.runtime.checkpoint import Checkpoints

pytest.importorskip("safetensors", reason="safetensors is not installed")
CLASSES = ("a", "b", "c")
FAST = [("wtalc", 16), ("rskp", None)]
SLOW = [("student", 16), *((name, None) for name in METHODS if name not in ("student", "wtalc", "rskp"))]
DIMS = (5, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was saved before its first step, with a result beside it."""
    folder = tmp_path_factory.mktemp("run")
    config = Config.of("case", "corrected").changed(hidden=8, num_clusters=4, num_snippets=16)
    videos = (Video("v", "train", stated_labels=("a",)),)
    train = Split("train", videos, Features.end_to_end(tuple(np.zeros((9, d), np.float32) for d in DIMS), [9]))
    none = Split("test", (), Features.end_to_end(tuple(np.zeros((0, d), np.float32) for d in DIMS), []))
    dataset = Dataset("here", CLASSES, ("rgb", "flow"), train, none, Timing(), {"backbone": "i3d"})
    _, state = initial_state(config, DIMS, len(CLASSES))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, describe(config, dataset))
    trained = {"mAP": {"0.50": 0.25}, "average_mAP": {"0.1:0.7": None}}
    (folder / "results.json").write_text(json.dumps({"trained": trained, "protocol": "protocol case: here"}))
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "network"
    assert main(["export", str(run), str(out)]) == 0
    return out


def features(length):
    rng = np.random.default_rng(length)
    return tuple(rng.normal(size=(length, dim)).astype(np.float32) for dim in DIMS)


def test_what_is_read_back_finds_the_same(run, exported):
    before, after = Localizer.load(run), Localizer.load(exported)
    assert after.classes == CLASSES
    assert after.config == before.config
    one, other = (each(features(16)) for each in (before, after))
    assert one.segments == other.segments
    np.testing.assert_array_equal(one.snippet_scores.fused, other.snippet_scores.fused)


def test_it_is_the_same_bytes_again_and_names_no_place_of_this_machine(run, exported, tmp_path):
    assert main(["export", str(run), str(tmp_path / "again")]) == 0
    for file in exported.iterdir():
        data = file.read_bytes()
        assert data == (tmp_path / "again" / file.name).read_bytes(), file.name
        for place in (Path(casejax.__file__).parent, Path(jax.__file__).parent, run):
            assert bytes(place) not in data, (file.name, place)
        assert b".py" not in data


def test_the_program_runs_where_casejax_cannot_be_imported(run, exported, tmp_path):
    given = features(16)
    np.savez(tmp_path / "in.npz", *(np.stack([x, x[::-1]]) for x in given))
    code = f"""
import sys, numpy as np
for name in ("casejax", "flax", "optax", "orbax"):
    sys.modules[name] = None  # an import of it fails
import jax.export
program = jax.export.deserialize(open({str(exported / "model.jax")!r}, "rb").read())
streams = list(np.load({str(tmp_path / "in.npz")!r}).values())
scores = program.call(np.ones((2, 16), bool), *streams)
short = program.call(np.ones((1, 5), bool), *(x[:1, :5] for x in streams))
padded = program.call(np.arange(16)[None] < 5, *(x[:1] for x in streams))
np.savez({str(tmp_path / "out.npz")!r}, **scores)
np.testing.assert_allclose(padded["fused"][0, :5], short["fused"][0], rtol=1e-5)
print(short["fused"].shape, padded["video"].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "(1, 5, 3) (1, 3)\n", done.stderr
    with np.load(tmp_path / "out.npz") as scores:
        own = Localizer.load(run)(given).snippet_scores  # of 16 rows the 16 resampled ones are all
        for name in ("fused", "video", "attention", "transformed", "foreground"):
            np.testing.assert_allclose(scores[name][:1], getattr(own, name), rtol=1e-4, atol=1e-6)


def test_the_card_says_what_one_needs(exported):
    card = (exported / "README.md").read_text()
    for text in ("a, b, c", "rgb (5), flow (3)", "backbone i3d", "25.0", "protocol case: here", "a row every 0.64 s"):
        assert text in card
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "config.json", "model.jax", WEIGHTS]


def test_a_network_of_the_hub_is_read_from_its_cache(run, exported, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "models--somebody--network" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in exported.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (tmp_path / "models--somebody--network" / "refs").mkdir()
    (tmp_path / "models--somebody--network" / "refs" / "main").write_text("abc")
    found = partial(hub.snapshot_download, cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setattr(hub, "snapshot_download", found)
    monkeypatch.chdir(tmp_path)
    assert (
        casejax.Localizer.load("somebody/network")(features(16)).segments == Localizer.load(run)(features(16)).segments
    )
    with pytest.raises(CheckpointError, match="not on the Hugging Face hub"):
        Localizer.load("somebody/else")


def test_a_folder_that_is_not_whole_is_refused(exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = load_file(tmp_path / WEIGHTS)
    name = next(iter(arrays))
    save_file(arrays | {name: np.zeros((1, 1), np.float32)}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"{name} is float32 \(1, 1\), config.json asks for"):
        Localizer.load(tmp_path)
    save_file({key: value for key, value in arrays.items() if key != name}, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        Localizer.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Localizer.load(tmp_path)
    assert main(["export", str(exported), str(tmp_path)]) == 2  # the folder is there


@pytest.mark.parametrize(("method", "length"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_every_method_is_a_program_of_any_length_or_of_that_of_training(method, length):
    config = Config.of(method).changed(num_snippets=16)
    graphdef, state = initial_state(config, DIMS, len(CLASSES), videos=(1, 1))
    program, only = export_program(Restored(Path("run"), graphdef, state, config, {"data": {"dims": DIMS}}))
    assert only == length
    scores = jax.export.deserialize(bytearray(program)).call(
        np.ones((2, 16), bool), *(x[None].repeat(2, 0) for x in features(16))
    )
    scorer = make_scorer(graphdef, config)
    want = scorer(
        state.params, state.cluster_labels, tuple(x[None] for x in features(16)), None, np.ones((1, 16), bool)
    )
    np.testing.assert_allclose(scores["fused"][1:], want.fused, rtol=1e-4, atol=1e-6)
    if method == "student":
        np.testing.assert_allclose(scores["proposals"]["segments"][1:], want.proposals.segments, rtol=1e-3, atol=1e-3)
