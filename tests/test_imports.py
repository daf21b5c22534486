"""The house: which rooms there are, what each may import, what importing casejax costs."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import casejax

HOUSE = Path(casejax.__file__).parent
HEAVY = ("flax", "optax", "orbax", "matplotlib", "scipy", "chex", "jaxtyping", "beartype", "rich", "torch", "PIL")
MAY_IMPORT = {
    "array_types": "",
    "errors": "",
    "records": "errors",
    "ot": "",
    "arrays": "",
    "losses": "arrays",
    "labels": "ot losses arrays",
    "localize": "records errors arrays",
    "runtime": "errors",
    "data": "records errors runtime.files runtime.reading runtime.hdf5 runtime.npy",
    "features": "records errors data arrays runtime.files runtime.reading runtime.npy",
    "evaluate": "records localize errors",
    "methods": "losses labels ot data.sampling data.pickles records errors runtime.reading runtime.npy",
    "run": "methods runtime records data.pickles errors",
    "report": "evaluate records runtime.files runtime.reading runtime.npy errors",
    "inference": "run methods localize evaluate report data runtime records errors labels",
    "train": "inference run methods localize evaluate report data runtime records errors labels",
    "alignment": "arrays data.penn_action data.poses runtime report.canvas errors",
    "cli": "features train inference run methods evaluate report data runtime records errors",
}
"""What of casejax each room may import; a room may always import itself and `array_types`."""


def imports(path):
    """Modules of casejax that a file imports, each with the line; those for type checkers alone too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "casejax":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                module = name if (HOUSE.parent / (name.replace(".", "/") + ".py")).is_file() else node.module
                module = name if (HOUSE.parent / name.replace(".", "/")).is_dir() else module
                yield module.removeprefix("casejax").removeprefix("."), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "casejax":
                    yield alias.name.removeprefix("casejax").removeprefix("."), node.lineno


def files(room):
    single = HOUSE / f"{room}.py"
    return [single] if single.is_file() else sorted((HOUSE / room).rglob("*.py"))


def test_there_are_these_rooms_and_nothing_else():
    found = {path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert found == {*MAY_IMPORT, "__init__"}
    for folder in HOUSE.rglob("*"):
        if folder.is_dir() and folder.name != "__pycache__":
            assert (folder / "__init__.py").is_file(), folder


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_what_it_may(room):
    allowed = [room, *MAY_IMPORT[room].split()]
    for path in files(room):
        for module, line in imports(path):
            if module in ("", "array_types"):  # the version, and what annotations say of arrays
                continue
            assert any(module == name or module.startswith(f"{name}.") for name in allowed), (
                f"{path.relative_to(HOUSE)}:{line} imports {module}"
            )


def test_no_import_runs_in_a_circle():
    reached = {room: {name.split(".")[0] for name in MAY_IMPORT[room].split()} for room in MAY_IMPORT}
    for start in reached:
        seen, todo = set(), set(reached[start])
        while todo:
            room = todo.pop()
            seen.add(room)
            todo |= reached[room] - seen
        assert start not in seen


def test_below_run_nobody_knows_the_configuration_of_a_run():
    for room in MAY_IMPORT:
        if room in ("run", "inference", "train", "cli", "alignment"):
            continue
        for path in files(room):
            names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
            assert "Config" not in names, path


def test_the_pure_rooms_import_jax_and_numpy_alone():
    free = {"jax", "numpy", "casejax", *sys.stdlib_module_names}
    for path in [*files("ot"), *files("losses"), *(HOUSE / "alignment").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in free, f"{path}: {name}"


def packages():
    return [
        "casejax",
        *(
            f"casejax.{path.parent.relative_to(HOUSE)}".replace("/", ".")
            for path in HOUSE.rglob("__init__.py")
            if path.parent != HOUSE
        ),
    ]


@pytest.mark.parametrize("name", packages())
def test_a_room_lists_its_names(name):
    """What is listed is there, is said what for, and no module bears the name of a function of its package."""
    package = importlib.import_module(name)
    assert package.__doc__
    assert len(package.__doc__) > 20
    assert len(set(package.__all__)) == len(package.__all__) > 0
    for each in package.__all__:
        assert getattr(package, each) is not None
    folder = Path(package.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} | {path.name for path in folder.iterdir() if path.is_dir()}
    if name != "casejax":
        assert not modules & {each for each in package.__all__ if callable(getattr(package, each))}
    assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize(
    "words",
    [
        "import casejax",
        "import casejax; casejax.ot.sinkhorn",
        "import casejax; casejax.losses.generalized_bce",
        "import casejax; casejax.labels.transport_labels",
        "import casejax; casejax.localize.soft_nms",
        "import casejax; casejax.alignment.dtw",
        "import casejax; casejax.records.SegmentTable",
        "from casejax import ot, losses",
    ],
)
def test_what_is_light_stays_light(words):
    code = (
        "import jax, sys; before = dict(jax.config.values);"
        f"{words};"
        f"print([m for m in {HEAVY!r} if m in sys.modules], dict(jax.config.values) == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"


def test_the_front_door_loads_nothing_before_it_is_asked():
    code = "import casejax, sys; print([m for m in ('jax', 'numpy') if m in sys.modules], dir(casejax))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert "'ot'" in done.stdout
    with pytest.raises(AttributeError, match=r"no attribute 'ott'; it has ot, losses"):
        casejax.ott  # noqa: B018
