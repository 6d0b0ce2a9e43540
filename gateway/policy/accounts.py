"""Which tenants may have one upstream account, and so could reach what the upstream stores for each other. Pure.

Nobody outside the upstream can tell whose account a key opens: two keys may well be of one project. So tenants
count as having one account until something says otherwise: another host, another project at the public API (other
servers ignore that field), or the operator. What a tenant once had counts like what it has: nothing is opened by
taking a tenant away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, assert_never
from urllib.parse import urlsplit

PUBLIC_API = "api.openai.com"
"""Where it is, whatever the region whose host is named."""

_DEFAULT_PORTS = (None, 80, 443)
_DIGITS = 32
_MOST_NAMES = 5
MOST_OTHERS = 64
_MOST_SAID_BYTES = 256


class Account(NamedTuple):
    """What is known of the account behind a way upstream. No key can be read from it."""

    place: str
    """The host, with its port where that is none of the usual ones: one server by http and by https."""

    key: str
    """A digest of the key; without a key, of the place."""

    project: str | None
    """The project that the operator has named, at the public API; elsewhere nobody heeds it."""


Uses = Mapping[tuple[str, Account], bool]
"""Which tenant has, or had, which account, and whether by the operator's word it was that tenant's own."""


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of accounts."""

    uses: Uses = field(default_factory=dict)
    known: bool = True
    """Whether all that was ever noted has been read; else anybody may have had any account."""

    unwritten: frozenset[tuple[str, Account]] = frozenset()
    """Uses that a restart would forget."""


NOTHING_REMEMBERED = History()


class Reason(Enum):
    """Why a tenant's stored objects are closed."""

    SHARED = "shared"
    """Another tenant of the configuration may have the same account, be it disabled."""

    ONCE_SHARED = "once shared"
    """Another tenant may have had it."""

    REFUSED = "refused"
    """The operator wants it so."""

    UNKNOWN = "unknown"
    """It cannot be told, or could not be told after a restart, who had it."""


@dataclass(frozen=True, slots=True)
class Closed:
    """That a tenant's stored objects are closed, and why."""

    reason: Reason
    others: tuple[str, ...] = ()
    """The other tenants, `MOST_OTHERS` at most. For operators: tenants are not told of each other."""

    @property
    def words(self) -> str:
        """The reason as a tenant may know it."""
        match self.reason:
            case Reason.SHARED:
                return "other tenants may have the same upstream account"
            case Reason.ONCE_SHARED:
                return "other tenants may have had the same upstream account"
            case Reason.REFUSED:
                return "the gateway's operator has closed them"
            case Reason.UNKNOWN:
                return "which tenants have had its upstream account cannot be told at the moment"
            case never:
                assert_never(never)


def account_of(base_url: str, api_key: str | None, project: str | None) -> Account:
    """The account behind a way upstream; `base_url` as settings write it."""
    parts = urlsplit(base_url)
    host = (parts.hostname or "").rstrip(".")
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        pass  # no name that could be spelled otherwise
    place = host if parts.port in _DEFAULT_PORTS else f"{host}:{parts.port}"
    public = place == PUBLIC_API or place.endswith("." + PUBLIC_API)
    if public:
        place = PUBLIC_API  # its regional hosts are the same API
    secret = f"place {place}" if api_key is None else f"key {api_key}"
    return Account(place, hashlib.sha256(secret.encode()).hexdigest()[:_DIGITS], project if public else None)


def is_public(base_url: str) -> bool:
    """Whether that is the public API, by whatever of its names."""
    return account_of(base_url, None, None).place == PUBLIC_API


@lru_cache(maxsize=256)
def storage_of(base_url: str) -> str:
    """What stores the objects behind a way upstream: the same id in two of these means two objects."""
    place = account_of(base_url, None, None).place
    return place if place == PUBLIC_API else place + urlsplit(base_url).path.rstrip("/")


def surely_one(
    base_url: str, api_key: str | None, organization: str | None, project: str | None
) -> tuple[object, ...]:
    """What is one account if two tenants have any of it: no upstream could tell them apart."""
    account = account_of(base_url, api_key, project)
    if account.project is not None:
        return ((account, organization), account.project)
    path = "" if account.place == PUBLIC_API else urlsplit(base_url).path
    return ((account, path, organization, project),)


def account_said(account: Account, project: bytes | None, organization: bytes | None) -> str | None:
    """What an upstream calls the account from which it answered; None where that tells nothing.

    A project is one wherever it is met. An organization has many projects at the public API, so there it says nothing.
    """
    if project:
        return f"project {_shown(project)}"
    if organization and account.place != PUBLIC_API:
        return f"organization {_shown(organization)} at {account.place}"
    return None


def _shown(said: bytes) -> str:
    return ascii(said[:_MOST_SAID_BYTES].decode("latin-1"))[1:-1]


def judge(present: Uses, history: History) -> dict[str, Closed | None]:
    """Whether the stored objects of each tenant are closed. `present` has every tenant once.

    The operator's word is about the tenants that there are: it covers the keys that a tenant had before at that place,
    and ends with the tenant.
    """
    vouched = {(tenant, account.place) for (tenant, account), own in present.items() if own}
    now = _Index(present)
    past = _Index(
        {
            (tenant, account): own and (tenant, account.place) in vouched
            for (tenant, account), own in history.uses.items()
            if (tenant, account) not in present
        }
    )
    return {
        use[0]: None if own else _closed(use, now, past, known=history.known and use not in history.unwritten)
        for use, own in present.items()
    }


def _closed(use: tuple[str, Account], now: _Index, past: _Index, *, known: bool) -> Closed | None:
    tenant, account = use
    if others := _some(now.others(tenant, account)):
        return Closed(Reason.SHARED, others)
    if others := _some(past.others(tenant, account)):
        return Closed(Reason.ONCE_SHARED, others)
    return None if known else Closed(Reason.UNKNOWN)


class _Index:
    """Finds who may have an account among many uses without looking at each.

    One key is one account wherever it is used, whatever anybody says of it, and so is one project that is named. At one
    place all are one account whose operator has not said that theirs is their own. Two named projects are never one.
    """

    def __init__(self, uses: Uses) -> None:
        self._by_key: dict[str, dict[str | None, set[str]]] = {}
        self._by_project: dict[str, set[str]] = {}
        self._by_place: dict[str, dict[str | None, set[str]]] = {}
        for (tenant, account), own in uses.items():
            self._by_key.setdefault(account.key, {}).setdefault(account.project, set()).add(tenant)
            if account.project is not None:
                self._by_project.setdefault(account.project, set()).add(tenant)
            if not own:
                self._by_place.setdefault(account.place, {}).setdefault(account.project, set()).add(tenant)

    def others(self, tenant: str, account: Account) -> Iterator[str]:
        """Tenants beside this one that may have the account; some of them several times."""
        for projects in (self._by_key.get(account.key, {}), self._by_place.get(account.place, {})):
            groups: Iterable[Iterable[str]]
            if account.project is None:
                groups = projects.values()
            else:
                groups = (projects.get(None, ()), self._by_project.get(account.project, ()))
            yield from (other for other in chain.from_iterable(groups) if other != tenant)


def _some(names: Iterable[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for name in names:
        found.add(name)
        if len(found) == MOST_OTHERS:
            break
    return tuple(sorted(found))


def said(closed: Mapping[tuple[str, Account], Closed]) -> list[str]:
    """What an operator should know of tenants whose stored objects are closed, and what opens them."""
    groups: dict[tuple[Reason, str], list[str]] = {}
    others: dict[tuple[Reason, str], set[str]] = {}
    for (tenant, account), why in closed.items():
        groups.setdefault((why.reason, account.place), []).append(tenant)
        others.setdefault((why.reason, account.place), set()).update(why.others)
    return [
        _sentence(reason, place, tenants, sorted(others[reason, place].difference(tenants)))
        for (reason, place), tenants in groups.items()
    ]


def _sentence(reason: Reason, place: str, closed_to: Collection[str], others: Collection[str]) -> str:
    tenants = listed(closed_to)
    what = "Stored objects (files, batches, threads, …) are closed to"
    word = 'stored_objects = "own" under [tenants.ID]'
    match reason:
        case Reason.SHARED:
            named = ", or name the projects of all in upstream.project" if place == PUBLIC_API else ""
            return (
                f"{what} {tenants}: at {place} {'they' if len(closed_to) > 1 else 'it'} may have one account"
                f"{' with ' if others else ''}{listed(others)}: different keys prove nothing, and disabled tenants "
                f"count. For one whose project or account is its own, write {word}{named}. "
                "With redis_url each has what it makes itself."
            )
        case Reason.ONCE_SHARED:
            return (
                f"{what} {tenants}: the account at {place} may have been that of {listed(others)} as well. "
                f"For one to which all that is stored there may be open, write {word}."
            )
        case Reason.REFUSED:
            return f'{what} {tenants}, as stored_objects = "refuse" says.'
        case Reason.UNKNOWN:
            return (
                f"{what} {tenants}: which tenants have had the account at {place} cannot be read or kept. "
                f"For one to which they are to be open all the same, write {word}."
            )
        case never:
            assert_never(never)


def listed(names: Iterable[str]) -> str:
    """Some of them, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MOST_NAMES])
    more = len(ordered) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
