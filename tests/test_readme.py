"""The README is one page whose links lead somewhere, and code blocks of pages of the site run."""

import re
from pathlib import Path

import jax.numpy as jnp

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_one_page_with_two_commands_and_a_picture():
    assert len(README.splitlines()) <= 120
    assert "pip install -e '.[plots]' && python examples/train_thumos.py" in README
    assert "pip install -e '.[test]' && python -m pytest" in README
    assert re.findall(r"!\[.*?\]\((.*?)\)", README) == ["docs/timeline.png"]


def test_links_of_texts_outside_the_site_lead_to_files():
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
            assert link.startswith("https://") or (ROOT / link).is_file(), f"{name}: {link}"


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


def test_report_block_runs(capsys):
    text = (Path(__file__).parent.parent / "docs" / "report.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(block, {})
    kinds, gains = capsys.readouterr().out.splitlines()
    assert kinds == "['localization', 'true positive', 'double detection']"
    assert gains == "{'localization': 0.25}"
