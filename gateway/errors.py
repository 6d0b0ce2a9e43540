"""Every way in which the gateway itself can refuse or fail an exchange.

    GatewayError                         status  type                   code
    ├─ ClientFault
    │  ├─ CredentialMissing              401     invalid_request_error  missing_api_key
    │  ├─ CredentialRefused              401     invalid_request_error  invalid_api_key
    │  │  ├─ CredentialLapsed            401     invalid_request_error  expired_api_key
    │  │  └─ CredentialWithdrawn         401     invalid_request_error  revoked_api_key
    │  ├─ PermissionFault
    │  │  ├─ ScopeMissing                403     permission_error       missing_scope
    │  │  ├─ ModelNotAllowed             403     permission_error       model_not_allowed
    │  │  ├─ TenantUnknown               403     permission_error       unknown_tenant
    │  │  ├─ TenantDisabled              403     permission_error       tenant_disabled
    │  │  ├─ SharedUpstream              403     permission_error       shared_upstream
    │  │  ├─ UnmeteredOperation          403     permission_error       unmetered_operation
    │  │  └─ OperationClosed             403     permission_error       operation_closed
    │  ├─ BadRequest                     400     invalid_request_error  bad_request, …
    │  ├─ TargetAmbiguous                400     invalid_request_error  ambiguous_target
    │  ├─ NeverFits                      400     invalid_request_error  request_too_large_for_limit
    │  ├─ NotFound                       404     invalid_request_error  not_found
    │  │  └─ OperationUnknown            404     invalid_request_error  unknown_operation
    │  ├─ MethodRefused                  405     invalid_request_error  method_not_allowed
    │  ├─ MethodUnknown                  501     invalid_request_error  method_unknown
    │  ├─ RequestTimeout                 408     invalid_request_error  request_timeout
    │  ├─ BodyTooLarge                   413     invalid_request_error  request_too_large
    │  │  └─ JsonTooComplex              413     invalid_request_error  json_too_complex
    │  ├─ TargetTooLong                  414     invalid_request_error  target_too_long
    │  ├─ MediaTypeRefused               415     invalid_request_error  unsupported_media_type
    │  ├─ ExpectationRefused             417     invalid_request_error  expectation_failed
    │  ├─ UpgradeRequired                426     invalid_request_error  websocket_version
    │  │  └─ WebsocketUnsupported        426     invalid_request_error  websocket_unsupported
    │  ├─ HeadersTooLarge                431     invalid_request_error  headers_too_large
    │  ├─ LimitExceeded                  429     requests, tokens, …    rate_limit_exceeded
    │  └─ ClientLeft                     —       never sent: nobody is there to read it
    ├─ UpstreamFault
    │  ├─ UpstreamUnreachable            502     upstream_error         upstream_unreachable
    │  ├─ UpstreamBroken                 502     upstream_error         upstream_broken
    │  ├─ UpstreamRefusedKey             502     upstream_error         upstream_refused_key
    │  └─ UpstreamTimeout                504     upstream_error         upstream_timeout
    └─ GatewayFault
       ├─ VersionRefused                 505     invalid_request_error  http_version_not_supported
       ├─ IssuerUnavailable              503     server_error           issuer_unavailable
       ├─ UpstreamIdentityUnavailable    503     server_error           upstream_identity_unavailable
       ├─ LimitsUnavailable              503     server_error           limits_unavailable
       ├─ Overloaded                     503     server_error           overloaded
       ├─ Draining                       503     server_error           draining
       ├─ LoopDetected                   508     server_error           loop_detected
       └─ Internal                       500     server_error           internal_error

Types and codes are API: changing one is a breaking change. An error is rendered once, by
`middleware/answer.py` or, for what the application never sees, by `proxy/edge.py`. An upstream's own
4xx or 5xx is not an error of the gateway: it is relayed as it came. Two more, about stored objects, stand in
`stored_errors.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.endings import NEVER, waiting
from gateway.endings import Ending as Ending
from gateway.endings import GatewayError as GatewayError

_SOON = (("retry-after", "1"),)


class ClientFault(GatewayError):
    """The request cannot be served as it was sent."""

    type = "invalid_request_error"


class CredentialMissing(ClientFault):
    """No credential was sent."""

    status = 401
    code = "missing_api_key"
    fields: tuple[tuple[str, str], ...] = (("WWW-Authenticate", "Bearer"),)


class CredentialRefused(ClientFault):
    """The credential is malformed or not accepted; `detail` says which check failed."""

    status = 401
    code = "invalid_api_key"
    fields: tuple[tuple[str, str], ...] = (("WWW-Authenticate", 'Bearer error="invalid_token"'),)


class CredentialLapsed(CredentialRefused):
    """The credential was ours and has expired."""

    code = "expired_api_key"


class CredentialWithdrawn(CredentialRefused):
    """The credential was ours and has been revoked."""

    code = "revoked_api_key"


class PermissionFault(ClientFault):
    """Known caller, but not allowed."""

    status = 403
    type = "permission_error"


class ScopeMissing(PermissionFault):
    """The credential lacks the one scope that the operation needs."""

    code = "missing_scope"


class ModelNotAllowed(PermissionFault):
    """The tenant or the credential may not use this model."""

    code = "model_not_allowed"


class TenantUnknown(PermissionFault):
    """A verified credential names a tenant that is not configured here."""

    code = "unknown_tenant"


class TenantDisabled(PermissionFault):
    """The tenant is switched off."""

    code = "tenant_disabled"


class SharedUpstream(PermissionFault):
    """Stored objects are not safe behind an upstream key that several tenants share."""

    code = "shared_upstream"


class UnmeteredOperation(PermissionFault):
    """No limit counts what this uses, and the operator wants one that does."""

    code = "unmetered_operation"


class OperationClosed(PermissionFault):
    """The operator has not opened this operation to anybody."""

    code = "operation_closed"


class BadRequest(ClientFault):
    """The request is not well-formed; `code` is mostly narrowed."""

    status = 400
    code = "bad_request"


class TargetAmbiguous(ClientFault):
    """The gateway and the upstream could read this request target differently."""

    status = 400
    code = "ambiguous_target"


class NeverFits(ClientFault):
    """What the request is known to cost exceeds the whole limit: waiting cannot help."""

    status = 400
    code = "request_too_large_for_limit"


class NotFound(ClientFault):
    """The gateway serves nothing under this path."""

    status = 404
    code = "not_found"


class OperationUnknown(NotFound):
    """No operation that is known here, for who may ask for nothing else."""

    code = "unknown_operation"


class MethodRefused(ClientFault):
    """A method that is not served under this path; `allow` are those that are."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: Sequence[str]) -> None:
        super().__init__(message)
        self.allow = tuple(allow)
        self.fields = (("Allow", ", ".join(allow)),)


class MethodUnknown(ClientFault):
    """A method that is none of HTTP's."""

    status = 501
    code = "method_unknown"
    fields = NEVER


class RequestTimeout(ClientFault):
    """The client took too long to send its request."""

    status = 408
    code = "request_timeout"


class BodyTooLarge(ClientFault):
    """The request body exceeds a configured cap."""

    status = 413
    code = "request_too_large"


class JsonTooComplex(BodyTooLarge):
    """JSON with more structure than anybody is made to wait for."""

    code = "json_too_complex"


class TargetTooLong(ClientFault):
    """The request target exceeds the cap."""

    status = 414
    code = "target_too_long"


class MediaTypeRefused(ClientFault):
    """An encoded or otherwise unreadable body where policy must read it."""

    status = 415
    code = "unsupported_media_type"


class ExpectationRefused(ClientFault):
    """An `Expect` other than `100-continue`."""

    status = 417
    code = "expectation_failed"


class UpgradeRequired(ClientFault):
    """A foreign version of the WebSocket protocol."""

    status = 426
    code = "websocket_version"
    fields: tuple[tuple[str, str], ...] = (("Sec-WebSocket-Version", "13"),)


class WebsocketUnsupported(UpgradeRequired):
    """There is no such WebSocket, but an operation over HTTP that does the same."""

    code = "websocket_unsupported"
    fields = ()


class HeadersTooLarge(ClientFault):
    """The request head exceeds the cap."""

    status = 431
    code = "headers_too_large"


class LimitExceeded(ClientFault):
    """A limit refused the request; nothing was taken from any bucket.

    `retry_after_seconds` is when it could be granted; None: waiting does not help.
    """

    status = 429
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        type: str,  # noqa: A002 (the API's word)
        retry_after_seconds: float | None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail)
        self.type = type
        self.retry_after_seconds = retry_after_seconds
        self.fields = waiting(retry_after_seconds)


class ClientLeft(ClientFault):
    """The client closed its connection; there is nobody to answer."""

    ending = Ending.CLIENT_LEFT


class UpstreamFault(GatewayError):
    """The upstream could not be reached or did not answer properly. What is said of that is for the log as well."""

    type = "upstream_error"
    ending = Ending.UPSTREAM_LOST

    def __init__(self, message: str, *, param: str | None = None, detail: str | None = None) -> None:
        super().__init__(message, param=param, detail=detail or message)


class UpstreamUnreachable(UpstreamFault):
    """No connection to the upstream could be made; nothing was sent."""

    status = 502
    code = "upstream_unreachable"


class UpstreamBroken(UpstreamFault):
    """The upstream broke off, or answered something that is not HTTP."""

    status = 502
    code = "upstream_broken"


class UpstreamRefusedKey(UpstreamFault):
    """The upstream refused the gateway's own key: an operator must act, the tenant cannot."""

    status = 502
    code = "upstream_refused_key"
    fields = NEVER


class UpstreamTimeout(UpstreamFault):
    """A deadline ran out: connecting, first byte, idle, or in all."""

    status = 504
    code = "upstream_timeout"
    ending = Ending.TIMED_OUT


class GatewayFault(GatewayError):
    """The gateway itself cannot serve now."""


class VersionRefused(GatewayFault):
    """A protocol version other than HTTP/1.0 and HTTP/1.1."""

    status = 505
    type = "invalid_request_error"
    code = "http_version_not_supported"


class IssuerUnavailable(GatewayFault):
    """The keys of the issuer that a credential names are not known, so nobody can tell whether it counts."""

    status = 503
    code = "issuer_unavailable"
    fields = _SOON


class UpstreamIdentityUnavailable(GatewayFault):
    """The gateway's own workload identity has been granted nothing that would open the upstream now."""

    status = 503
    code = "upstream_identity_unavailable"
    fields = _SOON


class LimitsUnavailable(GatewayFault):
    """What counts limits or usage cannot be reached, and there is no answering without it."""

    status = 503
    code = "limits_unavailable"
    fields = _SOON


class Overloaded(GatewayFault):
    """A cap of this process is reached."""

    status = 503
    code = "overloaded"
    fields = _SOON


class Draining(GatewayFault):
    """The process goes, and what was not answered by now would outlast it."""

    status = 503
    code = "draining"
    ending = Ending.DRAINED
    fields = _SOON


class LoopDetected(GatewayFault):
    """The request has been here before: some upstream in its way leads back to this deployment."""

    status = 508
    code = "loop_detected"
    fields = NEVER


class Internal(GatewayFault):
    """A defect of the gateway; `detail` goes to the log."""

    ending = Ending.FAILED
