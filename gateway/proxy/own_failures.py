"""What is said where the gateway itself fails: of memory, or by a defect."""

from __future__ import annotations

from gateway.errors import GatewayError, Internal, Overloaded
from gateway.exchange.kept_errors import forget_origin, lacked_memory


def out_of_memory() -> Overloaded:
    """What is said where memory does not suffice."""
    return Overloaded(
        "There is not enough memory for this request at the moment. Try again shortly.",
        detail="out of memory",
    )


def failure_of(error: Exception) -> GatewayError:
    """The error with which an exchange ends that this one has met."""
    lacking = lacked_memory(error)
    forget_origin(error)
    if lacking:
        return out_of_memory()
    return error if isinstance(error, GatewayError) else Internal("The gateway failed.", detail=repr(error))
