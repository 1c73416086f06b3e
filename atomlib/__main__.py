"""``python -m atomlib``: see atomlib.cli."""

import sys

from atomlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
