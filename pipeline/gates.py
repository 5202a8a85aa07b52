"""Which checkpoints nothing may be built on, because an evaluation of theirs does not meet its gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pipeline.graph import EVALUATION, descendants
from pipeline.launcher import StepFailed
from pipeline.plan import State
from pipeline.step import Node
from stages.gates import Gate, unmet


class GateShut(StepFailed):
    """A checkpoint is not what its configuration asks for: figures are kept, nothing is built on it."""


def gates_of(node: Node) -> Mapping[str, Gate]:
    """The gates of an evaluation; other steps have none."""
    return getattr(node.config, "gates", {})


def failures(states: Sequence[State], names: Collection[str]) -> list[str]:
    """A line for each finished evaluation of `names` that does not meet its gates."""
    return [
        f"{state.node.name}: {'; '.join(lines)}"
        for state in states
        if state.record and state.node.name in names and (lines := unmet(gates_of(state.node), state.record.metrics))
    ]


def require_open(node: Node, states: Sequence[State]) -> None:
    """Raise GateShut if `node` would be built, directly or not, on a checkpoint with a gate that is not met.

    Another evaluation is not built on a checkpoint: it only looks at it.
    """
    if node.stage.name == EVALUATION:
        return
    nodes = [state.node for state in states]
    for state in states:
        if lines := failures([state], [state.node.name]):
            guarded = state.node.inputs["init"][0]
            if node.name != guarded and node.name in descendants(nodes, guarded):
                raise GateShut(f"{node.name} is not made, for it builds on {guarded}. {lines[0]}")
