"""A small upstream that speaks the OpenAI API, for `gateway demo`, tests and benchmarks.

It is honest about what it is: answers read "Simulated answer to: …", chat answers carry the
`system_fingerprint` "simulator", and every answer has `x-simulator: streaming-gateway`. No model is asked,
nothing is downloaded, and nothing outlives the process.

Functions that a request offers are called, and `response_format` is satisfied, as `answering` says: by the smallest
values that the schema allows, the same ones each time.

What an operation creates, reads, lists, updates and deletes comes from the gateway's operation table and one
object store per simulator, whoever asks; only what streams, is binary or has effects is written by hand.
It checks little of what it is sent: the fields without which no answer can be made.

Projects are apart: a key made by `POST /v1/organization/projects/{id}/service_accounts` reaches the objects of
its project and no others, until it expires or is deleted. All other keys share one store. Projects have rate
limits for some models, and spend limits; nothing keeps to either.

The request header `x-simulate` makes one request fail or dawdle. It holds fields separated by `;`:

    status=429          answer with this error (400 to 599) and do nothing else
    retry-after=2       send this Retry-After
    headers=a:1,b:x%2Cy add these headers to the answer (values percent-encoded)
    delay=1.5           wait this many seconds before the head of the answer
    pace=0.5            wait this many seconds between the pieces of a streamed answer
    cut=120             close the connection after this many bytes of the answer's body (0: after its head);
                        an answer that ends before is not cut. On a socket: bytes of messages sent
    drop                close the connection before the head of the answer

For example `x-simulate: status=429; retry-after=2`. A header that cannot be read is a 400 that says why.

Of an uploaded file the first 8 MB are kept; what lies beyond is counted and comes back as zero bytes. Audio
is a sine melody; wav and pcm play, the other formats are filler of plausible size.
"""

from gateway.simulator.app import build_simulator

__all__ = ["build_simulator"]
