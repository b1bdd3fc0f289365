"""The lines of the driver's socket, as bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bmcmedic.driver.parking import PARK_S_MAX, PARK_S_MIN
from bmcmedic.driver.socket.errors import MESSAGE_CHARS_MAX, ErrorKind
from bmcmedic.driver.socket.protocol import (
    ANSWER_LINE_BYTES_MAX,
    DATA_BYTES_MAX,
    DEADLINE_S_DEFAULT,
    DEADLINE_S_MAX,
    ID_MAX,
    LINE_BYTES_MAX,
    SECONDS_MAX,
    AnswerFrame,
    BadLine,
    CancelAnswer,
    CancelFrame,
    ClientFrame,
    ErrorFrame,
    LineReader,
    LineTooLong,
    ParkAnswer,
    ParkFrame,
    RequestFrame,
    ServerFrame,
    StatusAnswer,
    StatusFrame,
    WatchdogAction,
    WatchdogAnswer,
    WatchdogFrame,
    decode_answer,
    decode_question,
    encode_answer,
    encode_question,
)
from bmcmedic.transport.in_band import Ipmb

IDS = st.integers(0, ID_MAX)
OCTETS = st.integers(0, 255)
TEXT = st.text(max_size=MESSAGE_CHARS_MAX)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=9), JSON, max_size=4)

QUESTIONS: st.SearchStrategy[ClientFrame] = st.one_of(
    st.builds(
        RequestFrame,
        IDS,
        st.integers(0, 0x1F).map(lambda half: half * 2),
        OCTETS,
        st.binary(max_size=DATA_BYTES_MAX),
        st.integers(0, 3),
        st.none() | st.builds(Ipmb, st.integers(0, 15), OCTETS, st.integers(0, 3)),
        st.floats(0, DEADLINE_S_MAX),
        st.booleans(),
    ),
    st.builds(StatusFrame, IDS),
    st.builds(
        WatchdogFrame,
        IDS,
        st.sampled_from([each for each in WatchdogAction if each is not WatchdogAction.LENGTHEN]),
    ),
    st.builds(WatchdogFrame, IDS, st.just(WatchdogAction.LENGTHEN), st.floats(0, SECONDS_MAX)),
    st.builds(CancelFrame, IDS, IDS),
    st.builds(ParkFrame, IDS, st.none() | st.floats(PARK_S_MIN, PARK_S_MAX)),
)
ANSWERS: st.SearchStrategy[ServerFrame] = st.one_of(
    st.builds(
        AnswerFrame,
        IDS,
        OCTETS,
        st.binary(max_size=DATA_BYTES_MAX),
        st.none() | st.floats(0, 1e9),
        st.none() | TEXT,
    ),
    st.builds(StatusAnswer, IDS, OBJECTS),
    st.builds(WatchdogAnswer, IDS, OBJECTS),
    st.builds(CancelAnswer, IDS, st.booleans()),
    st.builds(ParkAnswer, IDS, st.none() | OBJECTS),
    st.builds(
        ErrorFrame,
        st.none() | IDS,
        st.sampled_from(ErrorKind),
        TEXT,
        st.none() | st.just({"section": "9", "raw": "1c"}),
    ),
)


@given(QUESTIONS)
def test_questions_come_back_as_they_were(frame: ClientFrame) -> None:
    line = encode_question(frame)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) <= LINE_BYTES_MAX
    assert decode_question(line[:-1]) == frame


@given(ANSWERS)
def test_answers_come_back_as_they_were(frame: ServerFrame) -> None:
    line = encode_answer(frame)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) <= ANSWER_LINE_BYTES_MAX
    assert decode_answer(line[:-1]) == frame


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 4000)
@example(b'{"id":' * 600)
@example(b'{"id":1,"netfn":' + b"9" * 4000 + b',"command":1}')
@example(b'{"id":1,"netfn":6,"command":1,"deadline_s":' + b"9" * 4000 + b"}")
@example(b'{"id":1,"netfn":6,"command":1,"deadline_s":1e999}')
@example(b'{"id":"\\ud800"}')
@example(b"\xff\xfe{}")
@example(b"")
def test_garbage_is_a_bad_line_and_nothing_else(line: bytes) -> None:
    for decode in (decode_question, decode_answer):
        with pytest.raises(BadLine) as caught:
            decode(line)
        ErrorFrame(None, ErrorKind.BAD_REQUEST, str(caught.value))
        assert len(str(caught.value)) <= MESSAGE_CHARS_MAX


GOOD: dict[str, Any] = {"id": 7, "netfn": 6, "command": 1}


@given(
    st.sampled_from(
        ["id", "op", "netfn", "lun", "command", "data", "deadline_s", "bridge", "accept_old"]
    ),
    JSON,
)
def test_any_value_in_any_field_is_taken_or_is_a_bad_line(key: str, value: object) -> None:
    line = json.dumps({**GOOD, key: value}).encode()
    try:
        frame = decode_question(line)
    except BadLine:
        return
    if isinstance(frame, RequestFrame):
        assert 2 <= len(frame.message) <= 2 + DATA_BYTES_MAX
        assert math.isfinite(frame.deadline_s)


def test_what_a_person_types_is_enough() -> None:
    frame = decode_question(b'{"id": 1, "netfn": 6, "command": 1, "data": "01 0a"} ')
    assert frame == RequestFrame(1, 6, 1, b"\x01\x0a")
    assert frame.deadline_s == DEADLINE_S_DEFAULT
    assert frame.message == b"\x18\x01\x01\x0a"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"netfn": 7}, "netfn of a request must be even"),
        ({"netfn": 64}, "netfn must be an integer from 0 to 62"),
        ({"netfn": True}, "netfn must be an integer"),
        ({"netfn": 6.0}, "netfn must be an integer"),
        ({"command": 256}, "command must be an integer from 0 to 255"),
        ({"lun": 4}, "lun must be an integer from 0 to 3"),
        ({"data": "0"}, "data must be text of hexadecimal digits"),
        ({"data": [1]}, "data must be text of hexadecimal digits"),
        ({"data": "00" * (DATA_BYTES_MAX + 1)}, f"data may have at most {DATA_BYTES_MAX} bytes"),
        ({"deadline_s": -1}, "deadline_s must be a number of seconds"),
        ({"deadline_s": 300.5}, "deadline_s must be a number of seconds up to 300"),
        ({"deadline_s": "5"}, "deadline_s must be a number of seconds"),
        ({"accept_old": 1}, "accept_old must be true or false"),
        ({"bridge": 44}, "bridge must be an object"),
        ({"bridge": {"channel": 6}}, "bridge.address is missing"),
        (
            {"bridge": {"channel": 16, "address": 44}},
            "bridge.channel must be an integer from 0 to 15",
        ),
        ({"bridge": {"channel": 6, "address": 44, "to": 1}}, "no key bridge.to"),
        ({"netfunc": 6}, "no key netfunc"),
        ({"op": "reset"}, "op must be request, status, watchdog, cancel, park or resume"),
        ({"op": "status"}, "no key netfn"),
        ({"op": ["status"]}, "op must be text"),
    ],
)
def test_what_is_wrong_is_said_under_the_id_that_asked(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadLine, match=told) as caught:
        decode_question(json.dumps({**GOOD, **change}).encode())
    assert caught.value.frame_id == 7


@pytest.mark.parametrize("bad_id", [None, -1, 2**53, 1.5, True, "1", [1]])
def test_an_id_is_an_integer_that_every_json_reader_keeps(bad_id: object) -> None:
    with pytest.raises(BadLine, match="id must be an integer") as caught:
        decode_question(json.dumps({**GOOD, "id": bad_id}).encode())
    assert caught.value.frame_id is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            b'{"id":1,"op":"watchdog","action":"stop"}',
            "action must be get, lengthen, disarm or resume",
        ),
        (b'{"id":1,"op":"watchdog","action":"lengthen"}', "seconds is missing"),
        (b'{"id":1,"op":"watchdog","action":"lengthen","seconds":6553.6}', "up to 6553.5"),
        (b'{"id":1,"op":"watchdog","action":"disarm","seconds":9}', "no key seconds"),
        (b'{"id":1,"op":"cancel"}', "cancel is missing"),
        (b'{"id":1,"op":"park","seconds":0.5}', "seconds must be 1 to 3600"),
        (b'{"id":1,"op":"park","seconds":3601}', "up to 3600"),
        (b'{"id":1,"op":"resume","seconds":5}', "no key seconds"),
        (b'{"id":1,"netfn":6,"command":1,"deadline_s":NaN}', "NaN is not JSON"),
        (b'{"id":1,"netfn":6,"command":1', "not JSON"),
        (b"[1]", "one JSON object"),
    ],
)
def test_orders_and_broken_json_are_refused_in_words(line: bytes, told: str) -> None:
    with pytest.raises(BadLine, match=told):
        decode_question(line)


def test_what_a_newer_driver_says_besides_is_passed_over() -> None:
    line = b'{"id":1,"completion_code":0,"data":"20","age_s":null,"colour":"blue"}'
    assert decode_answer(line) == AnswerFrame(1, 0, b"\x20")
    line = b'{"id":1,"error":{"kind":"bored","message":"no"}}'
    assert decode_answer(line) == ErrorFrame(1, ErrorKind.FAILED, "no")


def test_an_answer_too_long_for_a_line_is_not_made() -> None:
    with pytest.raises(LineTooLong):
        encode_answer(StatusAnswer(1, {"text": "x" * ANSWER_LINE_BYTES_MAX}))


def test_a_message_too_long_is_cut() -> None:
    frame = decode_answer(encode_answer(ErrorFrame(1, ErrorKind.FAILED, "x" * 9999)))
    assert isinstance(frame, ErrorFrame)
    assert len(frame.message) == MESSAGE_CHARS_MAX


@given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_however_the_bytes_arrive(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    reader = LineReader(64)
    seen = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        while reader.has_line:
            seen.append(reader.next_line())
        assert reader.next_line() is None
    assert seen == lines
    assert reader.held_bytes == 0


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n{}\n"])
def test_a_line_has_a_largest_length(tail: bytes) -> None:
    fits = LineReader(8)
    fits.feed(b"1234567\nx")
    assert fits.next_line() == b"1234567"
    reader = LineReader(8)
    reader.feed(b"12345678" + tail)
    assert reader.has_line
    for _ in range(2):
        with pytest.raises(LineTooLong, match="at most 8 bytes"):
            reader.next_line()
