"""Videos to pictures: those that a player shows at the times asked for, whatever the file is like."""

import socket
import struct

import numpy as np
import pytest
from video_files import grey_pictures, write_video

from casejax.errors import DataError, OptionError
from casejax.features import count_frames, probe, read_frames, sample_frames

pytest.importorskip("av")
LEVELS = list(range(10, 210, 5))
H264 = {"codec": "libx264", "pixels": "yuv420p", "options": {"g": "10", "bf": "3"}}


def levels(path, fps=25, **options):
    """Grey levels of the pictures of a file, as they were before it was written."""
    found = np.asarray([int(picture[0, 0, 0]) for picture in read_frames(path, fps=fps, short_side=32, **options)])
    return (5 * np.round(found / 5)).astype(int).tolist()


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("steady") / "steady.mp4", grey_pictures(LEVELS), **H264)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A video of variable rate, with the times of its pictures."""
    steps = np.random.default_rng(0).choice([1 / 30, 1 / 15, 0.2, 0.5], len(LEVELS))
    times = np.cumsum(steps) - steps[0]
    path = tmp_path_factory.mktemp("uneven") / "uneven.mkv"
    return write_video(path, grey_pictures(LEVELS), times=times), times


def test_all_pictures_at_their_own_rate(steady):
    assert levels(steady) == LEVELS
    assert count_frames(steady, fps=25) == len(LEVELS)
    info = probe(steady)
    assert (info.width, info.height, info.fps) == (48, 32, 25)
    assert info.duration == pytest.approx(len(LEVELS) / 25)


@pytest.mark.parametrize("fps", [5, 10, 29.97, 60])
def test_another_rate_shows_what_a_player_shows(steady, fps):
    found = levels(steady, fps)
    shown = np.floor(np.arange(len(found)) / fps * 25 + 1e-6).astype(int)
    assert found == [LEVELS[i] for i in shown]
    assert len(found) == count_frames(steady, fps=fps) == np.ceil(len(LEVELS) / 25 * fps - 1e-6)


def test_a_variable_rate_keeps_its_time(uneven):
    path, times = uneven
    found = levels(path)
    shown = np.searchsorted(times, np.arange(len(found)) / 25 + 1e-4, side="right") - 1
    assert found == [LEVELS[i] for i in shown]
    assert len(found) > 25 * times[-1]


@pytest.mark.parametrize("first", [1, 9, 10, 11, 39, 40, 1000])
def test_the_rest_is_the_rest_of_the_whole(steady, uneven, first):
    assert levels(steady, first=first) == LEVELS[first:]
    assert levels(uneven[0], first=first) == levels(uneven[0])[first:]


def test_pictures_are_upright(tmp_path):
    picture = np.full((32, 48, 3), 50, np.uint8)
    picture[:16, :24] = 200  # bright in the upper left
    path = write_video(tmp_path / "phone.mp4", [picture] * 4, **H264)
    contents = bytearray(path.read_bytes())
    matrix = contents.find(b"tkhd") + 44
    contents[matrix : matrix + 36] = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(contents)  # to be shown a quarter turn with the clock
    (shown, *_) = read_frames(path, fps=25, short_side=32)
    assert shown.shape == (48, 32, 3)
    assert shown[:20, 20:].min() > 150
    assert shown[:20, :12].max() < 100
    assert shown[28:].max() < 100
    info = probe(path)
    assert (info.width, info.height) == (32, 48)


def test_samples_are_from_the_middles(steady):
    found = sample_frames(steady, len(LEVELS) / 25, 4, short_side=32)
    assert [int(5 * np.round(picture[0, 0, 0] / 5)) for picture in found] == [LEVELS[i] for i in (5, 15, 25, 35)]


@pytest.mark.parametrize("side", [16, 33])
def test_pictures_keep_their_shape(steady, side):
    picture = next(iter(read_frames(steady, fps=25, short_side=side)))
    assert picture.shape == (side, round(1.5 * side), 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p", "gray", "bgr0"])
def test_pixel_formats_and_odd_sizes(tmp_path, pixels):
    path = write_video(tmp_path / "odd.mkv", grey_pictures(LEVELS[:6], 33, 17), pixels=pixels)
    found = np.stack(list(read_frames(path, fps=25, short_side=17)))
    assert found.shape == (6, 33, 17, 3)
    np.testing.assert_allclose(found[:, 0, 0, 0], LEVELS[:6], atol=1)


def test_a_size_that_changes(tmp_path):
    parts = []
    for height in (32, 64):
        path = write_video(tmp_path / f"{height}.h264", grey_pictures(LEVELS[:10], height), **H264)
        parts.append(path.read_bytes())
    (path := tmp_path / "both.h264").write_bytes(b"".join(parts))
    found = list(read_frames(path, fps=25, short_side=32))
    assert [picture.shape for picture in found] == [(32, 48, 3)] * 10 + [(43, 32, 3)] * 10


def test_sound_is_ignored(tmp_path):
    path = write_video(tmp_path / "sound.mkv", grey_pictures(LEVELS[:5]), sound=True)
    assert levels(path) == LEVELS[:5]


def test_one_picture(tmp_path):
    assert levels(write_video(tmp_path / "one.mkv", grey_pictures([50]))) == [50]


def test_files_that_cannot_be_used_are_named(tmp_path, rng):
    import av

    noise = list(rng.integers(0, 255, (100, 32, 48, 3)).astype(np.uint8))
    whole = write_video(tmp_path / "whole.mkv", noise).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    for name, said in {
        "cut.mkv": r"ends after 2\.0 s, its header says 4\.0 s",
        "text.mp4": "is no video",
        "empty.mp4": "is no video",
        "sound.wav": "only audio",
        "missing.mp4": "no such file",
    }.items():
        with pytest.raises(DataError, match=rf"{name}.*{said}"):
            list(read_frames(tmp_path / name, fps=25, short_side=32))


def test_names_that_ffmpeg_could_take_for_something_else(steady, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rgb:1.mkv", "concat:a|b.mkv", "a%03d [x]*.mkv", "-y.mkv", "映像 é.mkv"):
        (tmp_path / name).write_bytes(steady.read_bytes())
        assert levels(name) == levels(steady)


def test_what_a_file_refers_to_is_not_fetched(tmp_path):
    """A playlist, a description of a stream and a list of files, by their own endings."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        url = f"http://127.0.0.1:{port}/x.ts"
        for name, text in {
            "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
            "a.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            "a.ffconcat": f"ffconcat version 1.0\nfile {url}\n",
        }.items():
            (tmp_path / name).write_text(text)
            with pytest.raises(DataError, match=f"{name}: is no video that can be read"):
                probe(tmp_path / name)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    "wrong", [{"fps": 0}, {"fps": float("nan")}, {"fps": 25, "short_side": 0}, {"fps": 25, "first": -1}]
)
def test_options_that_no_video_can_have(steady, wrong):
    with pytest.raises(OptionError, match=rf"{list(wrong)[-1]} must be"):
        next(iter(read_frames(steady, **({"short_side": 32} | wrong))))
