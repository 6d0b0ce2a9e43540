"""What the heads in and around a form say: its boundary, and what each part is called.

Strict wherever parsers are known to differ; `multipart.py` has the list. What a file is called decides nothing, and
clients have many ways to write it: there it is enough that nobody can find another name of a part.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from gateway.wire.headers import PLAIN_CHARSETS

MAX_BOUNDARY_BYTES = 256
"""RFC 2046 has 70, and not every client heeds it."""

_BARE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _BARE + rb')=(?:"([^"]*)"|(' + _BARE + rb"))")
# A boundary without the quotes that it should have: up to what every parser takes for its end.
_PARAMETER_OF_TYPE = re.compile(_PARAMETER.pattern.replace(_BARE + rb"))", rb"[/:=?" + _BARE[1:] + rb"))"))
_NOTHING_MORE = re.compile(rb"[ \t]*+(?:;[ \t]*+)?\Z")
_NAME_FIRST = re.compile(
    rb'form-data[ \t]*;[ \t]*name=(?:"([^"\\]*)"|(' + _BARE + rb"))[ \t]*;", re.IGNORECASE
)
_FILENAME_NEXT = re.compile(rb'[ \t]*filename="[^"]', re.IGNORECASE)
# What a parser takes for a name, or a boundary, that looks for the first that is written, wherever it stands.
_ANY_NAME = re.compile(rb"(?<![0-9A-Za-z_])name[*0-9]*[ \t]*=", re.IGNORECASE)
_ANY_BOUNDARY = re.compile(rb"boundary[*0-9]*[ \t]*=", re.IGNORECASE)
_HEADER_NAME = re.compile(_BARE)
_MEDIA_TYPE = re.compile(rb"(" + _BARE + rb")/" + _BARE)
_FORM_DATA = re.compile(rb"form-data", re.IGNORECASE)
_MULTIPART_FORM_DATA = re.compile(rb"multipart/form-data", re.IGNORECASE)
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]*[0-9A-Za-z'()+_,./:=?-]")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# A parser that splits at semicolons without looking at quotes would find a name of its own in there.
_NAME_IN_VALUE = re.compile(rb";[ \t]*(?:file)?name\*?[ \t]*=", re.IGNORECASE)
_PLAIN_ENCODINGS = frozenset((b"7bit", b"8bit", b"binary"))


class MultipartRefused(ValueError):
    """The body could be read in two ways, or exceeds a cap; `param` names the field that is at fault."""

    def __init__(self, reason: str, *, param: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.param = param


@dataclass(slots=True)
class Part:
    """One part of the body; its size grows while it streams by."""

    name: str
    is_file: bool
    size_bytes: int = 0


def boundary_of(content_type: str) -> bytes:
    """The boundary that a `multipart/form-data` Content-Type declares.

    Raises MultipartRefused for another type, for a boundary that is missing, repeated, encoded, too long or
    written with characters that RFC 2046 does not allow, and for a charset that could change how names read.
    """
    try:
        value = content_type.encode("ascii").strip(b" \t")
    except UnicodeEncodeError:
        raise MultipartRefused("the Content-Type is not ASCII") from None
    media_type = _MULTIPART_FORM_DATA.match(value)
    if media_type is None:
        raise MultipartRefused("the Content-Type is not multipart/form-data")
    parameters = _read_parameters(value[media_type.end() :], _PARAMETER_OF_TYPE)
    if any(b"*" in name for name in parameters):
        raise MultipartRefused("the Content-Type has an encoded parameter")
    if parameters.get(b"charset", b"utf-8").lower() not in PLAIN_CHARSETS:
        raise MultipartRefused("the Content-Type names a charset in which the body could read differently")
    if len(_ANY_BOUNDARY.findall(value)) > 1:
        raise MultipartRefused("the Content-Type has what could be taken for another boundary")
    boundary = parameters.get(b"boundary", b"")
    if len(boundary) > MAX_BOUNDARY_BYTES or not _BOUNDARY.fullmatch(boundary):
        raise MultipartRefused("the boundary is missing, too long or has characters that are not allowed")
    return boundary


def read_part_head(head: bytes, wanted: Callable[[str, bool], bool]) -> Part:
    """Read and judge the header fields of a part; more strictly where it is `wanted`, by name and whether it is a file.

    Raises MultipartRefused.
    """
    headers = _read_headers(head)
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN_ENCODINGS:
        raise MultipartRefused("a part has a Content-Transfer-Encoding")
    raw, is_file, is_surely = _read_disposition(headers.get(b"content-disposition", b""))
    name = _read_name(raw)
    if wanted(name, is_file) or (not is_surely and wanted(name, False)):
        if is_file:
            raise MultipartRefused("the field has a filename", param=name)
        if not _is_plain_text(headers.get(b"content-type", b"text/plain")):
            raise MultipartRefused("the field is not plain text", param=name)
    elif headers.get(b"content-type", b"").lower().startswith(b"multipart/"):
        raise MultipartRefused("a part has parts of its own")
    return Part(name, is_file)


def _read_disposition(value: bytes) -> tuple[bytes, bool, bool]:
    """The name of a part, whether it is a file, and whether every parser takes it for that."""
    form_data = _FORM_DATA.match(value)
    if form_data is None:
        raise MultipartRefused("a part has no Content-Disposition of form-data")
    try:
        parameters = _read_parameters(value[form_data.end() :])
    except MultipartRefused:
        # Quotes in a file's name, and whatever else: the part's own name stands in front of it, and nowhere else.
        first = _NAME_FIRST.match(value)
        if first is None or _ANY_NAME.search(value, first.end()):
            raise
        name = first[2] if first[1] is None else first[1]
        return name, True, _FILENAME_NEXT.match(value, first.end()) is not None
    if len(_ANY_NAME.findall(value)) > 1 and _NAME_FIRST.match(value) is None:
        raise MultipartRefused("a part has what could be taken for another name")
    if any(b"*" in name and name != b"filename*" for name in parameters):
        raise MultipartRefused("a part's name is encoded")
    # An empty name is none to some, and an encoded one is unknown to some.
    is_file = b"filename" in parameters or b"filename*" in parameters
    return parameters.get(b"name", b""), is_file, not is_file or bool(parameters.get(b"filename"))


def _read_headers(head: bytes) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value):
            raise MultipartRefused("a part's head is malformed")
        if name in headers:
            raise MultipartRefused("a part's head has a header twice")
        headers[name] = value.strip(b" \t")
    return headers


def _read_parameters(text: bytes, parameter: re.Pattern[bytes] = _PARAMETER) -> dict[bytes, bytes]:
    """Read `; name=value; name="value"` to its end, where another `;` may stand, names in lower case."""
    parameters: dict[bytes, bytes] = {}
    at = 0
    while _NOTHING_MORE.match(text, at) is None:
        found = parameter.match(text, at)
        if found is None:
            raise MultipartRefused("a header's parameters are malformed")
        name, quoted, bare = found[1].lower(), found[2], found[3]
        if name in parameters:
            raise MultipartRefused("a header has a parameter twice")
        if quoted is not None and (quoted.endswith(b"\\") or _NAME_IN_VALUE.search(quoted)):
            # Some take a backslash for an escape of the quote behind it, some do not.
            raise MultipartRefused("a header has a parameter whose end is in doubt")
        parameters[name] = bare if quoted is None else quoted
        at = found.end()
    return parameters


def _read_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MultipartRefused("a part's name is not UTF-8") from None
    if not name or name != name.strip() or "\\" in name:
        raise MultipartRefused("a part's name is missing, or could be read in two ways")
    if name.startswith("=?") or name == "_charset_":
        raise MultipartRefused("a part's name is encoded, or would change how others are")
    return name


def _is_plain_text(content_type: bytes) -> bool:
    """Whether a field of this type is what its bytes say."""
    media_type = _MEDIA_TYPE.match(content_type)
    if media_type is None or media_type[1].lower() in (b"multipart", b"message"):
        return False
    charset = _read_parameters(content_type[media_type.end() :]).get(b"charset", b"utf-8")
    return charset.lower() in PLAIN_CHARSETS
