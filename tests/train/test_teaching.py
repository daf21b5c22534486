"""What a student is taught: by a teacher, by annotated segments, by time stamps; and what is refused."""

from dataclasses import replace

import chex
import jax
import numpy as np
import optax
import pytest

from casejax import errors
from casejax.data.synthetic import make_world
from casejax.errors import CheckpointError, DataError, OptionError
from casejax.inference.predict import Localizer
from casejax.records import SegmentTable, SnippetScores, Timing
from casejax.run.config import Config
from casejax.run.folder import restore_run
from casejax.train import loop, teaching

SIZES = {"num_snippets": 16, "batch_size": 8, "epochs": 3, "log_every": 2, "hidden": 8}
STUDENT = Config.of(
    "student", **SIZES, levels=3, blocks=1, max_instances=64, doubt=0.01, proposal_score=0.0, learning_rate=1e-3
)


@pytest.fixture(scope="module")
def world():
    return make_world(num_classes=4, dim=6, train_videos=16, test_videos=12, median=20, longest=60)


@pytest.fixture(scope="module")
def teacher(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher")
    loop.train(world, Config.of("asl", **SIZES), out, devices=1)
    return restore_run(out)


@pytest.fixture(scope="module")
def taught(world, teacher, tmp_path_factory):
    """A student of that teacher, stopped never, which relabels once; and its folder."""
    out = tmp_path_factory.mktemp("student")
    config = STUDENT.changed(teacher=str(teacher.folder), relabel=1)
    return loop.train(world, config, out, devices=1), config, out


def test_segments_are_those_of_the_annotation(world):
    found = teaching.first_instances(world, STUDENT.changed(supervision="segments"))
    truth = world.train.ground_truth(world.classes)
    np.testing.assert_allclose(found.table.segment * world.snippet_seconds, truth.segment, atol=world.snippet_seconds)
    assert found.notes == (f"{len(truth.score)} annotated instances",)
    packed = teaching.pack_instances(found.table, len(world.train.videos), 64)
    for v, video in enumerate(world.train.videos):
        names = [world.classes[c] for c in packed.labels[v][packed.mask[v]]]
        assert sorted(names) == sorted(video.segment_labels)
    with pytest.raises(OptionError, match="pass --max-instances"):
        teaching.pack_instances(found.table, len(world.train.videos), 1)


def test_of_too_many_instances_the_doubtful_have_no_place():
    table = SegmentTable.from_rows([0] * 4, [1] * 4, [[i, i + 1] for i in range(4)], [0.0, 0.5, 0.0, 1.0])
    packed = teaching.pack_instances(table, 1, 2)
    np.testing.assert_array_equal(packed.weights, [[1, 0.5]])


def test_a_teachers_instances_have_labels_of_the_video_alone(world, teacher):
    found = teaching.first_instances(world, STUDENT, teacher)
    labels = world.train.multi_hot(world.classes)
    table = found.table
    assert (labels[table.video, table.label] == 1).all()
    assert (table.score > 0).any()
    assert (table.score == 0).any()
    assert (table.segment[:, 1] <= world.train.features.lengths[table.video] + 1e-6).all()
    assert f"{(table.score > 0).sum()} are taught, {(table.score == 0).sum()} ignored as doubtful" in found.notes[0]


def test_time_stamps_take_the_teachers_segment_that_covers_them(world, teacher):
    config = STUDENT.changed(supervision="points")
    alone = teaching.first_instances(world, config)
    assert "0 of them within an instance of the teacher" in alone.notes[0]
    lengths = alone.table.segment[:, 1] - alone.table.segment[:, 0]
    assert lengths.max() <= config.settings.point_width + 1e-9
    both = teaching.first_instances(world, config, teacher)
    assert len(both.table.score) <= len(alone.table.score)
    assert not np.array_equal(both.table.segment, alone.table.segment)
    assert (both.table.score == 1).all()


def test_what_cannot_be_learned_from(world, teacher, tmp_path):
    with pytest.raises(OptionError, match=r"name its run by --teacher RUN, or .* --supervision segments"):
        loop.train(world, STUDENT, tmp_path / "none", devices=1)
    with pytest.raises(CheckpointError, match="holds no checkpoints"):
        loop.train(world, STUDENT.changed(teacher=str(tmp_path / "nowhere")), tmp_path / "a", devices=1)
    others = replace(world, classes=("a", "b", "c", "d"))
    with pytest.raises(CheckpointError, match=r"trained with classes .* has \['a', 'b', 'c', 'd'\]; name a teacher"):
        teaching.check_teacher(teacher, others)
    with pytest.raises(CheckpointError, match="trained with streams"):
        teaching.check_teacher(teacher, replace(world, streams=("flow", "rgb")))
    with pytest.raises(CheckpointError, match="a row every"):
        teaching.check_teacher(teacher, replace(world, timing=Timing.every(2.0)))
    bare = tuple(
        replace(v, segments=np.empty((0, 2)), segment_labels=(), stated_labels=v.labels, timed=False)
        for v in world.train.videos
    )
    untimed = replace(world, train=replace(world.train, videos=bare))
    with pytest.raises(DataError, match="no training video has annotated times for --supervision segments"):
        teaching.first_instances(untimed, STUDENT.changed(supervision="segments"))
    half = replace(world, train=replace(world.train, videos=world.train.videos[:8] + bare[8:]))
    with pytest.raises(DataError, match="8 training videos have labels without times"):
        teaching.first_instances(half, STUDENT.changed(supervision="segments"))
    with pytest.raises(OptionError, match=r"doubt must not be above keep 0\.7, got 0\.9"):
        STUDENT.changed(doubt=0.9).check()
    with pytest.raises(OptionError, match=r"regressed: asl regresses no segments"):
        Config.of("asl", proposals="regressed").check()


def scores_of(world, value):
    shape = len(world.train.videos), int(world.train.features.lengths.max()), len(world.classes)
    fused = np.full(shape, value, np.float32)
    fused[:, 5:9] = 0.9
    return SnippetScores(fused, np.ones((shape[0], shape[2]), np.float32))


def test_a_teacher_that_finds_nothing_is_refused_and_a_class_without_instances_is_named(world):
    options = Config.of("asl").localization
    options = replace(options, test_sampling="whole")
    scores = scores_of(world, 0.0)
    with pytest.raises(DataError, match="nothing is found in its 16 training videos; train the teacher longer"):
        teaching.teach(scores._replace(fused=scores.fused * 0), world, options, STUDENT)
    scores.fused[:, :, 2] = 0
    found = teaching.teach(scores, world, options, STUDENT)
    assert found.notes[-1] == f"no instance of {world.classes[2]}: trained without"


def test_a_run_stores_its_teacher_relabels_and_is_used_like_any(world, teacher, taught):
    trained, _, out = taught
    restored = restore_run(out)
    assert restored.meta["teacher"]["run"] == str(teacher.folder)
    assert restored.meta["teacher"]["method"] == teacher.config.describe()
    assert restored.meta["teacher"]["step"] == 6
    assert int(restored.state.labels.made) == 2  # the teacher's, and its own
    localizer = Localizer.load(out)
    rows = [world.test.features.streams[s][world.test.features.rows(0)] for s in range(2)]
    found = localizer(tuple(rows))
    assert found.segments
    assert all(0 <= each.start < each.end <= found.duration for each in found.segments)
    assert trained.state.labels.mask.any()


def test_a_student_teaches_the_next(world, taught, tmp_path):
    _, _, out = taught
    found = teaching.first_instances(world, STUDENT, restore_run(out))
    assert (found.table.score > 0).any()
    assert teaching.provenance(restore_run(out))["teacher"]["method"].startswith("asl")


def test_a_running_mean_that_finds_nothing_leaves_the_instances_as_they_are(world, teacher, tmp_path, capsys):
    config = STUDENT.changed(relabel=1, proposal_score=1.0)
    state = loop.train(world, config, tmp_path, devices=1, teacher=teacher).state
    assert int(state.labels.made) == 2
    first = teaching.first_instances(world, config, teacher)
    assert int(state.labels.mask.sum()) == len(first.table.score)
    assert "the instances stay as they are" in capsys.readouterr().err


def test_resumed_without_its_teacher_it_ends_with_the_same_bits(world, taught, tmp_path, monkeypatch):
    whole, config, _ = taught

    class Stop:
        times = 2

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        @property
        def signum(self):
            self.times -= 1
            return 15 if self.times < 0 else None

    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", Stop)
        with pytest.raises(errors.Interrupted):
            loop.train(world, config, tmp_path / "cut", devices=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "restore_run", None)
        again = loop.train(world, config, tmp_path / "cut", devices=1, resume=True)
    chex.assert_trees_all_equal(whole.state._replace(key=0), again.state._replace(key=0))
    assert restore_run(tmp_path / "cut").meta["teacher"]["step"] == 6


def test_devices_do_not_change_a_student(world, tmp_path):
    config = STUDENT.changed(supervision="segments", epochs=1)
    one, four = (loop.train(world, config, tmp_path / str(n), devices=n) for n in (1, 4))
    # The means of the gradients; Adam makes a whole step of one that is all round-off.
    means = [jax.tree.leaves(optax.tree_utils.tree_get(run.state.opt_state, "mu")) for run in (one, four)]
    for a, b in zip(*means, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())
