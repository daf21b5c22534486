"""The README is one page whose links lead somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_one_page_with_two_commands_and_a_picture():
    assert len(README.splitlines()) <= 120
    assert "pip install -e '.[plots]' && python examples/train_thumos.py" in README
    assert "pip install -e '.[test]' && python -m pytest" in README
    assert re.findall(r"!\[.*?\]\((.*?)\)", README) == ["docs/timeline.png"]


def test_links_of_texts_outside_the_site_lead_to_files():
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
            assert link.startswith("https://") or (ROOT / link).is_file(), f"{name}: {link}"
