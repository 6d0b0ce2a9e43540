"""What the parts of one process share."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.proxy.lifecycle import Lifecycle
from tests.kit.gateway import Gateway


def test_process_has_not_started_before_it_says_so() -> None:
    lifecycle = Lifecycle()

    assert (lifecycle.started, lifecycle.in_flight) == (False, 0)
    assert not lifecycle.sessions


async def test_services_of_a_running_gateway_have_started_and_cannot_be_swapped(gateway: Gateway) -> None:
    services = gateway.app.services

    assert services.lifecycle.started
    with pytest.raises(dataclasses.FrozenInstanceError):
        services.tenants = services.tenants  # type: ignore[misc]
