"""The driver's messages: nobody waits for whoever reads them."""

from __future__ import annotations

import fcntl
import os
import threading

import pytest

from bmcmedic.service import log
from bmcmedic.service.log import Log, is_journal
from bmcmedic.service.runtime import ThreadRuntime

F_SETPIPE_SZ = 1031


def pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    return reading, writing


def test_messages_are_written_in_their_order_and_no_more_than_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "FLUSH_S", 30.0)  # a busy machine is no reader who does not read
    reading, writing = pipe()
    messages = Log(ThreadRuntime(), log.WARNING, fd=writing)
    thread = threading.Thread(target=messages.run)
    thread.start()
    messages.warning("the first")
    messages.info("nobody wants this")
    messages.error("two\nlines")
    assert messages.stop()
    thread.join()
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as got:
        assert got.read().splitlines() == [
            "bmcmedic driver: warning: the first",
            "bmcmedic driver: error: two",
            "bmcmedic driver: error: lines",
        ]


def test_whoever_does_not_read_holds_nobody_up() -> None:
    reading, writing = pipe()
    messages = Log(ThreadRuntime(), fd=writing)
    thread = threading.Thread(target=messages.run)
    thread.start()
    for number in range(5000):  # far more than the pipe holds
        messages.info(f"message {number} {'x' * 80}")
    assert not messages.stop()  # it waits for the reader, but not for ever
    with os.fdopen(reading, "rb", buffering=0) as got:
        text = b""
        while b"were lost" not in text:
            text += got.read(65536)
    thread.join()
    os.close(writing)
    assert b"message 4999 " in text


def test_without_stderr_it_goes_on() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    messages = Log(ThreadRuntime(), fd=writing)
    messages.error("nobody hears it")
    messages.write_waiting()
    assert messages.level == log.INFO
    assert not is_journal(writing, os.environ)


def test_the_journal_is_told_how_bad_it_is() -> None:
    reading, writing = os.pipe()
    about = os.fstat(writing)
    environment = {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
    assert is_journal(writing, environment)
    assert not is_journal(reading, environment | {"JOURNAL_STREAM": "1:1"})
    messages = Log(ThreadRuntime(), fd=writing, environment=environment)
    messages.warning("one\ntwo")
    messages.write_waiting()
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as got:
        assert got.read() == "<4>one\n<4>two\n"
