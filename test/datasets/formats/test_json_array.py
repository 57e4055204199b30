"""Tests of read_elements, with json.loads as oracle: valid arrays, truncation, damage, and the time of the search."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.helpers import law, parse_place, record
from text.datasets.formats.json_array import read_elements
from text.errors import DataError

MARK = b"\xef\xbb\xbf"


def split_into_chunks(content, sizes=(7,)):
    """Yield the bytes in chunks. The sizes are used in turn."""
    place, i = 0, 0
    while place < len(content):
        size = sizes[i % len(sizes)]
        yield content[place : place + size]
        place, i = place + size, i + 1


def read(content, sizes=(1 << 20,)):
    """Return the values of the elements. Check the location and the parsed object of each element."""
    values = []
    for element in read_elements(split_into_chunks(content, sizes), "raw"):
        assert content[element.byte :].startswith(element.content)
        assert element.line == content.count(b"\n", 0, element.byte) + 1
        assert element.num_newlines == element.content.count(b"\n")
        assert element.record.as_dict() == json.loads(element.content)
        values.append(json.loads(element.content))
    return values


def find_refusal(content, sizes=(1 << 20,)):
    """Return the byte and field that the error names. Check that its line belongs to the byte."""
    with pytest.raises(DataError) as caught:
        read(content, sizes)
    line, byte, field = parse_place(caught.value, "raw")
    assert line == content.count(b"\n", 0, byte) + 1
    return byte, field


def load_array(content):
    """Return the array of objects that json.loads reads, or None if the content is not such an array."""
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except ValueError:
        return None
    return value if type(value) is list and all(type(item) is dict for item in value) else None


# Valid arrays

blanks = st.text(" \t\r\n", max_size=3)
texts = st.text(st.sampled_from(' {}[]",:\\\n/aé😀\u2028'), max_size=8) | st.sampled_from(
    ["]}, {", '"}, {"a": "', "\\", '\\"', "}\n    },\n    {\n"]
)
values = st.recursive(
    texts | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, values, max_size=3)


@st.composite
def arrays(draw):
    """Generate an array, indented or not, with any white space between its elements."""
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 1, 4]))
    separators = [draw(blanks) + "," + draw(blanks) for _ in range(2)]
    parts = [json.dumps(item, ensure_ascii=ascii_only, indent=indent) for item in draw(st.lists(objects, max_size=6))]
    joined = "".join(part + separators[i % 2] for i, part in enumerate(parts[:-1])) + "".join(parts[-1:])
    return "".join([draw(blanks), "[", draw(blanks), joined, draw(blanks), "]", draw(blanks)]).encode()


@law
@given(arrays(), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from([b"", MARK]))
def test_elements_are_what_json_loads(content, sizes, mark):
    assert read(mark + content, sizes) == json.loads(content)
    assert read(mark + content, [1]) == json.loads(content)


ENDINGS = {
    "list": {"z": [1]},
    "string": {"z": "]}, {"},
    "number": {"z": 1.5},
    "object": {"z": {"a": {}}},
    "empty": {},
}


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_elements_with_different_endings(indent, size):
    rows = [record(f"q{i}", hard=i % 7) | ending for i in range(40) for ending in ENDINGS.values()]
    rows += [{}, {}, {"a": "}, {"}, *rows[::7]]
    assert read(json.dumps(rows, indent=indent).encode(), [size]) == rows


def test_text_that_looks_like_the_end_of_an_element():
    # The joint between elements also occurs within strings, and between the contexts of a record.
    rows = [
        {"id": f"{i}", "text": ']}, {"id": "', "ctxs": [{"id": "a", "z": []}, {"id": "b", "z": []}]} for i in range(9)
    ]
    rows = [{**row, "answers": ["]}, {"]} for row in rows]
    assert read(json.dumps(rows).encode()) == rows


@pytest.mark.parametrize("content", [b"[]", b" [ \r\n] \n", MARK + b"[\t]"])
def test_empty_array_has_no_elements(content):
    assert read(content) == []


def test_element_of_many_chunks():
    rows = [{"text": "e" * 3_000_000 + '\\"{' * 100_000}, {"text": ""}]
    content = json.dumps(rows).encode()
    assert read(content, [(1 << 20) + 1]) == rows
    assert read(content, [256]) == rows  # This takes minutes if the scan restarts with each chunk.


# Invalid arrays are refused at the exact byte.

ROWS = [record("où?"), record('"{ \\ 😀 }, {'), record("q2", n=1.5)]
FORMS = {
    "compact": json.dumps(ROWS).encode(),
    "indented": json.dumps(ROWS, indent=4, ensure_ascii=False).encode(),
    "crlf": json.dumps(ROWS, indent=4).replace("\n", "\r\n").encode(),
}
all_forms = pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)


@all_forms
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_every_truncation_is_refused(content, size):
    for end in range(len(content) if size > 1 else 0, 0, -1):
        byte, field = find_refusal(content[: end - 1], [size])
        if end > 1:
            assert end - 4 <= byte <= end - 1  # A truncated character starts up to 3 bytes before the end.
            assert field in ("[0]", "[1]", "[2]", "[3]")


def test_truncation_inside_an_element_by_hand():
    content = FORMS["compact"]
    start = content.rindex(b'{"question"')
    end = start + 30
    assert find_refusal(content[:end]) == (end, "[2]")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'[{"a": 1}', (9, "[1]")),
        (b'[{"a": 1} ,\n', (12, "[1]")),
        (b"[", (1, "[0]")),
        (b'[{"a": 1} , ]', (12, "[1]")),
        (b'[{"a": 1}\n{"a": 1}]', (10, "[1]")),
        (b'[{"a": 1}}]', (9, "[1]")),
        (b'[, {"a": 1}]', (1, "[0]")),
        (b'[{"a": 1},, {"a": 1}]', (10, "[1]")),
        (b'[{"a": 1}, \xff]', (11, "[1]")),
        (b'{"a": 1}', (0, "")),
        (b'\n{"data": [{"a": 1}]}', (1, "")),
        (b"", (0, "")),
        (b"12", (0, "")),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_incomplete_array_is_refused(content, place, size):
    assert find_refusal(content, [size]) == place


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("rest", [b"]", b"x", b"[]", b"{}", b",", b"\0", b"\x0b", MARK])
def test_data_after_the_array_is_refused(rest, size):
    assert find_refusal(b"[{}] \n" + rest, [size]) == (6, "")


@pytest.mark.parametrize("text", [b"null", b"12", b"-1", b'"{}"', b"[{}]", b"true", b"false"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_element_that_is_not_an_object_is_refused(text, size):
    assert find_refusal(b'[{"a": []}, ' + text + b"]", [size]) == (12, "[1]")


def find_fault_in_second_element(text, size=1 << 20):
    """Return the byte within the second of three elements, and the field. Lines end with CR LF."""
    byte, field = find_refusal(b'[{"a": []}, {"a": []},' + text.replace(b"\n", b"\r\n") + b', {"a": []}]', [size])
    return byte - 22, field


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b'{"a": 1,}', 7),
        (b'{\n"a": True}', 8),
        (b'{"a": "\t"}', 7),
        (b"{'a': 1}", 1),
        (b'{"a": /* */ 1}', 6),
        (b'{"a": [}}', 7),
        (b'{"a": "\n"}', 7),
        (b'{"a" 1}', 5),
        (b'{"a": \v1}', 6),
        (b'{"a": "\\x"}', 7),
    ],
)
def test_invalid_json_within_an_element_is_refused_at_its_byte(text, place, size):
    assert find_fault_in_second_element(text, size) == (place, "[2]")


def test_lone_quote_that_hides_the_end_is_refused_at_its_byte():
    assert find_fault_in_second_element(b'{"a": "b"c"}') == (9, "[2]")


def test_lone_quote_that_hides_the_end_of_a_long_file_is_refused_at_its_byte():
    rows = b", ".join([b'{"a": ["%s"]}' % (b"e" * 1000)] * 20_000)
    content = b'[{"a": "b" "}, ' + rows + b"]"
    assert find_refusal(content) == (11, "[0]")


def test_newlines_of_long_elements_are_counted():
    rows = [{"text": ["e" * 100] * 100}, {"text": []}]
    assert read(json.dumps(rows, indent=1).encode(), [1000]) == rows


@pytest.mark.parametrize("character", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"])
def test_bytes_that_are_not_utf_8_are_refused(character):
    assert find_fault_in_second_element(b'{"a": "%s"}' % character) == (7, "[2]")


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"18446744073709551616"])
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_repairable_value_is_read(value, size):
    content = b'[{"a": 1}, {"a": %s}, {"a": 2}]' % value
    found = [element.record["a"] for element in read_elements(split_into_chunks(content, [size]), "raw")]
    assert (found[0], found[2]) == (1, 2)
    assert found[1] in (None, "\ufffd", float(2**64))


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b"18446744073709551616"])
def test_fault_after_a_repairable_value_has_its_byte(value):
    # The helper turns the newline into CR LF.
    assert find_fault_in_second_element(b'{"a": %s,\n"b": x}' % value) == (len(value) + 14, "[2]")


def test_nul_is_refused():
    assert find_fault_in_second_element(b'{"a": 1\0}') == (7, "[2]")
    assert find_fault_in_second_element(b'{"a": 1' + bytes(9) + b"}") == (7, "[2]")


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_byte_order_mark_inside_is_refused(size):
    assert find_refusal(b"[{}, " + MARK + b"{}]", [size]) == (5, "[1]")
    assert find_refusal(MARK + MARK + b"[]", [size]) == (3, "")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_100000_deep_is_refused(opening):
    closing = b"]" if opening == b"[" else b"}"
    deep = b'{"a": ' + opening * 100_000 + b"0" + closing * 100_000 + b"}"
    assert find_fault_in_second_element(deep)[1] == "[2]"


def test_deepest_nesting_of_the_parser_is_read():
    rows = [{"a": 0}, {"a": 0}]
    content = json.dumps(rows).replace('[{"a": 0', '[{"a": ' + "[" * 1022 + "]" * 1022).encode()
    assert len(list(read_elements([content], "raw"))) == 2


def test_endless_element_is_refused_with_little_memory():
    def chunks():
        yield b'[{"a": [1]}, {"a": "'
        for _ in range(200):
            yield b"e" * (1 << 20)

    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        list(read_elements(chunks(), "raw"))
    assert parse_place(caught.value, "raw") == (1, 13, "[1]")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_element_of_16_mib_is_read_and_a_longer_one_is_refused():
    # The bracket before the element counts, and so does the newline that the conversion adds.
    element = b'{"a": "%s"}' % (b"e" * ((1 << 24) - 11))
    assert len(read(b"[" + element + b"]")) == 1
    longer = element.replace(b'"}', b'e"}')
    assert find_refusal(b"[" + longer + b"]") == find_refusal(b"[" + longer + b"]", [1 << 26]) == (1, "[0]")


STRUCTURE = b'{}[],:"\\'


@pytest.mark.parametrize("size", [3, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_damaged_array_is_refused_or_still_valid(size, indent):
    rows = [{"a": ["b", 1], "c": "d"}, {"a": ["\\"], "c": {}}, {"a": [], "c": '"'}]
    content = json.dumps(rows, indent=indent).encode()
    damaged = [content[:i] + content[i + 1 :] for i in range(len(content)) if content[i] in STRUCTURE]
    damaged += [content[:i] + bytes([mark]) + content[i:] for i in range(len(content) + 1) for mark in STRUCTURE]
    for text in damaged:
        expected = load_array(text)
        if expected is None:
            find_refusal(text, [size])
        else:
            assert read(text, [size]) == expected, text


class CountingBytes(bytearray):
    """Byte array that counts the bytes searched for the end of an element."""

    searched = 0

    def find(self, joint, start, end):  # pyright: ignore[reportIncompatibleMethodOverride]
        CountingBytes.searched += min(end, len(self)) - start
        return super().find(joint, start, end)


@pytest.mark.parametrize(
    "row",
    [
        lambda i: {f"k{i}": "v", "n": i},  # Each joint occurs once.
        lambda i: {"id": i, "ctxs": [{"id": [[]]}, {"id": [[]]}]},
        lambda i: {"id": i, "text": "e" * (i % 97)},
    ],
)
def test_search_takes_linear_time(monkeypatch, row):
    monkeypatch.setattr("text.datasets.formats.json_array.bytearray", CountingBytes, raising=False)
    monkeypatch.setattr(CountingBytes, "searched", 0)
    rows = [row(i) for i in range(5_000)]
    content = json.dumps(rows).encode()
    assert read(content) == rows
    # Each search covers at most 8 times the previous element and 1 KiB.
    assert CountingBytes.searched < 50 * len(content)
