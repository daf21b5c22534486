"""All Python code of README and docs runs, page by page, and comes to what the pages say."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quarters import QUARTERS
from untrained import save_untrained
from video_files import write_video

import casejax
from casejax.features import BACKBONES
from casejax.run.conversion import export_published
from casejax.train import own_data

ROOT = Path(__file__).parent.parent
BLOCKS = re.compile(r"^```py(?:thon)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = {
    str(path.relative_to(ROOT)): BLOCKS.findall(path.read_text())
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
}
PAGES = {page: blocks for page, blocks in PAGES.items() if blocks}


# What pages take for granted: files in the folder that they run in, and names


def own_features(monkeypatch):
    """Features and a table of labels; a network that is not trained takes the place of a trained one."""

    def untrained(dataset, config, out, **options):
        known = {"classes": dataset.classes, "streams": dataset.streams, "timing": dataset.timing}
        save_untrained(out, config.method.name, variant=config.variant, dims=dataset.dims, **known, num_clusters=3)

    Path("features").mkdir()
    for name in ("clip_001", "clip_002"):
        np.save(f"features/{name}.npy", np.ones((40, 6), np.float32))
    Path("labels.csv").write_text("video,label\nclip_001,Dive\nclip_002,Swing\n")
    monkeypatch.setattr(own_data, "run", untrained)
    return {"casejax": casejax, "array": np.ones((40, 6), np.float32)}


def own_video(monkeypatch):
    """A video, and a small network in the place of I3D."""
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    monkeypatch.setitem(BACKBONES, "i3d", QUARTERS)
    Path("rgb_imagenet.pt").write_text("rgb 1")
    write_video(Path("new.mp4"), np.zeros((50, 24, 32, 3), np.uint8))
    return {}


def published_model(monkeypatch):
    """A model of the published program's format, of two classes."""
    classes = ("BaseballPitch", "BasketballDunk")
    save_untrained(Path("ours"), "case", variant="official", dims=(1024, 1024), classes=classes, alike=True)
    export_published("ours", "best_model.pkl", "cls_gt.npy")
    return {}


GIVEN = {
    "README.md": own_features,
    "docs/start.md": own_features,
    "docs/features.md": own_video,
    "docs/checkpoints.md": published_model,
}
NEEDED = {"docs/coming-from-transport.md": ("ott", "ot")}


# What comes of them


def readme(names, printed):
    assert names["localizer"].classes == ("Dive", "Swing")


def transport(names, printed):
    a, b = jax.random.normal(jax.random.key(1), (2, 64, 8))
    mask = jnp.arange(64) < 50
    value, gradient = jax.jit(jax.value_and_grad(names["swapped_prediction_loss"]))(a, b, mask)
    assert bool(jnp.isfinite(value))
    assert float(jnp.abs(gradient[50:]).max()) == 0 < float(jnp.abs(gradient).max())


def start(names, printed):
    found = names["localizer"](names["array"]).segments
    assert [line.split()[0] for line in printed.splitlines()] == [segment.label for segment in found]
    assert found


def features(names, printed):
    assert [stream.shape[1] for stream in names["rows"]] == [QUARTERS.dims["rgb"]]


def alignment(names, printed):
    assert bool(jnp.isfinite(names["published"]))
    assert bool(jnp.isfinite(names["gradient"]).all())
    assert abs(float(names["expected"][0, 0]) - 1) < 1e-5  # every path begins there
    assert names["values"].shape == (2,)
    assert names["path"].cells[0].tolist() == [0, 0]


def dtw(names, printed):
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


def report(names, printed):
    kinds, gains = printed.splitlines()
    assert kinds == "['localization', 'true positive', 'double detection']"
    assert gains == "{'localization': 0.25}"


def sinkhorn(names, printed):
    assert bool(names["result"].converged)
    np.testing.assert_allclose(names["gradient"], names["result"].plan, rtol=1e-5)
    np.testing.assert_allclose(names["value"].primal, names["value"].dual, rtol=1e-3)
    assert np.isfinite(names["loss"])
    assert np.abs(names["slope"]).max() > 0
    np.testing.assert_allclose(names["sharded_plan"], names["codes"](names["a"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(names["part"].sum(axis=1), 1, rtol=1e-4)
    nearest, rows = names["nearest"], names["embeddings"][:100]
    logs = names["near"](names["prototypes"], rows) / 2 + nearest.row_potential[:100, None]
    np.testing.assert_allclose(jnp.exp(logs + nearest.column_potential[None, :]).sum(axis=1), 1, rtol=1e-4)
    matched = names["matched"]
    assert matched.argmax(axis=1).tolist()[:5] == [0, 1, 2, 3, 4]
    assert float(jnp.diagonal(matched).min()) > 0.5 > float(matched[5].sum())
    assert float(names["by_bin"]) > 0
    np.testing.assert_allclose(names["loads"], 250 / 8, rtol=1e-2)
    assert float(jnp.abs(names["wished"].plan.sum(axis=0) - 250 / 8).max()) > 1
    assert float(names["weight"][250:].max()) == 0
    assert jax.device_count() == 8


RESULTS = {
    "README.md": readme,
    "docs/start.md": start,
    "docs/coming-from-transport.md": transport,
    "docs/features.md": features,
    "docs/alignment.md": alignment,
    "docs/dtw.md": dtw,
    "docs/report.md": report,
    "docs/sinkhorn.md": sinkhorn,
}


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = GIVEN[page](monkeypatch) if page in GIVEN else {}
    for package in NEEDED.get(page, ()):
        pytest.importorskip(package)
    with jax.numpy_rank_promotion("allow" if page in NEEDED else "raise"):  # OTT needs it
        exec("\n".join(PAGES[page]), names)
    if page in RESULTS:
        RESULTS[page](names, capsys.readouterr().out)


def test_no_page_is_lost():
    assert set(RESULTS) <= set(PAGES)
