"""`python -m openclip_eclip.benchmark ...`: does it help on my data? Or a table of the paper.

The first word decides: table1, table4, table4-authors and align are the tables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .does_it_help.command import main as does_it_help
from .paper_tables import main as paper_tables
from .rows import TABLES


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the benchmark or of the table."""
    words = sys.argv[1:] if argv is None else list(argv)
    return (paper_tables if words and words[0] in (*TABLES, "align") else does_it_help)(words)


if __name__ == "__main__":
    sys.exit(main())
