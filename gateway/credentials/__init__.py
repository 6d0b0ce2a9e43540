"""Who calls: keys, issuers, verification, issuing and revocation.

Every room above may ask; mostly `middleware.authenticate` and the commands. What a known caller may do is
decided in `policy`.
"""
