"""Bases as options of a run: their settings, their numbers, the flags that name them."""

import argparse
import json
from dataclasses import dataclass, fields, replace
from typing import get_args

import pytest
from flax import nnx

from casejax.cli.options import add_options, config_from, started_from
from casejax.errors import OptionError
from casejax.methods import BASES
from casejax.methods.a2cl_pt import method as a2cl_pt
from casejax.methods.a2cl_pt.network import A2CLPTNet
from casejax.methods.case import method as bases
from casejax.methods.case.numbers import with_numbers
from casejax.methods.case.variants import OFFICIAL, PAPER, VARIANTS, describe_variant
from casejax.methods.contract import parameters_of
from casejax.run.base_options import check_head, with_base
from casejax.run.config import BaseName, Config

NAMES = get_args(BaseName)
WITHOUT_ATTENTION = ("wtalc", "a2cl_pt")
CHOICES = [
    (name, case) for name in NAMES for case in (False, True) if not (case and name in (*WITHOUT_ATTENTION, "case"))
]
PUBLISHED = {
    "baseline": {"hidden": 512, "num_snippets": 750, "epochs": 300, "outer_ratio": 0.15, "test_sampling": "resampled"},
    "asl": {
        "hidden": 512,
        "epochs": 100,
        "outer_ratio": 0.2,
        "scale": 24,
        "nms": "decay_once",
        "drop_lone_first": True,
    },
    "aicl": {"epochs": 300, "class_threshold": 0.25, "nms_unit": "seconds"},
    "co2net": {
        "num_snippets": 500,
        "batch_size": 10,
        "similar_pairs": 3,
        "learning_rate": 5e-5,
        "test_sampling": "whole",
    },
    "delu": {"num_snippets": 320, "similar_pairs": 3, "weight_decay": 1e-3},
    "rskp": {"num_snippets": 1500, "sampling": "crop", "second_moment": 0.99, "nms": "hard", "pseudo_labels": False},
    "zhou": {"epochs": 350, "outer_ratio": 0.0785, "outer_power": 0.9, "pseudo_labels": True, "fusion": "gaussian"},
    "wtalc": {"test_sampling": "whole"},
    "basnet": {"num_snippets": 750, "epochs": 125},
    "cola": {"num_snippets": 750, "epochs": 500},
    "acmnet": {"weight_decay": 5e-5, "epochs": 1000},
    "a2cl_pt": {"num_snippets": 200, "sampling": "crop", "proposals": "positive", "min_snippets": 2},
}


def settings_of(name):
    return a2cl_pt.THUMOS14 if name == "a2cl_pt" else BASES[name].settings


def parsed(*words):
    """Arguments of the command line, and the configuration they make of the official one."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    arguments = parser.parse_args(words)
    return config_from(arguments, started_from(arguments, OFFICIAL))


def test_names_are_those_of_the_bases():
    assert list(NAMES) == ["case", *BASES, "a2cl_pt"]
    assert set(PUBLISHED) == set(NAMES) - {"case"}
    assert tuple(name for name in NAMES[1:-1] if not BASES[name].has_attention) == WITHOUT_ATTENTION[:1]


@pytest.mark.parametrize(("name", "case"), CHOICES)
def test_every_base_makes_a_configuration(name, case):
    config = with_base(OFFICIAL, name, case=case)
    config.check()
    assert (config.settings.head.base, config.settings.head.case) == (name, case)
    assert Config.from_dict(json.loads(json.dumps(config.as_dict()))) == config
    shown = "official" if name == "case" else f"{name} + CASE, official" if case else f"{name}, official"
    assert describe_variant(config) == shown


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_configuration_has_the_settings_of_its_base(name):
    settings, flat = settings_of(name), with_base(OFFICIAL, name).flat()
    parts = [settings.schedule, settings.localization]
    changed = {"base", "hidden", *PUBLISHED[name]}
    for part in parts:
        for field in fields(part):
            assert flat[field.name] == getattr(part, field.name), field.name
            changed.add(field.name)
    for option in ("top_k_divisor", "gce_exponent"):
        assert flat[option] == getattr(settings, option, OFFICIAL.flat()[option])
        changed.add(option)
    for option, value in PUBLISHED[name].items():
        assert flat[option] == value, option
    network = A2CLPTNet if name == "a2cl_pt" else BASES[name].network
    assert flat["hidden"] == parameters_of(network)["hidden"].default
    untouched = OFFICIAL.flat().keys() - changed - {"test_cas_weight"}
    assert {option: flat[option] for option in untouched} == {option: OFFICIAL.flat()[option] for option in untouched}


def test_omega_of_inference_is_the_heads_own():
    for name in ("baseline", "asl", "aicl"):
        assert with_base(OFFICIAL, name).inference.test_cas_weight == 1 / 3
        assert with_base(OFFICIAL, name, case=True).inference.test_cas_weight == 1 / 5
    for case in (False, True):  # there is none, so that of the variant stays
        assert with_base(PAPER, "co2net", case=case).inference.test_cas_weight == 0.25


def test_options_of_case_come_from_the_variant():
    for config in VARIANTS.values():
        base = with_base(config, "co2net", case=True)
        assert base.variant == config.variant
        for option in ("rank", "prior_std", "projected", "num_clusters", "cluster_weight", "fuse"):
            assert base.flat()[option] == config.flat()[option]
        assert with_base(base, "case") == replace(base, network=replace(base.network, base="case", case=False))


@pytest.mark.parametrize("name", BASES)
def test_every_network_takes_a_width(name):
    for hidden in (8, 12):
        network = nnx.eval_shape(lambda: BASES[name].network((5, 5), 3, hidden=hidden, rngs=nnx.Rngs(0)))  # noqa: B023
        assert network.embedding_dims
        assert set(network.embedding_dims) == {hidden}


# Refusals


@pytest.mark.parametrize("case", [False, True])
def test_an_unknown_base_is_refused(case):
    with pytest.raises(OptionError, match=r"base must be one of case, baseline, asl, .*, a2cl_pt, got 'cas'"):
        with_base(OFFICIAL, "cas", case=case)


@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_the_head_needs_attention(name):
    with pytest.raises(
        OptionError, match=f"^--case needs .* and {name} has none; choose one of baseline, asl, "
    ) as stopped:
        with_base(OFFICIAL, name, case=True)
    able = str(stopped.value).split("choose one of ")[1].split(", ")
    assert able == [other for other in BASES if other != "wtalc"]
    for other in (*able, "case"):
        check_head(other)


# Numbers of the settings


@dataclass(frozen=True)
class Numbers:
    """Settings like those of a base."""

    schedule: object = None
    divisor: int = 8
    margin: float = 0.5
    cas_weight: float = 1 / 3
    centred: bool = True


def changed(text, **options):
    return with_numbers(Numbers(), Config.of("case").changed(base="asl", base_options=text, **options), ("cas_weight", "rank"))


def test_numbers_are_changed_by_name():
    assert changed("") == Numbers()
    found = changed("margin=2, divisor=7", cas_weight=0.9)
    assert found == Numbers(divisor=7, margin=2.0, cas_weight=0.9)
    assert (type(found.divisor), type(found.margin)) == (int, float)
    assert changed("margin=1e-3").margin == 0.001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width=3", "asl has no number 'width'; it has divisor, margin$"),
        ("margin=1,,=2", "asl has no number ''"),
        ("schedule=3", "has no number 'schedule'"),
        ("centred=0", "has no number 'centred'"),
        ("cas_weight=0.5", "has no number 'cas_weight'"),  # an option of its own
        ("margin=wide", "margin must be like 0.5, got 'wide'"),
        ("margin", "margin must be like 0.5, got ''"),
        ("margin=nan", "margin must be like 0.5, got 'nan'"),
        ("margin=-inf", "margin must be like 0.5, got '-inf'"),
        ("divisor=2.5", "divisor must be like 8, got '2.5'"),
    ],
)
def test_what_is_no_number_of_the_settings_is_refused(text, message):
    with pytest.raises(OptionError, match=f"^base_options: .*{message}"):
        changed(text)


def test_numbers_reach_the_settings_of_a_method():
    config = with_base(OFFICIAL, "rskp").changed(base_options="temperature=0.3,memory_epoch=7")
    _, settings = bases.settings_of(config)
    assert settings == replace(BASES["rskp"].settings, temperature=0.3, memory_epoch=7)
    config = with_base(OFFICIAL, "asl").changed(top_k_divisor=5, gce_exponent=0.4, cas_weight=0.1)
    _, settings = bases.settings_of(config)
    assert settings == replace(BASES["asl"].settings, top_k_divisor=5, gce_exponent=0.4, cas_weight=0.1)
    config = with_base(OFFICIAL, "a2cl_pt").changed(base_options="max_labels=12")
    assert a2cl_pt.settings_of(config) == replace(a2cl_pt.THUMOS14, max_labels=12)
    for name in BASES:
        assert bases.settings_of(with_base(OFFICIAL, name)) == (BASES[name], BASES[name].settings)


# The command line


def test_a_flag_starts_from_a_base():
    assert parsed() == parsed("--base", "case") == OFFICIAL
    assert parsed("--base", "co2net") == with_base(OFFICIAL, "co2net")
    assert parsed("--base", "co2net", "--no-case") == with_base(OFFICIAL, "co2net")
    assert parsed("--base", "co2net", "--case") == with_base(OFFICIAL, "co2net", case=True)
    assert parsed("--no-case") == with_base(OFFICIAL, "baseline")
    assert parsed("--base", "a2cl_pt") == with_base(OFFICIAL, "a2cl_pt")
    assert parsed("--case").changed(case=False) == OFFICIAL  # CASE in one program has the head
    with pytest.raises(OptionError, match="wtalc has none"):
        parsed("--base", "wtalc", "--case")


def test_flags_override_the_settings_of_the_base(capsys):
    words = ("--base", "co2net", "--batch-size", "6", "--nms", "hard", "--no-drop-lone-first", "--hidden", "32")
    want = with_base(OFFICIAL, "co2net").changed(batch_size=6, nms="hard", drop_lone_first=False, hidden=32)
    assert parsed(*words) == want
    assert want != with_base(OFFICIAL, "co2net")
    with pytest.raises(OptionError, match="similar_pairs must fit a batch of 4 videos, got 3"):
        parsed("--base", "co2net", "--batch-size", "4")
    with pytest.raises(SystemExit):
        parsed("--base", "co3net")
    assert "invalid choice: 'co3net'" in capsys.readouterr().err


def test_thresholds_are_a_list_of_numbers(capsys):
    assert parsed("--thresholds", "0.1,.5, 7e-1").inference.thresholds == (0.1, 0.5, 0.7)
    assert parsed("--thresholds", "0").inference.thresholds == (0.0,)
    for words in ("0.1;0.2", "", "0.1,"):
        with pytest.raises(SystemExit):
            parsed("--thresholds", words)
        assert f"invalid list of numbers value: {words!r}" in capsys.readouterr().err


def test_runs_are_described_by_base_head_and_changes():
    config = with_base(PAPER, "co2net", case=True)
    assert describe_variant(config) == "co2net + CASE, paper"
    other = config.changed(base_options="pair_weight=0.5,margin=1", prior_std=0.25, nms="decay_once", epochs=3)
    assert (
        describe_variant(other) == "co2net + CASE, paper with pair_weight=0.5, margin=1, prior_std=0.25, nms=decay_once"
    )
    assert describe_variant(parsed("--no-case", "--outer-ratio", "0.3")) == "baseline, official with outer_ratio=0.3"
    assert describe_variant(parsed("--case")) == "official"
