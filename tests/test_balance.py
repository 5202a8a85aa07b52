"""Rows change places between processes so that each has as many with a gradient."""

from hypothesis import given
from hypothesis import strategies as st

from stages.training.balance import exchanges

shares = st.integers(1, 12).flatmap(
    lambda rows: st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), min_size=1, max_size=6)
)


@given(shares)
def test_exchanges_even_out_what_has_a_gradient_and_move_each_row_once(live):
    after = [list(share) for share in live]
    moved = []
    for (rich, full), (poor, empty) in exchanges(live):
        assert rich != poor
        assert live[rich][full]
        assert not live[poor][empty]
        after[rich][full], after[poor][empty] = live[poor][empty], live[rich][full]
        moved += [(rich, full), (poor, empty)]
    counts = [sum(share) for share in after]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == sum(map(sum, live))
    assert len(set(moved)) == len(moved)


@given(shares)
def test_no_more_rows_move_than_must(live):
    counts = [sum(share) for share in live]
    least, most = sum(counts) // len(counts), -(-sum(counts) // len(counts))
    surplus = sum(max(0, count - most) for count in counts)
    lack = sum(max(0, least - count) for count in counts)
    assert len(exchanges(live)) == max(surplus, lack)


def test_even_shares_stay_where_they_are():
    assert exchanges([[True, False], [False, True]]) == []
    assert exchanges([[True, True, False], [False, True, False]]) == []
