"""The spans of exchanges: which are recorded, what they say, and their way to a collector, off the hot path.

`app` makes a `Tracing` where there is an endpoint, and `middleware.record` tells it of each exchange; nobody else asks.
What of it goes upstream stands in `exchange.span`. Whatever an exchange is may be said here, and nothing of it is
changed. OpenTelemetry is imported by `otlp` alone, which nobody imports unless spans are recorded.
"""
