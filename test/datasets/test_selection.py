"""select_rows: what it keeps, and what it refuses.

A number in a name (a8, b13, ...) is that of a fault, one for the whole project.
"""

import gzip
import json
import os
import re

import pytest
import zstandard

from test.datasets.helpers import record
from text.datasets.dpr import DPRDataPipe
from text.datasets.selection import select_rows
from text.errors import DataError


def row(number, **fields):
    """A usable row as JSON text; ``fields`` replace or add."""
    return json.dumps(record(**{"question": f"question {number}", **fields}), ensure_ascii=False)


def jsonl(rows):
    return "".join(f"{text}\n" for text in rows).encode()


def array(rows):
    return f"[{', '.join(rows)}]".encode()


def indented_array(rows):
    return json.dumps([json.loads(text) for text in rows], indent=4, ensure_ascii=False).encode()


def packed(form):
    return lambda rows: gzip.compress(form(rows))


FORMS = {
    "jsonl": jsonl,
    "array": array,
    "indented array": indented_array,
    "jsonl.gz": packed(jsonl),
    "array.gz": packed(array),
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
    """Where the raw file goes; whether it is an array, its name does not say."""
    return tmp_path / "raw.data"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "new" / "folder" / "train.jsonl"


def named(raw, content):
    """Writes the content, under a name that says how it is compressed."""
    packings = {b"\x1f\x8b": ".gz", b"\x28\xb5": ".zst"}
    path = raw.with_name(raw.name + packings.get(content[:2], ""))
    path.write_bytes(content)
    return path


def select_from(raw, content, out, num_items=100, **options):
    """The selection, and the rows written."""
    raw = named(raw, content)
    selection = select_rows(raw, out, num_items, **options)
    return selection, out.read_bytes().decode().removesuffix("\n").split("\n")


def refusal(raw, content, out):
    """What the error says after the path, once it is sure that nothing was left behind."""
    raw = named(raw, content)
    with pytest.raises(DataError) as caught:
        select_rows(raw, out, 100)
    assert list(out.parent.iterdir()) == []
    message = str(caught.value)
    assert re.fullmatch(re.escape(str(raw)) + r":\d+ \(byte \d+\).*", message)  # one line: "." is no newline
    return message.removeprefix(str(raw))


# What is kept


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_rows(raw, out, form):
    rows = [row(0), row(1, question="où? 日本 😀"), row(2)]
    selection, written = select_from(raw, form(rows), out)
    assert selection == (3, 0, {})
    assert [json.loads(text) for text in written] == [json.loads(text) for text in rows]


@both_forms
def test_rows_are_written_as_they_came(raw, out, form):
    rows = [row(0, n=0).replace('"n": 0', '"n": [1.50, 1E2, -0, "\\u00e9"]'), row(1)]
    assert select_from(raw, form(rows), out)[1] == rows


@both_forms
def test_first_rows_are_kept_and_the_rest_is_not_read(raw, out, form):
    rows = [row(i) for i in range(5)]
    selection, written = select_from(raw, form([*rows, '{"broken'])[:-1], out, 3)
    assert selection == (3, 0, {})
    assert list(map(json.loads, written)) == list(map(json.loads, rows[:3]))


def test_fewer_rows_than_asked_for_is_no_error(raw, out):
    assert select_from(raw, jsonl([row(0)]), out, 10)[0].kept == 1


@both_forms
def test_skip_items_cuts_one_selection_into_pieces(raw, tmp_path, form):
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
def test_b13_extra_fields_are_preserved(raw, out, form):
    extra = {"dataset": "nq", "n": [1.5, 1e2, -0.0, 2**63 - 1, None, True], "o": {"z": {}, "a": []}}
    rows = [row(0, extra=extra)]
    [written] = select_from(raw, form(rows), out)[1]
    assert json.loads(written) == json.loads(rows[0])
    assert list(json.loads(written)) == list(json.loads(rows[0]))  # in the same order


@both_forms
def test_a4_unicode_line_separators_inside_strings_end_no_row(raw, out, form):
    rows = [row(0, question="one\u2028two\u2029three\u0085four"), row(1)]
    written = select_from(raw, form(rows), out)[1]
    assert list(map(json.loads, written)) == list(map(json.loads, rows))


def test_selection_is_what_training_reads(raw, out):
    select_from(raw, indented_array([row(0), row(1)]), out)
    assert [example.question for batch in DPRDataPipe(out, 2) for example in batch] == ["question 0", "question 1"]


# Where it is written


def test_f6_existing_output_is_replaced_only_if_asked(raw, out):
    select_from(raw, jsonl([row(0)]), out)
    with pytest.raises(FileExistsError, match="exists; expected a new file, or overwrite"):
        select_from(raw, jsonl([row(1)]), out)
    assert out.read_text() == row(0) + "\n"
    assert select_from(raw, jsonl([row(1)]), out, overwrite=True)[1] == [row(1)]


def test_f6_failed_selection_leaves_the_existing_output(raw, out):
    select_from(raw, jsonl([row(0)]), out)
    raw.write_bytes(b"[")
    with pytest.raises(DataError):
        select_rows(raw, out, 1, overwrite=True)
    assert out.read_text() == row(0) + "\n"


def test_f6_output_that_is_a_folder(raw, tmp_path):
    raw.write_bytes(jsonl([row(0)]))
    with pytest.raises(FileExistsError, match="is a folder"):
        select_rows(raw, tmp_path, 1, overwrite=True)


@pytest.mark.parametrize("link", [lambda raw, out: None, os.symlink, os.link], ids=["path", "symlink", "hard link"])
def test_f7_output_is_the_raw_file(raw, tmp_path, link):
    raw.write_bytes(jsonl([row(0)]))
    out = tmp_path / "link" if link in (os.symlink, os.link) else tmp_path / "." / raw.name
    link(raw, out)
    with pytest.raises(ValueError, match="is the raw file itself"):
        select_rows(raw, out, 1, overwrite=True)
    assert raw.read_bytes() == jsonl([row(0)])


def test_f8_bare_file_name(raw, tmp_path, monkeypatch):
    raw.write_bytes(jsonl([row(0)]))
    monkeypatch.chdir(tmp_path)
    select_rows(raw.name, "train.jsonl", 1)
    assert (tmp_path / "train.jsonl").read_text() == row(0) + "\n"


@pytest.mark.parametrize(("num_items", "skip_items", "name"), [(0, 0, "num_items"), (1, -1, "skip_items")])
def test_f9_counts_out_of_range(raw, out, num_items, skip_items, name):
    with pytest.raises(ValueError, match=f"{name} is "):
        select_rows(raw, out, num_items, skip_items=skip_items)


def test_missing_raw_file_makes_no_folder(raw, out):
    with pytest.raises(FileNotFoundError):
        select_rows(raw, out, 1)
    assert not out.parent.exists()


# What is refused: the second of three rows


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
def test_a5_not_json(raw, out, text):
    rows = [row(0, question="où?"), text, row(2)]
    start = len(rows[0].encode()) + 1
    place = re.match(r":2 \(byte (\d+)\): invalid JSON", refusal(raw, jsonl(rows), out))
    assert place is not None
    assert start <= int(place[1]) <= start + len(text)
    start = array(rows).index(text.encode())
    place = re.match(r":1 \(byte (\d+)\) \[1\]: invalid JSON", refusal(raw, array(rows), out))
    assert place is not None
    assert start <= int(place[1]) <= start + len(text)


def test_a6_last_row_is_cut(raw, out):
    content = jsonl([row(0), row(1)])[:-20]
    assert f"file ends inside this row, at byte {len(content)}" in refusal(raw, content, out)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a7_number_that_is_not_finite(raw, out, number):
    text = row(1, extra=[{"score": 0}]).replace('"score": 0', f'"score": {number}')
    rows = [row(0), text, row(2)]
    assert re.search(r" extra\[0\]\.score: not a finite number", refusal(raw, jsonl(rows), out))
    assert re.match(r":1 \(byte \d+\) \[1\]\.extra\[0\]\.score: not a finite", refusal(raw, array(rows), out))


@both_forms
@pytest.mark.parametrize(
    ("object_", "key"),
    [('{"a": 1, "b": 2, "a": 1}', "a"), ('{"b": [{"a": {}, "\\u0061": 2}]}', "a"), ('{"é": 1, "\\u00e9": 1}', "é")],
)
def test_a8_duplicate_key_at_any_depth(raw, out, form, object_, key):
    text = row(1, extra=0).replace('"extra": 0', f'"extra": {object_}')
    message = refusal(raw, form([row(0), text, row(2)]), out)
    assert message.endswith(
        f"{'[1].' if form is array else ' '}{key}: key stands twice in one object; expected each key once"
    )


@pytest.mark.parametrize("character", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"])
def test_a9_not_utf8(raw, out, character):
    content = jsonl([row(0), row(1, question="*"), row(2)])
    assert f"(byte {content.index(b'*')}): not UTF-8" in refusal(raw, content.replace(b"*", character), out)
    content = array([row(0), row(1, question="*"), row(2)])
    expected = f":1 (byte {content.index(b'*')}) [1]: not UTF-8"
    assert refusal(raw, content.replace(b"*", character), out).startswith(expected)


@both_forms
def test_a10_lone_surrogate(raw, out, form):
    message = refusal(raw, form([row(0), row(1, question="*").replace("*", "\\ud800"), row(2)]), out)
    assert "surrogate" in message


@both_forms
def test_a18_integer_out_of_range(raw, out, form):
    message = refusal(raw, form([row(0), row(1, extra=[2**64]), row(2)]), out)
    assert "extra[0]: integer out of range" in message


@both_forms
def test_a13_row_too_long(raw, out, form):
    message = refusal(raw, form([row(0), row(1, extra="e" * (1 << 25)), row(2)]), out)
    assert "longer than 16 MiB; expected" in message


@both_forms
@pytest.mark.parametrize("depth", [1500, 2000])  # beyond what any parser here takes
def test_a14_nested_too_deeply(raw, out, form, depth):
    deep = row(1, extra=0).replace('"extra": 0', '"extra": ' + "[" * depth + "]" * depth)
    assert re.search("too deeply|[Ll]imit", refusal(raw, form([row(0), deep, row(2)]), out))


def test_a15_only_blank_lines(raw, out):
    assert "no row to keep (3 blank line)" in refusal(raw, b"\n \n\r\n", out)


@pytest.mark.parametrize("content", [b"", b"[]", b"\n[ ]\n", gzip.compress(b"", mtime=0)])
def test_c1_no_rows(raw, out, content):
    assert re.search("no row to keep", refusal(raw, content, out))


def test_c2_all_rows_dropped_or_skipped(raw, out):
    raw.write_bytes(array([row(0), row(1, negative_ctxs=[])]))
    with pytest.raises(DataError, match=r"no row to keep \(1 no negative_ctxs, 1 passed over by skip_items\)"):
        select_rows(raw, out, 1, skip_items=1)


def test_a16_two_documents(raw, out):
    assert "extra data" in refusal(raw, jsonl([row(0), row(1) + row(2)]), out)
    assert "extra data after the array" in refusal(raw, array([row(0)]) + array([row(1)]), out)
    assert "[1]: no comma after the element before" in refusal(raw, array([row(0) + row(1)]), out)


@both_forms
@pytest.mark.parametrize("text", ["null", "12", '"question"', "[1]"])
def test_a17_row_is_no_object(raw, out, form, text):
    message = refusal(raw, form([row(0), text, row(2)]), out)
    assert re.search(
        "expected a JSON object" if form is jsonl else r"\[1\]: element is .*; expected an object", message
    )


@both_forms
def test_a19_gzip_is_cut(raw, out, form):
    content = gzip.compress(form([row(i) for i in range(50)]))
    assert "gzip data is cut at this byte" in refusal(raw, content[:-10], out)


@both_forms
def test_a21_zstd_is_cut(raw, out, form):
    content = zstandard.compress(form([row(i) for i in range(50)]))
    assert "zstd data is cut at this byte" in refusal(raw, content[:-10], out)


def test_a22_name_that_lies(raw, out):
    raw.write_bytes(gzip.compress(jsonl([row(0)])))
    with pytest.raises(DataError, match="file is compressed by gzip; expected a name that says so"):
        select_rows(raw, out, 1)


def test_a20_gzip_members_and_garbage(raw, out):
    content = gzip.compress(jsonl([row(0)])) + gzip.compress(jsonl([row(1)]))
    assert "gzip data is damaged, or followed by something else" in refusal(raw, content + b"garbage", out)
    assert select_from(raw, content, out)[1] == [row(0), row(1)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (array([row(0), row(1)])[:-30], r":1 \(byte \d+\) \[1\]: file ends inside this element, at byte \d+;"),
        (array([row(0), row(1)])[:-1], r":1 \(byte \d+\) \[2\]: file ends inside the array; expected the rest of it"),
        (array([row(0)])[:-1] + b" , ]", r':1 \(byte \d+\) \[1\]: comma before "\]"; expected an object'),
        (b"{}\n", r"question: missing; expected the keys question, positive_ctxs"),
        (b'{"data": ' + array([row(0)]) + b"}", r"question: missing; .*found data"),
        (b'{\n    "data": ' + indented_array([row(0)]) + b"}", r"invalid JSON .*expected one JSON object a line"),
    ],
    ids=["mid-element", "no ]", "comma before ]", "{} root", "data", "indented data"],
)
def test_a24_array_is_cut_or_is_none(raw, out, content, problem):
    assert re.search(problem, refusal(raw, content, out))


def test_a24_any_cut_of_an_array_is_refused(raw, out):
    content = array([row(0), row(1, question='"où" \\ 😀', hard=1, other=1)])
    for size in range(len(row(0)), len(content)):
        assert "file ends inside" in refusal(raw, content[:size], out), content[:size]


def test_a2_not_utf8_at_all(raw, out):
    assert "UTF-16" in refusal(raw, jsonl([row(0)]).decode().encode("utf-16"), out)


@both_forms
def test_b1_field_of_the_wrong_type(raw, out, form):
    message = refusal(raw, form([row(0), row(1, question=3), row(2)]), out)
    assert ("[1]." if form is array else " ") + "question: a number; expected a string" in message
