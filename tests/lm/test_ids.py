from hypothesis import given
from hypothesis import strategies as st

from uhlm_edge.lm.ids import common_length, left_out

IDS = st.lists(st.integers(0, 3), max_size=60)


@given(IDS, IDS)
def test_the_common_length_is_that_of_the_longest_beginning(a: list[int], b: list[int]) -> None:
    n = common_length(a, b)
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]


@given(IDS, IDS, IDS, IDS)
def test_what_is_left_out_makes_the_old_text_more_like_the_new(
    first: list[int], gone: list[int], kept: list[int], more: list[int]
) -> None:
    old, new = [*first, *gone, *kept], [*first, *kept, *more]
    at, n = left_out(old, new)
    assert at == common_length(old, new)
    assert 0 <= n <= len(old) - at
    before = common_length(old, new)
    after = common_length(old[:at] + old[at + n :], new)
    assert after >= before + 16 if n else after == before


def test_the_whole_rest_is_kept_even_where_its_beginning_occurs_twice() -> None:
    question, answers = list(range(100, 120)), [list(range(n, n + 9)) for n in (200, 300, 400)]
    turns = [question + answer for answer in answers]
    old, new = [1, 2, *turns[0], *turns[1], *turns[2]], [1, 2, *turns[1], *turns[2], 7]
    at, n = left_out(old, new)
    assert n == len(turns[0])
    assert at == 2 + len(question)  # as far as the first two turns are alike


def test_a_few_ids_in_common_are_chance() -> None:
    assert left_out([1, 5, 6, *range(10, 20)], [1, *range(10, 20)]) == (1, 0)
