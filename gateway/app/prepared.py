"""New settings on their way into force: first all that can fail, then, in one turn of the loop, what cannot."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gateway.app.certificate_in_force import CertificateInForce
from gateway.app.own_upstream import refuse_itself
from gateway.app.tenants_in_force import TenantsInForce
from gateway.credentials.trust import Trust
from gateway.middleware.services import Services
from gateway.policy.model_names import configured_models
from gateway.policy.tenants import UpstreamAccess, ways_of
from gateway.proxy.identity_endpoint import WayOut
from gateway.proxy.upstream import Upstreams
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import ADMINISTRATION, revealed
from gateway.settings.settings import Settings, waiting_for_restart


@dataclass(frozen=True, slots=True)
class Prepared:
    """Settings that nothing keeps from being in force any more. Nothing has changed yet; to forget them, let go."""

    _settings: Settings
    _services: Services
    _upstreams: Upstreams
    _trusted: ssl.SSLContext
    _put_trust: Callable[[], None]
    _put_identities: Callable[[], None]
    _put_tenants: Callable[[], None]
    _put_certificate: Callable[[], None]

    @property
    def waiting(self) -> list[str]:
        """The names of those that have changed and wait for a start."""
        return waiting_for_restart(self._services.settings, self._settings)

    def commit(self) -> None:
        """Put them in force, for every request from now on. Cannot fail."""
        self._upstreams.trust(self._trusted)
        self._upstreams.administer(administration(self._settings))
        self._put_trust()
        show_issuers(self._services, self._settings)
        self._put_tenants()
        self._put_identities()
        show_identities(self._services, self._upstreams)
        self._services.limiter.levels.forget()
        self._services.metrics.models.names.configure(configured_models(self._settings))
        self._put_certificate()


async def prepare(
    settings: Settings,
    *,
    services: Services,
    tenants: TenantsInForce,
    upstreams: Upstreams,
    certificate: CertificateInForce,
) -> Prepared:
    """Judge new settings by all that is known here. Raises SettingsInvalid."""
    await asyncio.to_thread(refuse_itself, settings)
    # An issuer may have ten thousand subjects, which are more than a turn of the loop has time for.
    put_trust = await asyncio.to_thread(services.trust.prepare, settings.credentials, settings.issuers)
    trusted = await asyncio.to_thread(trusted_certificates, settings.upstream.ca_file)
    put_certificate = await certificate.prepare(settings)
    put_tenants = await tenants.prepare(settings)
    put_identities = await upstreams.identities.prepare(ways_of(settings), WayOut.of(settings.upstream))
    return Prepared(
        settings, services, upstreams, trusted, put_trust, put_identities, put_tenants, put_certificate
    )


def administration(settings: Settings) -> UpstreamAccess:
    """Where organization administration goes, and with which key."""
    return UpstreamAccess(
        ADMINISTRATION, settings.upstream.base_url, revealed(settings.upstream.admin_api_key)
    )


def show_issuers(services: Services, settings: Settings) -> None:
    """Let gauges show how old the keys of each issuer are, and for how long they still count."""
    metrics = services.metrics
    for name, issuer in settings.issuers.items():
        if issuer.jwks_url is not None:
            metrics.jwks_age.watch(partial(_age, services.trust, name), name)
            metrics.jwks_stale_in.watch(partial(_stale_in, services.trust, name), name)


def show_identities(services: Services, upstreams: Upstreams) -> None:
    """Let gauges show for how long workload identities have what opens their upstreams."""
    metrics, identities = services.metrics.upstream, upstreams.identities
    for name in identities.names:
        metrics.identity_expires.watch(partial(identities.expires_in_seconds, name), name)
        metrics.identity_overdue.watch(partial(identities.overdue_seconds, name), name)


def _age(trust: Trust, issuer: str) -> float:
    return trust.jwks_ages().get(issuer, math.nan)


def _stale_in(trust: Trust, issuer: str) -> float:
    return trust.jwks_stale_in().get(issuer, math.nan)
