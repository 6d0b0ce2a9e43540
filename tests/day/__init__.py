"""A scripted day: a real Prometheus, as shipped, looks at real gateways to whom real things happen.

`watching` runs Prometheus with the shipped configuration in which days pass sixty times as fast; `gateway_of` runs a
gateway as its operator does, one process or a supervisor with workers, under a job of its own name; `calling` keeps
its tenants busy.
"""
