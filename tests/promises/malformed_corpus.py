"""Requests that two readers could read differently, or that are not HTTP at all, and what must happen to each.

Every case is the bytes of one connection. They carry a credential that is good, so that nothing but the
defect stands in their way; `CREDENTIAL` stands for it. Whatever is refused, the connection is closed
afterwards and the upstream has seen nothing. `ACCEPTED` holds what looks odd and is still right to serve,
with the reason why.
"""

from __future__ import annotations

from dataclasses import dataclass

CREDENTIAL = b"@credential@"
CLOSED = 0
"""Stands among the statuses where closing without an answer will do: what came was not HTTP/1.x."""

JSON = b'{"model":"m"}'


@dataclass(frozen=True, slots=True)
class Case:
    """One malformed request: `statuses` are the answers that are right."""

    id: str
    data: bytes
    statuses: frozenset[int]


@dataclass(frozen=True, slots=True)
class Accepted:
    """One odd request that is served: the upstream gets `target` and `body`, because of `why`."""

    id: str
    data: bytes
    why: str
    target: str = "/v1/models"
    body: bytes = b""


def _get(
    target: bytes = b"/v1/models",
    *fields: bytes,
    method: bytes = b"GET",
    version: bytes = b"HTTP/1.1",
    host: bytes = b"Host: gateway.test\r\n",
    body: bytes = b"",
) -> bytes:
    head = b"%b %b %b\r\n%bAuthorization: Bearer %b\r\n" % (method, target, version, host, CREDENTIAL)
    return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def _post(*fields: bytes, body: bytes = JSON, version: bytes = b"HTTP/1.1") -> bytes:
    return _get(
        b"/v1/chat/completions",
        b"Content-Type: application/json",
        *fields,
        method=b"POST",
        version=version,
        body=body,
    )


def _chunked(body: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", body=body)


def _family(statuses: int | tuple[int, ...], cases: dict[str, bytes]) -> list[Case]:
    allowed = frozenset({statuses} if isinstance(statuses, int) else statuses)
    return [Case(id, data, allowed) for id, data in cases.items()]  # noqa: A001


_SMUGGLED = _get(b"/v1/files")
_JSON_CHUNKS = b"d\r\n%b\r\n0\r\n\r\n" % JSON

VERSIONS = [
    *_family(
        505,
        {
            "version-0.9": _get(version=b"HTTP/0.9"),
            "version-2.0": _get(version=b"HTTP/2.0"),
            "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        },
    ),
    *_family(
        (400, 505),
        {
            "version-none": b"GET /v1/models\r\n\r\n",
            "version-none-with-fields": b"GET /v1/models\r\nHost: gateway.test\r\n\r\n",
            "version-1.2": _get(version=b"HTTP/1.2"),
            "version-1.9": _get(version=b"HTTP/1.9"),
            "version-3.0": _get(version=b"HTTP/3.0"),
            "version-9.9": _get(version=b"HTTP/9.9"),
            "version-1.10": _get(version=b"HTTP/1.10"),
            "version-01.1": _get(version=b"HTTP/01.1"),
            "version-1.01": _get(version=b"HTTP/1.01"),
            "version-1": _get(version=b"HTTP/1"),
            "version-1-dot": _get(version=b"HTTP/1."),
            "version-dot-1": _get(version=b"HTTP/.1"),
            "version-comma": _get(version=b"HTTP/1,1"),
            "version-negative": _get(version=b"HTTP/-1.1"),
            "version-lower-case": _get(version=b"http/1.1"),
            "version-mixed-case": _get(version=b"Http/1.1"),
            "version-https": _get(version=b"HTTPS/1.1"),
            "version-icecast": _get(version=b"ICE/1.0"),
            "version-space-before-slash": _get(version=b"HTTP /1.1"),
            "version-space-after-slash": _get(version=b"HTTP/ 1.1"),
            "version-then-word": _get(version=b"HTTP/1.1 more"),
            "version-twice": _get(version=b"HTTP/1.1 HTTP/1.1"),
            "version-then-nul": _get(version=b"HTTP/1.1\x00"),
            "version-letters": _get(version=b"HTTP/a.b"),
            "version-empty": _get(version=b""),
        },
    ),
]

REQUEST_LINES = [
    *_family(
        400,
        {
            "line-leading-space": b" " + _get(),
            "line-leading-tab": b"\t" + _get(),
            "line-tab-for-space": _get().replace(b"GET /v1/models HTTP", b"GET\t/v1/models\tHTTP"),
            "line-vertical-tab-for-space": _get().replace(b"GET /", b"GET\x0b/"),
            "line-form-feed-before-version": _get().replace(b" HTTP/1.1", b"\x0cHTTP/1.1", 1),
            "line-nbsp-for-space": _get().replace(b"GET /", b"GET\xa0/"),
            "line-lf-only": _get().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\n", 1),
            "line-cr-only": _get().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r", 1),
            "line-cr-cr-lf": _get().replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\r\n", 1),
            "line-no-target": _get(b""),
            "line-method-alone": b"GET\r\n\r\n",
            "line-words": b"please give me the models\r\n\r\n",
            "line-answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "line-space-in-target": _get(b"/v1/mod els"),
            "line-cr-in-target": _get(b"/v1/mod\rels"),
            "line-bel-first": b"\x07" + _get(),
            "line-bom-first": b"\xef\xbb\xbf" + _get(),
        },
    ),
]

NOT_HTTP = _family(
    (400, 505, CLOSED),
    {
        "tls-client-hello": bytes.fromhex(
            "160301007b0100007703035f1b2c3d4e5f60718293a4b5c6d7e8f9000102030405060708090a0b0c0d0e0f0000"
            "08130113021303c02f0100004600000011000f00000c676174657761792e74657374"
        )
        + b"\r\n\r\n",
        "ssl2-client-hello": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0")
        + b"\r\n\r\n",
        "http2-settings-alone": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\r\n\r\n",
        "ssh-banner": b"SSH-2.0-client\r\n\r\n",
        "redis-command": b"*1\r\n$4\r\nPING\r\n\r\n",
        "proxy-protocol-1": b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n" + _get(),
        "proxy-protocol-2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + _get(),
        "socks5": b"\x05\x01\x00\r\n\r\n",
        "zeros": bytes(64) + b"\r\n\r\n",
        "all-bytes": bytes(range(256)) + b"\r\n\r\n",
        "smtp": b"EHLO gateway.test\r\n\r\n",
    },
)

TARGETS = _family(
    400,
    {
        "target-absolute-foreign": _get(b"http://other.test/v1/models"),
        "target-absolute-foreign-https": _get(b"https://other.test/v1/models"),
        "target-absolute-longer": _get(b"http://gateway.test.other.test/v1/models"),
        "target-absolute-other-port": _get(b"http://gateway.test:81/v1/models"),
        "target-absolute-port-of-the-other-scheme": _get(b"http://gateway.test:443/v1/models"),
        "target-absolute-no-host": _get(b"http:///v1/models"),
        "target-absolute-twice": _get(b"http://gateway.test/http://gateway.test/v1/models"),
        "target-absolute-fragment": _get(b"http://gateway.test/v1/models#x"),
        "target-absolute-dot-dot": _get(b"http://gateway.test/v1/x/../models"),
        "target-absolute-userinfo": _get(b"http://user:word@gateway.test/v1/models"),
        "target-absolute-other-scheme": _get(b"file:///v1/models"),
        "target-authority": _get(b"gateway.test:80"),
        "target-network-path": _get(b"//other.test/v1/models"),
        "target-three-slashes": _get(b"///v1/models"),
        "target-asterisk": _get(b"*"),
        "target-asterisk-options": _get(b"*", method=b"OPTIONS"),
        "target-no-slash": _get(b"v1/models"),
        "target-question-only": _get(b"?"),
        "target-fragment": _get(b"/v1/models#part"),
        "target-fragment-empty": _get(b"/v1/models#"),
        "target-fragment-after-query": _get(b"/v1/models?a=1#part"),
        "target-empty-segment": _get(b"/v1//models"),
        "target-empty-segment-end": _get(b"/v1/models//"),
        "target-trailing-slash": _get(b"/v1/models/"),
        "target-dot": _get(b"/v1/./models"),
        "target-dot-dot": _get(b"/v1/x/../models"),
        "target-dot-dot-end": _get(b"/v1/models/x/.."),
        "target-dot-end": _get(b"/v1/models/."),
        "target-dot-dot-above": _get(b"/v1/../v1/models"),
        "target-dot-dot-root": _get(b"/../v1/models"),
        "target-encoded-dot-dot": _get(b"/v1/x/%2e%2e/models"),
        "target-encoded-upper-dot-dot": _get(b"/v1/x/%2E%2E/models"),
        "target-half-encoded-dot-dot": _get(b"/v1/x/.%2e/models"),
        "target-encoded-dot": _get(b"/v1/%2e/models"),
        "target-twice-encoded-dot": _get(b"/v1/x/%252e%252e/models"),
        "target-overlong-dot": _get(b"/v1/x/%c0%ae%c0%ae/models"),
        "target-overlong-three-byte-dot": _get(b"/v1/x/%e0%80%ae%e0%80%ae/models"),
        "target-overlong-slash": _get(b"/v1/x%c0%afmodels"),
        "target-iis-unicode": _get(b"/v1/x/%u002e%u002e/models"),
        "target-encoded-slash": _get(b"/v1/x%2fmodels"),
        "target-encoded-upper-slash": _get(b"/v1%2Fmodels"),
        "target-encoded-backslash": _get(b"/v1/x%5cmodels"),
        "target-backslash": _get(b"/v1/x\\..\\models"),
        "target-encoded-nul": _get(b"/v1/models%00"),
        "target-encoded-crlf": _get(b"/v1/models%0d%0aX-Evil:%201"),
        "target-encoded-tab": _get(b"/v1/mod%09els"),
        "target-encoded-del": _get(b"/v1/models%7f"),
        "target-encoded-percent": _get(b"/v1/models%25"),
        "target-encoded-question": _get(b"/v1/models%3Fa=1"),
        "target-encoded-hash": _get(b"/v1/models%23x"),
        "target-encoded-semicolon": _get(b"/v1/models%3bx"),
        "target-semicolon": _get(b"/v1/models;x=1"),
        "target-semicolon-dots": _get(b"/v1/x/..;/models"),
        "target-percent-alone": _get(b"/v1/models%"),
        "target-percent-half": _get(b"/v1/models%4"),
        "target-percent-letters": _get(b"/v1/models%zz"),
        "target-not-utf8": _get(b"/v1/models/%ff"),
        "target-raw-utf8": _get("/v1/modèles".encode()),
        "target-raw-latin1": _get(b"/v1/mod\xe8les"),
        "target-raw-utf8-query": _get("/v1/models?q=é".encode()),
        "target-nul": _get(b"/v1/mod\x00els"),
        "target-control": _get(b"/v1/mod\x01els"),
        "target-del": _get(b"/v1/mod\x7fels"),
        "target-quote": _get(b'/v1/mod"els'),
        "target-angle": _get(b"/v1/<models>"),
        "target-braces": _get(b"/v1/{models}"),
        "target-pipe": _get(b"/v1/mod|els"),
        "target-caret": _get(b"/v1/mod^els"),
        "target-backtick": _get(b"/v1/mod`els"),
        "target-encoded-letter": _get(b"/v1/m%6fdels"),
        "target-encoded-literal": _get(b"/v1/threads/%72uns", method=b"POST"),
        "target-upper-case": _get(b"/V1/models"),
        "target-upper-literal": _get(b"/v1/MODELS"),
        "target-encoded-administration": _get(b"/v1/%6frganization/users"),
        "target-upper-administration": _get(b"/v1/Organization/users"),
    },
) + _family(
    414,
    {
        "target-path-3-kib": _get(b"/v1/" + b"a" * 3000),
        "target-query-9-kib": _get(b"/v1/models?" + b"a" * 9000),
        "target-20-kib": _get(b"/v1/models?" + b"a" * 20_000),
        "target-without-end": b"GET /" + b"a" * 70_000,
    },
)

METHODS = [
    *_family(
        405,
        {
            "method-connect": b"CONNECT gateway.test:443 HTTP/1.1\r\nHost: gateway.test:443\r\n\r\n",
            "method-trace": _get(method=b"TRACE"),
        },
    ),
    *_family(
        (400, 405),
        {
            "method-connect-path": _get(method=b"CONNECT"),
            "method-connect-loopback": b"CONNECT 127.0.0.1:6379 HTTP/1.1\r\nHost: 127.0.0.1:6379\r\n\r\n*1\r\n",
        },
    ),
    *_family(
        501,
        {
            "method-lower-case": _get(method=b"get"),
            "method-lower-case-post": _get(b"/v1/chat/completions", method=b"post"),
            "method-mixed-case": _get(method=b"Get"),
            "method-unknown": _get(method=b"FROBNICATE"),
            "method-track": _get(method=b"TRACK"),
            "method-of-rtsp": _get(method=b"SETUP"),
            "method-300-letters": _get(method=b"A" * 300),
            "method-number": _get(method=b"123"),
            "method-prefix": _get(method=b"GETS"),
            "method-cut": _get(method=b"GE"),
        },
    ),
    *_family(
        400,
        {
            "method-not-a-word": _get(method=b"G@T"),
            "method-with-colon": _get(method=b"GET:"),
            "method-with-nul": _get(method=b"G\x00ET"),
            "method-utf8": _get(method="GÉT".encode()),
        },
    ),
    *_family(
        400,
        {
            "override-x-http-method-override": _get(b"/v1/models/m", b"X-HTTP-Method-Override: DELETE"),
            "override-x-http-method": _get(b"/v1/models/m", b"X-HTTP-Method: DELETE"),
            "override-x-method-override": _get(b"/v1/models/m", b"X-Method-Override: DELETE"),
            "override-lower-case": _get(b"/v1/models/m", b"x-http-method-override: DELETE"),
            "override-empty": _get(b"/v1/models/m", b"X-HTTP-Method-Override:"),
        },
    ),
]


def _host(value: bytes) -> bytes:
    return _get(host=b"Host: %b\r\n" % value)


HOSTS = _family(
    400,
    {
        "host-missing": _get(host=b""),
        "host-empty": _get(host=b"Host:\r\n"),
        "host-spaces": _host(b"   "),
        "host-twice": _get(host=b"Host: gateway.test\r\nHost: other.test\r\n"),
        "host-twice-equal": _get(host=b"Host: gateway.test\r\nHost: gateway.test\r\n"),
        "host-twice-spelling": _get(host=b"Host: gateway.test\r\nhOST: other.test\r\n"),
        "host-twice-apart": _get(b"/v1/models", b"Host: other.test"),
        "host-twice-http10": _get(version=b"HTTP/1.0", host=b"Host: gateway.test\r\nHost: other.test\r\n"),
        "host-list": _host(b"gateway.test, other.test"),
        "host-list-tight": _host(b"gateway.test,other.test"),
        "host-userinfo": _host(b"user@gateway.test"),
        "host-userinfo-password": _host(b"user:word@gateway.test"),
        "host-path": _host(b"gateway.test/v1"),
        "host-query": _host(b"gateway.test?a"),
        "host-fragment": _host(b"gateway.test#a"),
        "host-scheme": _host(b"http://gateway.test"),
        "host-backslash": _host(b"gateway.test\\x"),
        "host-space-inside": _host(b"gateway.test other.test"),
        "host-tab-inside": _host(b"gateway.test\tother.test"),
        "host-port-word": _host(b"gateway.test:http"),
        "host-port-negative": _host(b"gateway.test:-80"),
        "host-port-long": _host(b"gateway.test:8080808080"),
        "host-port-twice": _host(b"gateway.test:80:80"),
        "host-bracket-open": _host(b"[::1"),
        "host-bracket-tail": _host(b"[::1]x"),
        "host-bracket-name": _host(b"[gateway.test]"),
        "host-utf8": _host("gätewäy.test".encode()),
        "host-nul": _host(b"gateway.test\x00"),
        "host-quoted": _host(b'"gateway.test"'),
        "host-encoded": _host(b"gateway%2etest"),
        "host-folded": _get(host=b"Host: gateway.test\r\n .other.test\r\n"),
        "host-space-before-colon": _get(host=b"Host : gateway.test\r\n"),
    },
)

_AUTH = b"Authorization: Bearer " + CREDENTIAL
CREDENTIALS = _family(
    (400, 401),
    {
        "authorization-twice": _get(b"/v1/models", _AUTH),
        "authorization-twice-other": _get(b"/v1/models", b"Authorization: Bearer other"),
        "authorization-twice-spelling": _get(b"/v1/models", b"AUTHORIZATION: Bearer other"),
        "authorization-second-empty": _get(b"/v1/models", b"Authorization:"),
        "authorization-second-basic": _get(b"/v1/models", b"Authorization: Basic dXNlcjp3b3Jk"),
        "authorization-nul": _get().replace(CREDENTIAL, CREDENTIAL + b"\x00"),
        "authorization-control": _get().replace(CREDENTIAL, CREDENTIAL + b"\x01x"),
        "authorization-cr": _get().replace(CREDENTIAL, CREDENTIAL + b"\rx"),
        "authorization-folded": _get().replace(CREDENTIAL, b"\r\n " + CREDENTIAL),
        "authorization-space-before-colon": _get().replace(b"Authorization:", b"Authorization :"),
    },
)


def _length(value: bytes) -> bytes:
    return _post(b"Content-Length: %b" % value)


LENGTHS = _family(
    400,
    {
        "length-leading-zero": _length(b"013"),
        "length-many-zeros": _length(b"0000000000000000000000000000000000000013"),
        "length-double-zero": _post(b"Content-Length: 00", body=b""),
        "length-plus": _length(b"+13"),
        "length-negative": _length(b"-13"),
        "length-minus-zero": _post(b"Content-Length: -0", body=b""),
        "length-hex": _length(b"0xd"),
        "length-octal": _length(b"0o15"),
        "length-underscore": _length(b"1_3"),
        "length-decimal-point": _length(b"13.0"),
        "length-exponent": _length(b"13e0"),
        "length-space-inside": _length(b"1 3"),
        "length-tab-inside": _length(b"1\t3"),
        "length-empty": _length(b""),
        "length-blank": _length(b"  "),
        "length-word": _length(b"thirteen"),
        "length-list": _length(b"13, 13"),
        "length-list-differs": _length(b"13, 5"),
        "length-list-tight": _length(b"13,13"),
        "length-list-tail": _length(b"13,"),
        "length-quoted": _length(b'"13"'),
        "length-parameter": _length(b"13;q=1"),
        "length-vertical-tab": _length(b"13\x0b"),
        "length-nul": _length(b"13\x00"),
        "length-wide-digits": _length("１３".encode()),
        "length-arabic-digits": _length("١٣".encode()),
        "length-63-bit": _length(b"9223372036854775808000"),
        "length-64-bit": _length(b"18446744073709551616"),
        "length-64-bit-and-13": _length(b"18446744073709551629"),
        "length-400-digits": _length(b"9" * 400),
        "length-twice": _post(b"Content-Length: 13", b"Content-Length: 13"),
        "length-twice-differs": _post(b"Content-Length: 13", b"Content-Length: 5"),
        "length-twice-spelling": _post(b"Content-Length: 13", b"content-LENGTH: 13"),
        "length-twice-one-empty": _post(b"Content-Length: 13", b"Content-Length:"),
        "length-folded": _post(b"Content-Length: 1\r\n 3"),
        "length-space-before-colon": _post(b"Content-Length : 13"),
        "length-get-leading-zero": _get(b"/v1/models", b"Content-Length: 00"),
    },
)


def _coded(value: bytes, *more: bytes) -> bytes:
    return _post(b"Transfer-Encoding: %b" % value, *more, body=_JSON_CHUNKS)


CODINGS = _family(
    (400, 501),
    {
        "coding-gzip-chunked": _coded(b"gzip, chunked"),
        "coding-chunked-gzip": _coded(b"chunked, gzip"),
        "coding-gzip": _coded(b"gzip"),
        "coding-identity": _coded(b"identity"),
        "coding-identity-chunked": _coded(b"identity, chunked"),
        "coding-chunked-identity": _coded(b"chunked, identity"),
        "coding-chunked-chunked": _coded(b"chunked, chunked"),
        "coding-xchunked": _coded(b"xchunked"),
        "coding-chunkedx": _coded(b"chunkedx"),
        "coding-two-words": _coded(b"x chunked"),
        "coding-quoted": _coded(b'"chunked"'),
        "coding-single-quoted": _coded(b"'chunked'"),
        "coding-trailing-comma": _coded(b"chunked,"),
        "coding-leading-comma": _coded(b",chunked"),
        "coding-parameter": _coded(b"chunked;a=b"),
        "coding-vertical-tab-before": _coded(b"\x0bchunked"),
        "coding-vertical-tab-after": _coded(b"chunked\x0b"),
        "coding-form-feed": _coded(b"\x0cchunked"),
        "coding-nul": _coded(b"chunked\x00"),
        "coding-nbsp": _coded("\u00a0chunked".encode()),
        "coding-long-s": _coded("chun\u212aed".encode()),
        "coding-empty": _coded(b""),
        "coding-blank": _coded(b" "),
        "coding-empty-and-length": _post(b"Transfer-Encoding:", b"Content-Length: 13"),
        "coding-and-length": _coded(b"chunked", b"Content-Length: 28"),
        "length-and-coding": _post(b"Content-Length: 28", b"Transfer-Encoding: chunked", body=_JSON_CHUNKS),
        "coding-and-length-zero": _coded(b"chunked", b"Content-Length: 0"),
        "coding-identity-and-length": _post(b"Transfer-Encoding: identity", b"Content-Length: 13"),
        "coding-twice": _coded(b"chunked", b"Transfer-Encoding: chunked"),
        "coding-twice-other": _coded(b"chunked", b"Transfer-Encoding: gzip"),
        "coding-twice-other-first": _coded(b"gzip", b"Transfer-Encoding: chunked"),
        "coding-twice-cow": _coded(b"chunked", b"transfer-encoding: cow"),
        "coding-http10": _post(b"Transfer-Encoding: chunked", body=_JSON_CHUNKS, version=b"HTTP/1.0"),
        "coding-http10-keep-alive": _post(
            b"Connection: keep-alive", b"Transfer-Encoding: chunked", body=_JSON_CHUNKS, version=b"HTTP/1.0"
        ),
        "coding-space-before-colon": _post(b"Transfer-Encoding : chunked", body=_JSON_CHUNKS),
        "coding-tab-before-colon": _post(b"Transfer-Encoding\t: chunked", body=_JSON_CHUNKS),
        "coding-folded": _post(b"Transfer-Encoding:\r\n chunked", body=_JSON_CHUNKS),
        "coding-folded-other": _post(b"X-A: b\r\n Transfer-Encoding: chunked", body=_JSON_CHUNKS),
        "coding-get-gzip": _get(b"/v1/models", b"Transfer-Encoding: gzip"),
        "smuggle-length-coding": _post(
            b"Content-Length: 6", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + _SMUGGLED
        ),
        "smuggle-coding-length": _post(
            b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"5c\r\n" + _SMUGGLED + b"\r\n0\r\n\r\n"
        ),
        "smuggle-coding-hidden": _post(
            b"Content-Length: 5", b"Transfer-Encoding:\tchunked", body=b"0\r\n\r\n" + _SMUGGLED
        ),
    },
)

CHUNKS = _family(
    400,
    {
        "chunk-hex-prefix": _chunked(b"0xd\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-negative": _chunked(b"-d\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-plus": _chunked(b"+d\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-leading-space": _chunked(b" d\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-leading-tab": _chunked(b"\td\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-leading-newline": _chunked(b"\r\nd\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-underscore": _chunked(b"0_d\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-empty": _chunked(b"\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-letters": _chunked(b"xyz\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-quoted": _chunked(b'"d"\r\n%b\r\n0\r\n\r\n' % JSON),
        "chunk-64-bit": _chunked(b"1000000000000000d\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-96-bit": _chunked(b"ffffffffffffffffffffffff\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-nul": _chunked(b"d\x00\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-vertical-tab": _chunked(b"d\x0b\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-wide-digit": _chunked("１３".encode() + b"\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-size-lf": _chunked(b"d\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-size-cr": _chunked(b"d\r%b\r\n0\r\n\r\n" % JSON),
        "chunk-size-cr-cr-lf": _chunked(b"d\r\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-data-too-long": _chunked(b"d\r\n%bxx\r\n0\r\n\r\n" % JSON),
        "chunk-data-too-short": _chunked(b"f\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-data-no-end": _chunked(b"d\r\n%b0\r\n\r\n" % JSON),
        "chunk-data-lf": _chunked(b"d\r\n%b\n0\r\n\r\n" % JSON),
        "chunk-data-cr": _chunked(b"d\r\n%b\r0\r\n\r\n" % JSON),
        "chunk-data-semicolon-end": _chunked(b"d\r\n%b;\n0\r\n\r\n" % JSON),
        "chunk-extension-lf": _chunked(b"d;a\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-extension-lf-inside": _chunked(b"d;a\nb\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-extension-cr-inside": _chunked(b"d;a\rb\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-extension-nul": _chunked(b"d;a\x00\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-extension-control": _chunked(b"d;a\x01b\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-extension-comma": _chunked(b"d,a\r\n%b\r\n0\r\n\r\n" % JSON),
        "chunk-extension-open-quote": _chunked(b'd;a="b\r\n%b\r\n0\r\n\r\n' % JSON),
        "chunk-extension-smuggles": _chunked(b"d;\nxx\r\n%b\r\n0\r\n\r\n" % JSON + _SMUGGLED),
        "chunk-last-lf": _chunked(b"d\r\n%b\r\n0\n\n" % JSON),
        "chunk-last-no-end": _chunked(b"d\r\n%b\r\n0\r\n" % JSON + _SMUGGLED),
        "chunk-last-negative": _chunked(b"d\r\n%b\r\n-0\r\n\r\n" % JSON),
        "trailer-length": _chunked(b"d\r\n%b\r\n0\r\nContent-Length: 5\r\n\r\n" % JSON),
        "trailer-coding": _chunked(b"d\r\n%b\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n" % JSON),
        "trailer-lf": _chunked(b"d\r\n%b\r\n0\r\nX-A: b\n\r\n" % JSON),
        "trailer-space-before-colon": _chunked(b"d\r\n%b\r\n0\r\nX-A : b\r\n\r\n" % JSON),
        "trailer-no-colon": _chunked(b"d\r\n%b\r\n0\r\nX-A\r\n\r\n" % JSON),
        "trailer-nul": _chunked(b"d\r\n%b\r\n0\r\nX-A: \x00\r\n\r\n" % JSON),
        "trailer-folded": _chunked(b"d\r\n%b\r\n0\r\nX-A: b\r\n c\r\n\r\n" % JSON),
    },
) + _family(
    (400, 431),
    {
        "trailer-bomb": _chunked(
            b"d\r\n%b\r\n0\r\n" % JSON + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 4000) for n in range(300))
        ),
    },
)

FIELDS = [
    *_family(
        400,
        {
            "field-folded": _get(b"/v1/models", b"X-A: b", b" c"),
            "field-folded-tab": _get(b"/v1/models", b"X-A: b", b"\tc"),
            "field-folded-empty": _get(b"/v1/models", b"X-A:", b" "),
            "field-first-leading-space": _get(host=b" Host: gateway.test\r\n"),
            "field-first-leading-tab": _get(host=b"\tHost: gateway.test\r\n"),
            "field-space-before-colon": _get(b"/v1/models", b"X-A : b"),
            "field-tab-before-colon": _get(b"/v1/models", b"X-A\t: b"),
            "field-space-in-name": _get(b"/v1/models", b"X A: b"),
            "field-no-colon": _get(b"/v1/models", b"X-A"),
            "field-empty-name": _get(b"/v1/models", b": b"),
            "field-colon-alone": _get(b"/v1/models", b":"),
            "field-lf": _get(b"/v1/models", b"X-A: b\nX-B: c"),
            "field-lf-end": _get(b"/v1/models", b"X-A: b\n"),
            "field-all-lf": _get().replace(b"\r\n", b"\n"),
            "field-cr": _get(b"/v1/models", b"X-A: b\rX-B: c"),
            "field-cr-cr-lf": _get(b"/v1/models", b"X-A: b\r"),
            "field-cr-at-end": _get(b"/v1/models", b"X-A: \rb"),
            "field-nul-in-name": _get(b"/v1/models", b"X-\x00A: b"),
            "field-nul-in-value": _get(b"/v1/models", b"X-A: \x00b"),
            "field-soh-in-value": _get(b"/v1/models", b"X-A: \x01b"),
            "field-escape-in-value": _get(b"/v1/models", b"X-A: \x1b[0m"),
            "field-backspace-in-value": _get(b"/v1/models", b"X-A: b\x08"),
            "field-vertical-tab-in-value": _get(b"/v1/models", b"X-A: a\x0bb"),
            "field-form-feed-in-value": _get(b"/v1/models", b"X-A: a\x0cb"),
            "field-del-in-value": _get(b"/v1/models", b"X-A: \x7f"),
            "field-del-in-name": _get(b"/v1/models", b"X-\x7fA: b"),
            "field-control-in-name": _get(b"/v1/models", b"X-\x01A: b"),
            "field-parenthesis-in-name": _get(b"/v1/models", b"X(A): b"),
            "field-slash-in-name": _get(b"/v1/models", b"X/A: b"),
            "field-quote-in-name": _get(b"/v1/models", b'X"A": b'),
            "field-at-in-name": _get(b"/v1/models", b"X@A: b"),
            "field-brackets-in-name": _get(b"/v1/models", b"X[A]: b"),
            "field-braces-in-name": _get(b"/v1/models", b"X{A}: b"),
            "field-comma-in-name": _get(b"/v1/models", b"X,A: b"),
            "field-equals-in-name": _get(b"/v1/models", b"X=A: b"),
            "field-backslash-in-name": _get(b"/v1/models", b"X\\A: b"),
            "field-utf8-in-name": _get(b"/v1/models", "X-É: b".encode()),
            "field-byte-in-name": _get(b"/v1/models", b"X-\xff: b"),
        },
    ),
    *_family(
        431,
        {
            "field-20-kib": _get(b"/v1/models", b"X-A: " + b"a" * 20_000),
            "field-20-kib-name": _get(b"/v1/models", b"X" * 20_000 + b": a"),
            "field-count-300": _get(b"/v1/models", *(b"X-%d: a" % number for number in range(300))),
            "field-count-5000-unfinished": _get()[:-2]
            + b"".join(b"X-%d: a\r\n" % number for number in range(5000)),
        },
    ),
    *_family(
        431,
        {
            "fields-70-kib": _get(b"/v1/models", *(b"X-%d: %b" % (n, b"a" * 7000) for n in range(10))),
            "fields-70-kib-unfinished": _get()[:-2]
            + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 7000) for n in range(10)),
            "fields-900-kib-unfinished": _get()[:-2]
            + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 9000) for n in range(100)),
        },
    ),
]

CONNECTION = _family(
    400,
    {
        "connection-authorization": _get(b"/v1/models", b"Connection: authorization"),
        "connection-authorization-in-list": _get(b"/v1/models", b"Connection: close, Authorization"),
        "connection-length": _post(b"Content-Length: 13", b"Connection: content-length"),
        "connection-length-tight": _post(b"Content-Length: 13", b"Connection: keep-alive,Content-Length"),
        "connection-host": _get(b"/v1/models", b"Connection: host"),
        "connection-type": _post(b"Content-Length: 13", b"Connection: content-type"),
        "connection-content-encoding": _post(b"Content-Length: 13", b"Connection: content-encoding"),
        "connection-coding": _post(
            b"Transfer-Encoding: chunked", b"Connection: transfer-encoding", body=_JSON_CHUNKS
        ),
        "connection-second-line": _get(b"/v1/models", b"Connection: close", b"Connection: authorization"),
    },
)

EXPECTATIONS = [
    *_family(
        417,
        {
            "expect-other": _post(b"Content-Length: 13", b"Expect: 200-ok"),
            "expect-list": _post(b"Content-Length: 13", b"Expect: 100-continue, gzip"),
            "expect-word-before": _post(b"Content-Length: 13", b"Expect: y 100-continue"),
            "expect-parameter": _post(b"Content-Length: 13", b"Expect: 100-continue;a=b"),
            "expect-get": _get(b"/v1/models", b"Expect: 102-processing"),
            "expect-second-other": _post(b"Content-Length: 13", b"Expect: 100-continue", b"Expect: x"),
        },
    ),
    *_family(
        400,
        {
            "expect-folded": _post(b"Content-Length: 13", b"Expect:\r\n 100-continue"),
            "expect-space-before-colon": _post(b"Content-Length: 13", b"Expect : 100-continue"),
        },
    ),
]

_KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
_REALTIME = b"/v1/realtime?model=gpt-realtime"


def _socket(*fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1", body: bytes = b"") -> bytes:
    return _get(_REALTIME, *fields, method=method, version=version, body=body)


SOCKETS = [
    *_family(
        426,
        {
            "socket-version-8": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 8"),
            "socket-version-0": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 0"),
            "socket-version-14": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 14"),
            "socket-version-list": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 13, 8"),
            "socket-version-padded": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 013"),
        },
    ),
    *_family(
        (400, 426),
        {
            "socket-version-missing": _socket(*_UPGRADE, _KEY),
            "socket-version-twice": _socket(
                *_UPGRADE, _KEY, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 8"
            ),
            "socket-version-empty": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version:"),
        },
    ),
    *_family(
        (400, 403, 405),  # as a closed operation, before anybody looks at the handshake
        {
            "socket-post": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 13", method=b"POST"),
            "socket-post-with-body": _socket(
                *_UPGRADE,
                _KEY,
                b"Sec-WebSocket-Version: 13",
                b"Content-Length: 5",
                method=b"POST",
                body=b"hello",
            ),
            "socket-http10": _socket(*_UPGRADE, _KEY, b"Sec-WebSocket-Version: 13", version=b"HTTP/1.0"),
        },
    ),
    *_family(
        400,
        {
            "socket-key-missing": _socket(*_UPGRADE, b"Sec-WebSocket-Version: 13"),
            "socket-key-empty": _socket(*_UPGRADE, b"Sec-WebSocket-Key:", b"Sec-WebSocket-Version: 13"),
            "socket-key-short": _socket(
                *_UPGRADE, b"Sec-WebSocket-Key: c2hvcnQ=", b"Sec-WebSocket-Version: 13"
            ),
            "socket-key-long": _socket(
                *_UPGRADE,
                b"Sec-WebSocket-Key: dGhpcyBrZXkgaXMgdG9vIGxvbmcgYnkgZmFy",
                b"Sec-WebSocket-Version: 13",
            ),
            "socket-key-no-base64": _socket(
                *_UPGRADE, b"Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!==", b"Sec-WebSocket-Version: 13"
            ),
            "socket-key-twice": _socket(*_UPGRADE, _KEY, _KEY, b"Sec-WebSocket-Version: 13"),
            "socket-connection-missing": _socket(b"Upgrade: websocket", _KEY, b"Sec-WebSocket-Version: 13"),
            "socket-connection-other": _socket(
                b"Connection: keep-alive", b"Upgrade: websocket", _KEY, b"Sec-WebSocket-Version: 13"
            ),
            "socket-with-length": _socket(
                *_UPGRADE, _KEY, b"Sec-WebSocket-Version: 13", b"Content-Length: 5", body=b"hello"
            ),
            "socket-with-chunks": _socket(
                *_UPGRADE,
                _KEY,
                b"Sec-WebSocket-Version: 13",
                b"Transfer-Encoding: chunked",
                body=b"0\r\n\r\n",
            ),
        },
    ),
]

FAMILIES: dict[str, list[Case]] = {
    "versions": VERSIONS,
    "request lines": REQUEST_LINES,
    "not HTTP": NOT_HTTP,
    "targets": TARGETS,
    "methods": METHODS,
    "hosts": HOSTS,
    "credentials": CREDENTIALS,
    "lengths": LENGTHS,
    "codings": CODINGS,
    "chunks": CHUNKS,
    "fields": FIELDS,
    "connection": CONNECTION,
    "expectations": EXPECTATIONS,
    "sockets": SOCKETS,
}

ACCEPTED = [
    Accepted("plain", _get(), "the control: what every other case differs from"),
    Accepted(
        "empty-line-first",
        b"\r\n" + _get(),
        "RFC 9112, 2.2: a server should ignore an empty line before the request line",
    ),
    Accepted(
        "version-other-protocol",
        _get(version=b"RTSP/1.0"),
        "the parser reads it as HTTP/1.0 and does not tell; what goes up is HTTP/1.1 all the same",
    ),
    Accepted(
        "spaces-before-target",
        _get(method=b"GET "),
        "no parser reads these three words in another way (RFC 9112, 3), and ours go up with one space",
    ),
    Accepted("spaces-before-version", _get(b"/v1/models "), "the same, on the other side of the target"),
    Accepted(
        "http10-no-host",
        _get(version=b"HTTP/1.0", host=b""),
        "HTTP/1.0 has no Host; the gateway sends its own to the upstream",
    ),
    Accepted("host-port-empty", _host(b"gateway.test:"), "a port may be empty (RFC 3986, 3.2.3)"),
    Accepted("host-port", _host(b"gateway.test:8080"), "a port belongs to Host"),
    Accepted("host-ipv6", _host(b"[::1]:8080"), "an address in brackets is a host"),
    Accepted("host-underscore", _host(b"gateway_1"), "container networks make such names"),
    Accepted(
        "no-space-after-colon",
        _get(b"/v1/models", b"X-A:b"),
        "white space around a value is optional (RFC 9110, 5.5)",
    ),
    Accepted("tab-after-colon", _get(b"/v1/models", b"X-A:\tb\t"), "white space includes the tab"),
    Accepted("empty-value", _get(b"/v1/models", b"X-A:"), "a value may be empty"),
    Accepted("tab-in-value", _get(b"/v1/models", b"X-A: a\tb"), "the one control character a value may hold"),
    *(
        Accepted(
            f"value-{name}",
            _get(b"/v1/models", b"X-A: " + value),
            "passed as bytes (RFC 9110, 5.5: obs-text)",
        )
        for name, value in (
            ("utf8", "é".encode()),
            ("latin1", b"caf\xe9"),
            ("byte", b"\xff"),
            ("overlong", b"\xc0\xaf"),
            ("surrogate", b"\xed\xa0\x80"),
            ("utf8-cut", b"\xe2\x82"),
        )
    ),
    *(
        Accepted(
            f"target-absolute-{name}",
            _get(url, host=b"Host: %b\r\n" % host),
            "a server must accept a URL whose host is its own (RFC 9112, 3.2.2)",
            target,
        )
        for name, url, host, target in (
            ("http", b"http://gateway.test/v1/models", b"gateway.test", "/v1/models"),
            ("https", b"https://gateway.test/v1/models?a=b", b"gateway.test", "/v1/models?a=b"),
            ("upper-case", b"HTTP://Gateway.TEST/v1/models", b"gateway.test", "/v1/models"),
            ("port", b"http://gateway.test:8080/v1/models", b"gateway.test:8080", "/v1/models"),
            ("usual-port", b"http://gateway.test:80/v1/models", b"gateway.test", "/v1/models"),
            ("usual-port-of-host", b"https://gateway.test/v1/models", b"gateway.test:443", "/v1/models"),
            ("ipv6", b"http://[::1]:8080/v1/models", b"[::1]:8080", "/v1/models"),
        )
    ),
    Accepted(
        "length-surrounded",
        _post(b"Content-Length:   13  "),
        "white space around a value is not part of it",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted("length-zero-get", _get(b"/v1/models", b"Content-Length: 0"), "an empty body is no body"),
    Accepted(
        "get-with-body",
        _get(b"/v1/models", b"Content-Length: 5", body=b"hello"),
        "allowed by RFC 9110, 9.3.1, and its length goes up with it",
        body=b"hello",
    ),
    Accepted(
        "coding-upper-case",
        _post(b"Transfer-Encoding: CHUNKED", body=_JSON_CHUNKS),
        "coding names have no case (RFC 9112, 7), and ours goes up spelled out",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "chunk-upper-hex",
        _chunked(b"D\r\n%b\r\n0\r\n\r\n" % JSON),
        "hexadecimal digits have no case",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "chunk-leading-zeros",
        _chunked(b"0000d\r\n%b\r\n000\r\n\r\n" % JSON),
        "the grammar allows them (1*HEXDIG), and chunks are counted anew upstream",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "chunk-extension",
        _chunked(b'd;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % JSON),
        "unknown extensions are to be ignored (RFC 9112, 7.1.1); none goes up",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "chunk-extension-64-kib",
        _chunked(b"d;a=%b\r\n%b\r\n0\r\n\r\n" % (b"b" * 65536, JSON)),
        "thrown away as it comes; the body idle deadline bounds one that never ends",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "trailer",
        _chunked(b"d\r\n%b\r\n0\r\nX-Checksum: 1\r\n\r\n" % JSON),
        "trailers may be dropped (RFC 9110, 6.5.1), and are",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "upgrade-h2c",
        _get(
            b"/v1/models",
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"HTTP2-Settings: AAMAAABkAARAAAAA",
        ),
        "a server may ignore an upgrade that it does not offer (RFC 9110, 7.8)",
    ),
    Accepted(
        "upgrade-tcp",
        _get(b"/v1/models", b"Connection: Upgrade", b"Upgrade: tcp"),
        "the same, although the parser below thinks highly of this one",
    ),
    *(
        Accepted(
            f"upgrade-{name}-{framing}",
            _post(b"Connection: Upgrade, HTTP2-Settings", *fields, length, body=body),
            "its body is read as usual",
            "/v1/chat/completions",
            JSON,
        )
        for name, fields in (
            ("h2c", (b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAA")),
            ("tcp", (b"Upgrade: tcp",)),
            ("list", (b"Upgrade: TLS/1.0, HTTP/2.0",)),
            ("two", (b"Upgrade: h2c", b"Upgrade: tcp")),
        )
        for framing, length, body in (
            ("length", b"Content-Length: 13", JSON),
            ("chunks", b"Transfer-Encoding: chunked", _JSON_CHUNKS),
        )
    ),
    Accepted("connection-custom", _get(b"/v1/models", b"Connection: X-Hop", b"X-Hop: 1"), "X-Hop stays here"),
    Accepted("query-odd", _get(b"/v1/models?a=%00&b=//../;"), "a query is data", "/v1/models?a=%00&b=//../;"),
    Accepted("query-empty", _get(b"/v1/models?"), "an empty query is one", "/v1/models?"),
    Accepted(
        "expect-without-body",
        _get(b"/v1/models", b"Expect: 100-continue"),
        "there is nothing to wait for (RFC 9110, 10.1.1)",
    ),
    Accepted(
        "expect-empty",
        _post(b"Content-Length: 13", b"Expect:"),
        "nothing is expected",
        "/v1/chat/completions",
        JSON,
    ),
    Accepted(
        "expect-upper-case",
        _post(b"Content-Length: 13", b"Expect: 100-CONTINUE"),
        "the expectation has no case",
        "/v1/chat/completions",
        JSON,
    ),
]
