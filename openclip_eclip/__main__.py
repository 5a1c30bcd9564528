"""`python -m openclip_eclip COMMAND ...` is `openclip-eclip COMMAND ...`."""

import sys

from openclip_eclip_cli import main

if __name__ == "__main__":
    sys.exit(main())
