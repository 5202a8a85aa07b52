"""The command `r1`. Imports nothing heavy before it knows what is asked for.

Exit codes: 0 fine, 1 a step broke, 2 the user's mistake (one line on stderr), 130 interrupted.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import commands_check, commands_launch, commands_plan, commands_review

if TYPE_CHECKING:
    from stages.stage import Stage


def main(argv: Sequence[str] | None = None, table: Mapping[str, Stage] | None = None) -> int:
    """Run one command; `table` replaces the stages of the recipe."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["score"], ["rewards"]):  # their options are those of rewards/cli.py
        arguments = argparse.Namespace(command=_rewards, argv=argv)
    else:
        arguments = _parser().parse_args(argv)
    if table is None:
        from stages import STAGES

        table = STAGES
    from pipeline.launcher import StepFailed

    try:
        code: int = arguments.command(arguments, table)
    except ValueError as error:
        return _complain(" ".join(str(error).split()), 2)
    except StepFailed as error:
        return _complain(str(error), 1)
    except BrokenPipeError:
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{' '.join(str(error.strerror or error).split())}", 2)
    except KeyboardInterrupt:
        print(f"\nInterrupted. What is finished stays; go on with: r1 {shlex.join(argv)}", file=sys.stderr)
        return 130
    return code


def _complain(message: str, code: int) -> int:
    """Say what is wrong on a line of its own, below the bars of what was under way."""
    if bars := sys.modules.get("tqdm"):
        for bar in list(getattr(bars.tqdm, "_instances", ())):
            bar.close()
    print(f"r1: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1", description="The whole DeepSeek-R1 post-training recipe with one command."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_chain(commands)
    commands_plan.add(commands)
    _add_checkpoint(commands)
    commands_launch.add(commands)
    commands_check.add(commands)
    commands_review.add(commands)
    for name, text in (("score", "score completions in a file"), ("rewards", "list the rewards")):
        commands.add_parser(name, help=text)
    return parser


def _add_chain(commands: Any) -> None:
    """The commands about a whole run."""
    run = commands.add_parser("run", help="run every step of a configuration that is not finished")
    run.add_argument("config", type=Path, metavar="CONFIG")
    run.add_argument("--run-dir", type=Path, help="where artifacts and reports go (default: runs/NAME)")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, as in steps.cold_start.epochs=1; may be repeated",
    )
    run.add_argument("--from", dest="from_step", metavar="STEP", help="only this step and those that depend on it")
    run.add_argument("--only", metavar="STEP", help="only this step and its evaluation")
    run.add_argument("--force", action="store_true", help="make the selected steps again even if they are finished")
    run.add_argument("--dry-run", action="store_true", help="print the steps and the commands that would start them")
    run.add_argument("--machine-rank", type=int, metavar="N", help="which of launch.machines this is; 0 runs the run")
    run.add_argument("--main-address", metavar="HOST:PORT", help="where the ranks of several machines meet: machine 0")
    run.set_defaults(command=_run)

    status = commands.add_parser("status", help="what a run directory holds, and why a step is stale")
    status.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    status.add_argument("--config", type=Path, help="compare with this configuration instead of the last one run")
    status.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    status.set_defaults(command=_status)

    stages = commands.add_parser("stages", help="list the stages with their inputs")
    stages.set_defaults(command=_stages)


def _add_checkpoint(commands: Any) -> None:
    """The commands about one checkpoint."""
    chat = commands.add_parser("chat", help="talk to a checkpoint; an empty line starts anew")
    chat.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    chat.add_argument("--system", help="text of a system message")
    chat.add_argument("--prefill", help="what every answer starts with (default: what it was trained with)")
    chat.add_argument("--temperature", type=float, default=0.6, help="0 is greedy (default: %(default)s)")
    chat.add_argument("--top-p", type=float, default=1.0, help="default: %(default)s")
    chat.add_argument("--max-tokens", type=int, default=512, help="default: %(default)s")
    chat.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    chat.set_defaults(command=_chat)

    evaluate = commands.add_parser("evaluate", help="measure a checkpoint on a file of problems")
    evaluate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    evaluate.add_argument("--data", type=Path, required=True, metavar="FILE", help="JSON lines, JSON, CSV or parquet")
    evaluate.add_argument("--source", default="records", help="schema of the file (default: %(default)s)")
    evaluate.add_argument("--output", type=Path, metavar="DIR", help="where the scored completions go")
    evaluate.add_argument("--convention", help="output convention (default: the one it was trained under)")
    evaluate.add_argument(
        "--sandbox", choices=["bubblewrap", "weak"], default="bubblewrap", help="default: %(default)s"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    evaluate.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="a key of the evaluation, as in samples=4; may be repeated",
    )
    evaluate.set_defaults(command=_evaluate)


def _run(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.config import load
    from pipeline.dry_run import dry_run_lines
    from pipeline.graph import build
    from pipeline.machines import follow, machine_of, most_machines
    from pipeline.report import terminal_table
    from pipeline.runner import Options, pending, run

    config = load(arguments.config, arguments.overrides)
    nodes = build(config, table, arguments.config)
    run_dir = arguments.run_dir or Path("runs") / config.name
    machine = machine_of(arguments.machine_rank, arguments.main_address, nodes)
    options = Options(from_step=arguments.from_step, only=arguments.only, force=arguments.force, machine=machine)
    if arguments.dry_run:
        for line in dry_run_lines(config, pending(config, nodes, run_dir, options), run_dir, machine):
            print(line)
        return 0
    if machine is not None and machine.rank > 0:
        follow(run_dir.resolve(), machine, most_machines(nodes)[1], say=lambda line: print(line, flush=True))
        return 0
    plan = run(config, nodes, run_dir, options, say=lambda line: print(line, flush=True))
    print(f"\n{terminal_table(plan.states, plan.given)}\n\nReport: {run_dir / 'report.md'}")
    return 0


def _status(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.status import status_lines

    file = arguments.config or arguments.run_dir / "config.json"
    if arguments.config is None and not file.is_file():
        raise ValueError(f"{arguments.run_dir} is not a run directory: it has no config.json")
    print("\n".join(status_lines(arguments.run_dir, file, arguments.overrides, table)))
    return 0


def _stages(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    for name, stage in table.items():
        print(f"{name}: {stage.summary}")
        for key, need in stage.needs.items():
            notes = [str(need.kind), *(["one or more"] if need.many else []), *(["optional"] if need.optional else [])]
            print(f"    {key}_from: {', '.join(notes)}")
        print(f"    makes: {stage.makes}")
    return 0


def _chat(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.checkpoint import replies

    sampling = {
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "max_tokens": arguments.max_tokens,
        "seed": arguments.seed,
    }
    for reply in replies(arguments.checkpoint, _lines(), arguments.system, sampling, arguments.prefill):
        print(reply, flush=True)
    return 0


def _lines() -> Iterator[str]:
    """What the user types, with a prompt where there is somebody to see it."""
    if not sys.stdin.isatty():
        # Bytes that are no UTF-8 reach us as halves of characters, which no tokenizer takes.
        yield from (line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for line in sys.stdin)
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            return


def _evaluate(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from pipeline.checkpoint import evaluate, metric_lines
    from pipeline.gates import GateShut
    from pipeline.graph import EVALUATION
    from pipeline.reading import assignments
    from stages.gates import Gate, unmet

    settings = assignments(arguments.overrides)
    outcome = evaluate(
        table[EVALUATION],
        arguments.checkpoint,
        arguments.data,
        source=arguments.source,
        out=arguments.output,
        settings=settings,
        seed=arguments.seed,
        convention=arguments.convention,
        sandbox=arguments.sandbox,
    )
    print("\n".join(metric_lines(outcome.metrics)), flush=True)
    gates = {name: Gate.model_validate(bounds) for name, bounds in settings.get("gates", {}).items()}
    if lines := unmet(gates, outcome.metrics):
        raise GateShut("; ".join(lines))
    return 0


def _rewards(arguments: argparse.Namespace, table: Mapping[str, Stage]) -> int:
    from rewards.cli import main as rewards_main

    return rewards_main(arguments.argv)
