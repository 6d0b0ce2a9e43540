"""What tests are made of, and what never is a mock.

gateway        a gateway in this process, started as in production, and its log
command        `python -m gateway` as a process of its own
client         a client that writes and reads bytes; the requests that tests send most
asking         one question, one answer; the simulator; forms, credentials, errors
upstream       an upstream that plays a script and opens gates
websocket      frames, handshakes and open sessions
redis          real Redis servers: one, a cluster, a Sentinel
jwks           another issuer: keys, credentials, its web server
faults         what networks and stores do to those who use them
usage_answers  answers that report usage, one of every kind
clock          a clock that moves when told to
waiting        waiting for what nobody tells
"""
