"""What setup.cfg cannot say: on a package index the README stands alone, without the files that its links lead to."""

import re
from pathlib import Path

from setuptools import setup

text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
text = re.sub(r"!\[.*?\]\((?!https://).*?\)\n*", "", text, flags=re.DOTALL)
setup(long_description=re.sub(r"\[([^\]]*)\]\((?!https://)[^)]*\)", r"\1", text))
