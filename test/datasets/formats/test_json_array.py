"""elements: json.loads as oracle, cuts and damages of any kind, and what a file of many faults costs.

A number in a name (a8, a24, ...) is that of a fault, one for the whole project.
"""

import json
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test.datasets.helpers import law, record
from text.datasets.formats.json_array import elements
from text.errors import DataError

MARK = b"\xef\xbb\xbf"


def pieces(content, sizes=(7,)):
    """The bytes in chunks of these sizes, one after another, over and over."""
    place, i = 0, 0
    while place < len(content):
        size = sizes[i % len(sizes)]
        yield content[place : place + size]
        place, i = place + size, i + 1


def read(content, sizes=(1 << 20,)):
    """The values; each element stands at the byte that is said, and its object says what its bytes say."""
    values = []
    for offset, element, parsed in elements(pieces(content, sizes), "raw"):
        assert content[offset : offset + len(element)] == element
        assert parsed.as_dict() == json.loads(element)
        values.append(json.loads(element))
    return values


def refusal(content, sizes=(1 << 20,)):
    with pytest.raises(DataError) as caught:
        read(content, sizes)
    message = str(caught.value)
    assert re.fullmatch(r"raw:1 \(byte \d+\).*", message)  # one line: "." is no newline
    return message.removeprefix("raw:1 ")


def strict(content):
    """What json.loads makes of an array of objects; None if it is none, or no JSON for a strict reader."""

    def refuse(name):
        raise ValueError(name)

    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogate
    except ValueError:
        return None
    return value if type(value) is list and all(type(item) is dict for item in value) else None


# Any array that is whole

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
    """An array in any form: indented or not, and with any white space between its elements."""
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
def test_elements_that_do_not_end_alike(indent, size):
    rows = [record(f"q{i}", hard=i % 7) | ending for i in range(40) for ending in ENDINGS.values()]
    rows += [{}, {}, {"a": "}, {"}, *rows[::7]]
    assert read(json.dumps(rows, indent=indent).encode(), [size]) == rows


def test_text_that_looks_like_the_end_of_an_element():
    # The joint of all elements, within strings and, as the same bytes, between the contexts of a record.
    rows = [
        {"id": f"{i}", "text": ']}, {"id": "', "ctxs": [{"id": "a", "z": []}, {"id": "b", "z": []}]} for i in range(9)
    ]
    rows = [{**row, "answers": ["]}, {"]} for row in rows]
    assert read(json.dumps(rows).encode()) == rows


@pytest.mark.parametrize("content", [b"[]", b" [ \r\n] \n", MARK + b"[\t]"])
def test_c1_empty_array(content):
    assert read(content) == []


def test_element_of_many_chunks():
    rows = [{"text": "e" * 3_000_000 + '\\"{' * 100_000}, {"text": ""}]
    content = json.dumps(rows).encode()
    assert read(content, [(1 << 20) + 1]) == rows
    assert read(content, [256]) == rows  # takes minutes if a chunk more is a reason to begin anew


# What is refused, at the exact byte

ROWS = [record("où?"), record('"{ \\ 😀 }, {'), record("q2", n=1.5)]
FORMS = {
    "compact": json.dumps(ROWS).encode(),
    "indented": json.dumps(ROWS, indent=4, ensure_ascii=False).encode(),
    "crlf": json.dumps(ROWS, indent=4).replace("\n", "\r\n").encode(),
}
all_forms = pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)


@all_forms
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a24_every_cut_is_refused(content, size):
    for end in range(len(content) if size > 1 else 0, 0, -1):
        message = refusal(content[: end - 1], [size])
        if end > 1:
            assert message.startswith(f"(byte {end - 1}) [") or "(not UTF-8" in message, message
            assert "file ends inside" in message


def test_a24_cut_in_an_element():
    content = FORMS["compact"]
    start = content.rindex(b'{"question"')
    end = start + 30
    expected = f"(byte {end}) [2]: file ends inside this element, at byte {end}; expected the rest of the element"
    assert refusal(content[:end]) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}', '(byte 9) [1]: file ends inside the array; expected the rest of it, and "]"'),
        (b'[{"a": 1} ,\n', '(byte 12) [1]: file ends inside the array; expected the rest of it, and "]"'),
        (b"[", '(byte 1) [0]: file ends inside the array; expected the rest of it, and "]"'),
        (b'[{"a": 1} , ]', '(byte 12) [1]: comma before "]"; expected an object after the comma'),
        (b'[{"a": 1}\n{"a": 1}]', '(byte 10) [1]: no comma after the element before; expected "," or "]"'),
        (b'[{"a": 1}}]', '(byte 9) [1]: no comma after the element before; expected "," or "]"'),
        (b'[, {"a": 1}]', "(byte 1) [0]: invalid JSON (unexpected ','); expected an object"),
        (b'[{"a": 1},, {"a": 1}]', "(byte 10) [1]: invalid JSON (unexpected ','); expected an object"),
        (b'[{"a": 1}, \xff]', "(byte 11) [1]: invalid JSON (unexpected '\\xff'); expected an object"),
        (b'{"a": 1}', "(byte 0): file is an object; expected a JSON array of objects"),
        (b'\n{"data": [{"a": 1}]}', "(byte 1): file is an object; expected a JSON array of objects"),
        (b"", "(byte 0): file is no JSON array; expected a JSON array of objects"),
        (b"12", "(byte 0): file is no JSON array; expected a JSON array of objects"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a24_no_whole_array(content, message, size):
    assert refusal(content, [size]) == message


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize("rest", [b"]", b"x", b"[]", b"{}", b",", b"\0", b"\x0b", MARK])
def test_a16_something_after_the_array(rest, size):
    assert refusal(b"[{}] \n" + rest, [size]) == "(byte 6): extra data after the array; expected the end of the file"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"null", "null"),
        (b"12", "a number"),
        (b"-1", "a number"),
        (b'"{}"', "a string"),
        (b"[{}]", "an array"),
        (b"true", "a boolean"),
        (b"false", "a boolean"),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a17_element_is_no_object(text, kind, size):
    assert refusal(b'[{"a": []}, ' + text + b"]", [size]) == f"(byte 12) [1]: element is {kind}; expected an object"


def fault_in_the_second(text, size=1 << 20):
    """What is said of an element at byte 22, between two that are right; lines end in CR LF."""
    message = refusal(b'[{"a": []}, {"a": []},' + text.replace(b"\n", b"\r\n") + b', {"a": []}]', [size])
    match = re.fullmatch(r"\(byte (\d+)\) (.*)", message)
    assert match is not None
    return int(match[1]) - 22, match[2]


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
def test_a5_no_json_within_an_element(text, place, size):
    found, message = fault_in_the_second(text, size)
    assert found == place
    assert re.fullmatch(r"\[2\]: invalid JSON \(.*\); expected a JSON object", message)


def test_a5_lone_quote_hides_the_end():
    place, message = fault_in_the_second(b'{"a": "b"c"}')
    assert place == 9
    assert message.startswith("[2]: invalid JSON")


def test_a5_lone_quote_hides_the_end_of_a_long_file():
    rows = b", ".join([b'{"a": ["%s"]}' % (b"e" * 1000)] * 20_000)
    content = b'[{"a": "b" "}, ' + rows + b"]"
    assert refusal(content).startswith("(byte 11) [0]: invalid JSON")


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999"])
def test_a7_number_that_is_not_finite(number):
    place, message = fault_in_the_second(b'{"a":\n[{"b": %s}]}' % number)
    assert place in (14, 15)  # of "-Infinity", the sign is not yet wrong
    assert message == "[2].a[0].b: not a finite number; expected a JSON number"


@pytest.mark.parametrize("character", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"])
def test_a9_not_utf8(character):
    assert fault_in_the_second(b'{"a": "%s"}' % character) == (7, "[2]: not UTF-8; expected UTF-8")


@pytest.mark.parametrize("escape", [b"\\ud800", b"\\udc00", b"\\ud800\\u0041"])
def test_a10_lone_surrogate(escape):
    place, message = fault_in_the_second(b'{"a": "%s"}' % escape)
    assert place == 7
    assert "surrogate" in message or "escape" in message


def test_a11_nul():
    assert fault_in_the_second(b'{"a": 1\0}')[0] == 7
    assert "hole of NUL bytes" in fault_in_the_second(b'{"a": 1' + bytes(9) + b"}")[1]


@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809"])
def test_a18_integer_out_of_range(number):
    message = fault_in_the_second(b'{"a": [%s]}' % number)[1]
    assert message == "[2].a[0]: integer out of range; expected one from -2^63 to 2^64 - 1"


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a1_byte_order_mark_inside(size):
    message = "byte order mark inside the file; expected one at byte 0 only"
    assert refusal(b"[{}, " + MARK + b"{}]", [size]) == f"(byte 5) [1]: {message}"
    assert refusal(MARK + MARK + b"[]", [size]).startswith("(byte 3): file is no JSON array")


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a14_nested_100000_deep(opening):
    closing = b"]" if opening == b"[" else b"}"
    deep = b'{"a": ' + opening * 100_000 + b"0" + closing * 100_000 + b"}"
    assert "depth limit" in fault_in_the_second(deep)[1]


def test_a14_as_deep_as_can_be():
    rows = [{"a": 0}, {"a": 0}]
    content = json.dumps(rows).replace('[{"a": 0', '[{"a": ' + "[" * 1022 + "]" * 1022).encode()
    assert len(list(elements([content], "raw"))) == 2


def test_a13_endless_element_is_refused_in_little_memory():
    def chunks():
        yield b'[{"a": [1]}, {"a": "'
        for _ in range(200):
            yield b"e" * (1 << 20)

    tracemalloc.start()
    with pytest.raises(DataError, match=r"\(byte 13\) \[1\]: element is longer than 16 MiB; expected"):
        list(elements(chunks(), "raw"))
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_a13_element_of_16_mib_and_one_byte_more():
    element = b'{"a": "%s"}' % (b"e" * ((1 << 24) - 9))
    assert len(read(b"[" + element + b"]")) == 1
    longer = element.replace(b'"}', b'e"}')
    assert "longer than 16 MiB" in refusal(b"[" + longer + b"]")
    assert "longer than 16 MiB" in refusal(b"[" + longer + b"]", [1 << 26])


STRUCTURE = b'{}[],:"\\'


@pytest.mark.parametrize("size", [3, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_a5_any_damage_is_refused_or_still_json(size, indent):
    rows = [{"a": ["b", 1], "c": "d"}, {"a": ["\\"], "c": {}}, {"a": [], "c": '"'}]
    content = json.dumps(rows, indent=indent).encode()
    damaged = [content[:i] + content[i + 1 :] for i in range(len(content)) if content[i] in STRUCTURE]
    damaged += [content[:i] + bytes([mark]) + content[i:] for i in range(len(content) + 1) for mark in STRUCTURE]
    for text in damaged:
        expected = strict(text)
        if expected is None:
            refusal(text, [size])
        else:
            assert read(text, [size]) == expected, text


class Counting(bytearray):
    """Counts the bytes that are searched for the end of an element."""

    searched = 0

    def find(self, joint, start, end):  # pyright: ignore[reportIncompatibleMethodOverride]
        Counting.searched += min(end, len(self)) - start
        return super().find(joint, start, end)


@pytest.mark.parametrize(
    "row",
    [
        lambda i: {f"k{i}": "v", "n": i},  # what follows an element follows no other one
        lambda i: {"id": i, "ctxs": [{"id": [[]]}, {"id": [[]]}]},
        lambda i: {"id": i, "text": "e" * (i % 97)},
    ],
)
def test_no_byte_is_searched_again_and_again(monkeypatch, row):
    monkeypatch.setattr("text.datasets.formats.json_array.bytearray", Counting, raising=False)
    monkeypatch.setattr(Counting, "searched", 0)
    rows = [row(i) for i in range(5_000)]
    content = json.dumps(rows).encode()
    assert read(content) == rows
    # 8 times the element before, and 1 KiB, at most; not all that is there.
    assert Counting.searched < 50 * len(content)
