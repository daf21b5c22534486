"""Flags from the options of a method: what there is, what is refused, and the help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from casejax.cli import options
from casejax.cli.options import Parser, add_options, add_run_options, configured, given_options, parse
from casejax.errors import OptionError
from casejax.methods import METHODS
from casejax.run.config import Config

KEEP = """
import sys, jax
from pathlib import Path
from casejax.cli.options import use_compilation_cache
before = jax.config.jax_compilation_cache_dir
use_compilation_cache(None)
assert jax.config.jax_compilation_cache_dir == before
use_compilation_cache(Path(sys.argv[1]))
jax.jit(lambda x: x + 1)(1.0)
"""


def parsed(name, *words):
    """The configuration that flags make of a method's published one."""
    start, parser = Config.of(name), Parser()
    add_options(parser, start)
    return configured(start, given_options(parse(parser, list(words), start), start))


def test_compiled_programs_are_kept_by_option(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    subprocess.run([sys.executable, "-c", KEEP, tmp_path / "cache"], check=True, env=environment)
    assert any(path.is_file() for path in (tmp_path / "cache").iterdir())


def test_run_options_parse(capsys):
    parser = Parser()
    add_run_options(parser)
    arguments = parser.parse_args(["--packed", "folder", "--packed-dtype", "bfloat16"])
    assert (arguments.packed, arguments.packed_dtype) == (Path("folder"), "bfloat16")
    assert arguments.compilation_cache is None
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--packed-dtype", "int8"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "int8" in error
    assert error.count("\n") == 1


def test_flags_change_the_settings_of_the_method():
    words = ("--batch-size", "6", "--nms", "hard", "--no-drop-lone-first", "--hidden", "32", "--margin", "0.3")
    want = Config.of("co2net").changed(batch_size=6, nms="hard", drop_lone_first=False, hidden=32, margin=0.3)
    assert parsed("co2net", *words) == want
    assert parsed("co2net+case", "--prior-std", "0.2", "--rank", "true").flat()["prior_std"] == 0.2
    assert parsed("case", "--sinkhorn-tolerance", "none") == Config.of("case")
    assert parsed("case", "--thresholds", "0.1,.5, 7e-1").localization.thresholds == (0.1, 0.5, 0.7)


@pytest.mark.parametrize("name", METHODS)
def test_every_option_with_help_is_a_flag_or_says_so(name):
    parser = Parser(everything=True)
    add_options(parser, Config.of(name))
    shown = parser.format_help()
    for each in Config.of(name).options():
        assert (f"--{each.name.replace('_', '-')} " in shown.replace("\n", " ")) == each.meta(
            "flag"
        ) or each.hint is bool


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("co2net", ["--prior-std", "0.3"], ["co2net", "--prior-std", "margin", "pair_weight"]),
        ("case", ["--margin", "0.3"], ["case", "--margin", "num_clusters"]),
        ("case", ["--prior-st", "0.3"], ["--prior-st"]),  # nothing is abbreviated
        ("case", ["--nms", "soft", "--nms-threshold", "0.3"], ["--nms-threshold", "no effect", "nms"]),
        ("case", ["--no-prior", "--rank", "true"], ["--rank", "no effect"]),
        ("case", ["--holdout", "0.3"], ["--holdout", "no effect", "select"]),
        ("a2cl_pt", ["--nms", "soft"], ["--nms", "no effect", "proposals"]),
        ("co2net", ["--batch-size", "4"], ["similar_pairs", "4", "3"]),
    ],
)
def test_flags_that_a_method_does_not_have_or_that_do_nothing(name, words, said):
    with pytest.raises(OptionError) as stopped:
        parsed(name, *words)
    assert all(word in str(stopped.value) for word in said), stopped.value


@pytest.mark.parametrize("words", [["--thresholds", "0.1;0.2"], ["--thresholds", ""], ["--nms", "sotf"], ["--epochs"]])
def test_values_that_cannot_be_read_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed("case", *words)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words[0] in error
    assert error.count("\n") == 1


def test_the_short_help_is_short():
    short, full = Parser(), Parser(everything=True)
    for parser in (short, full):
        add_options(parser, Config.of("case"), common=("epochs",))
        options.add_cluster_options(parser)
    assert "--epochs" in short.format_help()
    assert "--prior-std" not in short.format_help()
    assert "--prior-std" in full.format_help()
    assert "clustering head" in full.format_help()
