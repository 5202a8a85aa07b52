"""The curriculum: easy first, harder tiers as passes come in, everything restorable."""

import json
from collections import Counter

import pytest

from stages.training.curriculum import Curriculum, CurriculumConfig

DIFFICULTIES = [1.0] * 10 + [2.0] * 10 + [3.0] * 10


def tiers(picked):
    return Counter(DIFFICULTIES[i] for i in picked)


def test_only_the_easiest_tier_is_open_at_the_start():
    assert set(tiers(Curriculum(DIFFICULTIES, CurriculumConfig(), seed=0).pick(0, 40))) == {1.0}
    assert set(tiers(Curriculum(DIFFICULTIES, CurriculumConfig(open_tiers=2), seed=0).pick(0, 40))) == {1.0, 2.0}


def test_every_prompt_of_a_tier_comes_once_before_any_comes_again():
    curriculum = Curriculum(DIFFICULTIES, CurriculumConfig(), seed=0)
    assert sorted(curriculum.pick(0, 10)) == list(range(10))
    assert sorted(curriculum.pick(1, 10)) == list(range(10))


def test_the_next_tier_opens_when_the_hardest_open_one_passes():
    curriculum = Curriculum(DIFFICULTIES, CurriculumConfig(unlock=0.6, memory=0.0), seed=0)
    curriculum.observe([0, 1], [1.0, 0.0])
    assert curriculum.open == 1
    curriculum.observe([0, 1], [1.0, 1.0])
    assert curriculum.open == 2
    curriculum.observe([0], [1.0])  # passing the easy tier again opens nothing more
    assert curriculum.open == 2


def test_tiers_that_always_or_never_pass_are_drawn_least():
    curriculum = Curriculum(DIFFICULTIES, CurriculumConfig(open_tiers=3, memory=0.0), seed=0)
    curriculum.observe([0, 1, 10, 11, 20, 21], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    drawn = tiers(curriculum.pick(0, 500))
    assert drawn[2.0] > 5 * drawn[1.0]
    assert drawn[2.0] > 5 * drawn[3.0]
    assert min(drawn.values()) > 0


def test_pass_rates_run_with_the_configured_memory():
    curriculum = Curriculum(DIFFICULTIES, CurriculumConfig(memory=0.75, unlock=0.99), seed=0)
    curriculum.observe([0], [0.0])
    curriculum.observe([0], [1.0])
    assert curriculum.pass_rate == {1.0: pytest.approx(0.25)}


def test_a_restored_curriculum_goes_on_as_the_first_would_have():
    config = CurriculumConfig(unlock=0.4)
    first, second = Curriculum(DIFFICULTIES, config, seed=5), Curriculum(DIFFICULTIES, config, seed=5)
    picked = first.pick(0, 8)
    first.observe(picked, [1.0] * 8)
    second.restore(json.loads(json.dumps(first.state())))
    assert [first.pick(step, 6) for step in range(1, 4)] == [second.pick(step, 6) for step in range(1, 4)]
