"""Options and data that do not go together are refused before anything is compiled or written."""

from dataclasses import replace

import numpy as np
import pytest

from casejax.errors import DataError, OptionError
from casejax.methods import BASES
from casejax.records import Dataset, Features, Split, Video
from casejax.run.base_options import with_base
from casejax.run.config import Config
from casejax.train import loop

CLASSES = tuple(f"class{c}" for c in range(10))
SIZES = {"hidden": 4, "num_snippets": 4, "batch_size": 2, "epochs": 1, "similar_pairs": 0}


def split(name, labels):
    """A video of five snippets for each set of classes."""
    videos = tuple(
        Video(f"{name}_{v}", name, np.array([[0.0, 1.0]] * len(own)), tuple(CLASSES[c] for c in own))
        for v, own in enumerate(labels)
    )
    stream = np.zeros((5 * len(videos), 3), np.float32)
    return Split(name, videos, Features.end_to_end((stream, stream), [5] * len(videos)))


@pytest.fixture(scope="module")
def data():
    train = split("train", [(0, 1), (0,), (2,), (3,), (4,), (5, 6, 7)])
    return Dataset("by hand", CLASSES, ("rgb", "flow"), train, split("test", [(0,)]))


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Training that must end with one error, before there is a network or a folder."""

    def never(*arguments, **options):
        pytest.fail("the network was made")

    monkeypatch.setattr(loop, "initial_state", never)

    def check(dataset, config, kind, message):
        out = tmp_path / "run"
        with pytest.raises(kind, match=message):
            loop.train(dataset, config, out)
        assert not out.exists()

    return check


def small(name, *, case=False, **options):
    return with_base(Config.of("case"), name, case=case).changed(**SIZES | options)


@pytest.mark.parametrize("name", ["asl", "a2cl_pt"])
def test_what_is_made_for_case_alone(data, refused, name):
    refused(data, small(name, model_devices=2), OptionError, f"^--model-devices .* leave it out with --base {name}$")
    message = f"^--test-cluster-labels train is for CASE .* leave it out with --base {name}$"
    refused(data, small(name, test_cluster_labels="train"), OptionError, message)


@pytest.mark.parametrize("name", ["wtalc", "a2cl_pt"])
def test_the_head_without_attention(data, refused, name):
    config = small(name)
    config = replace(config, network=replace(config.network, case=True))
    refused(data, config, OptionError, f"^--case needs the attention of a base, and {name} has none; choose")


def test_pseudo_labels_without_background_or_on_resampled_videos(data, refused):
    able = ", ".join(name for name, base in BASES.items() if base.has_background)
    assert able == "co2net, delu, rskp, zhou, basnet, acmnet"
    for config, got in (
        (small("case", pseudo_labels=True), "--base case and --test-sampling resampled"),
        (small("wtalc", pseudo_labels=True), "--base wtalc and --test-sampling whole"),
        (small("baseline", pseudo_labels=True, test_sampling="whole"), "--base baseline and --test-sampling whole"),
        (small("a2cl_pt", pseudo_labels=True, test_sampling="whole"), "--base a2cl_pt and --test-sampling whole"),
        (small("zhou", test_sampling="resampled"), "--base zhou and --test-sampling resampled"),
    ):
        refused(data, config, OptionError, f"^--pseudo-labels needs .* whole videos, {able}; got {got}$")


def test_more_labels_than_places(data, refused):
    message = r"^a training video has 3 labels, above max_labels; pass --base-options max_labels=3$"
    refused(data, small("a2cl_pt", base_options="max_labels=2"), OptionError, message)
    many = replace(data, train=split("train", [range(9), (0,)]))
    message = r"^a training video has 9 labels, above max_labels; pass --base-options max_labels=9$"
    refused(many, small("a2cl_pt"), OptionError, message)


def test_similar_pairs_out_of_parts(data, refused):
    for name in ("case", "co2net"):
        config = small(name, similar_pairs=1, data_parts=2)
        refused(data, config, OptionError, "^--similar-pairs draws from all training videos; leave out --data-parts")


def test_similar_pairs_without_a_class_of_two(data, refused):
    alone = replace(data, train=split("train", [(c,) for c in range(6)]))
    message = r"^by hand: no class has two training videos for --similar-pairs 1; pass 0$"
    refused(alone, small("co2net", similar_pairs=1), DataError, message)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("case", {"case": True}),  # has the head anyway
        ("case", {"model_devices": 2, "test_cluster_labels": "train"}),
        ("case", {"similar_pairs": 1}),
        ("case", {"data_parts": 2}),
        ("asl", {"case": True}),
        ("co2net", {"pseudo_labels": True, "similar_pairs": 1}),
        ("zhou", {}),
        ("a2cl_pt", {}),
        ("a2cl_pt", {"base_options": "max_labels=3"}),
    ],
)
def test_what_goes_together_is_not_refused(data, tmp_path, monkeypatch, name, options):
    """Every check is passed: training goes on to make a network."""

    class NetworkMadeError(Exception):
        pass

    def made(*arguments, **options):
        raise NetworkMadeError

    monkeypatch.setattr(loop, "initial_state", made)
    config = small(name).changed(**options)
    with pytest.raises(NetworkMadeError):
        loop.train(data, config, tmp_path / "run", devices=2)
