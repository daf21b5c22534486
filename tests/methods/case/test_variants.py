"""The three variants by name, and the document that says where the published program leaves the paper."""

import json
import re
from pathlib import Path

import pytest

from casejax.methods import VARIANTS
from casejax.run.config import Config

DOCUMENT = Path(__file__).parents[3] / "docs" / "variants.md"
OFFICIAL, PAPER, CORRECTED = (Config.of("case", name) for name in VARIANTS)


def test_names():
    assert list(VARIANTS) == ["official", "paper", "corrected"]
    assert Config.of("case") == OFFICIAL


@pytest.mark.parametrize("config", [OFFICIAL, PAPER, CORRECTED], ids=list(VARIANTS))
def test_every_variant_is_usable_and_survives_json(config):
    config.check()
    restored = Config.from_dict(json.loads(json.dumps(config.as_dict())))
    assert restored.as_dict() == config.as_dict()
    assert config.describe() == restored.describe() == f"case, {config.variant}"


def test_options_set_apart_are_named():
    config = PAPER.changed(prior_std=0.25, num_snippets=50, nms="soft", epochs=7)
    assert config.describe() == "case, paper with prior_std=0.25, num_snippets=50, nms=soft"


def test_the_document_lists_every_place_with_its_options():
    """A row for each of the 37 places, whose options exist and have the stated value in every variant."""
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", DOCUMENT.read_text(), re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 38))
    named = set()
    for number, rest in rows:
        *_, option, official, paper, corrected = (cell.strip() for cell in rest.split("|"))
        for name in re.findall(r"`(\w+)`", option):
            named.add(name)
            for config, cell in ((OFFICIAL, official), (PAPER, paper), (CORRECTED, corrected)):
                values = dict(re.findall(r"`(\w+)=([^`]*)`", cell))
                assert _shown(config.flat()[name]) == values.get(name), f"row {number}, {config.variant}, {name}"
    assert {name for name, value in PAPER.flat().items() if value != OFFICIAL.flat()[name]} <= named


def test_the_document_lists_what_corrected_changes():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \|", DOCUMENT.read_text(), re.M)
    paper, corrected = PAPER.flat(), CORRECTED.flat()
    changed = {name: (_shown(paper[name]), _shown(value)) for name, value in corrected.items() if value != paper[name]}
    assert {name: tuple(values) for name, *values in rows} == changed


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)
