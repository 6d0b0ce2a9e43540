"""The gateway beside its peers: the same works through each in the same run, as ratios of the same round.

    python -m tests.benchmarks.compare [--peers …] [--work …] [--rounds N] [--tls] [--credentials N] [--out FILE]

- `machine`: which core does what, who goes first, what processes use, and whether others disturb
- `setting`: what all candidates are given: an upstream, credentials, certificates, Redis
- `candidates`: who is measured; `peers/` has their configurations
- `running`: their processes
- `works`: what each is made to do, and what is read off
- `__main__`: the rounds, and the tables

What the cells say (pairing, spread, tables, chart) is worked out in `docs/measured.py`, for the terminal and for
docs/performance.md alike.
"""
