"""The command `r1` with the toy stages, for tests that kill it: `python tests/toy_r1.py run CONFIG`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from pipeline.cli import main
    from tests.toy_stages import TOY

    sys.exit(main(table=TOY))
