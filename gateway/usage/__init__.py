"""What a request is going to cost, what its answer used, and where that is counted.

- before: `cost`; of it the prompt (`prompt`, `attached`) and the answer (`guesses`, which know `answer_lengths`)
- meanwhile: `reader`, by an `event_reader` or `json_reader`; `answers` says where a report stands, and is asked of what
  is parsed or of an `outline`; what nobody reports `deltas` and `written` know, in sessions `realtime` and
  `conversation`; `likeness` which events need no look
- then: `reported` has the kinds, `counters` what is counted of them, `ledger` counts, a `report` adds up
- later: `late_objects` are read by a `late_reader`, `late_work` says what counts of that, `late_register` tells it

Of what is kept there is a protocol, and a module for each store: `memory_…`, `no_…`, and `redis_…`, all of which go
over one `redis_wire`.

Every room above may ask; mostly `middleware.limit` and `middleware.meter`, the gateway's own paths and the
commands. Whether a cost is granted is decided in `limits`.
"""
