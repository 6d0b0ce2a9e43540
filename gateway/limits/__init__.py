"""How much: buckets, the stores that hold them, and the limiter in front.

Every room above may ask: mostly `middleware` for permits, and `settings`, `usage` and `policy` for the terms.
Nothing here knows HTTP, or what a request costs: that is `usage`.
"""
