from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys

import pytest

from kworker.observe import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours = logging.getLogger("kworker")
    before = ours.handlers[:], ours.level, ours.propagate
    yield
    ours.handlers[:], ours.level, ours.propagate = before


def written(log_format, *, stream=None, level=logging.INFO) -> tuple[logging.Logger, io.StringIO]:
    stream = stream or io.StringIO()
    log.configure(log_format, level, stream)
    return logging.getLogger("kworker.test"), stream


def test_json_is_one_object_a_line_with_every_field():
    logger, stream = written("json")

    logger.warning("retrying %s", "now", extra={"handler": "shop.charge", "attempt": 2})

    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "kworker.test",
        "message": "retrying now",
        "handler": "shop.charge",
        "attempt": 2,
    }


def test_marks_are_on_every_line_and_gone_with_the_next_set_up():
    logger, stream = written("json")

    log.mark(worker=2)
    logger.info("first", extra={"attempt": 1})
    logger.getChild("room").info("second")

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [one["worker"] for one in lines] == [2, 2]
    assert lines[0]["attempt"] == 1
    logger, stream = written("json")
    logger.info("third")
    assert "worker" not in json.loads(stream.getvalue())


def test_json_stays_one_line_whatever_is_logged():
    logger, stream = written("json")
    endless: dict[str, object] = {}
    endless["self"] = endless

    logger.error("a\nb\u2028\ud800", extra={"key": b"\xff\n", "where": object(), "time": 1})
    logger.error("loop", extra={"value": endless, "ratio": float("nan"), "pair": {(1, 2): 3}})

    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["message"] == "a\nb\u2028\ud800"
    assert json.loads(first)["key"] == "\\xff\n"
    assert json.loads(first)["time_"] == 1
    assert json.loads(second, parse_constant=pytest.fail)["message"] == "loop"


def test_an_exception_is_a_field_in_json_and_indented_on_the_console():
    for log_format in ("json", "console"):
        logger, stream = written(log_format)

        try:
            raise ValueError("no\x1b[31m")
        except ValueError:
            logger.exception("failed")

        text = stream.getvalue()
        if log_format == "json":
            assert "ValueError: no" in json.loads(text)["error"]
        else:
            assert text.splitlines()[1].startswith("  Traceback")
            assert "\x1b" not in text


def test_the_console_is_short_and_shows_fields():
    logger, stream = written("console")

    logger.info("handed over", extra={"handler": "shop.charge", "why": "two words", "took": 0.25})

    assert re.fullmatch(
        r'\d\d:\d\d:\d\d INFO    handed over  handler=shop\.charge why="two words" took=0\.25\n',
        stream.getvalue(),
    )


def test_the_console_shortens_what_is_long():
    logger, stream = written("console")

    logger.info("x", extra={"topics": ["a", "b"], "value": "v" * 1000})

    assert stream.getvalue().endswith(f"x  topics=a,b value={'v' * 99}…\n")


@pytest.mark.parametrize("evil", ["\x1b[2J", "\r", "\n", "\x9b", "\u202e", "\x00", "\u2028"])
def test_nothing_logged_can_move_a_terminals_cursor(evil):
    logger, stream = written("console", stream=Terminal())

    logger.info(f"key {evil}", extra={"key": evil})

    lines = stream.getvalue()
    assert lines.count("\n") == 1
    for ours in ("\x1b[36m", "\x1b[2m", "\x1b[0m"):
        lines = lines.replace(ours, "")
    assert evil not in lines.rstrip("\n")


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    def coloured(stream) -> bool:
        logger, stream = written("console", stream=stream)
        logger.info("x")
        return "\x1b[" in stream.getvalue()

    assert coloured(Terminal())
    assert not coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not coloured(Terminal())


def test_without_a_format_a_terminal_gets_the_console_and_everything_else_json():
    for stream, start in ((Terminal(), ""), (io.StringIO(), "{")):
        logger, stream = written(None, stream=stream)

        logger.info("x")

        assert stream.getvalue().startswith(start)
        assert stream.getvalue().startswith("{") == (start == "{")


def test_what_is_below_the_level_is_not_written():
    logger, stream = written("console", level=logging.WARNING)

    logger.info("x")

    assert stream.getvalue() == ""


def test_configuring_again_replaces_and_does_not_repeat(monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    written("json")
    logger, stream = written("console")

    logger.info("x")
    logging.getLogger("somebody.else").warning("y")

    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["x", "y"]


def test_who_imports_kworker_keeps_their_own_logging():
    program = (
        "import logging, kworker, kworker.observe.log\n"
        "print(logging.getLogger().handlers, logging.getLogger('kworker').handlers)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.strip() == "[] []"
