"""`accelerate launch` that also leaves word of how its ranks ended: `python -m pipeline.accelerate_launch ARGUMENTS`.

The arguments are those of `accelerate launch`, of which the last is the request that the ranks run. Accelerate only
prints which rank died of what; exits.MACHINE.json beside the request holds it for the launcher.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.atomic import write_text
from pipeline.worker import die_with_parent


def main(argv: Sequence[str]) -> int:
    """Launch, and wait for the ranks; the exit code says whether all of them ended well."""
    die_with_parent()
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args(argv)
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        write_text(Path(argv[-1]).with_name(f"exits.{arguments.machine_rank or 0}.json"), json.dumps(codes))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
