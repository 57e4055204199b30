"""Tests of select_rows: rows that are kept, and input that is refused."""

import gzip
import json
import os
import re

import pytest
import zstandard

from test.helpers import parse_place, record
from text.datasets.dpr import DPRDataPipe
from text.datasets.selection import select_rows
from text.errors import DataError


def row(number, **fields):
    """Return a usable row as JSON text. ``fields`` replace or add fields."""
    return json.dumps(record(**{"question": f"question {number}", **fields}), ensure_ascii=False)


def jsonl(rows):
    return "".join(f"{text}\n" for text in rows).encode()


def array(rows):
    return f"[{', '.join(rows)}]".encode()


def indented_array(rows):
    return json.dumps([json.loads(text) for text in rows], indent=4, ensure_ascii=False).encode()


def gzip_form(form):
    return lambda rows: gzip.compress(form(rows))


FORMS = {
    "jsonl": jsonl,
    "array": array,
    "indented array": indented_array,
    "jsonl.gz": gzip_form(jsonl),
    "array.gz": gzip_form(array),
    "jsonl.zst": lambda rows: zstandard.compress(jsonl(rows)),
    "array.zst": lambda rows: zstandard.compress(array(rows)),
    "crlf": lambda rows: jsonl(rows).replace(b"\n", b"\r\n"),
    "indented crlf": lambda rows: indented_array(rows).replace(b"\n", b"\r\n"),
    "byte order mark": lambda rows: b"\xef\xbb\xbf" + jsonl(rows),
    "byte order mark, array": lambda rows: b"\xef\xbb\xbf\n" + array(rows),
    "blanks around rows": lambda rows: b"".join(b" \t%s \n" % text.encode() for text in rows),
    "no last newline": lambda rows: jsonl(rows).rstrip(),
}
both_forms = pytest.mark.parametrize("form", [jsonl, array])


@pytest.fixture
def raw(tmp_path):
    """Return the path of the raw file. Its name does not tell an array from JSON lines."""
    return tmp_path / "raw.data"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "folder" / "train.jsonl"


def write_raw(raw, content):
    """Write the content under a name with the ending of its compression."""
    endings = {b"\x1f\x8b": ".gz", b"\x28\xb5": ".zst"}
    path = raw.with_name(raw.name + endings.get(content[:2], ""))
    path.write_bytes(content)
    return path


def select_from(raw, content, out, num_items=100, **options):
    """Return the selection and the written rows."""
    raw = write_raw(raw, content)
    selection = select_rows(raw, out, num_items, **options)
    return selection, out.read_bytes().decode().removesuffix("\n").split("\n")


def get_error_place(raw, content, out):
    """Return the place in the error, and check that no folder was left behind."""
    raw = write_raw(raw, content)
    with pytest.raises(DataError) as caught:
        select_rows(raw, out, 100)
    assert not out.parent.exists()
    return parse_place(caught.value, raw)


def is_second_row(place, form):
    """Return whether a place is in the second row."""
    return place.field == "[1]" if form is array else place.line == 2


# Rows that are kept


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_format_gives_the_same_rows(raw, out, form):
    rows = [row(0), row(1, question="où? 日本 😀"), row(2)]
    selection, written = select_from(raw, form(rows), out)
    assert selection == (3, 0, {})
    assert [json.loads(text) for text in written] == [json.loads(text) for text in rows]


@both_forms
def test_rows_are_written_with_their_original_bytes(raw, out, form):
    rows = [row(0, n=0).replace('"n": 0', '"n": [1.50, 1E2, -0, "\\u00e9"]'), row(1)]
    assert select_from(raw, form(rows), out)[1] == rows


@both_forms
def test_first_rows_are_kept_and_the_rest_is_not_read(raw, out, form):
    rows = [row(i) for i in range(5)]
    selection, written = select_from(raw, form([*rows, '{"broken'])[:-1], out, 3)
    assert selection == (3, 0, {})
    assert list(map(json.loads, written)) == list(map(json.loads, rows[:3]))


def test_fewer_rows_than_requested_is_no_error(raw, out):
    assert select_from(raw, jsonl([row(0)]), out, 10)[0].kept == 1


@both_forms
def test_skip_items_makes_disjoint_selections(raw, tmp_path, form):
    content = form([row(i) if i % 3 else row(i, negative_ctxs=[]) for i in range(12)])  # 8 usable
    whole = select_from(raw, content, tmp_path / "whole")[1]
    pieces = []
    for start in range(0, 8, 3):
        selection, written = select_from(raw, content, tmp_path / f"piece{start}", 3, skip_items=start)
        assert selection.skipped == start
        pieces += written
    assert pieces == whole
    assert len(set(pieces)) == 8


def test_dropped_rows_are_counted_by_reason(raw, out):
    rows = [
        row(0, question=" "),
        row(1, positive_ctxs=[]),
        row(2, hard_negative_ctxs=[]),
        row(3, hard_negative_ctxs=None),
        row(4, negative_ctxs=[]),
        " ",
        row(5),
    ]
    selection, written = select_from(raw, jsonl(rows), out)
    assert written == [row(5)]
    assert selection.dropped == {
        "blank question": 1,
        "no positive_ctxs": 1,
        "no hard_negative_ctxs": 2,
        "no negative_ctxs": 1,
        "blank line": 1,
    }


@both_forms
def test_extra_fields_are_kept_in_order(raw, out, form):
    extra = {"dataset": "nq", "n": [1.5, 1e2, -0.0, 2**63 - 1, None, True], "o": {"z": {}, "a": []}}
    rows = [row(0, extra=extra)]
    [written] = select_from(raw, form(rows), out)[1]
    assert json.loads(written) == json.loads(rows[0])
    assert list(json.loads(written)) == list(json.loads(rows[0]))  # Keys keep their order.


@both_forms
def test_unicode_line_separators_inside_strings_end_no_row(raw, out, form):
    rows = [row(0, question="one\u2028two\u2029three\u0085four"), row(1)]
    written = select_from(raw, form(rows), out)[1]
    assert list(map(json.loads, written)) == list(map(json.loads, rows))


def test_selection_can_be_read_for_training(raw, out):
    select_from(raw, indented_array([row(0), row(1)]), out)
    assert [example.question for batch in DPRDataPipe(out, 2) for example in batch] == ["question 0", "question 1"]


# Output file


def test_existing_output_is_replaced_only_with_overwrite(raw, out):
    select_from(raw, jsonl([row(0)]), out)
    with pytest.raises(FileExistsError, match=re.escape(str(out))):
        select_from(raw, jsonl([row(1)]), out)
    assert out.read_text() == row(0) + "\n"
    assert select_from(raw, jsonl([row(1)]), out, overwrite=True)[1] == [row(1)]


def test_failed_selection_leaves_the_existing_output(raw, out):
    select_from(raw, jsonl([row(0)]), out)
    raw.write_bytes(b"[")
    with pytest.raises(DataError):
        select_rows(raw, out, 1, overwrite=True)
    assert out.read_text() == row(0) + "\n"


def test_output_that_is_a_folder_is_refused(raw, tmp_path):
    raw.write_bytes(jsonl([row(0)]))
    with pytest.raises(FileExistsError, match=re.escape(str(tmp_path))):
        select_rows(raw, tmp_path, 1, overwrite=True)


@pytest.mark.parametrize("link", [lambda raw, out: None, os.symlink, os.link], ids=["path", "symlink", "hard link"])
def test_raw_file_as_output_is_refused_and_stays(raw, tmp_path, link):
    raw.write_bytes(jsonl([row(0)]))
    out = tmp_path / "link" if link in (os.symlink, os.link) else tmp_path / "." / raw.name
    link(raw, out)
    with pytest.raises(ValueError, match=re.escape(str(out))):
        select_rows(raw, out, 1, overwrite=True)
    assert raw.read_bytes() == jsonl([row(0)])


def test_bare_file_name_is_written_to_the_current_folder(raw, tmp_path, monkeypatch):
    raw.write_bytes(jsonl([row(0)]))
    monkeypatch.chdir(tmp_path)
    select_rows(raw.name, "train.jsonl", 1)
    assert (tmp_path / "train.jsonl").read_text() == row(0) + "\n"


@pytest.mark.parametrize(("num_items", "skip_items", "name"), [(0, 0, "num_items"), (1, -1, "skip_items")])
def test_counts_out_of_range_are_refused_by_name(raw, out, num_items, skip_items, name):
    with pytest.raises(ValueError, match=f"^{name} "):
        select_rows(raw, out, num_items, skip_items=skip_items)


def test_missing_raw_file_makes_no_folder(raw, out):
    with pytest.raises(FileNotFoundError):
        select_rows(raw, out, 1)
    assert not out.parent.exists()


# Errors in the second of three rows


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "q",}',
        "{'question': 'q'}",
        '{"question": True}',
        '{"question": "\t"}',
        '{"question": /* q */ "q"}',
    ],
)
def test_invalid_json_is_refused_at_its_byte(raw, out, text):
    rows = [row(0, question="où?"), text, row(2)]
    start = len(rows[0].encode()) + 1
    line, byte, field = get_error_place(raw, jsonl(rows), out)
    assert (line, field) == (2, "") and start <= byte <= start + len(text)
    start = array(rows).index(text.encode())
    line, byte, field = get_error_place(raw, array(rows), out)
    assert (line, field) == (1, "[1]") and start <= byte <= start + len(text)


def test_truncated_last_row_is_refused_with_its_end(raw, out):
    raw.write_bytes(jsonl([row(0), row(1)])[:-20])
    with pytest.raises(DataError, match=rf"{raw.name}:2 \(byte \d+\): .* byte {raw.stat().st_size}\b"):
        select_rows(raw, out, 100)


@both_forms
@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e999", '"\\ud800"', "18446744073709551616"])
def test_row_with_a_repairable_value_is_kept_unchanged(raw, out, form, value):
    rows = [row(0), row(1, extra=[{"score": 0}]).replace('"score": 0', f'"score": {value}'), row(2)]
    selection, written = select_from(raw, form(rows), out)
    assert (selection, written) == ((3, 0, {}), rows)
    assert DPRDataPipe(out, 2).num_rows == 3


@both_forms
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (row(1, question=[3]), "question: a list"),
        (row(1, negative_ctxs=[{"text": "a"}, {"text": "b", "title": ["c"]}]), "negative_ctxs.title: a list"),
        (row(1, positive_ctxs=[{"title": "a", "text": None}]), "no positive_ctxs with text"),
        (row(1, positive_ctxs=[{"title": "a", "body": "b"}]), "positive_ctxs.text: missing"),
        (
            row(1, extra=0).replace('"extra": 0', '"extra": {"a": 1, "b": 2, "a": 1}'),
            "a: key stands twice in one object",
        ),
        (
            row(1, extra=0).replace('"extra": 0', '"extra": [{"a": {}, "\\u0061": 2}]'),
            "a: key stands twice in one object",
        ),
        ('{"query": "q", "pos": []}', "question: missing"),
    ],
)
def test_row_that_training_cannot_use_is_dropped_and_counted(raw, out, form, text, reason):
    selection, written = select_from(raw, form([row(0), text, row(2)]), out)
    assert (selection, written) == ((2, 0, {reason: 1}), [row(0), row(2)])
    assert DPRDataPipe(out, 2).num_rows == 2


@both_forms
def test_compact_rows_are_refused(raw, out, form):
    place = get_error_place(raw, form([row(0), '{"question": "q", "positive_ids": ["1"]}']), out)
    assert place.field == "positive_ids"


def test_rows_without_negative_ctxs_are_kept_on_request(raw, out):
    rows = [row(0, negative_ctxs=[]), row(1), row(2, negative_ctxs=None), row(3, hard_negative_ctxs=[])]
    selection, written = select_from(raw, jsonl(rows), out, keep_without_negatives=True)
    assert (selection, written) == ((3, 0, {"no hard_negative_ctxs": 1}), rows[:3])
    assert select_from(raw, jsonl(rows), out, overwrite=True)[1] == [row(1)]


@pytest.mark.parametrize("character", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"])
def test_bytes_that_are_not_utf_8_are_refused(raw, out, character):
    content = jsonl([row(0), row(1, question="*"), row(2)])
    assert get_error_place(raw, content.replace(b"*", character), out) == (2, content.index(b"*"), "")
    content = array([row(0), row(1, question="*"), row(2)])
    assert get_error_place(raw, content.replace(b"*", character), out) == (1, content.index(b"*"), "[1]")


@both_forms
def test_row_that_is_too_long_is_refused(raw, out, form):
    assert is_second_row(get_error_place(raw, form([row(0), row(1, extra="e" * (1 << 25)), row(2)]), out), form)


@both_forms
@pytest.mark.parametrize("depth", [1500, 2000])  # No parser here reads more than 1024 levels.
def test_row_that_is_nested_too_deeply_is_refused(raw, out, form, depth):
    deep = row(1, extra=0).replace('"extra": 0', '"extra": ' + "[" * depth + "]" * depth)
    assert is_second_row(get_error_place(raw, form([row(0), deep, row(2)]), out), form)


def test_file_of_blank_lines_is_refused(raw, out):
    raw.write_bytes(b"\n \n\r\n")
    with pytest.raises(DataError, match=re.escape(str(raw)) + r".*\b3 blank line\b"):
        select_rows(raw, out, 100)


@pytest.mark.parametrize("content", [b"", b"[]", b"\n[ ]\n", gzip.compress(b"", mtime=0)])
def test_file_without_rows_is_refused(raw, out, content):
    assert get_error_place(raw, content, out) == (1, 0, "")


def test_selection_without_rows_is_refused_with_the_reasons(raw, out):
    raw.write_bytes(array([row(0), row(1, negative_ctxs=[])]))
    with pytest.raises(DataError, match=r"\b1 no negative_ctxs, 1 .*skip_items\b"):
        select_rows(raw, out, 1, skip_items=1)


def test_two_documents_are_refused(raw, out):
    assert get_error_place(raw, jsonl([row(0), row(1) + row(2)]), out) == (2, len(row(0) + row(1)) + 1, "")
    assert get_error_place(raw, array([row(0)]) + array([row(1)]), out) == (1, len(array([row(0)])), "")
    assert get_error_place(raw, array([row(0) + row(1)]), out) == (1, len(row(0)) + 1, "[1]")


@both_forms
@pytest.mark.parametrize("text", ["null", "12", '"question"', "[1]"])
def test_row_that_is_not_an_object_is_refused(raw, out, form, text):
    assert is_second_row(get_error_place(raw, form([row(0), text, row(2)]), out), form)


@both_forms
def test_truncated_gzip_is_refused(raw, out, form):
    content = gzip.compress(form([row(i) for i in range(50)]))
    assert get_error_place(raw, content[:-10], out) == (1, len(content) - 10, "")


@both_forms
def test_truncated_zstd_is_refused(raw, out, form):
    content = zstandard.compress(form([row(i) for i in range(50)]))
    assert get_error_place(raw, content[:-10], out) == (1, len(content) - 10, "")


def test_name_that_contradicts_the_content_is_refused(raw, out):
    raw.write_bytes(gzip.compress(jsonl([row(0)])))
    with pytest.raises(DataError) as caught:
        select_rows(raw, out, 1)
    assert parse_place(caught.value, raw) == (1, 0, "")


def test_gzip_members_are_read_and_garbage_is_refused(raw, out):
    content = gzip.compress(jsonl([row(0)])) + gzip.compress(jsonl([row(1)]))
    assert get_error_place(raw, content + b"garbage", out).line == 1
    assert select_from(raw, content, out)[1] == [row(0), row(1)]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (array([row(0), row(1)])[:-30], "[1]"),
        (array([row(0), row(1)])[:-1], "[2]"),
        (array([row(0)])[:-1] + b" , ]", "[1]"),
        (b"{}\n", ""),
        (b'{"data": ' + array([row(0)]) + b"}", ""),
        (b'{\n    "data": ' + indented_array([row(0)]) + b"}", ""),
    ],
    ids=["mid-element", "no ]", "comma before ]", "{} root", "data", "indented data"],
)
def test_truncated_array_and_other_json_are_refused(raw, out, content, field):
    line, _, found = get_error_place(raw, content, out)
    assert (line, found) == (1, field)


def test_array_truncated_at_any_byte_is_refused(raw, out):
    content = array([row(0), row(1, question='"où" \\ 😀', hard=1, other=1)])
    for size in range(len(row(0)), len(content)):
        assert size - 4 <= get_error_place(raw, content[:size], out).byte <= size


def test_utf_16_is_refused(raw, out):
    assert get_error_place(raw, jsonl([row(0)]).decode().encode("utf-16"), out) == (1, 0, "")
