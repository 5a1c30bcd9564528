"""`python -m openclip_eclip.benchmark TABLE ...`: the tables of the paper, and where alignment
helps.
"""

from __future__ import annotations

import sys

from .paper_tables import main

if __name__ == "__main__":
    sys.exit(main())
