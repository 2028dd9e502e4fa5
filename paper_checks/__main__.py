"""The papers that are checked, as JSON: package, letter, authors, title, claims."""

import sys
from dataclasses import asdict

from numerics.report import to_json
from paper_checks import papers

sys.stdout.write(to_json([{"package": name, **asdict(paper)} for name, paper in papers().items()]) + "\n")
