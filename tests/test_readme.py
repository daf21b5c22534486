"""The README's code runs, and the names in its table exist."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_blocks_run(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(block, names)
    iterations, error, converged = capsys.readouterr().out.split()
    assert 1 < int(iterations) < 200
    assert float(error) < 1e-3
    assert converged == "True"
    a, b = jax.random.normal(jax.random.key(1), (2, 64, 8))
    mask = jnp.arange(64) < 50
    value, gradient = jax.jit(jax.value_and_grad(names["swapped_prediction_loss"]))(a, b, mask)
    assert bool(jnp.isfinite(value))
    assert float(jnp.abs(gradient[50:]).max()) == 0 < float(jnp.abs(gradient).max())


def test_alignment_block_runs():
    text = (Path(__file__).parent.parent / "docs" / "alignment.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(block, names)
    assert bool(jnp.isfinite(names["published"]))
    assert bool(jnp.isfinite(names["gradient"]).all())
    assert abs(float(names["expected"][0, 0]) - 1) < 1e-5  # every path begins there
    assert names["values"].shape == (2,)
    assert names["path"].cells[0].tolist() == [0, 0]


def test_dtw_blocks_run():
    text = (Path(__file__).parent.parent / "docs" / "dtw.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    assert bool(jnp.isfinite(names["gradient"]).all())
    assert abs(float(names["each"][1] - names["alone"])) < 1e-3
    assert names["matches"][-1].tolist() == [19, 17]
    assert "band=4 leaves no path through 10 x 20 frames; it must be 10 or more" in names["impossible"]
    assert (names["near"] >= names["dtw"](names["squared_distance"](names["x"], names["y"]), gamma=0.5) - 1e-3).all()
    assert names["found"].cells[names["found"].mask].tolist() == [[i, 6 + i] for i in range(5)]
    assert float(names["apart"].min()) > 0
    assert float(jnp.abs(names["nothing"]).max()) < 1e-4
    assert names["mean"].frames.shape == (15, 3)
    assert float(jnp.diff(names["mean"].losses).max()) < 1e-4
    assert float(names["root"]) == 1  # as tslearn has it
    assert abs(float(names["soft"]) - (-0.89)) < 0.01


def test_every_function_in_the_table_exists():
    table = README.split("## What is built from which equation")[1].split("\n\nAgainst")[0]
    found = 0
    for row in table.splitlines():
        if not row.startswith("| `"):
            continue
        names = re.findall(r"`([\w.]+)`", row.split("|")[1])
        module = importlib.import_module("casejax." + names[0].rsplit(".", 1)[0])
        for name in names:
            assert hasattr(module, name.rsplit(".", 1)[-1]), name
            found += 1
    assert found >= 20


def test_report_block_runs(capsys):
    text = (Path(__file__).parent.parent / "docs" / "report.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
    kinds, gains = capsys.readouterr().out.splitlines()
    assert kinds == "['localization', 'true positive', 'double detection']"
    assert gains == "{'localization': 0.25}"
