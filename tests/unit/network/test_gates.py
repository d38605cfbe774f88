"""Who asks, by the signature of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficlight.network.gates import origin_of
from trafficlight.network.http1 import parse_head

names = st.from_regex(r"[a-z0-9.-]{1,20}(:[0-9]{1,5})?", fullmatch=True)
other = st.sampled_from(
    ['destination="origin=x"', "destination=a:1", 'key="ed25519:a,b"', 'sig="a+/,origin=no"', "key=ed25519:k"]
)


def _origin(authorization: str) -> str:
    head = f"PUT / HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n"
    return origin_of(parse_head(head.encode()))


@given(
    names,
    st.lists(other, max_size=4),
    st.lists(other, max_size=4),
    st.booleans(),
    st.sampled_from([",", ", "]),
)
def test_the_origin_is_found_wherever_it_is(
    name: str, before: list[str], after: list[str], quoted: bool, comma: str
) -> None:
    origin = f'origin="{name}"' if quoted else f"origin={name}"
    assert _origin("X-Matrix " + comma.join([*before, origin, *after])) == name


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_any_header_has_one_origin_or_none(authorization: str) -> None:
    assert isinstance(_origin(authorization), str)


@pytest.mark.parametrize(
    "authorization", ["Bearer origin=a", "X-Matrix key=a", "X-Matrix", 'X-Matrix sig="origin=a"']
)
def test_what_is_not_signed_has_none(authorization: str) -> None:
    assert _origin(authorization) == ""
