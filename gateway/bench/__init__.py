"""What measures: an upstream that costs next to nothing, a client that asks at a given pace, and what a process spent.

Asked by `gateway bench` and by tests/benchmarks alone. It shares no code with what it measures, so that a change there
cannot change the measure. It never judges: it gives plain numbers, with every error counted by its kind.
"""
