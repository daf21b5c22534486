"""Videos to files of features: the same rows in any parts, after any stop, and never of something else."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from quarters import QUARTERS, embed, write_weights
from video_files import write_video

from casejax.data.layouts import find_videos, read_timing
from casejax.errors import DataError, OptionError
from casejax.features import BACKBONES, Extractor, extract_videos, optical_flow, read_frames
from casejax.features import extraction as extraction_module
from casejax.records import Timing

pytest.importorskip("av")
pytest.importorskip("cv2")


@pytest.fixture(autouse=True)
def _listed(monkeypatch):
    monkeypatch.setitem(BACKBONES, "quarters", QUARTERS)


@pytest.fixture
def weights(tmp_path):
    return write_weights(tmp_path)


@pytest.fixture
def extractor(weights):
    return Extractor.load(weights, backbone="quarters", flow="dis", batch=3)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("videos")
    made = {}
    for name, length in (("long", 150), ("short", 9), ("middle", 61)):
        noise = list(rng.integers(0, 255, (length, 20, 28, 3)).astype(np.uint8))
        made[name] = write_video(folder / f"{name}.mkv", noise, fps=10)
    return made


def whole(path, extractor):
    """The rows, from the whole video at once."""
    pictures = list(read_frames(path, fps=10, short_side=20))
    moves = optical_flow(pictures, "dis")
    moves.append(moves[-1])
    rows = max(1, (len(pictures) - 8) // 4 + 1)
    at = np.minimum(4 * np.arange(rows)[:, None] + np.arange(8)[None, :], len(pictures) - 1)
    streams = np.stack(pictures)[:, 2:18, 6:22], np.stack(moves)[:, 2:18, 6:22]
    return [embed(None, i + 1, jnp.asarray(x[at])) for i, x in enumerate(streams)], len(pictures)


def test_rows_are_those_of_the_whole_video(extractor, videos):
    for path in videos.values():
        made = extractor(path)
        rows, frames = whole(path, extractor)
        assert (made.frames, made.seconds) == (frames, frames / 10)
        for batch in (1, 3, 64):
            for found, expected in zip(replace(extractor, batch=batch)(path).rows, rows, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_files_are_what_train_and_predict_read(extractor, videos, tmp_path):
    out = tmp_path / "out"
    told = []
    assert extract_videos(extractor, videos, out, lambda video, share: told.append((video, share))) == {}
    assert {video for video, share in told if share == 1} == set(videos)
    assert all(0 <= share <= 1 for _, share in told)
    found = {each.id: each for each in find_videos([out], ("rgb", "flow"), (12, 8))}
    for name, path in videos.items():
        for stored, rows in zip(found[name].read(), extractor(path).rows, strict=True):
            np.testing.assert_array_equal(stored, rows)
    assert read_timing(out) == Timing(8.0, 4.0, 10.0)
    stated = json.loads((out / "features.json").read_text())
    assert stated["backbone"] == "quarters"
    assert stated["weights"]["flow"]["sha256"] == "sum of flow.txt"
    assert stated["videos"]["long"] == {
        "file": "long.mkv",
        "bytes": videos["long"].stat().st_size,
        "frames": 150,
        "duration": 15.0,
        "rows": 36,
    }
    assert sorted(p.name for p in out.iterdir()) == [".parts", "features.json", "flow", "rgb"]
    assert not list((out / ".parts").iterdir())


@pytest.mark.parametrize("stop", range(8))
def test_a_stopped_extraction_goes_on_and_ends_with_the_same_bits(extractor, videos, tmp_path, monkeypatch, stop):
    extract_videos(extractor, videos, tmp_path / "whole")
    steps, own = [], extraction_module._embed

    def stopping(*args):
        steps.append(args)
        if len(steps) == 2 * stop + 1:
            raise KeyboardInterrupt
        return own(*args)

    monkeypatch.setattr(extraction_module, "_embed", stopping)
    with pytest.raises(KeyboardInterrupt):
        extract_videos(extractor, videos, tmp_path / "stopped")
    before = len(steps)
    # fewer windows at a time from here on, if it were asked
    assert extract_videos(replace(extractor, batch=2), {"long": videos["long"]}, tmp_path / "stopped") == {}
    assert extract_videos(extractor, videos, tmp_path / "stopped") == {}
    if stop:
        assert len(steps) - before <= 34 - 2 * stop + 2
    for path in (tmp_path / "whole").rglob("*.*"):
        if path.is_file() and stop:
            assert path.read_bytes() == (tmp_path / "stopped" / path.relative_to(tmp_path / "whole")).read_bytes(), path
    calls = len(steps)
    extract_videos(extractor, videos, tmp_path / "stopped")
    assert len(steps) == calls  # all is there


def test_a_broken_video_does_not_stop_the_others(extractor, videos, tmp_path):
    (tmp_path / "broken.mkv").write_bytes(b"no video")
    given = {
        "a": videos["short"],
        "broken": tmp_path / "broken.mkv",
        "gone": tmp_path / "gone.mkv",
        "b": videos["middle"],
    }
    broken = extract_videos(extractor, given, tmp_path / "out")
    assert set(broken) == {"broken", "gone"}
    assert all(str(given[name]) in broken[name] for name in broken)
    assert sorted(p.stem for p in (tmp_path / "out" / "rgb").iterdir()) == ["a", "b"]


def test_features_of_something_else_are_not_mixed(extractor, weights, videos, tmp_path):
    out = tmp_path / "out"
    extract_videos(extractor, {"a": videos["short"]}, out)
    with pytest.raises(DataError, match=r"a from a file of .* bytes.*rename it"):
        extract_videos(extractor, {"a": videos["long"]}, out)
    for options, name in (({"fps": 5}, "fps"), ({"stride": 2}, "stride"), ({"flow": "tvl1"}, "flow")):
        other = Extractor.load(weights, **({"backbone": "quarters", "flow": "dis"} | options))
        with pytest.raises(DataError, match=rf"features.json: features there have {name}"):
            extract_videos(other, videos, out)
    with pytest.raises(DataError, match="features there have flow"):
        extract_videos(Extractor.load(weights[:1], backbone="quarters"), videos, out)
    for text in ("[1]", "no json"):
        (out / "features.json").write_text(text)
        with pytest.raises(DataError, match=r"features\.json: is not by casejax"):
            extract_videos(extractor, videos, out)
    (out / "features.json").unlink()
    with pytest.raises(DataError, match=r"no features\.json"):
        extract_videos(extractor, videos, out)


def test_options_that_cannot_be_used(weights, tmp_path):
    def load(given=weights, **options):
        return Extractor.load(given, **({"backbone": "quarters"} | options))

    assert load(streams=["flow"]).dims == (8,)
    for given, options, said in (
        (weights, {"backbone": "vgg"}, "backbone must be one of .*quarters.*got 'vgg'"),
        ([*weights, weights[0]], {}, "weights for rgb, as another file"),
        (weights[:1], {"streams": ["rgb", "flow"]}, "no weights for flow"),
        (weights, {"streams": ["sound"]}, "not 'sound'"),
        ([], {}, "no weights of quarters"),
        (weights, {"fps": 0}, "fps must be"),
        (weights, {"stride": 0}, "stride must be"),
        (weights, {"batch": 0}, "batch must be"),
        (weights, {"flow": "none"}, "flow must be one of"),
    ):
        with pytest.raises(OptionError, match=said):
            load(given, **options)
