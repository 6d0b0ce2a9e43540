"""The certificate by which newcomers are served, and how another takes its place."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from gateway.proxy.edge import EdgeServer
from gateway.settings.served_certificate import ServedCertificate, served_certificate
from gateway.settings.settings import Settings

_log = logging.getLogger("gateway.certificate")


class CertificateInForce:
    """What the settings name, or nothing where they name none: then it is served without TLS."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsInvalid for a pair that cannot be used. One that has expired is served all the same: where a
        worker takes another's place, to come up is better than not to.
        """
        self._served = served_certificate(settings)
        self._server: EdgeServer | None = None

    def put_on(self, server: EdgeServer) -> None:
        """Have a server serve by it, from now on."""
        self._server = server
        self._put(self._served)

    def expires_in_seconds(self) -> float:
        """How long it is good for; NaN without one."""
        return math.nan if self._served is None else self._served.expires_at - time.time()

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Do all about another one that can fail; what is returned puts it in force for whoever connects from then on.

        Raises SettingsInvalid, also for one that has expired.
        """
        if self._served is not None and self._served.is_of(settings):
            return _nothing
        new = await asyncio.to_thread(served_certificate, settings, now=time.time())
        if new is self._served:
            return _nothing

        def put() -> None:
            self._put(new)
            if new is None:
                _log.warning("TLS is off: who connects from now on is served without")
            else:
                _log.warning(
                    "who connects from now on gets the certificate of %s, good until %s",
                    new.certificate.path,
                    new.until,
                )

        return put

    def _put(self, served: ServedCertificate | None) -> None:
        self._served = served
        if self._server is not None:
            self._server.serve_with(None if served is None else served.context)


def _nothing() -> None:
    """It is the same as before."""
