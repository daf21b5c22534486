"""`casejax extract`, and `casejax predict` on videos: one is the other's features."""

import json

import numpy as np
import pytest
from matplotlib import image
from quarters import QUARTERS, write_weights
from untrained import save_untrained
from video_files import write_video

from casejax.cli import main as cli
from casejax.features import BACKBONES, Extractor
from casejax.records import Timing

pytest.importorskip("av")
pytest.importorskip("cv2")
OPTIONS = ["--backbone", "quarters", "--flow", "dis"]


@pytest.fixture(autouse=True)
def _listed(monkeypatch):
    monkeypatch.setitem(BACKBONES, "quarters", QUARTERS)


@pytest.fixture
def weights(tmp_path):
    return ["--weights", *map(str, write_weights(tmp_path))]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("videos")
    for name, length in (("long", 150), ("short", 30)):
        write_video(folder / f"{name}.mkv", list(rng.integers(0, 255, (length, 20, 28, 3)).astype(np.uint8)), fps=10)
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_untrained(folder, num_clusters=3, class_threshold=0.0, dims=(12, 8), timing=QUARTERS.timing)
    return folder


def test_videos_in_features_and_segments_out(videos, weights, network, tmp_path, capsys):
    assert cli.main(["extract", str(videos), *weights, *OPTIONS, "--out", str(tmp_path / "features")]) == 0
    assert "features of 2 of 2 videos" in capsys.readouterr().out
    for given, name in ((tmp_path / "features", "by_features"), (videos / "*.mkv", "by_videos")):
        own = [*weights, *OPTIONS] if name == "by_videos" else []
        places = [str(given)] if name == "by_features" else [str(p) for p in sorted(videos.iterdir())]
        own += ["--json", str(tmp_path / f"{name}.json"), "--pictures", str(tmp_path / name)]
        assert cli.main(["predict", str(network), *places, *own]) == 0
    found, expected = (
        json.loads((tmp_path / f"{name}.json").read_text())["results"] for name in ("by_videos", "by_features")
    )
    assert found.keys() == expected.keys() == {"long", "short"}
    # frames of the video above the axis, where it is at hand
    heights = [image.imread(tmp_path / name / "long.png").shape[0] for name in ("by_videos", "by_features")]
    assert heights[0] > heights[1] + 90
    for video, segments in found.items():
        assert len(segments) == len(expected[video]) > 0
        for one, other in zip(segments, expected[video], strict=True):
            assert one["label"] == other["label"]
            np.testing.assert_allclose(one["score"], other["score"], rtol=1e-5)


def test_a_broken_video_is_listed_at_the_end(videos, weights, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    words = [str(tmp_path / "*.mp4"), str(videos / "short.mkv"), *weights, *OPTIONS, "--video-streams", "rgb"]
    assert cli.main(["extract", *words, "--out", str(tmp_path / "features")]) == 1
    printed = capsys.readouterr()
    assert f"error: {tmp_path / 'broken.mp4'}: is no video" in printed.err
    assert "features of 1 of 2 videos" in printed.out
    assert [p.name for p in (tmp_path / "features").glob("*/*.npy")] == ["short.npy"]


def test_what_cannot_be_used_is_refused_before_any_work(videos, weights, network, tmp_path, capsys):
    out = ["--out", str(tmp_path / "features")]
    (tmp_path / "short.mkv").write_bytes((videos / "short.mkv").read_bytes())
    (tmp_path / "wrong.txt").write_text("nothing")
    (tmp_path / "empty").mkdir()
    slow, flat = tmp_path / "slow", tmp_path / "flat"
    save_untrained(slow, dims=(12, 8), timing=Timing(16.0, 16.0, 25.0))
    save_untrained(flat, dims=(5,), streams=("rgb",), timing=QUARTERS.timing)
    video = str(videos / "short.mkv")
    for words, said in (
        (["extract", video, *OPTIONS, *out], "no weights of quarters"),
        (["extract", "nowhere.mp4", *weights, *OPTIONS, *out], "nowhere.mp4: no such file"),
        (["extract", str(tmp_path / "empty"), *weights, *OPTIONS, *out], "no video in it"),
        (["extract", video, str(tmp_path / "short.mkv"), *weights, *OPTIONS, *out], "both be 'short'"),
        (["extract", video, "--weights", str(tmp_path / "wrong.txt"), *OPTIONS, *out], "wrong.txt: are no weights"),
        (["predict", str(network), video, *OPTIONS], "no weights"),
        (["predict", str(network), video, *OPTIONS, *weights[:2]], "no weights for flow"),
        (["predict", str(slow), video, *OPTIONS, *weights], "windows of 8 pictures cannot make"),
        (["predict", str(flat), video, *OPTIONS, *weights], r"trained on {'rgb': 5}"),
    ):
        assert cli.main(words) == 2, words
        assert said in capsys.readouterr().err, words
    assert not (tmp_path / "features").exists()


def test_features_of_another_network_are_refused(videos, weights, tmp_path, capsys):
    """Equal dimensions do not make equal features."""
    stated = Extractor.load(weights[1:], backbone="quarters", flow="dis").stated()
    own = {name: stated[name] for name in ("backbone", "weights", "pictures", "flow", "dtype")}
    for name, changed in (("same", {}), ("other", {"weights": {"rgb": {"sha256": "another"}}})):
        options = {"dims": (12, 8), "timing": QUARTERS.timing, "class_threshold": 0.0}
        save_untrained(tmp_path / name, provenance=own | changed, **options)
    assert cli.main(["extract", str(videos), *weights, *OPTIONS, "--out", str(tmp_path / "features")]) == 0
    for given in ([str(tmp_path / "features")], [str(videos / "short.mkv"), *weights, *OPTIONS]):
        assert cli.main(["predict", str(tmp_path / "same"), *given]) == 0
        capsys.readouterr()
        assert cli.main(["predict", str(tmp_path / "other"), *given]) == 2
        assert "features with weights {'rgb': {'sha256': 'another'}}" in capsys.readouterr().err
