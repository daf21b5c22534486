"""Every dependency has a floor, and `.ci/run` installs that very release once."""

import configparser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def requirements(text):
    return [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_oldest_allowed_releases_are_those_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    allowed = requirements(setup["options"]["install_requires"]) + requirements(extras["test"])
    oldest = {one.name: Version(next(iter(one.specifier)).version) for one in allowed}
    assert [str(one.specifier)[:2] for one in allowed] == [">="] * len(allowed)
    pinned = requirements((ROOT / ".ci" / "floors.txt").read_text())
    assert {one.name: Version(next(iter(one.specifier)).version) for one in pinned} == oldest
    assert [str(one.specifier)[:2] for one in pinned] == ["=="] * len(pinned)
