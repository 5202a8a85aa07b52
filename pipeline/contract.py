"""Joining only artifacts whose contracts agree, with each other and with what is on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data.artifact import Artifact, Kind
from data.contract import model_contract
from stages.stage import Input


def check_disk(artifact: Artifact) -> None:
    """Refuse a model whose tokenizer or template is not what its record says. Raises ValueError."""
    if artifact.kind is not Kind.MODEL:
        return
    wrong = artifact.contract.conflicts(model_contract(artifact.path, artifact.contract.convention))
    if wrong:
        raise ValueError(
            f"{artifact.path}: {', '.join(wrong)} on disk differs from the record of {artifact.name!r}: "
            "the directory was changed after it was made"
        )


def check_inputs(step: str, needs: Mapping[str, Input], inputs: Mapping[str, Sequence[Artifact]], run: str) -> None:
    """Refuse inputs made under another convention than `run`, or with another tokenizer than `init`.

    Raises ValueError naming the step, both artifacts and the fields that disagree.
    """
    for name, artifacts in inputs.items():
        for artifact in artifacts:
            if artifact.contract.convention not in (None, run):
                raise ValueError(
                    f"{step}: input {name} ({artifact.name}) was made under the convention "
                    f"{artifact.contract.convention!r}, and this run uses {run!r}"
                )
    joined = [("init", a) for a in inputs.get("init", ())]
    joined += [(n, a) for n, found in inputs.items() if n != "init" and needs[n].same_tokenizer for a in found]
    for at, (name, artifact) in enumerate(joined):
        for other_name, other in joined[:at]:
            wrong = replace(artifact.contract, convention=None).conflicts(replace(other.contract, convention=None))
            if wrong:
                raise ValueError(
                    f"{step}: {name} ({artifact.name}) and {other_name} ({other.name}) disagree on {', '.join(wrong)}"
                )
