"""The document that says where every number for ActivityNet is from has the numbers that are used."""

import re
from pathlib import Path

from casejax.methods import find
from casejax.run.config import Config

DOCUMENT = Path(__file__).parents[3] / "docs" / "activitynet.md"
NAMES = ("thumos14", "activitynet12", "activitynet13")


def shown(value):
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def test_the_document_has_every_number_of_case_with_its_source():
    section = DOCUMENT.read_text().split("## Every number of CASE")[1].split("\n## ")[0]
    rows = {name: cells for name, *cells in re.findall(r"^\| `(\w+)` \|(.*)\|(.*)\|(.*)\|(.*)\|$", section, re.M)}
    configs = [Config.of("case", dataset=name) for name in NAMES]
    numbers = [
        each.name
        for each in configs[-1].options()
        if each.group != "training" and each.acts and not isinstance(each.value, bool | str)
    ]
    assert list(rows) == numbers
    for name, (*values, source) in rows.items():
        assert [value.strip() for value in values] == [shown(config.flat()[name]) for config in configs], name
        assert source.strip().split(",")[0].split(":")[0].split(";")[0] in {"paper", "program", "peer", "peers", "ours"}


def value_of(text):
    """A number, several, or a word; what stands in brackets explains it."""
    parts = re.sub(r"\(.*\)", "", text).strip().split(", ")
    numbers = [float(part) if re.fullmatch(r"[\d.e-]+", part) else part for part in parts]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def test_the_document_has_every_number_of_the_other_methods():
    section = DOCUMENT.read_text().split("## Other methods")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| 1\.[23] \| (.*) \| its program \|$", section, re.M))
    assert set(rows) == {"co2net", "delu", "cola", "acmnet"}
    found = {}
    for name, row in rows.items():
        found[name] = {
            option: value_of(value)
            for options, value in re.findall(r"(`\w+`(?: and `\w+`)?) ([^`]+?)(?=, `|$)", row)
            for option in re.findall(r"`(\w+)`", options)
        }
    (of_co2net,) = find("co2net").datasets.values()
    assert found["co2net"] == of_co2net
    for name in ("cola", "acmnet"):
        assert [found[name]] == list(find(name).datasets.values())
    (of_delu,) = find("delu").datasets.values()
    assert of_co2net | found["delu"] == of_delu
