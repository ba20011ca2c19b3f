"""Mail goes to plain addresses, to each once, and only where it may go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError
from queryexport.recipients import addresses, check, once

DOMAINS = ["example.com", "*.example.org"]


@pytest.mark.parametrize(
    "text",
    ["a@b.c|d@e.f", " a@b.c | d@e.f |", "a@b.c;d@e.f", "a@b.c; |d@e.f;", "|a@b.c||d@e.f"],
)
def test_addresses_are_between_bars_or_semicolons(text: str) -> None:
    assert addresses(text) == ["a@b.c", "d@e.f"]


@pytest.mark.parametrize("text", ["", " ", "|", " ; | "])
def test_nothing_is_no_address(text: str) -> None:
    assert addresses(text) == []


@pytest.mark.parametrize(
    "address",
    ["ops@example.com", "o'neil+x@a-b.example.co", "first.last@localhost", "a@xn--mnchen-3ya.de"],
)
def test_a_plain_address_passes(address: str) -> None:
    check([address])


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nobody",
        "a@",
        "@b.c",
        "a b@c.d",
        "a@b@c.d",
        "a@b..c",
        ".a@b.c",
        "a.@b.c",
        "a@-b.c",
        "a@b.c-",
        "a@[127.0.0.1]",
        '"a b"@c.d',
        "Anna <anna@example.com>",
        "anna@example.com, bob@example.com",
        "a@b.c\n",
        "a@b.c\r\nBcc: eve@example.com",
        "a\x00@b.c",
        "ä@example.com",
        "a\u202e@b.c",
        "a" * 65 + "@example.com",
        "a@" + "b" * 251 + ".c",
    ],
)
def test_what_is_not_plain_is_refused_by_name(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is no plain mail address") as refused:
        check(["fine@example.com", address])
    assert f"“{address}”" in refused.value.message


def test_a_domain_beyond_ascii_is_answered_with_its_ascii_form() -> None:
    with pytest.raises(ConfigurationError, match=r"as ops@xn--mnchen-3ya\.de;"):
        check(["ops@münchen.de"])


@pytest.mark.parametrize(
    "address",
    ["a@example.com", "a@EXAMPLE.com", "a@x.example.org", "a@x.y.example.org"],
)
def test_an_allowed_domain_gets_mail(address: str) -> None:
    check([address], DOMAINS)
    check([address], ["nowhere.net", *(f" {domain.upper()} " for domain in DOMAINS)])


@pytest.mark.parametrize(
    "address",
    [
        "a@example.org",
        "a@x.example.com",
        "a@notexample.com",
        "a@notexample.org",
        "a@example.com.evil.net",
        "example.com@evil.net",
        "a@com",
    ],
)
def test_any_other_domain_gets_none_and_the_setting_is_named(address: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check(["fine@example.com", address], DOMAINS)
    assert f"“{address}”" in refused.value.message
    assert "EMAIL_ALLOWED_DOMAINS (example.com, *.example.org)" in refused.value.message


def test_who_is_named_twice_is_there_once() -> None:
    found = once(["a@x.com", "b@x.com"], ["A@x.com", "a@X.COM"], ["b@x.com", "c@x.com"])
    assert found == ["a@x.com", "b@x.com", "A@x.com", "c@x.com"]


@given(st.text())
def test_what_passes_is_one_line_of_ascii_with_one_domain(text: str) -> None:
    try:
        check([text])
    except ConfigurationError:
        return
    assert text.isascii() and text.isprintable() and " " not in text
    assert text.count("@") == 1


@given(st.from_regex(r"\A[a-z]{1,5}@[a-z.@\n]{1,20}\Z"))
def test_what_is_allowed_ends_in_an_allowed_domain(address: str) -> None:
    try:
        check([address], ["b.c", "*.d.e"])
    except ConfigurationError:
        return
    assert address.endswith(("@b.c", ".d.e"))
