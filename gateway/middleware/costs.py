"""What an exchange is going to use, as far as its request says: for limits that count it, and for estimates."""

from __future__ import annotations

from gateway.exchange.exchange import Exchange
from gateway.usage.cost import Cost, cost_of
from gateway.usage.guesses import Guesses


class Costs:
    """Works out costs, by what has been guessed of answers until now."""

    def __init__(self, guesses: Guesses, *, most_bytes: int) -> None:
        """`most_bytes`: of a body whose length nobody has stated."""
        self._guesses = guesses
        self._most_bytes = most_bytes

    def of(self, exchange: Exchange) -> Cost:
        """That of an exchange whose body has been read, or is not going to be."""
        return cost_of(
            exchange.operation,
            tenant=exchange.caller.tenant.id,
            model=exchange.model,
            facts=exchange.facts,
            length_bytes=exchange.stated_bytes,
            most_bytes=self._most_bytes,
            guesses=self._guesses,
        )
