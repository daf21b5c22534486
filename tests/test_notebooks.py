"""The notebooks run from top to bottom as a user runs them, without the settings of these tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
LABELS = """
shares = {name: float(share) for name, (share, _) in results.items()}
assert bool(found.converged), found.column_error
assert abs(float(found.plan.sum(axis=0)[0]) - 15) < 0.1 < float(softmax.sum(axis=0)[0]) - 30
assert np.diff(entropies).min() > 0, entropies
high = np.asarray(attention) > 0.75
acts, flat = (float(share_in_action_clusters(std)[high].mean()) for std in (0.3, 10.0))
assert acts > 0.7 > 0.6 > flat, (acts, flat)
assert shares["relaxed transport"] >= shares["transport"] > max(shares["nearest"] + 0.1, 0.6), shares
"""
ACTIONS = """
assert result.mean_ap[0] > 0.3, result.mean_ap
assert prediction.segments[0].label in localizer.classes
assert "start" not in (folder / "labels.csv").read_text()
"""


def test_they_are_kept_without_outputs():
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs"), path.name
            assert cell.get("execution_count") is None, path.name


@pytest.mark.parametrize(("name", "claims"), [("labels-by-transport", LABELS), ("find-actions", ACTIONS)])
def test_a_notebook_runs_and_shows_what_its_text_says(name, claims, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "notebook.py").write_text(code + claims)
    # one device, and programs as they are compiled for users
    left_out = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    environment |= {"TMPDIR": str(tmp_path), "MPLBACKEND": "Agg"}
    words = [sys.executable, "-W", "error::DeprecationWarning:__main__", "notebook.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
