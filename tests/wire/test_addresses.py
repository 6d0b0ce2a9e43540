"""A client's address is what its connection has, or what a trusted proxy says; nobody else's word is believed."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gateway.wire.addresses import Proxies, written
from gateway.wire.headers import RequestHead, RequestNames

TRUSTED = [ip_network(text) for text in ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32")]


def head(*fields: tuple[str, str]) -> RequestHead:
    raw = tuple((name.encode(), value.encode("latin-1")) for name, value in fields)
    return RequestHead(raw, RequestNames(tuple(name for name, _ in raw)))


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("1.1.1.1, 203.0.113.7", "203.0.113.7"),
        ("1.1.1.1, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("10.1.1.1, 10.0.0.2", "10.1.1.1"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("2001:DB8:0:0::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ('"[2001:db8::7]:4711"', "2001:db8::7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, ::ffff:10.0.0.2", "203.0.113.7"),
        ("203.0.113.7, fd00::1", "203.0.113.7"),
        ("unix:", "10.0.0.1"),
        ("1.1.1.1, unix:/run/proxy.sock", "10.0.0.1"),
        ("1.1.1.1, unknown, 10.0.0.3", "10.0.0.3"),
        ("1.1.1.1, _hidden", "10.0.0.1"),
        ("1.1.1.1,", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("203.0.113.7:99999999", "10.0.0.1"),
        ("[203.0.113.7]", "10.0.0.1"),
        ("[2001:db8::7", "10.0.0.1"),
        ("2001:db8::7]:80", "10.0.0.1"),
        ("203.0.113.7 evil", "10.0.0.1"),
        ("203.0.113.7\x85", "10.0.0.1"),
        ("0x7f.1", "10.0.0.1"),
        ("1.1.1.1, " * 500 + "203.0.113.7", "203.0.113.7"),
        ("1.1.1.1, " + "10.0.0.9, " * 40 + "10.0.0.2", "10.0.0.9"),
    ],
)
def test_x_forwarded_for_is_read_from_the_right_through_trusted_networks(said: str, client: str) -> None:
    assert Proxies(TRUSTED).client("10.0.0.1", head(("X-Forwarded-For", said))) == client


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
        ("by=10.0.0.1; for=203.0.113.7 ", "203.0.113.7"),
        ('for="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="203.0.113.7:4711", for=10.0.0.2', "203.0.113.7"),
        ("for=1.1.1.1, for=203.0.113.7", "203.0.113.7"),
        ('for="1.1.1.1, for=203.0.113.7', "203.0.113.7"),
        ("for=_secret", "10.0.0.1"),
        ("for=unknown", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ("for=1.1.1.1;for=203.0.113.7", "10.0.0.1"),
        ("203.0.113.7", "10.0.0.1"),
    ],
)
def test_forwarded_is_read_from_the_right_through_trusted_networks(said: str, client: str) -> None:
    assert Proxies(TRUSTED).client("10.0.0.1", head(("Forwarded", said))) == client


def test_several_lines_are_one_list() -> None:
    lines = head(("X-Forwarded-For", "1.1.1.1"), ("A", "b"), ("x-forwarded-for", "203.0.113.7, 10.0.0.2"))

    assert Proxies(TRUSTED).client("10.0.0.1", lines) == "203.0.113.7"


def test_of_both_headers_the_one_counts_that_the_proxies_write() -> None:
    both = head(("Forwarded", "for=198.51.100.1"), ("X-Forwarded-For", "203.0.113.7"))

    assert Proxies(TRUSTED).client("10.0.0.1", both) == "203.0.113.7"
    assert Proxies(TRUSTED, "forwarded").client("10.0.0.1", both) == "198.51.100.1"
    assert (
        Proxies(TRUSTED, "forwarded").client("10.0.0.1", head(("X-Forwarded-For", "1.1.1.1"))) == "10.0.0.1"
    )


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("fe80::1%eth0", False),
        ("11.0.0.1", False),
        ("", False),
        (None, False),
        ("nonsense", False),
    ],
)
def test_only_those_networks_are_trusted(host: str | None, trusted: bool) -> None:
    assert Proxies(TRUSTED).trusts(host) is trusted
    assert not Proxies(()).trusts(host)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("::ffff:1.2.3.4", "1.2.3.4"), ("FE80::1%eth0", "fe80::1"), ("", None)],
)
def test_an_address_has_one_spelling(host: str, shown: str | None) -> None:
    assert written(host) == shown


def test_what_is_kept_of_clients_behind_proxies_is_bounded() -> None:
    proxies = Proxies(TRUSTED)
    for number in range(10_000):
        proxies.client("10.0.0.1", head(("X-Forwarded-For", f"203.0.{number // 250}.{number % 250}")))

    assert len(proxies._known) <= 4096


def test_what_clients_write_before_what_proxies_add_is_read_and_not_kept() -> None:
    proxies = Proxies(TRUSTED)
    for number in range(100):
        said = f"{number} {'x' * 8000}, 203.0.113.{number}"
        assert proxies.client("10.0.0.1", head(("X-Forwarded-For", said))) == f"203.0.113.{number}"

    assert not proxies._known
