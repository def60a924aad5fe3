"""Long description of the package: README.md without local images and links. All else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
readme = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", readme)  # images
readme = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)[^)]*\)", r"\1", readme)  # links to files: their text stays

setup(long_description=readme, long_description_content_type="text/markdown")
