"""Which checkpoints nothing may be built on, because an evaluation of theirs does not meet its gates."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipeline.graph import EVALUATION, descendants
from pipeline.launcher import StepFailed
from pipeline.plan import State
from pipeline.step import Node
from stages.gates import unmet


class GateShut(StepFailed):
    """A checkpoint is not what its configuration asks for: figures are kept, nothing is built on it."""


def failures(states: Sequence[State], names: Collection[str]) -> list[str]:
    """A line for each finished evaluation of `names` that does not meet its gates."""
    return [
        f"{state.node.name}: {'; '.join(lines)}"
        for state in states
        if state.record and state.node.name in names and (lines := unmet(state.node.gates, state.record.metrics))
    ]


def require_open(node: Node, states: Sequence[State]) -> None:
    """Raise GateShut if `node` would be built, directly or not, on a checkpoint with a gate that is not met, or that
    nobody has measured yet.

    Another evaluation is not built on a checkpoint: it only looks at it.
    """
    if node.stage.name == EVALUATION:
        return
    nodes = [state.node for state in states]
    for state in states:
        if not state.node.gates:
            continue
        guarded = state.node.inputs["init"][0]
        if node.name == guarded or node.name not in descendants(nodes, guarded):
            continue
        why = f"{node.name} is not made, for it builds on {guarded}. "
        if state.record is None:
            raise GateShut(f"{why}{state.node.name} has gates and is not measured; run with --only {state.node.name}")
        if lines := failures([state], [state.node.name]):
            raise GateShut(why + lines[0])
