"""A template becomes one safe file name inside the export folder, or an error."""

import html
import re
import unicodedata
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from queryexport.errors import ConfigurationError
from queryexport.filenames import Tokens, file_name, fill, folder_inside, numbered, version


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
        ("{item}@{connection}", "Daily traces@cdg_prod"),
        ("{date:%Y%m}.xlsx", "202403.xlsx"),
        ("{date-1:%Y%m}.xlsx", "202402.xlsx"),
        ("{date:%Y%m%d_%H%M%S}", "20240301_063005"),
        ("{date:%d. %b %y, %j, %GW%V, 100%%}", "01. Mar 24, 061, 2024W09, 100%"),
        ("{run_id}.xlsx", "41.xlsx"),
    ],
)
def test_tokens_take_their_values_from_the_slot(template: str, expected: str) -> None:
    tokens = make_tokens(item="Daily traces", connection="cdg_prod", run_id=41)
    assert file_name(template, tokens) == expected


def test_a_mail_knows_what_came_of_the_run() -> None:
    tokens = make_tokens(row_count=7, run_url="https://a/run/1", file_name="a.xlsx")
    assert fill("{row_count} {file_name} {run_url}", tokens) == "7 a.xlsx https://a/run/1"


def test_a_mail_can_have_its_values_quoted_and_nothing_else() -> None:
    text = fill("<b>{item}</b> {date:%d/%m}", make_tokens(item="a<b"), quote=html.escape)
    assert text == "<b>a&lt;b</b> 01/03"


def test_before_a_run_there_is_a_number_in_its_place() -> None:
    assert fill("{run_id} {row_count}", make_tokens()) == "0 0"


@pytest.mark.parametrize("token", ["{row_count}", "{run_url}", "{file_name}"])
def test_a_token_for_mails_is_refused_in_a_file_name(token: str) -> None:
    with pytest.raises(ConfigurationError, match="only in a mail's subject and body"):
        file_name(f"a{token}.xlsx", make_tokens())


def test_the_offset_moves_the_date_and_days_count_from_there() -> None:
    tokens = make_tokens(offset_days=-1)
    assert fill("{date} {date-1} {date+1}", tokens) == "2024-02-29 2024-02-28 2024-03-01"


def test_the_date_format_is_used() -> None:
    assert fill("{date}", make_tokens(date_format="%Y%m%d")) == "20240301"


@pytest.mark.parametrize(
    "token",
    [
        "{x}", "{query_name-1}", "{timestamp+1}", "{Date}", "{date--1}", "{date-1d}", "{}",
        "{date:}", "{query_name:%Y}", "{item.connection.password}", "{item[0]}", "{item!r}", "{0}",
        "{date-١}",
    ],
)  # fmt: skip
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
    "char",
    [*'<>:"|?*', "\0", "\n", "\x7f", "\u202e", "\u2066", "\u200f", "\u200b", "\ud800", "\u2028"],
)
def test_a_character_in_the_template_that_no_name_can_have_is_refused(char: str) -> None:
    with pytest.raises(ConfigurationError, match=f"U\\+{ord(char):04X}") as caught:
        file_name(f"a{char}.xlsx", make_tokens())
    caught.value.message.encode()
    assert char not in caught.value.message.replace('"', "") or char in '<>:"|?*'


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("a..b.xlsx", "two dots"),
        (".{date}", "Start it with a letter"),
        ("-{date}", "Start it with a letter"),
        ("{date}.", "ends with a dot"),
        ("{date} ", "begins or ends with a blank"),
        (" {date}", "begins or ends with a blank"),
        ("{date}\xa0", "begins or ends with a blank"),
        ("{date", "brace without its partner"),
        ("date}", "brace without its partner"),
        ("{{date}}", "brace without its partner"),
        ("NUL", "a device on Windows"),
        ("nul.xlsx", "a device on Windows"),
        ("Com1.tar.gz", "a device on Windows"),
        ("LPT¹.xlsx", "a device on Windows"),
        ("con .xlsx", "a device on Windows"),
    ],
)
def test_a_name_that_windows_or_a_shell_misread_is_refused(template: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        file_name(template, make_tokens())


@pytest.mark.parametrize("template", ["console.xlsx", "COM10.xlsx", "a.CON", "nul_{date}.xlsx"])
def test_a_name_that_only_begins_like_a_device_is_fine(template: str) -> None:
    assert file_name(template, make_tokens())


def test_names_are_in_composed_form() -> None:
    decomposed = unicodedata.normalize("NFD", "più_è")
    name = file_name(f"{decomposed}_{{query_name}}", make_tokens(query_name=decomposed))
    assert name == unicodedata.normalize("NFC", "più_è_più_è")


@pytest.mark.parametrize(
    ("date_format", "why"),
    [
        ("%d/%m/%Y", "U+002F"),
        ("%H:%M", "U+003A"),
        ("%Y\\%m", "U+005C"),
        ("%Y\u202e", "U+202E"),
        ("%D", "%D does not mean the same everywhere"),
        ("%-d", "%- does not"),
        ("%#d", "%# does not"),
        ("%Ey", "%E does not"),
        ("%s", "%s does not"),
        ("%c", "%c does not"),
        ("%n", "%n does not"),
        ("%Q", "%Q does not"),
        ("%Y%", "% does not"),
    ],
)
@pytest.mark.parametrize("where", ["the field", "the token"])
def test_a_date_format_that_makes_no_name_is_refused(
    date_format: str, why: str, where: str
) -> None:
    own = "" if where == "the field" else f":{date_format}"
    tokens = make_tokens(date_format="%Y" if own else date_format)
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        file_name(f"a_{{date{own}}}.xlsx", tokens)


@pytest.mark.parametrize(
    ("name", "second", "before"),
    [
        ("a.xlsx", "a_2.xlsx", "a.2.xlsx"),
        ("a.xlsx.gz", "a_2.xlsx.gz", "a.2.xlsx.gz"),
        ("a.csv.zip", "a_2.csv.zip", "a.2.csv.zip"),
        ("a.v1.2.jsonl", "a.v1.2_2.jsonl", "a.v1.2.2.jsonl"),
        ("a_2026.11.22", "a_2026.11.22_2", "a_2026.11.22.2"),
        ("a.zip", "a_2.zip", "a.2.zip"),
        ("più", "più_2", "più.2"),
    ],
)
def test_a_number_goes_before_the_whole_suffix(name: str, second: str, before: str) -> None:
    assert (numbered(name, 2), version(name, 2)) == (second, before)


@given(st.from_regex(r"[a-z0-9][a-z0-9._]{0,12}", fullmatch=True), st.integers(2, 9999))
def test_numbers_make_different_names(name: str, number: int) -> None:
    assert len({name, numbered(name, number), numbered(name, number + 1)}) == 3
    assert len({name, version(name, number), version(name, number + 1)}) == 3


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
    assert name == name.strip() == unicodedata.normalize("NFC", name)
    assert not name.endswith(".")


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


@pytest.mark.parametrize(
    "folder",
    ["a\x00b", "a\u202eb", "a\ud800", "daily.", "daily /rome", "NUL", "a/com1.old/b", "è" * 128],
)
def test_a_folder_that_cannot_be_a_path_everywhere_is_refused(tmp_path: Path, folder: str) -> None:
    with pytest.raises(ConfigurationError):
        folder_inside(tmp_path, folder)


def test_links_that_go_round_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigurationError, match="outside the export folder"):
        folder_inside(tmp_path, "a")
