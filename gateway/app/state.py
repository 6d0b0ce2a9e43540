"""`GET /gateway/state` of the private listener: what a gateway and all its workers are doing, for who operates it.

One JSON object, as `State` has it; `gateway top` and the listener's own page draw from it. Sizes are bytes,
lengths of time seconds, and moments seconds since 1970. Whatever counts is a total since the gateway was started, and
never goes back while it runs: who wants rates asks twice. No secret is in it: of a credential there is what names it.

Lists are bounded, and say in `left_out` what did not fit. A later release may add members; none changes its meaning.
"""

from __future__ import annotations

from typing import TypedDict

MOST_TENANTS = 500
"""Those with most exchanges; of the others only how many there are."""

MOST_EXCHANGES = 20
"""Of the oldest, by HTTP and by WebSocket, and of the slowest."""

MOST_CREDENTIALS = 200
"""Those that expire next."""

MOST_UPSTREAMS = 200
MOST_LIMITS_LEFT = 50
"""Of one upstream, those of which least is left."""

MOST_CODES = 100
SLOWEST_SECONDS = 300.0
"""Within how long an exchange has ended that is among the slowest."""


class Reason(TypedDict):
    """Why the gateway, or a worker, is not ready."""

    code: str
    """A word or two for machines, such as `stopping`."""

    message: str
    """A sentence for people."""


class Worker(TypedDict):
    """One process that serves. What it could not be asked for in time is null."""

    worker: int
    """Its place: 0, 1, …; two have the same while one succeeds the other."""

    pid: int
    state: str
    """`starting`, `ready`, `hung` or `leaving`."""

    cpu_seconds: float | None
    """Processor time that processes in this place have taken."""

    memory_bytes: float | None
    loop_lag_max_seconds: float | None
    """The longest turn of its loop in the last minutes."""

    in_flight: int | None
    connections: int | None
    """Of clients."""


class LlmTokens(TypedDict):
    """As usage reports them; what was estimated where nobody reported is in it."""

    input: float
    output: float


class LimitInUse(TypedDict):
    """One limit of a tenant's. Those of a model, subject or credential alone are not listed."""

    dimension: str
    """Its key in the configuration, such as `max_tokens_per_1_minute`."""

    used_ratio: float
    """1.0 is all of it; more where there is debt."""

    limit: float | None
    """How much there may be; null where that is not known."""


class Spend(TypedDict):
    """What was used in a day or a month of UTC, as the usage counters have it: in LLM tokens, for nobody here knows
    prices."""

    requests: int
    input: int
    """LLM tokens."""

    output: int
    """LLM tokens."""


class Used(TypedDict):
    """Of one tenant."""

    today: Spend | None
    """Null while it has not been read, or cannot be."""

    month: Spend | None
    """Since its first day, today included."""

    read: float | None
    """When that was read, which is done once a minute while somebody looks."""


class Tenant(TypedDict):
    """One tenant of the configuration, or `other`: whoever has no known one."""

    tenant: str
    name: str | None
    """What the configuration calls it."""

    enabled: bool | None
    in_flight: int
    exchanges: int
    """That have ended."""

    failed: int
    """Of those, answered 5xx or not answered, or broken off by upstream or gateway."""

    throttled: int
    """Refused by a limit of the gateway's."""

    llm_tokens: LlmTokens
    limits: list[LimitInUse]
    """Fullest first."""

    used: Used


class Running(TypedDict):
    """An exchange that runs."""

    request_id: str
    tenant: str
    operation: str
    model: str | None
    """As the client calls it, at most 200 characters."""

    upstream: str | None
    """A name of the configuration; null while it has not been asked."""

    age_seconds: float
    worker: int
    bytes_out: int
    transport: str
    """`http` or `websocket`."""


class Ended(Running):
    """An exchange that has ended, and how; its age is how long it took in all."""

    ended: float
    status: int | None
    """Null where no answer was sent."""

    ending: str


class LimitLeft(TypedDict):
    """What an upstream says is left of one of its limits."""

    model: str
    dimension: str
    """In its own words: `requests`, `tokens`, …"""

    remaining: float
    limit: float | None


class Upstream(TypedDict):
    """One upstream by its name in the configuration."""

    upstream: str
    answers: dict[str, int]
    """By status, or its class, such as `429` or `2xx`."""

    answer_seconds: float
    """From having been asked to the head of the answer, of all answers together."""

    connects: dict[str, int]
    """Attempts to connect by result; `connected` is success."""

    connections: dict[str, int]
    """`busy`, `idle`, and exchanges that are `waiting` for one."""

    connections_most: int | None
    waits: int
    """Exchanges that had to wait for a connection."""

    asked_again: int
    limits_left: list[LimitLeft]
    """Least left first."""


class ErrorCount(TypedDict):
    """Errors of the gateway's own, by code."""

    code: str
    count: int


class Redis(TypedDict):
    """One server."""

    server: str
    """Its host and port."""

    up: bool
    round_trips: int
    seconds: float
    """That those took."""


class Credential(TypedDict):
    """One credential on the register that is neither revoked nor expired."""

    tenant: str
    subject: str
    id: str
    """Its `jti`."""

    expires: float


class Configuration(TypedDict):
    """What the files say, and what is in force."""

    valid: bool
    """False: the files are wrong, and what was in force before still is."""

    loaded: float | None
    """When what is in force was read last."""


class TenantTold(TypedDict):
    """What a worker tells of one tenant of the configuration."""

    tenant: str
    name: str | None
    enabled: bool
    limits: dict[str, int]
    """How much there may be, by dimension."""

    used: Used


class CommonTold(TypedDict):
    """What every worker knows alike, and one of them tells."""

    tenants: list[TenantTold]
    tenants_in_all: int
    credentials: list[Credential] | None
    more_credentials: bool


class Told(TypedDict):
    """What one worker tells of itself when it is asked, beside what it counts."""

    in_flight: int
    connections: int
    oldest: list[Running]
    slowest: list[Ended]
    common: CommonTold | None


class LeftOut(TypedDict):
    """How many are not in the lists, for want of room."""

    tenants: int
    """Of the configuration."""

    credentials: bool
    """Whether there are any: how many nobody counts."""


class State(TypedDict):
    """The whole document."""

    version: str
    time: float
    started: float
    instance: str
    """The machine's name for itself, and the port at which clients are served."""

    ready: bool
    reasons: list[Reason]
    workers: list[Worker]
    tenants: list[Tenant]
    """Busiest first."""

    oldest: list[Running]
    """Oldest first, at most so many of each transport. Exchanges whose caller is not known yet are not among them."""

    slowest: list[Ended]
    """Slowest first, of the last five minutes."""

    upstreams: list[Upstream]
    errors: list[ErrorCount]
    """Most frequent first."""

    redis: list[Redis]
    """Empty where there is none."""

    credentials: list[Credential] | None
    """Next to expire first; null where there is no register, which is in Redis, or it could not be read."""

    configuration: Configuration
    left_out: LeftOut
