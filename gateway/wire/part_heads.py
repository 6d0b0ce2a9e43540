"""What the heads in and around a form say: its boundary, and what each part is called.

Strict wherever parsers are known to differ; `multipart.py` has the list.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from gateway.wire.headers import PLAIN_CHARSETS

MAX_BOUNDARY_BYTES = 70
_BARE = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _BARE + rb')=(?:"([^"]*)"|(' + _BARE + rb"))")
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
    parameters = _read_parameters(value[media_type.end() :])
    if any(b"*" in name for name in parameters):
        raise MultipartRefused("the Content-Type has an encoded parameter")
    if parameters.get(b"charset", b"utf-8").lower() not in PLAIN_CHARSETS:
        raise MultipartRefused("the Content-Type names a charset in which the body could read differently")
    boundary = parameters.get(b"boundary", b"")
    if len(boundary) > MAX_BOUNDARY_BYTES or not _BOUNDARY.fullmatch(boundary):
        raise MultipartRefused("the boundary is missing, too long or has characters that are not allowed")
    return boundary


def read_part_head(head: bytes, wanted: Collection[str]) -> Part:
    """Read and judge the header fields of a part; more strictly where its name is one of `wanted`.

    Raises MultipartRefused.
    """
    headers = _read_headers(head)
    form_data = _FORM_DATA.match(headers.get(b"content-disposition", b""))
    if form_data is None:
        raise MultipartRefused("a part has no Content-Disposition of form-data")
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN_ENCODINGS:
        raise MultipartRefused("a part has a Content-Transfer-Encoding")
    parameters = _read_parameters(headers[b"content-disposition"][form_data.end() :])
    if any(b"*" in name and name != b"filename*" for name in parameters):
        raise MultipartRefused("a part's name is encoded")
    name = _read_name(parameters.get(b"name", b""))
    is_file = b"filename" in parameters or b"filename*" in parameters
    if name in wanted:
        if is_file:
            raise MultipartRefused("the field has a filename", param=name)
        if not _is_plain_text(headers.get(b"content-type", b"text/plain")):
            raise MultipartRefused("the field is not plain text", param=name)
    return Part(name, is_file)


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


def _read_parameters(text: bytes) -> dict[bytes, bytes]:
    """Read `; name=value; name="value"` to its end, names in lower case."""
    parameters: dict[bytes, bytes] = {}
    at = 0
    while at < len(text):
        found = _PARAMETER.match(text, at)
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
