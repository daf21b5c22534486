"""The pages of the site say what is so: their code runs, and flags, names and numbers in them are the library's."""

import contextlib
import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.cli.main import COMMANDS, main
from casejax.cli.options import Parser, add_options, configured, given_options, parse
from casejax.evaluate import PROTOCOLS
from casejax.methods import METHODS
from casejax.run.config import Config

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OF_OTHERS = """
--activations --finegym --methods --steps --train --figure --kernels --peak-of --penn --row --rows --table
--states --thumos14 --worlds --gamma --lr --modal --std --temp --verbose
--logdir --no-binary --no-deps --command --hypothesis-seed --worker --gpus-per-task --nodes --ntasks-per-node --requeue
"""  # of examples and benchmarks; of the published program, where they have no underscore; of pip, SLURM and the like


def page(name):
    return (DOCS / f"{name}.md").read_text()


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def rows(text, *, columns):
    """The cells of all rows of tables with so many columns, without headings and rules."""
    found = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("| ")]
    return [row for row in found if len(row) == columns and not row[0].startswith("---")]


def section(name, heading):
    return re.split(r"^## ", page(name).split(f"\n## {heading}\n")[1], flags=re.MULTILINE)[0]


@pytest.fixture
def start():
    names = {}
    exec(blocks(page("coming-from-transport"))[0], names)
    return names


def test_the_calls_of_ott_and_ours_give_the_same(start):
    pytest.importorskip("ott", reason="OTT-JAX is not installed")
    with jax.numpy_rank_promotion("allow"):  # which OTT needs
        exec("\n".join(blocks(section("coming-from-transport", "OTT-JAX"))), start)
    np.testing.assert_allclose(start["ours"].plan, start["theirs"].matrix, rtol=1e-3, atol=1e-7)
    for theirs, own in ((start["theirs"].f, "row_potential"), (start["theirs"].g, "column_potential")):
        apart = theirs - 0.1 * getattr(start["ours"], own)
        assert float(apart.max() - apart.min()) < 1e-5
    np.testing.assert_allclose(start["ours_unbalanced"].plan, start["theirs_unbalanced"].matrix, rtol=1e-3, atol=1e-7)
    assert abs(float(start["ours_unbalanced"].plan.sum()) - 1) > 0.01


def test_the_calls_of_pot_and_ours_give_the_same(start):
    pytest.importorskip("ot", reason="POT is not installed")
    exec("\n".join(blocks(section("coming-from-transport", "POT"))), start)
    ours = start["sinkhorn"](
        -start["cost"],
        row_marginal=start["rows"],
        column_marginal=start["columns"],
        epsilon=0.1,
        num_iters=5000,
        tolerance=1e-6,
    )
    np.testing.assert_allclose(ours.plan, start["theirs_pot"], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(start["ours_kl"].plan, start["theirs_kl"], rtol=1e-3, atol=1e-7)


def test_the_loop_of_swav_and_ours_give_the_same(start):
    exec("\n".join(blocks(section("coming-from-transport", "SwAV and DINO"))), start)
    np.testing.assert_allclose(start["codes"], start["by_hand"], rtol=1e-4, atol=1e-7)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite(start["codes_by_hand"](np.full((4, 2), 5, np.float32))).all()
    assert np.isfinite(start["sinkhorn"](np.array([[500.0, -500], [0, 0]]), epsilon=0.05).plan).all()
    a, b = jax.random.normal(jax.random.key(1), (2, 64, 8))
    mask = jnp.arange(64) < 50
    value, gradient = jax.jit(jax.value_and_grad(start["swapped_prediction_loss"]))(a, b, mask)
    assert bool(jnp.isfinite(value))
    assert float(jnp.abs(gradient[50:]).max()) == 0 < float(jnp.abs(gradient).max())


def test_protocols_are_as_the_page_has_them(capsys):
    (block,) = blocks(page("protocols"))
    exec(block, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "case [100.0, 100.0, 100.0, 100.0, 75.0, 75.0, 75.0]"
    assert printed[1] == "opentad [100.0, 100.0, 75.0, 75.0, 75.0]"
    table = {row[0].strip("`"): row[1:] for row in rows(page("protocols"), columns=5)[1:]}
    assert list(table) == list(PROTOCOLS)
    for name, (_, videos, tious, particulars) in table.items():
        protocol = PROTOCOLS[name]
        assert videos == str(protocol.num_videos or "validation")
        assert tious == f"{protocol.tious[0]:g} to {protocol.tious[-1]:g}"
        assert ("ambiguous filter" in particulars) == protocol.ambiguous_filter
        assert ("whole snippets" in particulars) == (protocol.units != "seconds")
        assert ("twice counts once" in particulars) == protocol.unique_ground_truth


def test_every_function_in_the_table_of_equations_exists():
    names = [name for row in rows(page("concepts"), columns=3) for name in re.findall(r"`([\w.]+)`", row[0])]
    assert len(names) >= 30
    for name in names:
        room, own = name.rsplit(".", 1)
        assert hasattr(importlib.import_module(f"casejax.{room}"), own), name


def test_flags_of_the_published_program_map_to_options_of_the_same_value():
    config, parser, found = Config.of("case", "official"), Parser(), {}
    add_options(parser, config)
    flags = {f"--{each.name.replace('_', '-')}": each.name for each in config.options()}
    for theirs, default, ours, _ in rows(section("coming-from-case", "Flag by flag"), columns=4)[1:]:
        for flag, value in re.findall(r"(--[\w-]+) ([\w.]+)", ours):
            if flag in flags:
                words = [flag, value, *(("--select", "test-oracle") if flag == "--select-every" else ())]
                changed = configured(config, given_options(parse(parser, words, config), config)).flat()
                found[flags[flag]] = changed[flags[flag]], config.flat()[flags[flag]], theirs, default
    # of their defaults two are no matter of the variant: the seed, and how often a step is a candidate
    differ = {name for name, (stated, own, *_) in found.items() if stated != own}
    assert differ == {"seed"}
    assert len(found) >= 17
    for name, (stated, _, theirs, default) in found.items():
        with contextlib.suppress(ValueError):
            assert float(default) == stated or name == "epsilon", theirs


def test_every_flag_in_the_docs_exists(capsys):
    known = set()
    for command in COMMANDS:
        for method in METHODS if command == "train" else ("",):
            with contextlib.suppress(SystemExit):
                main([command, *(("--method", method) if method else ()), "--help-all"])
            known |= set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
    assert len(known) > 150
    for path in (ROOT / "README.md", *DOCS.glob("*.md")):
        found = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", path.read_text()))
        assert {flag for flag in found - known if "_" not in flag} <= set(OF_OTHERS.split()), path.name


def test_the_page_of_commands_has_all_of_them():
    named = {
        name for row in rows(page("commands"), columns=2) for name in re.findall(r"`(?:casejax )?([a-z]+)", row[0])
    }
    assert set(COMMANDS) <= named


def test_every_page_of_the_site_is_in_its_contents_once():
    listed = [
        re.sub(r".*<(.*)>", r"\1", line)
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page("index"), re.DOTALL)
        for line in block.splitlines()
        if line and not line.startswith(":")
    ]
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in (*DOCS.glob("*.md"), *DOCS.glob("*/*.ipynb"))}
    assert sorted(listed) == sorted(pages - {"index"})
