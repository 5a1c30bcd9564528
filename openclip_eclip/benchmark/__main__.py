"""`python -m openclip_eclip.benchmark ...`: does it help on my data? Or a table of the paper.

A first word that is no flag names a table: table1, table4 or align.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .does_it_help.command import main as does_it_help
from .paper_tables import main as paper_tables


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the benchmark or of the table."""
    words = sys.argv[1:] if argv is None else list(argv)
    is_table = bool(words) and not words[0].startswith("-")
    return (paper_tables if is_table else does_it_help)(words)


if __name__ == "__main__":
    sys.exit(main())
