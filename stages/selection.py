"""Which sampled completions become training data, and which a person should look at.

The order of the rules is fixed: a candidate is counted under the first that removes it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from data.curate import cap_per_prompt, deduplicate
from data.readability import Readability, unreadable
from data.records import Row
from rewards.reward import Sample, Status
from stages.near_threshold import hardly_told
from stages.scoring import Scored, safety_doubt

KEPT = "kept"
BELOW = "below the top fraction"
WRONG = "wrong"
POOR = " scored below "
"""Between the name of a reward and its least score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One completion of one prompt with everything that was said about it."""

    row: Row
    """As it would be written: with completion, id and provenance."""
    sample: Sample
    scored: Scored

    @property
    def id(self) -> str:
        """Unique among the candidates."""
        return str(self.row["id"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a candidate must be like."""

    keep_fraction: float
    per_prompt_cap: int | None
    min_scores: Mapping[str, float]
    near_duplicates: float | None
    readability: Readability
    safety: Mapping[str, float] = field(default_factory=dict)
    """Names of the rewards by which unsafe candidates are never kept, each with its threshold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Every candidate with the reason why it was kept or removed."""

    kept: list[Candidate]
    """Best first."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Candidate id to `kept` or the first rule that removed it."""
    ranked: list[Candidate] = field(default_factory=list)
    """Those that only the cut at the top fraction decides, best first."""

    def counts(self) -> dict[str, int]:
        """Candidates by reason."""
        return dict(Counter(self.reasons.values()))


def refusal(candidate: Candidate, rules: Rules) -> str | None:
    """The first rule that a candidate breaks on its own account, None if it breaks none."""
    scored, sample = candidate.scored, candidate.sample
    if scored.correct is None:
        return f"no verdict: {scored.undecided or 'the row has no answer and no tests'}"
    if scored.correct < 1:
        return WRONG
    if sample.truncated:
        return "cut short"
    if not sample.parsed().well_formed:
        return "not in the convention"
    parsed = sample.parsed()
    said = sample.completion if parsed.reasoning is None else parsed.reasoning
    if reason := unreadable(said, sample.language, rules.readability):
        return reason
    for name in rules.safety:
        if reason := safety_doubt(scored, name):
            return reason
    for name, least in rules.min_scores.items():
        score = scored.scores.get(name)
        if score is not None and score < least:
            return f"{name}{POOR}{least:g}"
    return None if scored.total is not None else "no reward applies"


def select(candidates: Sequence[Candidate], rules: Rules) -> Selection:
    """Keep the best: at most `keep_fraction` of ALL candidates, wrong ones included, taken from those that pass.

    Ranked by the reward mix over the whole set. Ties are the rule, not the exception (most right answers score
    the same), so equals take turns by prompt (every prompt's first before any prompt's second), then by a hash of
    their id, which favours nobody.
    """
    selection = Selection(kept=[])
    for candidate in candidates:
        if reason := refusal(candidate, rules):
            selection.reasons[candidate.id] = reason
    passed = {c.id: c for c in _in_turn([c for c in candidates if c.id not in selection.reasons])}
    unique = deduplicate([c.row for c in passed.values()]).rows
    _note(selection, passed, unique, "exact duplicate")
    if rules.near_duplicates is not None:
        unique = deduplicate(unique, near=rules.near_duplicates).rows
        _note(selection, passed, unique, "near duplicate")
    if rules.per_prompt_cap is not None:
        unique = cap_per_prompt(unique, rules.per_prompt_cap).rows
        _note(selection, passed, unique, "over the cap per prompt")
    limit = math.ceil(Fraction(str(rules.keep_fraction)) * len(candidates))
    selection.ranked.extend(passed[row["id"]] for row in unique)
    selection.kept.extend(selection.ranked[:limit])
    for place, candidate in enumerate(selection.ranked):
        selection.reasons[candidate.id] = KEPT if place < limit else BELOW
    return selection


def _note(selection: Selection, passed: Mapping[str, Candidate], left: Iterable[Row], reason: str) -> None:
    """Record `reason` for whoever passed so far and is not left."""
    remaining = {row["id"] for row in left}
    for name in passed:
        if name not in remaining:
            selection.reasons.setdefault(name, reason)


def _in_turn(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; equals in turns over their prompts, then by hash."""

    def drawn(candidate: Candidate) -> str:
        return hashlib.sha256(candidate.id.encode()).hexdigest()

    turns: Counter[tuple[str, float]] = Counter()
    turn: dict[str, int] = {}
    for candidate in sorted(candidates, key=drawn):
        group = (str(candidate.row["provenance"]["row"]), _total(candidate))
        turn[candidate.id] = turns[group]
        turns[group] += 1
    return sorted(candidates, key=lambda c: (-_total(c), turn[c.id], drawn(c)))


def _total(candidate: Candidate) -> float:
    return -math.inf if candidate.scored.total is None else candidate.scored.total


def edge_cases(
    candidates: Sequence[Candidate], selection: Selection, limit: int, safety: Mapping[str, float] | None = None
) -> Iterator[Row]:
    """At most `limit` rows for each kind of doubt, each with `reason` (what became of it) and `doubt`. `safety` is that
    of the rules."""
    cut = len(selection.kept)
    near = [*selection.ranked[max(0, cut - limit // 2) : cut], *selection.ranked[cut : cut + limit // 2]]
    if cut == len(selection.ranked):
        near = []
    troubled = [c for c in candidates if _trouble(c)]
    right_but_poor = [c for c in candidates if c.scored.correct == 1 and POOR in selection.reasons[c.id]]
    kinds = {
        "close to the cut": near,
        "the majority gives an answer that the verifier refuses": list(_outvoted(candidates)),
        "right by the verifier, poor by another reward": right_but_poor,
        "the verifier had trouble": troubled,
        "close to the threshold of the safety model": hardly_told(candidates, safety or {}),
    }
    for doubt, found in kinds.items():
        for candidate in found[:limit]:
            yield {**candidate.row, "reason": selection.reasons[candidate.id], "doubt": doubt}


def _trouble(candidate: Candidate) -> bool:
    fine = (Status.OK, Status.WRONG, Status.NOT_APPLICABLE)
    return any(status not in fine for status in candidate.scored.status.values())


def _outvoted(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """The first of each prompt's wrong samples whose answer at least two thirds of three or more agree on.

    Such agreement more often points at the gold answer or the verifier than at the model.
    """
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[str(candidate.row["provenance"]["row"])].append(candidate)
    for group in groups.values():
        answers = [c.sample.parsed().answer for c in group]
        common, votes = Counter(a for a in answers if a).most_common(1)[0] if any(answers) else ("", 0)
        if len(group) >= 3 and votes * 3 >= len(group) * 2:
            first = group[answers.index(common)]
            if first.scored.correct == 0:
                yield first
