"""The sockets of slots."""

from __future__ import annotations

import select
import socket

import pytest

from gateway.supervisor.listeners import listen


def test_every_slot_gets_its_part_of_the_newcomers_on_one_port() -> None:
    listeners = listen("127.0.0.1:0", 2)
    clients = [socket.create_connection(listeners.address) for _ in range(64)]
    came = [0, 0]
    for slot, (listening,) in enumerate(listeners.slots):
        listening.setblocking(False)
        while select.select([listening], [], [], 0.1)[0]:
            listening.accept()[0].close()
            came[slot] += 1
    for client in clients:
        client.close()
    listeners.close()

    assert sum(came) == 64
    assert min(came) > 8


def test_address_where_another_gateway_listens_is_refused_although_it_would_share() -> None:
    first = listen("127.0.0.1:0", 2)
    host, port = first.address
    with pytest.raises(OSError, match="in use"):
        listen(f"{host}:{port}", 2)
    first.close()
    listen(f"{host}:{port}", 2).close()


def test_every_address_of_a_host_is_listened_on_by_every_slot() -> None:
    listeners = listen("localhost:0", 3)
    families = [[one.family for one in sockets] for sockets in listeners.slots]
    ports = {one.getsockname()[1] for one in listeners}
    listeners.close()

    assert families == [families[0]] * 3
    assert len(ports) == 1
