"""`python -m openclip_eclip.benchmark TABLE ...`: tables of the paper, alignment benchmark."""

from __future__ import annotations

import sys

from .paper_tables import main

if __name__ == "__main__":
    sys.exit(main())
