"""How strictly the heads of forms are read; what parts may be called is tried in test_multipart.py."""

import pytest

from gateway.wire.part_heads import MultipartRefused, boundary_of


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data;boundary="a b:c"', b"a b:c"),
        ('multipart/form-data; charset=UTF-8; boundary="----x"', b"----x"),
        ("multipart/form-data; boundary=" + "x" * 256, b"x" * 256),
        ("multipart/form-data; boundary=----=_Part_1_2.3", b"----=_Part_1_2.3"),
        ("multipart/form-data; boundary==_a/b:c?d; charset=utf8", b"=_a/b:c?d"),
        ('multipart/form-data; boundary="a, b"', b"a, b"),
        ("multipart/form-data; boundary=abc;", b"abc"),
        ('multipart/form-data; boundary="abc" ; ', b"abc"),
        ("multipart/form-data; boundary=a,b", None),
        ("multipart/form-data; boundary=a b", None),
        ("multipart/form-data;; boundary=a", None),
        ("multipart/form-data; BOUNDARY=a'(b", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=a; Boundary=a", None),
        ("multipart/form-data; boundary=" + "x" * 257, None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary=""', None),
        ('multipart/form-data; boundary="a "', None),
        ('multipart/form-data; boundary="a\\"b"', None),
        ('multipart/form-data; boundary="a"b', None),
        ("multipart/form-data; boundary=a, multipart/form-data; boundary=b", None),
        ("multipart/form-data; boundary*=utf-8''a", None),
        ("multipart/form-data; boundary=a; boundary*0=b", None),
        ("multipart/form-data; boundary=a; charset=utf-7", None),
        ("multipart/form-data; xboundary=b; boundary=a", None),
        ('multipart/form-data; x="boundary=b"; boundary=a', None),
        ('multipart/form-data; x="BOUNDARY = b"; boundary=a', None),
        ('multipart/form-data; boundary=a; x="boundary=b"', None),
        ("multipart/form-data; boundary=my_boundary", b"my_boundary"),
        ("multipart/form-data; boundary=ä", None),
        ("multipart/form-data", None),
        ("multipart/form-database; boundary=a", None),
        ("multipart/mixed; boundary=a", None),
        ("application/json", None),
    ],
)
def test_the_boundary_is_read_strictly(content_type, boundary):
    if boundary is not None:
        assert boundary_of(content_type) == boundary
        return
    with pytest.raises(MultipartRefused):
        boundary_of(content_type)
