"""What the labels of the metrics can be: closed sets, so that nobody who asks adds series."""

from __future__ import annotations

from gateway.credentials.principal import Check
from gateway.objects.heard import Became, Found
from gateway.usage.counters import TIERS

LABELS = {
    "tenant": "a tenant of the configuration, or `other`",
    "operation": "an id from `gateway routes`, `unlisted`, or `none` where the request named none; in histograms "
    "`none` too for whatever nobody known has asked for",
    "status": "a class, `2xx`, or `none` where no answer was sent; of refused requests and health checks the "
    "status itself; of upstreams' answers the status itself where it says whose fault it is, else its class; "
    "where none came `timeout`, `broken`, or `left`: nobody waited for one any more",
    "ending": "see below",
    "check": "`livez` or `readyz`",
    "moment": "`reserved` or `settled`",
    "direction": "`in` from clients, `out` to them",
    "decision": "`granted`, `refused`, or `unavailable` where nobody could decide",
    "dimension": "the limit that refused, or `none`; of capped reports, and of what is in use, the limit that it is "
    "about; of an upstream's limits its own word for it",
    "by": "what decided, of the `on_store_failure` of the limits: `local` shares of them, `open` or `closed`",
    "kind": "see below",
    "tier": "the tier that served, in the upstream's words: " + ", ".join(f"`{tier}`" for tier in TIERS),
    "known": "`reported` by the upstream, `estimated` where it said nothing, or `unreported`: nobody knows",
    "worker": "the place of a worker among those of its machine, from `0`; of what processes take also `supervisor`",
    "cause": "`died`, `hung`, `asked` (SIGUSR2, `gateway restart`), or `not_started` when one was not ready in time",
    "state": "of workers `starting`, `ready`, `hung` or `leaving`; of their places `served` or `empty`; "
    "of limit store servers `up` or `down`; of upstream connections `busy`, `idle` or `waiting`; "
    "of memory `held` or `most`",
    "result": "of connects `connected`, `failed`, `timeout` or `no_files` (on this machine); of waits "
    "`served`, `refused` or `left`; of loads, and of questions for models, `loaded` or `failed`; of "
    "fetches `new`, `same` or `failed`; of look-ups of stored objects "
    + ", ".join(f"`{found}`" for found in Found),
    "became": ", ".join(f"`{became}`" for became in Became),
    "reason": "of refused connections `full`, `peer_share`, or `private` on that listener; of closed ones `idle`, or "
    "`head` with half a head; of bodies `full`, `share` or `never_fits`; of "
    "log lines `sampled` or `budget`; of credentials what is wrong with them: "
    + ", ".join(f"`{check}`" for check in Check)
    + "; of "
    "workers' metrics `unreadable` or `unknown`",
    "issuer": "the short name of another issuer in the configuration",
    "upstream": "the name of a way upstream in the configuration, or `administration`; of connections, which all ways "
    "to one base URL share, that of the common one if it goes there, else of who connected first since the start",
    "model": "a name of the configuration or of the upstream's list of models, at most 200, or `other`",
    "code": "the code of an error, as [errors](errors.md) has them",
    "server": "host and port of a Redis server; its path where it is a socket, the service where Sentinels name it, "
    "and for a cluster as a whole those that are configured",
    "policy": "`local`, `open` or `closed`: the `on_store_failure` in force",
    "transport": "`http` or `websocket`",
    "where": "`clients`, `upstreams` or `log`",
    "version": "that of the gateway",
}
"""By label; `see below` is told in the page on metrics."""
