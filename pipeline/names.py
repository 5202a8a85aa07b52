"""What may be called what."""

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What a run, a step, a model or a dataset may be called: it becomes part of a path."""
