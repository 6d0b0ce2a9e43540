"""States as `/gateway/state` tells them, made up: large ones, and ones with names that nobody means well."""

from __future__ import annotations

from typing import Any

from gateway.app.state import Ended, LimitInUse, Running, State, Tenant, Upstream

HOSTILE = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    '"><svg/onload=document.title=1>',
    "javascript:alert(1)",
    "{{7*7}}${7*7}",
    "\u202egnp.exe\u202c",
    "line\nbreak\ttab\u0000nul",
    "a" * 200,
    "__proto__",
    "constructor",
)
"""Names that tenants, subjects and clients could choose for what is theirs."""

NOW = 1_795_735_500.0


def tenant(number: int, name: str | None = None, *, seconds: float = 0.0) -> Tenant:
    """One of many, each a little different, `seconds` later."""
    busy = max(0, 40 - number)
    limits: list[LimitInUse] = [
        {
            "dimension": "max_tokens_per_1_minute",
            "used_ratio": round(1.1 - number / 60, 3),
            "limit": 200_000.0,
        },
        {"dimension": "max_requests_per_1_minute", "used_ratio": round(0.5 - number / 90, 3), "limit": 600.0},
        {"dimension": "max_concurrent_requests", "used_ratio": 0.05, "limit": None},
    ]
    served = int((1000 + 10 * busy) * (200 - number) + busy * seconds)
    return {
        "tenant": f"tenant-{number:03}",
        "name": name,
        "enabled": number % 50 != 49,
        "in_flight": busy,
        "exchanges": served,
        "failed": served // 500 + int(seconds * (number % 7 == 3)),
        "throttled": number % 5 * 10 + int(seconds * (number % 5 == 2)),
        "llm_tokens": {"input": served * 900.0, "output": served * 210.0},
        "limits": limits[: 3 if number < 20 else 1 if number < 40 else 0],
        "used": {
            "today": {"requests": served, "input": served * 900, "output": served * 210},
            "month": {"requests": served * 20, "input": served * 18_000, "output": served * 4_200},
            "read": NOW - 12,
        },
    }


def upstream(name: str, *, seconds: float = 0.0) -> Upstream:
    """A busy one."""
    return {
        "upstream": name,
        "answers": {
            "2xx": int(120_000 + 80 * seconds),
            "400": 31,
            "429": int(88 + 3 * seconds),
            "503": 12,
            "5xx": 1,
        },
        "answer_seconds": 36_000.0 + 31 * seconds,
        "connects": {"connected": 900, "refused": 3, "timeout": 1},
        "connections": {"busy": 181, "idle": 19, "waiting": 4},
        "connections_most": 200,
        "waits": 40,
        "asked_again": 2,
        "limits_left": [
            {"model": "gpt-4o", "dimension": "tokens", "remaining": 1200.0, "limit": 30_000.0},
            {"model": "gpt-4o-mini", "dimension": "requests", "remaining": 480.0, "limit": 500.0},
        ],
    }


def running(number: int, model: str | None = "gpt-4o") -> Running:
    """One exchange."""
    return {
        "request_id": f"req_gw_{number:024x}",
        "tenant": f"tenant-{number:03}",
        "operation": "createChatCompletion" if number % 3 else "createRealtimeSession",
        "model": model,
        "upstream": "default",
        "age_seconds": round(700 / (number + 1), 3),
        "worker": number % 4,
        "bytes_out": 31_000 * (number + 1),
        "transport": "http" if number % 3 else "websocket",
    }


def ended(number: int, model: str | None = "gpt-4o") -> Ended:
    """One that has ended."""
    return {
        **running(number, model),
        "transport": "http",
        "ended": NOW - 10 * number,
        "status": (200, 200, 502, None, 429)[number % 5],
        "ending": ("complete", "client_left", "upstream_lost", "client_left", "refused")[number % 5],
    }


def state(tenants: int = 3, *, names: tuple[str, ...] = (), seconds: float = 0.0, **members: Any) -> State:
    """A gateway with so many tenants, `seconds` after it was first looked at; some of its names are these."""
    name = dict(enumerate(names)).get
    document: State = {
        "version": "0.1.0",
        "time": NOW + seconds,
        "started": NOW - 90_000,
        "instance": "gateway-0:8080",
        "ready": True,
        "reasons": [],
        "workers": [
            {
                "worker": index,
                "pid": 4000 + index,
                "state": "ready",
                "cpu_seconds": 5000.0 + (0.2 + index / 5) * seconds,
                "memory_bytes": 123e6 + index * 1e6,
                "loop_lag_max_seconds": 0.004 * (index + 1),
                "in_flight": 51 - index,
                "connections": 400 + index,
            }
            for index in range(4)
        ],
        "tenants": [tenant(number, name(number), seconds=seconds) for number in range(tenants)],
        "oldest": [running(number, name(number, "gpt-4o")) for number in range(20)],
        "slowest": [ended(number, name(number, "gpt-4o")) for number in range(20)],
        "upstreams": [upstream("default", seconds=seconds), upstream("eu-central", seconds=seconds)],
        "errors": [
            {"code": "rate_limit_exceeded", "count": int(9000 + 12 * seconds)},
            {"code": "invalid_api_key", "count": 310},
            {"code": "upstream_unreachable", "count": 4},
        ],
        "redis": [
            {
                "server": "redis-0:6379",
                "up": True,
                "round_trips": int(9e6 + 900 * seconds),
                "seconds": 4000.0 + 0.4 * seconds,
            }
        ],
        "credentials": [
            {
                "tenant": f"tenant-{number:03}",
                "subject": name(number) or f"service-{number}",
                "id": f"0f3c{number:028x}",
                "expires": NOW + 3600 * 5 * (number + 1) ** 2,
            }
            for number in range(12)
        ],
        "configuration": {"valid": True, "loaded": NOW - 4000},
        "left_out": {"tenants": 0, "credentials": False},
    }
    document.update(members)  # type: ignore[typeddict-item]  # a test names members that there are
    return document
