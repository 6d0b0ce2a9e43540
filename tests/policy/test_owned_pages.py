"""Which page of a list a tenant has is decided by what the registry knows, wherever the bytes come from."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.objects.store import Entry
from gateway.operations.stored_kinds import StoredKinds
from gateway.policy.owned_pages import Filling, ListQuery, told_order
from gateway.wire.list_pages import ListedEntry

KINDS = StoredKinds.load()


def asked(target: str, kind: str = "file") -> ListQuery:
    return ListQuery.read(KINDS[kind], target)


def test_a_query_goes_up_byte_for_byte_but_for_what_says_which_page() -> None:
    query = asked("/v1/files?purp%6fse=a+b%2Fc&x=%41&limit=7&order=asc&&after=file-1")
    assert query.target(100, after="file-9", before=None) == (
        "/v1/files?purp%6fse=a+b%2Fc&x=%41&order=asc&limit=100&after=file-9"
    )
    assert (query.size, query.after, query.is_ascending) == (7, "file-1", True)
    assert query.wanted == {"purpose": "a b/c"}
    assert not query.is_plain


def test_cursors_go_up_so_that_nothing_in_them_is_read_as_something_else() -> None:
    query = asked("/v1/files?after=a%26order%3Dasc")
    assert query.after == "a&order=asc"
    assert query.target(2, after=query.after, before=None) == "/v1/files?limit=2&after=a%26order%3Dasc"
    assert query.object_target("a/b?c") == "/v1/files/a%2Fb%3Fc"


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "1e3", "seven", "", "%F0"])
def test_a_limit_that_makes_no_sense_goes_up_as_it_is(limit: str) -> None:
    query = asked(f"/v1/files?limit={limit}")
    assert query.target(100, after=None, before=None) == f"/v1/files?limit={limit}"
    assert query.size == 10_000


@pytest.mark.parametrize("name", ["limit", "order", "after", "before", "af%74er"])
def test_what_says_twice_which_page_is_refused(name: str) -> None:
    plain = name.replace("%74", "t")
    with pytest.raises(BadRequest):
        asked(f"/v1/files?{plain}=a&{name}=b")


@pytest.mark.parametrize("query", ["purpose=a&purpose=b", "metadata[x]=a&metadata[x]=b", "x=a"])
def test_what_a_filter_says_twice_only_the_upstream_can_tell_of_an_object(query: str) -> None:
    asked_for = asked(f"/v1/files?{query}")
    assert not asked_for.is_plain
    assert asked(f"/v1/files?{query.partition('&')[0]}").is_plain is not query.startswith("x")
    assert {*asked_for.wanted.values(), *asked_for.metadata.values()} <= {"a"}


def test_what_is_shown_twice_counts_once_and_keeps_its_first_bytes() -> None:
    filling = Filling(2)
    filling.add([Entry("file-1", 1.0)], are_all=True)
    assert filling.found([("file-1", b"first"), ("file-of-others", b"no")]) == 1
    assert filling.newly_found_bytes == 5
    assert filling.found([("file-1", b"second")]) == 0
    assert filling.newly_found_bytes == 0
    assert filling.page() == ([("file-1", b"first")], False)


@pytest.mark.parametrize(("limit", "asked_for"), [(1, 100), (100, 101), (500, 501), (5_000, 1_000)])
def test_pages_that_are_walked_hold_a_hundred_at_least_and_one_more_than_is_wanted(
    limit: int, asked_for: int
) -> None:
    """Most entries are others': a page as short as the client's would show none of its own."""
    assert asked(f"/v1/files?limit={limit}").page_size == asked_for
    assert asked("/v1/batches?limit=100", "batch").page_size == 100, "the API's own bound holds"


def test_kinds_have_the_apis_own_sizes_and_orders() -> None:
    assert asked("/v1/files").size == 10_000
    assert asked("/v1/batches", "batch").size == 20
    assert not asked("/v1/batches", "batch").is_ascending
    assert asked("/v1/chat/completions", "chat_completion").is_ascending


def test_an_object_is_shown_by_what_the_query_filters_by() -> None:
    query = asked("/v1/chat/completions?model=gpt-4o&metadata%5Bteam%5D=red&metadata[n]=1", "chat_completion")
    assert query.is_plain
    assert query.shows(b'{"model": "gpt-4o", "metadata": {"team": "red", "n": "1"}}')
    assert not query.shows(b'{"model": "gpt-4o", "metadata": {"team": "blue", "n": "1"}}')
    assert not query.shows(b'{"model": "gpt-4o", "metadata": null}')
    assert not query.shows(b'{"model": "gpt-4.1", "metadata": {"team": "red", "n": "1"}}')


def test_a_page_shows_its_own_order_unless_all_of_it_is_of_one_second() -> None:
    def page(*seconds: float | None) -> list[ListedEntry]:
        return [ListedEntry("a", second, b"") for second in seconds]

    assert told_order(page(1, 2, 3)) is True
    assert told_order(page(3, None, 1)) is False
    assert told_order(page(3, 3)) is None
    assert told_order([]) is None


@given(
    size=st.integers(1, 6),
    known=st.integers(0, 12),
    gone=st.sets(st.integers(0, 11)),
    steps=st.lists(st.tuples(st.sampled_from(["add", "show", "ask"]), st.integers(0, 14), st.integers(1, 5))),
)
def test_a_page_is_the_first_of_what_is_there_in_whatever_order_that_is_learnt(
    size: int, known: int, gone: set[int], steps: list[tuple[str, int, int]]
) -> None:
    entries = [Entry(f"id{at}", float(at)) for at in range(known)]
    there = [entry.id for at, entry in enumerate(entries) if at not in gone]
    filling = Filling(size)
    added = 0

    def learn(ids: list[str]) -> None:
        filling.found((one, one.encode()) for one in ids if one in there)
        filling.absent(one for one in ids if one not in there)

    def add(count: int) -> None:
        nonlocal added
        filling.add(entries[added : added + count], are_all=added + count >= known)
        added += count

    def is_so_far() -> None:
        kept, has_more = filling.page()
        assert [object_id for object_id, _ in kept] == there[: len(kept)]
        assert has_more or [object_id for object_id, _ in kept] == there

    for step, at, count in steps:
        if step == "add":
            add(count)
        elif step == "show":
            filling.found((f"id{n}", b"") for n in range(at, at + count) if f"id{n}" in there)
        else:
            learn([entry.id for entry in filling.missing(count)])
        is_so_far()
    while not filling.is_done:
        if filling.wants_more:
            add(3)
        else:
            missing = filling.missing(8)
            assert missing
            learn([entry.id for entry in missing])
        is_so_far()
    kept, has_more = filling.page()
    assert [object_id for object_id, _ in kept] == there[:size]
    assert has_more == (len(there) > size)


@given(
    seconds=st.lists(st.integers(0, 400), max_size=8), begin=st.integers(-99, 500), end=st.integers(-99, 500)
)
def test_only_what_lies_well_between_two_seconds_that_were_seen_is_given_up(
    seconds: list[int], begin: int, end: int
) -> None:
    entries = [Entry(f"id{at}", second + at / 100) for at, second in enumerate(sorted(seconds))]
    filling = Filling(100)
    filling.add(entries, are_all=True)
    filling.passed(begin, end)
    left = {entry.id for entry in filling.missing(100)}
    assert left == {entry.id for entry in entries if not begin + 60 < int(entry.created_at) < end - 60}


def test_missing_are_the_nearest_and_no_more_than_the_page_needs() -> None:
    filling = Filling(3)
    filling.add([Entry(f"id{at}", at) for at in range(9)], are_all=False)
    assert [entry.id for entry in filling.missing(9)] == ["id0", "id1", "id2", "id3"]
    filling.found([("id1", b"")])
    assert [entry.id for entry in filling.missing(9)] == ["id0", "id2", "id3"]
    filling.absent(["id0"])
    assert [entry.id for entry in filling.missing(9)] == ["id2", "id3", "id4"]
    assert all(one.created_at < other.created_at for one, other in pairwise(filling.missing(9)))
