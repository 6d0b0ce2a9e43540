"""The gateway's own paths on the public listener: who am I, what have I used, which keys verify, and is it well?

The first are operations, asked for in exchanges. Health is none: it is answered before there is an exchange.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.operations.table import OWN_GROUP, Operation

ME = Operation(id="gatewayMe", method="GET", path="/gateway/me", group=OWN_GROUP, scope="")
USAGE = Operation(id="gatewayUsage", method="GET", path="/gateway/usage", group=OWN_GROUP, scope="")
JWKS = Operation(id="gatewayJwks", method="GET", path="/.well-known/jwks.json", group=OWN_GROUP, scope="")

OWN_METHODS = ("GET", "HEAD")
"""By which all of them are asked for, health too."""

OWN: Mapping[tuple[str, str], Operation] = {
    (method, operation.path): operation for operation in (ME, USAGE, JWKS) for method in OWN_METHODS
}
"""By method and exact path."""

LIVEZ, READYZ = "/gateway/livez", "/gateway/readyz"
"""By GET and HEAD, for load balancers that reach nothing else."""

OWN_PATHS = frozenset({LIVEZ, READYZ, *(path for _, path in OWN)})
