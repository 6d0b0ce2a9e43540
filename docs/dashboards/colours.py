"""One colour for one meaning, on every dashboard."""

GOOD, NOTICE, WARN, BAD, WORST = "green", "blue", "orange", "red", "dark-red"
QUIET = "#8e8e8e"

_OF_LABEL = {
    "status": {
        "1xx": "purple",
        "2xx": GOOD,
        "3xx": "light-blue",
        "4xx": "yellow",
        "5xx": BAD,
        "none": QUIET,
        "400": "light-yellow",
        "401": "dark-purple",
        "403": "purple",
        "404": "yellow",
        "408": "light-orange",
        "409": "dark-yellow",
        "413": "super-light-yellow",
        "422": "semi-dark-yellow",
        "429": WARN,
        "499": NOTICE,
        "500": BAD,
        "502": "light-red",
        "503": "semi-dark-red",
        "504": "dark-orange",
        "529": WORST,
    },
    "ending": {
        "complete": GOOD,
        "refused": "yellow",
        "client_left": NOTICE,
        "upstream_lost": BAD,
        "timed_out": WARN,
        "withdrawn": "purple",
        "drained": QUIET,
        "failed": WORST,
    },
    "decision": {"granted": GOOD, "refused": WARN, "unavailable": BAD},
    "state": {
        "starting": NOTICE,
        "ready": GOOD,
        "hung": BAD,
        "leaving": QUIET,
        "served": GOOD,
        "empty": BAD,
        "up": GOOD,
        "down": BAD,
        "busy": NOTICE,
        "idle": GOOD,
        "waiting": WARN,
    },
    "result": {
        "connected": GOOD,
        "failed": BAD,
        "timeout": WARN,
        "no_files": WORST,
        "served": GOOD,
        "refused": BAD,
        "left": QUIET,
        "loaded": GOOD,
        "new": NOTICE,
        "same": GOOD,
    },
    "cause": {"asked": NOTICE, "died": BAD, "hung": WARN, "not_started": WORST},
    "known": {"reported": GOOD, "estimated": "yellow", "unreported": BAD},
    "kind": {
        "input": NOTICE,
        "cached_input": "light-blue",
        "cache_write": "dark-blue",
        "output": GOOD,
        "reasoning": "dark-green",
        "input_audio": "purple",
        "output_audio": "light-purple",
    },
    "moment": {"reserved": NOTICE, "settled": GOOD},
    "direction": {"in": NOTICE, "out": GOOD},
    "transport": {"http": NOTICE, "websocket": "purple"},
    "where": {"clients": NOTICE, "upstreams": "purple", "log": QUIET},
}
_OF_NAME = {
    "p10": GOOD,
    "p50": GOOD,
    "p95": WARN,
    "p99": BAD,
    "worst": WORST,
    "most": QUIET,
    "client": "yellow",
    "tenant": "purple",
    "limit": WARN,
    "gateway": WORST,
    "Redis": NOTICE,
    "upstream": BAD,
}


def of_label(label: str) -> dict[str, str]:
    """The colours of the values of a label."""
    return _OF_LABEL.get(label, {})


def of_name(name: str) -> dict[str, str]:
    """The colour of a series that has no labels and means the same everywhere."""
    return {name: _OF_NAME[name]} if name in _OF_NAME else {}
