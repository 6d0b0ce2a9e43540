"""How much: buckets, the stores that hold them, and the limiter in front.

Asked by `settings` for its terms, by `policy` for quotas and by `middleware.limit`. Nothing here knows HTTP, or
what a request costs: that is `usage`.
"""
