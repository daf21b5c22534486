"""`casejax predict`: what it reads, writes and refuses."""

import csv
import json

import numpy as np
import pytest
from untrained import save_untrained

from casejax.cli import main as cli
from casejax.evaluate import parse_results
from casejax.inference import Localizer, predictions
from casejax.records import Timing

CLASSES = ("run [fast]", "dive", "jump, high")
LENGTHS = {"one": 20, "two": 45, "three": 3}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_untrained(folder, num_clusters=3, classes=CLASSES, class_threshold=0.0)
    return folder


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {
        name: (rng.random((length, 6), np.float32), rng.random((length, 4), np.float32))
        for name, length in LENGTHS.items()
    }


@pytest.fixture(scope="module")
def wanted(network, arrays):
    localizer = Localizer.load(network)
    return {name: localizer(streams).segments for name, streams in arrays.items()}


def by_stream(folder, arrays):
    for s, stream in enumerate(("rgb", "flow")):
        (folder / stream).mkdir(parents=True, exist_ok=True)
        for name, streams in arrays.items():
            np.save(folder / stream / f"{name}.npy", streams[s])
    return folder


def side_by_side(folder, arrays):
    for name, streams in arrays.items():
        np.save(folder / f"{name}.npy", np.concatenate(streams, axis=1))
    return folder


def named(folder, arrays):
    for name, (rgb, flow) in arrays.items():
        np.savez(folder / f"{name}.npz", flow=flow, rgb=rgb)
    return folder


def transposed(folder, arrays):
    for name, streams in arrays.items():
        np.save(folder / f"{name}.npy", np.concatenate(streams, axis=1).T)
    return folder


def as_text(folder, arrays):
    for name, streams in arrays.items():
        np.savetxt(folder / f"{name}.csv", np.concatenate(streams, axis=1), delimiter=",", fmt="%.9g")
    return folder


def one_file(folder, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "all.h5", "w") as file:
        for name, (rgb, flow) in arrays.items():
            file[f"{name}/rgb"], file[f"{name}/flow"] = rgb, flow
    return folder / "all.h5"


def one_file_of_columns(folder, arrays):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "all.h5", "w") as file:
        for name, streams in arrays.items():
            file[name] = np.concatenate(streams, axis=1)
    return folder / "all.h5"


def call(*words):
    return cli.main(["predict", *map(str, words)])


def same(found, wanted):
    assert set(found) == set(wanted)
    for name, segments in wanted.items():
        assert [(each["label"], *each["segment"], each["score"]) for each in found[name]] == [
            tuple(segment) for segment in segments
        ]


# What it reads


@pytest.mark.parametrize(
    ("write", "flags"),
    [
        (by_stream, []),
        (side_by_side, []),
        (named, []),
        (as_text, []),
        (one_file, []),
        (one_file_of_columns, []),
        (transposed, ["--order", "dim,snippets"]),
    ],
)
def test_every_form_of_features_gives_the_same(network, arrays, wanted, tmp_path, write, flags):
    place = write(tmp_path, arrays)
    assert call(network, place, "--json", tmp_path / "out.json", *flags) == 0
    same(json.loads((tmp_path / "out.json").read_text())["results"], wanted)


@pytest.mark.parametrize("words", [["*.npy"], ["one.npy", "t*.npy"], ["one.npy", "two.npy", "three.npy", "o*"]])
def test_files_and_globs(network, arrays, wanted, tmp_path, words):
    place = side_by_side(tmp_path, arrays)
    (place / "features.json").write_text('{"stride": 16, "fps": 25}')
    out = tmp_path / "out.json"
    assert call(network, *(place / word for word in words), place / "features.json", "--json", out) == 0
    same(json.loads(out.read_text())["results"], wanted)


# What it writes


def test_results_parse_as_results(network, arrays, wanted, tmp_path, capsys):
    place = side_by_side(tmp_path, arrays)
    assert call(network, place, "--json", tmp_path / "out.json", "--csv", tmp_path / "out.csv") == 0
    videos = sorted(LENGTHS)
    document = json.loads((tmp_path / "out.json").read_text())
    table, *left_over = parse_results(document, videos, CLASSES)
    rows = [
        (videos[v], CLASSES[c], *segment, score)
        for v, c, segment, score in zip(*(column.tolist() for column in table), strict=True)
    ]
    want = [(name, *segment) for name in videos for segment in wanted[name]]
    assert rows == want
    assert not any(left_over)
    with (tmp_path / "out.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [(r["video"], r["label"], float(r["start"]), float(r["end"]), float(r["score"])) for r in read] == want
    printed = capsys.readouterr()
    assert f"{len(want)} segments of 3 videos are in {tmp_path / 'out.json'} and {tmp_path / 'out.csv'}" in printed.out
    assert not printed.err  # no bar where there is no terminal


def test_the_table_has_the_best_segments(network, arrays, wanted, tmp_path, capsys):
    assert call(network, side_by_side(tmp_path, arrays)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["video", "label", "start", "end", "score"]
    best = wanted["one"][0]
    row = next(line for line in lines if line.startswith("one"))
    assert best.label in row
    assert row.split()[-3:] == [
        predictions.clock(best.start),
        predictions.clock(best.end),
        f"{best.score:.3f}",
    ]
    assert f"and {len(wanted['two']) - 5} more" in " ".join(lines)


def test_the_best_and_the_sure_alone(network, arrays, wanted, tmp_path):
    place, out = side_by_side(tmp_path, arrays), tmp_path / "out.json"
    assert call(network, place, "--json", out, "--top", 2) == 0
    same(json.loads(out.read_text())["results"], {name: own[:2] for name, own in wanted.items()})
    least = wanted["one"][1].score
    assert call(network, place, "--json", out, "--min-score", repr(least)) == 0
    sure = {name: [s for s in own if s.score >= least] for name, own in wanted.items()}
    same(json.loads(out.read_text())["results"], sure)
    assert call(network, place / "three.npy", "--json", out, "--min-score", 1e9) == 0
    assert json.loads(out.read_text())["results"] == {"three": []}


@pytest.mark.parametrize(("seconds", "said"), [(0, "0:00.0"), (59.96, "1:00.0"), (67.44, "1:07.4"), (6000, "100:00.0")])
def test_times_are_minutes_and_seconds(seconds, said):
    assert predictions.clock(seconds) == said


def test_pictures_are_drawn_by_option(network, arrays, tmp_path):
    place = side_by_side(tmp_path, arrays)
    assert call(network, place / "one.npy", place / "three.npy", "--pictures", tmp_path / "pictures") == 0
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in drawn] == ["one.png", "three.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_options_of_inference(network, arrays, tmp_path):
    place, out = side_by_side(tmp_path, arrays), tmp_path / "out.json"
    assert call(network, place, "--json", out, "--nms", "hard", "--test-sampling", "whole") == 0
    want = Localizer.load(network, nms="hard", test_sampling="whole")
    same(json.loads(out.read_text())["results"], {name: want(own).segments for name, own in arrays.items()})


# Time


def test_durations_bound_segments_and_scale_rescaled_rows(network, arrays, tmp_path, capsys):
    place, out = side_by_side(tmp_path, arrays), tmp_path / "out.json"
    table = tmp_path / "durations.txt"
    table.write_text("video,duration\none,12.5\ntwo,\nother,3\n")
    assert call(network, place, "--durations", table, "--json", out) == 0
    assert not capsys.readouterr().err
    found = json.loads(out.read_text())["results"]
    assert max(each["segment"][1] for each in found["one"]) == 12.5
    assert max(each["segment"][1] for each in found["two"]) == pytest.approx(45 * 0.64)

    rescaled = tmp_path / "rescaled"
    save_untrained(rescaled, num_clusters=3, classes=CLASSES, timing=Timing(rescaled=True))
    assert call(rescaled, place, "--durations", table, "--json", tmp_path / "no.json") == 2
    assert "missing for 2 of 3 videos" in capsys.readouterr().err
    assert not (tmp_path / "no.json").exists()
    assert call(rescaled, place / "one.npy", "--durations", table, "--json", out) == 0
    assert max(each["segment"][1] for each in json.loads(out.read_text())["results"]["one"]) == pytest.approx(12.5)


def test_rows_and_durations_that_do_not_fit_are_said_once(network, arrays, tmp_path, capsys):
    place, table = side_by_side(tmp_path, arrays), tmp_path / "durations.txt"
    table.write_text("video,duration\none,5\ntwo,9\nthree,2\n")
    assert call(network, place, "--durations", table) == 0
    error = capsys.readouterr().err
    assert error.startswith("warning: rows of 2 of 3 videos miss the stated duration")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video\none\n", "does not name the columns"),
        ("video,duration\none,x\n", "line 2, duration"),
        ("video,duration\none,-1\n", "is not positive"),
        ("video,duration\none,1\none,2\n", "keep one"),
    ],
)
def test_tables_of_durations_that_cannot_be_used(network, arrays, tmp_path, capsys, text, said):
    (tmp_path / "durations.txt").write_text(text)
    assert call(network, side_by_side(tmp_path, arrays), "--durations", tmp_path / "durations.txt") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--snippet-seconds", "0.25"], []])
def test_another_timing_is_refused(network, arrays, tmp_path, capsys, flags):
    place = by_stream(tmp_path / "features", arrays)
    if not flags:
        (place / "features.json").write_text('{"snippet_seconds": 0.25}')
    assert call(network, place, "--json", tmp_path / "out.json", *flags) == 2
    error = capsys.readouterr().err
    assert "was trained on a row every 0.64 s" in error
    assert ("the option" if flags else str(place / "features.json")) in error
    assert not (tmp_path / "out.json").exists()


# What it refuses


def broken(folder):
    """Files of which one is cut short, one has other columns and one is no array."""
    cut = folder / "cut.npy"
    np.save(cut, np.ones((9, 10), np.float32))
    cut.write_bytes(cut.read_bytes()[:-7])
    np.save(folder / "narrow.npy", np.ones((9, 7), np.float32))
    (folder / "text.npy").write_text("no array")


def test_broken_files_are_named_before_any_work(network, arrays, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Localizer, "__call__", None)
    place = side_by_side(tmp_path, arrays)
    broken(place)
    assert call(network, place, "--json", tmp_path / "out.json", "--pictures", tmp_path / "pictures") == 2
    error = capsys.readouterr().err
    assert not (tmp_path / "pictures").exists()
    assert str(place / "cut.npy") in error
    assert error.rstrip().endswith("(and 2 more)")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


def nothing(folder):
    return [folder / "nothing.npy"]


def no_match(folder):
    return [folder / "*.npy"]


def empty(folder):
    (folder / "empty").mkdir()
    return [folder / "empty"]


def another_kind(folder):
    (folder / "clip.txt").write_text("")
    return [folder / "clip.txt"]


def narrow(folder):
    np.save(folder / "x.npy", np.ones((9, 6), np.float32))
    return [folder]


def turned(folder):
    np.save(folder / "x.npy", np.ones((10, 9), np.float32))
    return [folder]


def no_flow(folder):
    (folder / "rgb").mkdir()
    np.save(folder / "rgb" / "x.npy", np.ones((9, 6), np.float32))
    return [folder]


def flow_of_another_video(folder):
    by_stream(folder, {"x": (np.ones((9, 6), np.float32), np.ones((9, 4), np.float32))})
    (folder / "flow" / "x.npy").rename(folder / "flow" / "y.npy")
    return [folder]


def unequal(folder):
    by_stream(folder, {"x": (np.ones((9, 6), np.float32), np.ones((8, 4), np.float32))})
    return [folder]


def other_names(folder):
    np.savez(folder / "x.npz", a=np.ones((9, 6), np.float32), b=np.ones((9, 4), np.float32))
    return [folder]


def twice(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        np.save(folder / name / "x.npy", np.ones((9, 10), np.float32))
    return [folder / "a", folder / "b"]


def not_finite(folder):
    np.save(folder / "x.npy", np.full((9, 10), np.nan, np.float32))
    return [folder]


def pickled(folder):
    np.save(folder / "x.npy", np.array([{}]), allow_pickle=True)
    return [folder]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "nothing.npy: no such file or folder"),
        (no_match, "matches no file"),
        (empty, "empty: no .npy"),
        (another_kind, "clip.txt: features are read from"),
        (narrow, "has dim 6, the network reads 6 of rgb and 4 of flow"),
        (turned, "--order dim,snippets"),
        (no_flow, "no such stream 'flow'"),
        (flow_of_another_video, "x.npy: no such file"),
        (unequal, "9 snippets, but"),
        (other_names, "has the arrays a, b"),
        (twice, "are both of a video 'x'"),
        (not_finite, "90 NaN"),
        (pickled, "never loaded"),
    ],
)
def test_unusable_features_are_one_line(network, tmp_path, capsys, make, said):
    places = make(tmp_path)
    assert call(network, *places, "--json", tmp_path / "out.json") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--top", "0"], "--top 0"),
        (["--json", "{}"], "is a folder"),
        (["--json", "{}/x", "--csv", "{}/x"], "both name"),
        (["--pictures", "{}/one.npy"], "is a file"),
        (["--epochs", "3"], "--epochs"),
        (["--test-cluster-labels", "train"], "needs the training videos"),
        (["--class-threshold", "2"], "class_threshold"),
    ],
)
def test_unusable_options_are_one_line(network, arrays, tmp_path, capsys, flags, said):
    place = side_by_side(tmp_path, arrays)
    assert call(network, place, *(flag.format(tmp_path) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert call(tmp_path, tmp_path) == 2
    assert "holds no checkpoints/" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--help", "--help-all"])
def test_help(word, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(word)
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "--json FILE" in printed
    assert ("--nms-threshold" in printed) == (word == "--help-all")
