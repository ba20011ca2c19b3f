"""A template becomes one safe file name inside the export folder, or an error."""

import unicodedata
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError
from queryexport.filenames import Tokens, file_name, fill, folder_inside


def make_tokens(**changes: object) -> Tokens:
    values = {
        "query_name": "Traces.sql",
        "day": date(2024, 3, 1),
        "slot": datetime(2024, 3, 1, 6, 30, 5, tzinfo=UTC),
    }
    return Tokens(**{**values, **changes})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{query_name}_{date}.xlsx", "Traces_2024-03-01.xlsx"),
        ("{date-1}", "2024-02-29"),
        ("{date+31}", "2024-04-01"),
        ("a_{timestamp}.xlsx", "a_20240301063005.xlsx"),
        ("plain.xlsx", "plain.xlsx"),
    ],
)
def test_tokens_take_their_values_from_the_slot(template: str, expected: str) -> None:
    assert file_name(template, make_tokens()) == expected


def test_the_offset_moves_the_date_and_days_count_from_there() -> None:
    tokens = make_tokens(offset_days=-1)
    assert fill("{date} {date-1} {date+1}", tokens) == "2024-02-29 2024-02-28 2024-03-01"


def test_the_date_format_is_used() -> None:
    assert fill("{date}", make_tokens(date_format="%Y%m%d")) == "20240301"


@pytest.mark.parametrize(
    "token", ["{x}", "{query_name-1}", "{timestamp+1}", "{Date}", "{date--1}", "{date-1d}"]
)
def test_an_unknown_token_is_named(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        file_name(f"a{token}.xlsx", make_tokens())
    assert token in caught.value.message
    assert "{date-1}" in caught.value.message


@pytest.mark.parametrize("template", ["a/b.xlsx", "a\\b.xlsx", "/a.xlsx", "../a.xlsx"])
def test_a_folder_in_the_template_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="contains a folder"):
        file_name(template, make_tokens())


@pytest.mark.parametrize(
    ("query_name", "expected"),
    [
        ("../../etc/passwd", ConfigurationError),
        ("a/../b", "a_.._b"),
        ('a<b>c:d"e|f?g*h', "a_b_c_d_e_f_g_h"),
        ("a\x00b\nc\x7f", "a_b_c_"),
        ("exe\u202excod", "exe_xcod"),
        ("..", ConfigurationError),
        (".hidden", ConfigurationError),
        ("-rf", ConfigurationError),
        ("   ", ConfigurationError),
        ("x" * 201, ConfigurationError),
        ("è" * 101, ConfigurationError),
        ("è" * 100, "è" * 100),
    ],
)
def test_a_tokens_value_cannot_leave_the_folder(query_name: str, expected: object) -> None:
    tokens = make_tokens(query_name=query_name)
    if expected is ConfigurationError:
        with pytest.raises(ConfigurationError):
            file_name("{query_name}", tokens)
    else:
        assert file_name("{query_name}", tokens) == expected


@given(
    template=st.text(max_size=40)
    | st.from_regex(r"([a-z./ ]|\{(query_name|date|date-[0-9]{1,5}|timestamp|x)\}){0,5}"),
    query_name=st.text(max_size=250),
    date_format=st.text(st.sampled_from("%YmdHjaB-/\\:. \u202e"), max_size=8),
    offset_days=st.integers(-100_000, 100_000),
)
@example("{date+99999}", "q", "%Y", 0)
@example("{query_name}", "\ud800", "%Y", 0)
@example("{query_name}", "con\u0085", "%Y", 0)
@example("a\u061c", "q", "%Y", 0)
@example("a\u200b.xlsx", "q", "%Y", 0)
def test_every_name_is_one_safe_component_or_an_error(
    template: str, query_name: str, date_format: str, offset_days: int
) -> None:
    tokens = make_tokens(query_name=query_name, date_format=date_format, offset_days=offset_days)
    try:
        name = file_name(template, tokens)
    except ConfigurationError:
        return
    assert Path("folder", name).name == name
    assert not set(name) & set('/\\<>:"|?*')
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)
    assert not any(_turns_text(char) for char in name)
    assert 0 < len(name.encode()) <= 200
    assert name[0] not in ".-"


def _turns_text(char: str) -> bool:
    """Whether the character is one of Unicode's bidirectional controls."""
    return char in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@pytest.mark.parametrize("folder", ["", ".", "daily", "daily/rome", "daily\\rome", "a/./b"])
def test_a_relative_folder_is_inside(tmp_path: Path, folder: str) -> None:
    path = folder_inside(tmp_path, folder)
    assert path == tmp_path.joinpath(*folder.replace("\\", "/").split("/"))


@pytest.mark.parametrize(
    "folder",
    ["..", "../x", "a/../../x", "a/..", "/", "/etc", "//etc", "..\\x", "a\\..\\..\\x", "\\etc"],
)
def test_a_folder_that_leads_out_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigurationError, match="outside the export folder"):
        folder_inside(tmp_path / "root", folder)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="outside the export folder"):
        folder_inside(root, "link/daily")


def test_a_link_that_stays_inside_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert folder_inside(tmp_path, "link") == tmp_path / "real"


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert folder_inside(tmp_path / "root", "daily") == tmp_path / "real" / "daily"


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "~", "/", "\\", " "]), max_size=6))
def test_no_folder_leaves_the_root(parts: list[str]) -> None:
    root = Path("/srv/exports")
    try:
        path = folder_inside(root, "/".join(parts))
    except ConfigurationError:
        return
    assert path.is_relative_to(root)


def test_a_folder_that_cannot_be_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        folder_inside(tmp_path, "a\x00b")
