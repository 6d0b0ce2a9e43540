"""The gateway's own paths on the public listener, as operations: who am I, what have I used, which keys verify?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.operations.table import UNLISTED_READ, Operation

GROUP = "gateway"
ME = replace(UNLISTED_READ, id="gatewayMe", path="/gateway/me", group=GROUP, scope="", streams=False)
USAGE = replace(ME, id="gatewayUsage", path="/gateway/usage")
JWKS = replace(ME, id="gatewayJwks", path="/.well-known/jwks.json")

OWN: Mapping[tuple[str, str], Operation] = {
    (method, operation.path): operation for operation in (ME, USAGE, JWKS) for method in ("GET", "HEAD")
}
"""By method and exact path."""
