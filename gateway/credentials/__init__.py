"""Who calls: keys, issuers, verification, issuing and revocation.

Asked by `middleware.authenticate` and by the commands. What a known caller may do is decided in `policy`.
"""
