"""Configurations: what a method starts from, what is changed, stored and refused."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from flax import nnx

from casejax.errors import DataError, OptionError
from casejax.methods import DATASETS, METHODS, find, with_head
from casejax.records import Dataset, Features, Split, Video
from casejax.run.config import Config
from casejax.train import loop

WITH_HEAD = [f"{name}+case" for name, method in METHODS.items() if method.can_be_clustered]
NAMES = [*METHODS, *WITH_HEAD]
PUBLISHED = {
    "baseline": {"hidden": 512, "num_snippets": 750, "epochs": 300, "outer_ratio": 0.15, "test_sampling": "resampled"},
    "asl": {"hidden": 512, "epochs": 100, "outer_ratio": 0.2, "scale": 24, "nms": "decay_once", "cas_weight": 1 / 3},
    "aicl": {"epochs": 300, "class_threshold": 0.25, "nms_unit": "seconds", "stream_weight": 5.0},
    "co2net": {"num_snippets": 500, "batch_size": 10, "similar_pairs": 3, "learning_rate": 5e-5, "hidden": 512},
    "delu": {
        "num_snippets": 320,
        "similar_pairs": 3,
        "weight_decay": 1e-3,
        "guide_weight": 0.4,
        "scale": 1,
    },
    "rskp": {"num_snippets": 1500, "sampling": "crop", "second_moment": 0.99, "nms": "hard", "pseudo_labels": False},
    "zhou": {"epochs": 350, "outer_ratio": 0.0785, "outer_power": 0.9, "pseudo_labels": True, "fusion": "gaussian"},
    "wtalc": {"test_sampling": "whole", "score_weight": 0.0, "video_weight": 0.5},
    "basnet": {"num_snippets": 750, "epochs": 125, "scale": 24, "norm_weight": 1e-4},
    "cola": {"num_snippets": 750, "epochs": 500, "nms_threshold": 0.6},
    "acmnet": {"weight_decay": 5e-5, "epochs": 1000, "margin": 50.0},
    "a2cl_pt": {"num_snippets": 200, "sampling": "crop", "proposals": "positive", "min_snippets": 2},
    "student": {"supervision": "weak", "sampling": "crop", "test_sampling": "whole", "proposals": "regressed"},
}
CLASSES = tuple(f"class{c}" for c in range(10))
SIZES = {"hidden": 4, "num_snippets": 4, "batch_size": 2, "epochs": 1, "similar_pairs": 0}


@pytest.mark.parametrize("name", NAMES)
def test_every_method_makes_a_configuration_that_survives_json(name):
    config = Config.of(name)
    config.check()
    assert config.method is find(name)
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    names = [each.name for each in config.options()]
    assert len(set(names)) == len(names)
    assert config.describe() == (f"{config.method.name}, official" if config.method.variants else name)
    assert all(each.meta("help") for each in config.options() if each.meta("flag"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    flat = Config.of(name).flat()
    assert {option: flat[option] for option in PUBLISHED[name]} == PUBLISHED[name]


def test_names_of_methods():
    assert set(PUBLISHED) == set(METHODS) - {"case"}
    assert [name for name, method in METHODS.items() if not method.can_be_clustered] == [
        "case",
        "wtalc",
        "a2cl_pt",
        "student",
    ]
    assert find("baseline+case") is find("case") is find("case+case")
    assert find("asl+case") is with_head(METHODS["asl"])
    for name in ("cas", "co2net+cas", "+case", ""):
        with pytest.raises(OptionError, match=r"case, baseline, asl, .*, a2cl_pt, student"):
            Config.of(name)
    for name in ("wtalc+case", "a2cl_pt+case"):
        with pytest.raises(OptionError, match=f"attention, {name[:-5]} has none; choose one of baseline\\+case, asl"):
            Config.of(name)


def test_the_head_changes_omega_of_inference():
    for name in ("baseline", "asl", "aicl"):
        assert Config.of(name).flat()["test_cas_weight"] == 1 / 3
        assert Config.of(f"{name}+case").flat()["test_cas_weight"] == 1 / 5
    assert "test_cas_weight" not in Config.of("co2net+case").flat()


def test_variants_change_the_options_that_a_method_has():
    paper, head = Config.of("case", "paper").flat(), Config.of("co2net+case", "paper").flat()
    assert (paper["rank"], paper["nms"], paper["cas_weight"]) == ("true", "hard", 0.25)
    assert (head["rank"], head["fuse"], head["projected"]) == ("true", "probabilities", False)
    assert head["nms"] == Config.of("co2net").flat()["nms"]
    assert Config.of("asl", "corrected") == replace(Config.of("asl").changed(cas_weight=1.0), variant="corrected")
    baseline, case = Config.of("baseline", "corrected").flat(), Config.of("case", "corrected").flat()
    assert {name: case[name] for name in baseline} == baseline
    with pytest.raises(OptionError, match="co2net has no such variant; it has none"):
        Config.of("co2net", "paper")
    with pytest.raises(OptionError, match="case has no such variant; it has official, paper, corrected"):
        Config.of("case", "papre")


SHARED = {"num_snippets": 50, "top_k_divisor": 2, "class_threshold": 0.1, "nms_threshold": 0.7}
ACTIVITYNET = {
    ("case", "activitynet12"): SHARED | {"epochs": 73, "num_clusters": 64},
    ("case", "activitynet13"): SHARED | {"epochs": 35, "num_clusters": 64},
    ("baseline", "activitynet13"): SHARED | {"epochs": 35},
    ("aicl", "activitynet12"): SHARED | {"epochs": 73, "cas_weight": 0.5, "test_cas_weight": 0.5},
    ("aicl", "activitynet13"): SHARED | {"epochs": 35, "cas_weight": 0.5, "test_cas_weight": 0.5, "hidden": 1024},
    ("aicl+case", "activitynet12"): SHARED
    | {"epochs": 73, "cas_weight": 0.5, "test_cas_weight": 0.2, "num_clusters": 64},
    ("co2net", "activitynet12"): {"num_snippets": 60, "epochs": 48, "smoothing": 13, "learning_rate": 3e-5}
    | {"weight_decay": 5e-4, "top_k_divisor": 5},
    ("co2net+case", "activitynet12"): {"num_snippets": 60, "epochs": 48, "smoothing": 13, "learning_rate": 3e-5}
    | {"weight_decay": 5e-4, "top_k_divisor": 5, "num_clusters": 64},
    ("delu", "activitynet12"): {"num_snippets": 60, "epochs": 48, "smoothing": 13, "learning_rate": 3e-5}
    | {"weight_decay": 5e-4, "top_k_divisor": 5, "guide_weight": 0.8, "evidence_divisor": 5, "evidence_weight": 1.2}
    | {"uncertain_weight": 0.2, "amplitude": 0.2, "evidence": "relu", "video_loss": "square"},
    ("cola", "activitynet12"): {"num_snippets": 50, "batch_size": 256, "epochs": 5555, "class_threshold": 0.1}
    | {"top_k_divisor": 10, "easy_divisor": 10, "hard_divisor": 8, "contrast_weight": 0.005, "width": 9}
    | {"class_width": 7},
    ("acmnet", "activitynet13"): {"num_snippets": 75, "batch_size": 64, "weight_decay": 1e-3, "top_k_divisor": 2}
    | {"input_dropout": 0.7, "attention_dropout": 0.7, "context_divisor": 10, "background_divisor": 10}
    | {"instance_weight": 5.0, "guide_weight": 5e-3, "sparse_weight": 0.0, "frame_weight": 0.7}
    | {"class_threshold": 0.1, "thresholds": (0.005, 0.01, 0.015, 0.02), "nms_threshold": 0.9}
    | {"outer_ratio": 0.15, "score_weight": 0.25},
}
"""All that changes from THUMOS14, option by option."""


@pytest.mark.parametrize(("name", "dataset"), ACTIVITYNET)
def test_settings_of_a_data_set_change_these_options_and_no_other(name, dataset):
    flat, there = Config.of(name).flat(), Config.of(name, dataset=dataset).flat()
    changed = {option: value for option, value in there.items() if value != flat[option]}
    assert changed == {o: v for o, v in ACTIVITYNET[name, dataset].items() if v != flat[o]}
    assert {option: there[option] for option in ACTIVITYNET[name, dataset]} == ACTIVITYNET[name, dataset]


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_of_a_method_makes_a_configuration_that_survives_json(name):
    for dataset in find(name).datasets:
        for variant in find(name).variants or ("official",):
            config = Config.of(name, variant, dataset)
            config.check()
            assert Config.from_dict(json.loads(json.dumps(config.as_dict()))).as_dict() == config.as_dict()
        assert Config.from_dict(json.loads(json.dumps(config.as_dict()))).dataset == dataset
        network = nnx.eval_shape(
            lambda: config.method.network((5, 5), 3, settings=config.changed(hidden=4).settings, rngs=nnx.Rngs(0))  # noqa: B023
        )
        assert set(network.embedding_dims) == {4}


def test_data_sets_by_name():
    assert DATASETS == ("thumos14", "activitynet12", "activitynet13")
    assert Config.of("case", "paper", "thumos14") == Config.of("case", "paper")
    # The variant has the last word, then what is named.
    assert Config.of("aicl", "corrected", "activitynet13").flat()["cas_weight"] == 1
    assert Config.of("case", "corrected", "activitynet13", num_clusters=8).flat()["num_clusters"] == 8
    with pytest.raises(OptionError, match="anet: method case has no settings for it; it has those for thumos14, activ"):
        Config.of("case", dataset="anet")
    with pytest.raises(OptionError, match=r"wtalc .* thumos14, and those for activitynet13 belong to case, .*acmnet$"):
        Config.of("wtalc", dataset="activitynet13")
    with pytest.raises(OptionError, match=r"co2net\+case has no settings for it; .* thumos14, activitynet12, and"):
        Config.of("co2net+case", dataset="activitynet13")


def test_a_stored_run_that_names_no_data_set_is_one_of_thumos14():
    stored = Config.of("case", "paper").as_dict()
    del stored["dataset"]
    assert Config.from_dict(stored).dataset == "thumos14"
    with pytest.raises(OptionError, match="dataset anet"):
        Config.from_dict(stored | {"dataset": "anet"})


def test_options_without_an_effect_are_those_of_the_data_set():
    config = Config.of("case", "corrected", "activitynet13")
    assert "nms_threshold" not in config.as_dict()["localization"]  # soft suppression has none
    assert Config.from_dict(config.as_dict()) == config


def test_the_data_set_is_described_where_it_is_another():
    config = Config.of("case", "corrected", "activitynet13")
    assert config.describe() == "case, corrected, activitynet13"
    assert config.changed(num_clusters=16).describe() == "case, corrected, activitynet13 with num_clusters=16"
    assert Config.of("acmnet", dataset="activitynet13").describe() == "acmnet, activitynet13"


@pytest.mark.parametrize("name", METHODS)
def test_every_network_takes_a_width(name):
    config = Config.of(name)
    for hidden in (8, 12):
        settings = config.changed(hidden=hidden).settings
        network = nnx.eval_shape(lambda: config.method.network((5, 5), 3, settings=settings, rngs=nnx.Rngs(0)))  # noqa: B023
        assert set(network.embedding_dims) == {hidden}


def test_options_are_changed_by_name():
    config = Config.of("co2net+case").changed(margin=0.3, prior_std=0.2, epochs=3, nms="hard", seed=4)
    assert (config.settings.base.margin, config.settings.head.prior_std) == (0.3, 0.2)
    assert (config.schedule.epochs, config.localization.nms, config.training.seed) == (3, "hard", 4)
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))).as_dict() == config.as_dict()
    with pytest.raises(OptionError, match=r"co2net has no option prior_std; its own are pseudo_labels, hidden"):
        Config.of("co2net").changed(prior_std=0.2)
    with pytest.raises(OptionError, match="no option nothing"):
        Config.from_dict({"method": "case", "settings": {"nothing": 1}})


def test_only_options_that_act_are_stored():
    stored = Config.of("case").as_dict()
    assert "nms_decay" in stored["localization"]
    assert "holdout" not in stored["training"]
    soft = Config.of("case").changed(nms="soft", select="train-holdout").as_dict()
    assert "nms_threshold" not in soft["localization"]
    assert soft["training"]["holdout"] == 0.2
    fused = Config.of("zhou").as_dict()["localization"]
    assert not {"nms", "nms_threshold", "nms_unit"} & fused.keys()
    positive = Config.of("a2cl_pt").as_dict()["localization"]
    assert set(positive) == {"test_sampling", "smooth_width", "proposals", "class_threshold", "min_snippets"}
    plain = Config.of("case").changed(transport=False).as_dict()["head"]
    assert not {"prior", "rank", "prior_std"} & plain.keys()
    assert Config.of("case").changed(nms_threshold=0.1, nms="soft").describe() == "case, official with nms=soft"


def test_runs_are_described_by_method_variant_and_changes():
    config = Config.of("co2net+case", "paper")
    assert config.describe() == "co2net+case, paper"
    other = config.changed(pair_weight=0.5, margin=1.0, prior_std=0.25, nms="hard", epochs=3)
    assert other.describe() == "co2net+case, paper with margin=1, pair_weight=0.5, prior_std=0.25, nms=hard"
    assert Config.of("co2net").changed(norm_weight=0.0).describe() == "co2net with norm_weight=0"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_clusters": 0}, ["num_clusters", "[1, inf)", "0"]),
        ({"epsilon": 0.0}, ["epsilon", "(0, inf)"]),
        ({"epsilon": float("nan")}, ["epsilon", "nan"]),
        ({"learning_rate": float("inf")}, ["learning_rate", "inf"]),
        ({"cas_weight": 1.5}, ["cas_weight", "[0, 1]", "1.5"]),
        ({"second_moment": 1.0}, ["second_moment", "[0, 1)"]),
        ({"holdout": 0.0}, ["holdout", "(0, 1)"]),
        ({"weight_decay": -1.0}, ["weight_decay", "-1"]),
        ({"foreground_divisor": 0}, ["foreground_divisor"]),
        ({"thresholds": ()}, ["thresholds"]),
        ({"smooth_width": 4}, ["smooth_width", "odd", "4", "3 and 5"]),
        ({"smooth_width": 0}, ["smooth_width", "[1, inf)", "0"]),
        ({"similar_pairs": 9}, ["similar_pairs", "16", "9"]),
        ({"similar_pairs": 1, "data_parts": 2}, ["similar_pairs", "--data-parts"]),
    ],
)
def test_values_that_no_run_can_use(options, words):
    with pytest.raises(OptionError) as stopped:
        Config.of("case").changed(**options).check()
    assert all(word in str(stopped.value) for word in words), stopped.value


@pytest.mark.parametrize(("group", "name", "value"), [("localization", "nms", "sotf"), ("schedule", "epochs", "ten")])
def test_values_of_another_type(group, name, value):
    config = Config.of("case").changed(seed=1)
    wrong = replace(getattr(config, group))
    object.__setattr__(wrong, name, value)  # past the annotations, which only tests check
    config = replace(config)
    object.__setattr__(config, group, wrong)
    with pytest.raises(OptionError, match=f"{name} .*{value}"):
        config.check()


def test_numbers_that_a_step_takes_as_values():
    assert Config.of("case").numeric[:2] == ("cas_weight", "warmup_epochs")
    assert {"epsilon", "prior_std", "learning_rate", "weight_decay"} <= set(Config.of("case").numeric)
    assert not {"hidden", "test_cas_weight", "sinkhorn_iters", "gce_exponent"} & set(Config.of("case").numeric)
    assert "pair_weight" in Config.of("co2net+case").numeric


def test_every_setting_is_an_option():
    """A field without `option` would be neither described nor checked."""
    for name in METHODS:
        for _, group in Config.of(name).groups():
            assert all("help" in each.metadata for each in fields(group)), (name, group)


# Data and options that do not go together, refused before anything is compiled or written


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


class NetworkMadeError(Exception):
    pass


@pytest.fixture
def tried(tmp_path, monkeypatch):
    """Training up to the moment that it makes a network; a refusal leaves no folder."""

    def made(*arguments, **options):
        raise NetworkMadeError

    monkeypatch.setattr(loop, "initial_state", made)

    def check(dataset, config, kind=NetworkMadeError, *words):
        out = tmp_path / "run"
        with pytest.raises(kind) as stopped:
            loop.train(dataset, config, out, devices=2)
        assert all(word in str(stopped.value) for word in words), stopped.value
        assert out.exists() == (kind is NetworkMadeError)

    return check


def small(name, **options):
    return Config.of(name).changed(**SIZES | options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("asl", {"model_devices": 2}, ["model_devices", "asl"]),
        ("co2net+case", {"test_cluster_labels": "train"}, ["test_cluster_labels", "co2net+case"]),
        ("zhou", {"test_sampling": "resampled"}, ["pseudo_labels", "resampled"]),
        ("a2cl_pt", {"max_labels": 2}, ["3 labels", "max_labels 2", "--max-labels 3"]),
        ("co2net", {"similar_pairs": 1, "data_parts": 2}, ["similar_pairs", "--data-parts"]),
    ],
)
def test_options_that_do_not_go_together(data, tried, name, options, words):
    tried(data, small(name, **options), OptionError, *words)


def test_data_that_options_do_not_go_with(data, tried):
    many = replace(data, train=split("train", [range(9), (0,)]))
    tried(many, small("a2cl_pt"), OptionError, "9 labels", "--max-labels 9")
    alone = replace(data, train=split("train", [(c,) for c in range(6)]))
    tried(alone, small("co2net", similar_pairs=1), DataError, "by hand", "--similar-pairs 1")
    tried(data, small("case", batch_size=8), DataError, "6 training videos", "--batch-size 6")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("case", {"model_devices": 2, "test_cluster_labels": "train"}),
        ("case", {"similar_pairs": 1}),
        ("case", {"data_parts": 2}),
        ("asl+case", {}),
        ("co2net", {"pseudo_labels": True, "similar_pairs": 1}),
        ("zhou", {}),
        ("a2cl_pt", {"max_labels": 3}),
    ],
)
def test_what_goes_together_is_not_refused(data, tried, name, options):
    tried(data, small(name, **options))
