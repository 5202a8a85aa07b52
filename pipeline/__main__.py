"""`python -m pipeline` is `r1`."""

import sys

from pipeline.cli import main

sys.exit(main())
