"""A checkpoint of which a bit is not as it was written is not used."""

import shutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from casejax.errors import CheckpointError
from casejax.runtime.checkpoint import SUMS, Checkpoints


class State(typing.NamedTuple):
    step: jax.Array
    key: jax.Array
    values: dict


def state(step):
    rng = np.random.default_rng(step)
    drawn = {f"layer{i}": jnp.asarray(rng.standard_normal((40, 10 + i)), jnp.float32) for i in range(6)}
    return State(jnp.int32(step), jax.random.key(0), drawn)


@pytest.fixture
def folder(tmp_path):
    with Checkpoints(tmp_path / "whole") as checkpoints:
        for step in (1, 2):
            checkpoints.save(state(step), {"config": {}, "words": list("abc")})
    return tmp_path / "whole"


def refusal(folder, step, read):
    with Checkpoints(folder) as checkpoints:
        try:
            read(checkpoints, step)
        except CheckpointError as error:
            return str(error)
    return ""


READS = {
    "restore": lambda checkpoints, step: checkpoints.restore(state(0), step),
    "meta": lambda checkpoints, step: checkpoints.meta(step),
}


@pytest.mark.parametrize("flips", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_refused(folder, rng, flips):
    """Bits of all files of a checkpoint, its sums among them, drawn by their sizes; every file at least once."""
    paths = [path for path in sorted((folder / "2").rglob("*")) if path.is_file()]
    sizes = np.array([path.stat().st_size for path in paths])
    drawn = rng.choice(len(paths), max(flips - len(paths), 0), p=sizes / sizes.sum())
    chosen = [*range(len(paths)), *drawn][: max(flips, 0)]
    assert folder / "2" / SUMS in paths
    read_as_it_is = []
    for n, which in enumerate(chosen):
        path = paths[which]
        if not sizes[which]:
            continue
        good = path.read_bytes()
        place, bit = int(rng.integers(len(good))), int(rng.integers(8))
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
        said = refusal(folder, 2, READS["meta" if n % 4 == 3 else "restore"])
        path.write_bytes(good)
        if not (str(folder / "2") in said and "\n" not in said and "step 1" in said):
            read_as_it_is.append((path.relative_to(folder).as_posix(), place, bit, said))
    assert read_as_it_is == []
    assert refusal(folder, 2, READS["restore"]) == ""


def test_what_a_kill_left_of_the_sums_is_not_summed(folder):
    (folder / "2" / SUMS).rename(folder / "2" / f".{SUMS}.partial")
    with Checkpoints(folder) as checkpoints:
        checkpoints.tidy()
    assert not list((folder / "2").glob(".*"))
    assert refusal(folder, 2, READS["restore"]) == ""


def test_what_a_kill_left_without_sums_gets_them_from_its_run(folder):
    (folder / "2" / SUMS).unlink()
    shutil.copytree(folder, folder.parent / "copy")
    with Checkpoints(folder) as checkpoints:
        checkpoints.restore(state(0))
        assert not (folder / "2" / SUMS).exists()  # whoever only reads writes nothing
        checkpoints.tidy()
    assert (folder / "2" / SUMS).exists()
    path = next((folder / "2" / "state").rglob("*/d/*"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "is damaged" in refusal(folder, 2, READS["restore"])


def test_a_checkpoint_that_a_kill_left_half_deleted_goes(folder):
    """Orbax deletes file by file: of two to keep, a third that is half there is no checkpoint to fall back on."""
    shutil.copytree(folder / "1", folder / "0")
    shutil.rmtree(folder / "0" / "state")
    (folder / "0" / SUMS).unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps == [0, 1, 2]
        checkpoints.tidy()
        assert checkpoints.steps == [1, 2]
    assert not (folder / "0").exists()


@pytest.mark.parametrize("name", ["[a]", "a*", "a?", "a\\b", "gs:"])
def test_names_that_its_libraries_misread_are_refused(tmp_path, name):
    """Orbax wrote a checkpoint without its arrays below a folder with a bracket in its name, and said nothing."""
    with pytest.raises(CheckpointError, match=r"below a folder with .* in its name; choose another --out"):
        Checkpoints(tmp_path / name / "checkpoints")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["two  spaces", "\N{CLAPPER BOARD} 映", "%s", "{x}", "'q'", "a#b", "s3:", "a:b", "~"])
def test_other_names_are_kept(tmp_path, name):
    for step in (1, 2):
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(state(step), {})
    assert refusal(tmp_path / name, 2, READS["restore"]) == ""
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_leads_to_a_folder_of_such_a_name(tmp_path):
    (tmp_path / "runs [1]").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "runs [1]")
    with Checkpoints(tmp_path / "runs") as checkpoints:
        checkpoints.save(state(2), {})
    assert refusal(tmp_path / "runs", 2, READS["restore"]) == ""
    assert (tmp_path / "runs [1]" / "2" / SUMS).exists()
