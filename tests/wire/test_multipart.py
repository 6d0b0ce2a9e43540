"""What the multipart scanner reads, what it lets pass and when, and what it refuses to read at all."""

import itertools
import re
import time
from collections.abc import Sequence
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.multipart import _LAST_BYTES as LAST
from gateway.wire.multipart import MultipartScanner
from gateway.wire.part_heads import MultipartRefused, Part

BOUNDARY = b"----b0undary"
CLOSING = b"\r\n--" + BOUNDARY + b"--"
FILE = b'form-data; name="file"; filename="a.wav"'


def part(disposition: bytes, content: bytes, *headers: bytes) -> bytes:
    lines = [b"Content-Disposition: " + disposition, *headers]
    return b"--" + BOUNDARY + b"\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n"


def field(name: bytes, value: bytes) -> bytes:
    return part(b'form-data; name="' + name + b'"', value)


def body(*parts: bytes, end: bytes = b"\r\n") -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--" + end


def fed(scanner: MultipartScanner, piece: bytes | memoryview) -> bytes:
    return b"".join(scanner.feed(piece))


def scan(data: bytes, cuts: Sequence[int] = (), **how) -> tuple[MultipartScanner, bytes]:
    """Feed a whole body; return the scanner and what passed before the body's end was released."""
    scanner = MultipartScanner(BOUNDARY, **how)
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    passed = b"".join(fed(scanner, data[a:b]) for a, b in itertools.pairwise(edges))
    assert len(passed) + scanner.held_bytes == len(data)
    return scanner, passed


def refusal(data: bytes, **how) -> MultipartRefused:
    with pytest.raises(MultipartRefused) as caught:
        scan(data, **how)[0].finish()
    return caught.value


@pytest.mark.parametrize("model_at", [0, 1, 2])
def test_the_model_is_found_wherever_it_stands_and_the_body_passes_unchanged(model_at):
    parts = [part(FILE, bytes(range(256)) * 40, b"Content-Type: audio/wav"), field(b"language", b"de")]
    parts.insert(model_at, field(b"model", b"whisper-1"))
    data = body(*parts)
    scanner, passed = scan(data, list(range(0, len(data), 100)))
    assert scanner.fields == {"model": "whisper-1"}
    assert scanner.file_bytes == 256 * 40
    assert sorted(p.name for p in scanner.parts) == ["file", "language", "model"]
    assert scanner.closed
    assert passed + scanner.finish() == data


def test_everything_but_the_closing_delimiter_passes_before_policy_is_satisfied():
    data = body(field(b"model", b"whisper-1"), part(FILE, b"x" * 1000))
    scanner, passed = scan(data)
    assert passed == data[: data.rindex(CLOSING)]
    assert fed(scanner, b"") == b""
    assert scanner.finish() == CLOSING + b"\r\n"


def test_of_a_file_only_the_last_bytes_wait_and_what_may_be_a_delimiter():
    scanner = MultipartScanner(BOUNDARY)
    head = part(FILE, b"")[:-2]
    assert fed(scanner, head) == head[:-LAST]
    assert fed(scanner, b"\x00" * 65_536) == head[-LAST:] + b"\x00" * (65_536 - LAST)
    assert fed(scanner, b"\r\n-") == b""
    assert fed(scanner, b"\r\n--") == b"\x00" * 3
    assert fed(scanner, b"x") == b"\x00" + b"\r\n-" + b"\r"
    assert fed(scanner, b"\r\n--" + BOUNDARY) == b""
    assert fed(scanner, b"\r") == b""
    assert fed(scanner, b"\n") == b"\n--x" + (b"\r\n--" + BOUNDARY + b"\r\n")[:-LAST]
    assert scanner.parts == [Part("file", is_file=True, size_bytes=65_536 + 8)]


def test_a_head_waits_until_it_is_whole_and_a_field_that_is_read_until_its_end():
    scanner = MultipartScanner(BOUNDARY)
    other, model = field(b"language", b"de"), field(b"model", b"whisper-1")
    begin = len(other) + len(b"--" + BOUNDARY + b"\r\n")
    data = other + model + b"--" + BOUNDARY
    passed = b"".join(fed(scanner, data[at : at + 1]) for at in range(len(data)))
    assert scanner.fields == {}
    assert passed == data[:begin]
    assert passed + fed(scanner, b"\r\n") == (data + b"\r\n")[:-LAST]
    assert scanner.fields == {"model": "whisper-1"}
    assert fed(scanner, b"Content-Disposition: form-data; name") == b""


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_body_without_its_end_never_passes_whole(cut):
    data = body(part(FILE, b"x" * 50))[:-cut]
    for step in (1, 7, len(data)):
        scanner = MultipartScanner(BOUNDARY)
        passed = b"".join(fed(scanner, data[at : at + step]) for at in range(0, len(data), step))
        assert len(passed) < len(data)
        if cut > 2:  # its closing boundary has begun to be missing
            with pytest.raises(MultipartRefused):
                scanner.finish()


def test_a_field_is_known_before_the_file_behind_it_has_arrived():
    scanner = MultipartScanner(BOUNDARY)
    fed(scanner, field(b"model", b"whisper-1") + b"--" + BOUNDARY + b"\r\n")
    assert scanner.fields == {"model": "whisper-1"}


def test_only_the_fields_asked_for_are_kept():
    data = body(
        field(b"model", b"m"), field(b"n", b"2"), field(b"prompt", b"p" * 100_000), field(b"n[]", b"3")
    )
    assert scan(data, fields=("n", "stream"))[0].fields == {"n": "2"}


def test_a_field_without_quotes_or_with_a_type_is_read_as_dotnet_and_java_send_it():
    data = body(
        part(b"form-data; name=model", b"whisper-1", b"Content-Type: text/plain; charset=utf-8"),
        part(
            b"form-data; name=file; filename=a.wav; filename*=utf-8''a.wav", b"x", b"Content-Type: audio/wav"
        ),
        part(b'FORM-DATA; NAME="n"', b"1", b"Content-Transfer-Encoding: 8bit", b"content-length: 1"),
        part(b'form-data; name="user"', b"u", b"Content-Type: text/plain; charset=ISO-8859-1"),
    )
    fields = {"model": "whisper-1", "n": "1", "user": "u"}
    assert scan(data, fields=fields.keys())[0].fields == fields


def test_odd_but_unambiguous_bodies_are_accepted():
    assert scan(body())[0].parts == []
    assert scan(body(field(b"model", b"m"), end=b"\r\n" * 4))[0].closed
    assert scan(body(field(b"model", b"m" * 65_536)))[0].fields == {"model": "m" * 65_536}
    assert scan(body(field(b"model", b"m"), end=b""))[0].finish() == CLOSING
    assert scan(body(field(b"model", b"")))[0].fields == {"model": ""}
    content = b"\r\n--\r\n\r\r\n-" + BOUNDARY + b"--\r"
    assert scan(body(part(FILE, content)))[0].file_bytes == len(content)
    assert scan(b"\r\n" + body(field(b"model", b"m")))[0].fields == {"model": "m"}
    assert scan(b"Several parts follow.\r\n" + body(field(b"model", b"m")))[0].fields == {"model": "m"}
    assert scan(body(field(b"model", b"m"), end=b"\r\nThat was all.\r\n"))[0].closed
    tricky = part(b'form-data; name="file"; filename="C:\\temp\\a;b=c%22.wav"', b"x")
    assert scan(body(tricky))[0].parts == [Part("file", is_file=True, size_bytes=1)]


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="file"; filename="a;b.wav"',
        b'form-data; name="file"; filename="a; b=c.wav"',
        b'form-data; name="file"; filename="my %22best%22.wav"',  # browsers, urllib3, httpx, OkHttp
        b'form-data; name="file"; filename="my \\"best\\".wav"',  # Go, curl before 7.81, .NET
        b'form-data; name="file"; filename="my "best".wav"',
        b'form-data; name="file"; filename="ends in a quote\\""',
        b'form-data; name="file"; filename="C:\\some\\folder\\"',
        b'form-data; name="file"; filename="a\\\\"',
        b'form-data; name="file"; filename=my file.wav',
        b'form-data; name="file"; filename="x; filename=y.wav"',
        b"form-data; name=file; filename=\"na\xefve.wav\"; filename*=utf-8''na%C3%AFve.wav",
        b"form-data; name=\"file\"; filename*=UTF-8''a%20%22b%22%3B.wav",
        b'form-data; name="file"; filename="a.wav";',
        b'form-data; name="file"; filename="a.wav" ; ',
        b'form-data; name="file"; filename=""',
        'form-data; name="file"; filename="\u65e5\u672c\U0001f600.wav"'.encode(),
    ],
)
def test_a_file_may_be_called_whatever_clients_write(disposition):
    data = body(field(b"model", b"m"), part(disposition, b"xyz", b"Content-Type: audio/wav"))
    scanner, passed = scan(data)
    assert scanner.parts[1] == Part("file", is_file=True, size_bytes=3)
    assert passed + scanner.finish() == data


def test_a_parameter_may_end_without_another_behind_it():
    data = body(part(b'form-data; name="model";', b"m", b"Content-Type: text/plain; charset=utf-8;"))
    assert scan(data)[0].fields == {"model": "m"}


M = field(b"model", b"m")
CASES = {
    "preamble that could be a head": b"Content-Disposition: form-data; name=model\r\n\r\no3\r\n" + body(M),
    "preamble without a line end": b"hello" + body(M),
    "preamble that ends in a bare LF": b"hello\n" + body(M),
    "endless preamble": b"x" * 1030 + b"\r\n" + body(M),
    "no closing boundary": M + b"--" + BOUNDARY + b"\r\n",
    "nothing": b"",
    "cut in a head": body(M)[:30],
    "cut in content": body(part(FILE, b"x" * 100))[:-40],
    "epilogue that could be a head": body(M, end=b"\r\nContent-Disposition: form-data; name=model\r\n\r\no3"),
    "endless epilogue": body(M, end=b"\r\n" + b"x" * 1030),
    "boundary in the epilogue": body(M, end=b"\r\nmore\r\n--" + BOUNDARY + b"\r\n"),
    "second body": body(M) + body(field(b"model", b"other")),
    "boundary behind a bare LF": body(part(FILE, b"x\n--" + BOUNDARY + b"\r\n")),
    "boundary behind a bare CR": body(part(FILE, b"x\r--" + BOUNDARY + b"\r\n")),
    "boundary inside a line": body(part(FILE, b"x--" + BOUNDARY + b"x")),
    "boundary at the start of content": body(part(FILE, b"--" + BOUNDARY + b"\r\n")),
    "bare LF behind the boundary": body(M).replace(BOUNDARY + b"\r\n", BOUNDARY + b"\n", 1),
    "blanks behind the boundary": body(M).replace(BOUNDARY + b"\r\n", BOUNDARY + b"  \r\n", 1),
    "longer boundary": body(part(FILE, b"x\r\n--" + BOUNDARY + b"x\r\n")),
    "one dash at the end": M + b"--" + BOUNDARY + b"-\r\n",
    "boundary in a head": body(part(FILE, b"x", b"X-Y: --" + BOUNDARY)),
    "no disposition": body(b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n"),
    "no headers": body(b"--" + BOUNDARY + b"\r\n\r\nx\r\n"),
    "two dispositions": body(part(FILE, b"x", b"content-disposition: " + FILE)),
    "attachment": body(part(b'attachment; name="model"', b"x")),
    "form-data as a prefix": body(part(b'form-data-x; name="model"', b"x")),
    "folded header": body(part(b'form-data;\r\n name="model"', b"x")),
    "bare LF in a head": body(part(b'form-data; name="a"\nX-Y: z', b"x")),
    "vertical tab in a head": body(part(FILE, b"x", b"X-Y: z\x0bContent-Disposition: " + FILE)),
    "space before a colon": body(part(FILE, b"x", b"X-Y : z")),
    "no name": body(part(b"form-data", b"x")),
    "empty name": body(part(b'form-data; name=""', b"x")),
    "two names": body(part(b'form-data; name="a"; name="model"', b"x")),
    "encoded name": body(part(b"form-data; name*=utf-8''model", b"x")),
    "name beside an encoded name": body(part(b"form-data; name=a; name*=utf-8''model", b"x")),
    "name in pieces": body(part(b"form-data; name*0=mo; name*1=del", b"x")),
    "RFC 2047 name": body(part(b'form-data; name="=?utf-8?B?bW9kZWw=?="', b"x")),
    "escaped name": body(part(b'form-data; name="mod\\el"', b"x")),
    "name with a blank": body(part(b'form-data; name="model "', b"x")),
    "name that is not UTF-8": body(part(b'form-data; name="mod\xffel"', b"x")),
    "unclosed quote": body(part(b'form-data; name="model', b"x")),
    "escaped quote in a filename": body(part(b'form-data; name="a"; filename="x\\"; name="model"', b"x")),
    "encoded name in a filename": body(part(b'form-data; name="a"; filename="x" y"; name*=utf-8\'\'model', b"x")),
    "name in front of a quote in doubt": body(part(b'form-data; filename="x\\"; name="model"', b"x")),
    "name in pieces in a filename": body(part(b'form-data; name="a"; filename="x\\"; name*0="model"', b"x")),
    "name behind a line of blanks": body(part(b'form-data; name="a"; filename="x"y\tname = model', b"x")),
    "filename in doubt in front": body(part(b'form-data; filename="x"y"; name="a"', b"x")),
    "name in a filename": body(part(b'form-data; name="a"; filename="x; name=model; y"', b"x")),
    "name in another value in front": body(part(b'form-data; x="name=model"; name="a"', b"x")),
    "name in a filename in front": body(part(b'form-data; filename="x name=model "; name="a"', b"x")),
    "name at the end of another": body(part(b'form-data; x-name="model"; name="a"', b"x")),
    "parts in a part": body(part(FILE, b"--e\r\n", b"Content-Type: Multipart/mixed; boundary=e")),
    "charset field": body(field(b"_charset_", b"utf-7"), M),
    "transfer encoding": body(part(FILE, b"x", b"Content-Transfer-Encoding: base64")),
}  # fmt: skip


@pytest.mark.parametrize("data", CASES.values(), ids=CASES.keys())
def test_a_body_that_could_be_read_in_two_ways_is_refused(data):
    refusal(data)


FIELD_CASES = {
    "twice": body(M, M),
    "with a filename": body(part(b'form-data; name="model"; filename="x"', b"m")),
    "with a filename in doubt": body(part(b'form-data; name="model"; filename="x\\"y"', b"m")),
    "with a quote in doubt": body(part(b'form-data; name="model"; other="x\\"y"', b"m")),
    "with an encoded filename": body(part(b"form-data; name=\"model\"; filename*=utf-8''x", b"m")),
    "in UTF-16": body(
        part(b'form-data; name="model"', b"m\0", b"Content-Type: text/plain; charset=utf-16le")
    ),
    "as a nested multipart": body(part(b'form-data; name="model"', b"m", b"Content-Type: multipart/mixed")),
    "not UTF-8": body(field(b"model", b"\xff")),
    "endless": body(field(b"model", b"m" * 65_537)),
}


@pytest.mark.parametrize("data", FIELD_CASES.values(), ids=FIELD_CASES.keys())
def test_a_field_that_policy_reads_must_be_plain_and_single(data):
    assert refusal(data).param == "model"


def test_nothing_of_a_refused_end_has_passed():
    data = body(M, part(FILE, b"x" * 1000), M)
    scanner, passed = MultipartScanner(BOUNDARY), b""
    with pytest.raises(MultipartRefused):
        for at in range(len(data)):
            passed += fed(scanner, data[at : at + 1])
    assert CLOSING not in passed


def test_a_body_with_something_behind_its_end_cannot_be_finished():
    scanner = MultipartScanner(BOUNDARY)
    fed(scanner, body(M))
    assert scanner.closed
    for attempt in (lambda: fed(scanner, b"more: x"), scanner.finish):
        with pytest.raises(MultipartRefused):
            attempt()


def test_heads_and_parts_are_capped():
    assert scan(body(part(FILE, b"x", b"X-Y: " + b"z" * 8000)))[0].closed
    assert "head" in refusal(body(part(FILE, b"x", b"X-Y: " + b"z" * 8200))).reason
    endless = MultipartScanner(BOUNDARY)
    fed(endless, b"--" + BOUNDARY + b"\r\n")
    with pytest.raises(MultipartRefused, match="head"):
        for _ in range(9000):
            fed(endless, b"z")
    assert scan(body(*[field(b"a", b"")] * 1000))[0].closed
    assert "1000" in refusal(body(*[field(b"a", b"")] * 1001)).reason
    assert scan(body(*[field(b"a" * 5000, b"")] * 13))[0].closed
    assert "names" in refusal(body(*[field(b"a" * 5000, b"")] * 14)).reason


# Lines that together make bodies good, nearly good and hostile.
LINES = st.sampled_from(
    [
        b"--" + BOUNDARY, b"--" + BOUNDARY, b"--" + BOUNDARY + b"--", b"--", BOUNDARY, b"", b"",
        b'Content-Disposition: form-data; name="model"', b"Content-Disposition: form-data; name=model",
        b'Content-Disposition: form-data; name="file"; filename="a"', b"Content-Type: text/plain",
        b'content-disposition: form-data; name="x"',
        b'Content-Disposition: form-data; name="x"; filename="y\\"; name="model"',
        b'Content-Disposition: form-data; name="x"; filename="y "z; w";',
        b'Content-Disposition: form-data; name="model";', b"text", b"gpt-4o", b"o3-pro", b"\x00\xff",
    ]
)  # fmt: skip
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b""])
SCRAPS = st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=16).map(b"".join)
GOOD = st.lists(
    st.one_of(
        st.binary(max_size=40).map(lambda b: part(FILE, b)),
        st.just(field(b"model", b"gpt-4o")),
        st.just(field(b"n", b"2")),
        SCRAPS.map(lambda b: part(FILE, b)),
    ),
    max_size=4,
).map(lambda parts: body(*parts))
BODIES = st.one_of(SCRAPS, GOOD, GOOD, GOOD.flatmap(lambda b: st.integers(0, len(b)).map(lambda n: b[:n])))


def outcome(data: bytes, cuts: list[int]) -> tuple[object, ...]:
    try:
        scanner, passed = scan(data, cuts)
    except MultipartRefused as refused:
        return refused.reason, refused.param
    try:
        rest = scanner.finish()
    except MultipartRefused as refused:
        rest = refused.reason.encode()
    return passed, rest, scanner.fields, scanner.parts, scanner.held_bytes


@settings(max_examples=300, deadline=None)
@given(BODIES, st.lists(st.integers(0, 2**20), max_size=12))
def test_any_split_gives_the_same_result_as_one_piece(data, cuts):
    assert outcome(data, cuts) == outcome(data, [])
    assert outcome(data, list(range(len(data)))) == outcome(data, [])


FILES = st.lists(
    st.sampled_from(
        [b"x" * 700, b"\r", b"\n", b"\r\n", b"-", b"\r\n--" + BOUNDARY[:-1], b"\r\n--", b"\0" * 200]
    ),
    max_size=30,
).map(b"".join)


@given(FILES, st.lists(st.integers(0, 2**20), max_size=6))
def test_as_much_of_a_file_passes_in_large_pieces_as_in_small_ones(file, cuts):
    data = (
        b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + file + b"\r\n--" + BOUNDARY + b"--\r\n"
    )  # fmt: skip
    borders = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    large, small = MultipartScanner(BOUNDARY), MultipartScanner(BOUNDARY)
    passed = [b"", b""]
    for begin, end in itertools.pairwise(borders):
        passed[0] += fed(large, data[begin:end])
        passed[1] += b"".join(fed(small, data[at : at + 1]) for at in range(begin, end))
        assert passed[0] == passed[1]
        assert large.held_bytes == small.held_bytes
        assert [part.size_bytes for part in large.parts] == [part.size_bytes for part in small.parts]
    assert passed[0] + large.finish() == data
    assert large.file_bytes == len(file)


def models_to_python(data: bytes) -> list[bytes]:
    """The `model` fields as Python's own MIME parser finds them: lenient about line ends and much else."""
    head = b"Content-Type: multipart/form-data; boundary=" + BOUNDARY + b"\r\n\r\n"
    message = BytesParser(policy=HTTP).parsebytes(head + data)
    found = []
    for part in message.get_payload() if message.is_multipart() else []:
        assert isinstance(part, Message)
        if part.get_param("name", header="content-disposition") == "model":
            value = part.get_payload(decode=True)
            assert isinstance(value, bytes)
            found.append(value.strip(b"\r\n"))
    return found


def models_to_a_sloppy_parser(data: bytes) -> list[bytes]:
    """The `model` fields as found by splitting at boundaries wherever they stand, whatever ends a line."""
    unified = re.sub(rb"\r\n|\r", b"\n", data)
    found = []
    for chunk in unified.split(b"--" + BOUNDARY)[1:]:
        head, _, content = chunk.partition(b"\n\n")
        if re.search(rb'name="?model\b', head):
            found.append(content.strip(b"\n"))
    return found


@settings(max_examples=300, deadline=None)
@given(BODIES)
def test_other_parsers_see_no_other_model_in_an_accepted_body(data):
    try:
        scanner = scan(data)[0]
        scanner.finish()
    except MultipartRefused:
        return
    # Line ends around a name are no other name: these parsers may drop them.
    ours = [value.encode().strip(b"\r\n") for value in scanner.fields.values()]
    assert models_to_python(data) == ours
    assert models_to_a_sloppy_parser(data) == [re.sub(rb"\r\n|\r", b"\n", value) for value in ours]


@settings(max_examples=300, deadline=None)
@given(BODIES, st.lists(st.integers(0, 2**20), max_size=12), st.booleans())
def test_what_has_passed_names_no_model_but_those_that_have_been_read(data, cuts, every):
    scanner, passed = MultipartScanner(BOUNDARY), b""
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    try:
        for a, b in itertools.pairwise(range(len(data) + 1) if every else edges):
            passed += fed(scanner, data[a:b])
    except MultipartRefused:
        pass
    # Behind the last of them a delimiter may have begun.
    named = {value.split(b"\n-")[0] for value in models_to_a_sloppy_parser(passed) if value}
    assert named <= {value.encode() for value in scanner.fields.values()}


@pytest.mark.parametrize("boundary", [b"e", BOUNDARY])
def test_a_model_that_has_passed_has_all_of_its_name(boundary):
    data = body(field(b"model", b"gpt-4o-mini"), part(FILE, b"x" * 20)).replace(BOUNDARY, boundary)
    scanner, passed = MultipartScanner(boundary), b""
    for at in range(len(data)):
        passed += fed(scanner, data[at : at + 1])
        assert b"gpt" not in passed or b"gpt-4o-mini\r\n" in passed


def test_time_is_linear_in_the_number_of_pieces():
    def seconds(size: int) -> float:
        data = body(field(b"model", b"m" * (size // 2)), part(FILE, b"\r\n--" * (size // 8)))
        scanner = MultipartScanner(BOUNDARY, max_field_bytes=size)
        started = time.process_time()
        for at in range(len(data)):
            fed(scanner, data[at : at + 1])
        return time.process_time() - started

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(2)) < 12 * small


def test_the_field_behind_a_file_full_of_half_boundaries_is_found() -> None:
    scanner = MultipartScanner(b"edge")
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    field = b'\r\n--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--edge--\r\n'
    form = head + b"\r\n--edg" * 3000 + field

    for at in range(0, len(form), 1000):
        fed(scanner, form[at : at + 1000])

    assert scanner.fields == {"model": "whisper-1"}
    assert scanner.file_bytes == 7 * 3000
    assert scanner.closed
