"""The report page: every section of every kind of run, valid charts, nothing loaded, and a browser that draws it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from casejax.cli.main import main
from casejax.errors import DataError
from casejax.records import SegmentTable
from casejax.report import pictures
from casejax.report.analysis import Analysis, read_analysis, write_analysis
from casejax.report.page import write_page

CLASSES = ("Dive", "Jump <b>&", "It's")
SECTIONS = ("result", "classes", "training", "timelines", "clusters", "map", "errors")


def analysis_of(kind):
    """Three videos; of a method with clusters, one without attention, or one that gives segments alone."""
    rng = np.random.default_rng(0)
    counts = np.array([40, 7, 61])
    rows = counts.sum()
    values = {}
    if kind != "segments":
        names = [pictures.ATTENTION, pictures.CLUSTERS] if kind == "clusters" else [pictures.BEST_CLASS]
        values = {
            "snippets": counts,
            "heading": "Foreground probability",
            "curve_names": np.array(names),
            "curves": rng.uniform(size=(rows, len(names))).astype(np.float16),
            "top_classes": np.array([[0, 1], [1, 2], [2, 0]], np.int16),
            "class_scores": rng.uniform(size=(rows, 2)).astype(np.float16),
        }
    if kind == "clusters":
        values |= {
            "cluster_foreground": np.array([[0.9, 0.2, 0.6], [0.8, 0.1, 0.7]]),
            "cluster_size": np.array([[0.2, 0.5, 0.3]] * 2),
            "cluster_truth": rng.uniform(size=(2, 3, 4)),
            "points": rng.normal(size=(2, 50, 2)).astype(np.float32),
            "point_labels": rng.integers(-1, 3, 50).astype(np.int16),
            "prototypes": rng.normal(size=(2, 3, 2)),
            "explained": np.array([0.5, 0.4]),
        }
    start = rng.uniform(0, 8, 30)
    segments = np.stack([start, start + rng.uniform(0.5, 4, 30)], axis=1)
    truth = SegmentTable.from_rows([0, 0, 1, 2], [0, 1, 1, 2], [[1, 4], [3, 6], [0, 2], [5, 9]])
    return Analysis(
        classes=np.array(CLASSES),
        streams=np.array(["rgb", "flow"]),
        videos=np.array(["a", "b", "c<script>"]),
        duration=np.array([26.0, 9.0, 40.0]),
        covered=np.array([[0.0, 25.6], [0.0, 4.5], [0.5, 39.5]]),
        timed=np.array([True, True, True]),
        truth=truth,
        found=SegmentTable.from_rows(rng.integers(0, 3, 30), rng.integers(0, 3, 30), segments, np.linspace(1, 0.1, 30)),
        **values,
    )


def write_run(folder, kind, seed=0, value=0.4):
    folder.mkdir(parents=True)
    figures = {"mAP": {"0.30": value, "0.50": value / 2}, "average_mAP": {"0.3:0.5": 0.75 * value}}
    ends = {"mAP": {"0.30": [0.1, 0.6], "0.50": [0.0, 0.5]}, "average_mAP": {"0.3:0.5": [0.1, 0.5]}}
    results = {
        "method": f"{kind} with <options>",
        "seed": seed,
        "step": 30,
        "selection": "last step",
        "protocol": "protocol case: here",
        "judged": {"name": "case", "tious": [0.3, 0.5]},
        "trained": figures | {"interval": ends | {"level": 0.95, "resamples": 10, "seed": 0}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    table = "class,ground_truth,predictions,AP@0.3,AP@0.5,mean\nDive,1,9,0.5,0.25,0.375\nJump <b>&,2,9,0.1,0.9,0.5\n"
    (folder / "average_precision.csv").write_text(table + "It's,0,0,,,\n")
    keys = [*pictures.LOSSES, *pictures.ENTROPIES, *pictures.ERRORS] if kind == "clusters" else ["loss", "loss_pairs"]
    lines = [{"step": 10 * i, **dict.fromkeys(keys, 1 / (1 + i))} for i in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_analysis(folder / "analysis.npz", analysis_of(kind))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed, value in enumerate((0.4, 0.5)):
        write_run(root / "clusters" / f"seed-{seed}", "clusters", seed, value)
    return [root / "clusters", write_run(root / "scores", "scores"), write_run(root / "segments", "segments", 1)]


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    pytest.importorskip("vl_convert", reason="vl-convert is not installed")
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, runs, timelines=3)
    return path


class Reader(HTMLParser):
    """Places, links and texts of a page."""

    def __init__(self):
        super().__init__()
        self.places, self.links, self.tags, self.text, self.inside = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        self.inside.append(tag)
        self.places += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("src", "href", "action") if name in found]

    def handle_data(self, data):
        if self.inside and self.inside[-1] not in ("script", "style"):
            self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def charts_of(page):
    return json.loads(re.search(r'id="charts">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_every_section_of_every_run_is_there_and_nothing_is_loaded(page):
    reader = read(page)
    assert [place for place in reader.places if place.startswith("run1-")] == [f"run1-{name}" for name in SECTIONS]
    assert "comparison" in reader.places
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert "default-src 'none'" in page.read_text(encoding="utf-8")
    text = " ".join(reader.text)
    for sentence in (
        "The method has no clusters.",
        "no scores of snippets, so there are no curves",
        "no self-labels, so there are no entropies",
        "No embedding was kept",
    ):
        assert sentence in text
    assert "Jump <b>&" in text  # as text, not as a tag
    assert "b" not in reader.tags
    assert "c<script>" in text
    assert "37.5" in text  # a mean AP of 0.375, in percent
    assert "5.0" in text  # the second run's figures minus the first's, paired


def test_charts_are_what_vega_lite_takes(page):
    altair = pytest.importorskip("altair")
    charts = charts_of(page)
    assert len(charts) > 25
    for spec in charts:
        altair.Chart.from_dict({"$schema": "https://vega.github.io/schema/vega-lite/v6.json", **spec})
    assert "NaN" not in json.dumps(charts)


def test_a_timeline_has_its_values_at_their_seconds(page):
    analysis = analysis_of("clusters")
    charts = [spec for spec in charts_of(page) if "vconcat" in spec]
    spec = next(each for each in charts if len(each["vconcat"]) == 5)  # the first video by length: b
    truth, curves, _, found, strip = spec["vconcat"]
    (bars,) = truth["layer"][1]["data"]["values"]
    assert (bars["label"], bars["start"], bars["end"]) == (["Jump <b>&"], [0], [2])
    (drawn,) = curves["layer"][1]["data"]["values"]
    assert drawn["curve"] == ["P^A attention"] * 8 + ["P^T clusters"] * 8
    np.testing.assert_allclose(drawn["t"][:8], np.linspace(0, 4.5, 8), rtol=1e-4)
    np.testing.assert_allclose(drawn["value"][:7], analysis.curves[analysis.rows(1), 0], rtol=1e-3)
    assert strip["params"][0]["value"] == {"x": [0, 9]}
    scores = found["layer"][1]["data"]["values"][0]["score"]
    assert scores == sorted(scores, reverse=True)


def test_an_analysis_is_read_as_it_was_written(tmp_path):
    for kind in ("clusters", "segments"):
        written = analysis_of(kind)
        write_analysis(tmp_path / "a.npz", written)
        found = read_analysis(tmp_path / "a.npz")
        for name, value in vars(written).items():
            if isinstance(value, SegmentTable):
                for one, other in zip(value, getattr(found, name), strict=True):
                    np.testing.assert_array_equal(one, other)
            elif value is None:
                assert getattr(found, name) is None
            else:
                np.testing.assert_array_equal(value, getattr(found, name))
    (tmp_path / "b.npz").write_bytes(b"PK no")
    with pytest.raises(DataError, match=r"b\.npz: not a \.npz file"):
        read_analysis(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", format=np.array(99))
    with pytest.raises(DataError, match="has format 99, this casejax reads 1"):
        read_analysis(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", format=np.array(1), classes=np.array(["a"]))
    with pytest.raises(DataError, match="has no streams"):
        read_analysis(tmp_path / "d.npz")


def test_what_cannot_be_reported_is_said(runs, tmp_path, capsys, monkeypatch):
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path), "--out", str(out)]) == 2
    assert "name the folder of a finished run" in capsys.readouterr().err
    assert main(["report", str(runs[1]), str(runs[1])]) == 2
    assert "names a run twice" in capsys.readouterr().err
    assert main(["report", str(runs[1]), "--tiou", "1.5"]) == 2
    assert "--tiou 1.5 is no threshold" in capsys.readouterr().err
    assert main(["report", str(runs[1]), "--out", str(out), "--videos", "zebra"]) == 2
    assert "no test video zebra; it has 3, such as a, b" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    assert main(["report", str(runs[1]), "--out", str(out)]) == 2
    assert "pip install 'casejax[report]'" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_without_its_files_says_what_is_left_out(runs, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "results.json").write_text(json.dumps({"method": "case", "seed": 0, "step": 1}))
    pytest.importorskip("vl_convert", reason="vl-convert is not installed")
    write_page(tmp_path / "r.html", [bare, runs[1]], videos=["a"], timelines=1)
    text = " ".join(read(tmp_path / "r.html").text)
    for sentence in ("there is no mAP", "no figures by class", "no curves of training", "casejax eval RUN --data DIR"):
        assert sentence in text
    assert "has no mAP, so it is not compared" in text


def browser(playwright):
    """Playwright's own Chromium, or one of the machine."""
    if Path(playwright.chromium.executable_path).exists():
        return playwright.chromium.launch()
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser: playwright install chromium, or the package chromium of the system")
    return playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


def test_a_browser_draws_all_of_it_without_a_complaint(page, tmp_path):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        opened = browser(playwright)
        for width, scheme in ((1280, "light"), (390, "dark")):
            complaints = []
            tab = opened.new_page(viewport={"width": width, "height": 30_000}, color_scheme=scheme)
            tab.on("console", lambda m, to=complaints: to.append(m.text) if m.type in ("error", "warning") else None)
            tab.on("pageerror", lambda error, to=complaints: to.append(str(error)))
            tab.on(
                "request", lambda r, to=complaints: None if r.url.startswith(("file:", "data:")) else to.append(r.url)
            )
            tab.goto(page.as_uri())
            tab.wait_for_function(
                "document.querySelectorAll('.chart svg').length === document.querySelectorAll('.chart').length",
                timeout=60_000,
            )
            assert complaints == []
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
            ink = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert ink == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 26)")
            drawn = "[...document.querySelectorAll('.chart')].every(c => c.firstChild.clientWidth <= c.clientWidth)"
            assert tab.evaluate(drawn)
            tab.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
            if scheme == "light":
                first = "document.querySelector('#run1-classes ~ .scroll tbody td').textContent"
                tab.locator("#run1-classes ~ .scroll th button", has_text="mean").first.click()
                assert tab.evaluate(first) == "Jump <b>&"
                tab.locator("#run1-classes ~ .scroll th button", has_text="mean").first.click()
                assert tab.evaluate(first) == "It's"
            tab.close()
        opened.close()
