import io
import logging
import re
import sys
import threading

import pytest

from imprint.core import progress
from imprint.core.progress import (
    detail,
    details_too,
    duration,
    logger,
    progress_bar,
    say,
    shown,
    stage,
    track,
    warn,
    warnings_only,
)

# Pytest's caplog listens at the root logger, so that it gets what propagates; `caplog.set_level(…, logger="imprint")`
# makes a test a host program that has configured the logger.


def state():
    return logger.level, list(logger.handlers), logger.propagate, logger.disabled


@pytest.fixture(autouse=True)
def unchanged_logger():
    before = state()
    yield
    assert state() == before


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    """Make stderr a terminal: within the test, since pytest replaces it after the fixtures."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def test_messages_reach_stderr_only_while_shown(capsys):
    say("before")
    warn("before")
    with shown():
        say("now")
        warn("now")
    say("after")
    warn("after")
    assert capsys.readouterr() == ("", "now\nwarning: now\n")


def test_a_message_is_one_printable_line(capsys):
    with shown():
        say("two\nlines, \x1b[31m")
    assert capsys.readouterr().err == "two\\nlines, \\x1b[31m\n"


def test_shown_within_shown_prints_once(capsys):
    with shown(), shown():
        say("inner")
    assert capsys.readouterr().err == "inner\n"
    with shown():
        with shown():
            pass
        say("still shown")
    assert capsys.readouterr().err == "still shown\n"


def test_verbose_false_mutes_even_within_shown(capsys, caplog):
    with shown():
        with shown(verbose=False):
            say("muted")
            warn("muted")
        say("shown")
    assert capsys.readouterr().err == "shown\n"
    assert caplog.messages == []


def test_verbose_false_mutes_the_hosts_handlers_too(caplog):
    caplog.set_level("INFO", logger="imprint")
    with shown(verbose=False):
        say("muted")
    say("heard")
    assert caplog.messages == ["heard"]


def test_a_level_of_the_host_sends_records_to_it_and_nothing_to_stderr(capsys, caplog):
    caplog.set_level("INFO", logger="imprint")
    with shown():
        say("one")
        warn("two")
    assert caplog.messages == ["one", "warning: two"]
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert capsys.readouterr().err == ""


def test_a_handler_of_the_host_prints_alone(capsys):
    own = logging.StreamHandler(sys.stderr)
    logger.addHandler(own)
    try:
        with shown():
            warn("once")
            say("below the root logger's level")
    finally:
        logger.removeHandler(own)
    assert capsys.readouterr().err == "warning: once\n"


def test_a_handler_of_the_root_logger_does_not_repeat_what_is_shown(capsys, caplog):
    root, own = logging.getLogger(), logging.StreamHandler(sys.stderr)
    caplog.set_level("INFO")
    root.addHandler(own)
    try:
        with shown():
            say("shown")
        assert capsys.readouterr().err == "shown\n"
        assert caplog.messages == []
        say("logged")
        assert capsys.readouterr().err == "logged\n"
        assert caplog.messages == ["logged"]
    finally:
        root.removeHandler(own)


@pytest.mark.parametrize("propagate", [True, False])
@pytest.mark.parametrize("verbose", [True, False])
def test_the_logger_is_as_before_even_after_a_failure(propagate, verbose):
    logger.propagate = propagate
    before = state()
    try:
        with pytest.raises(ZeroDivisionError), shown(verbose):
            raise ZeroDivisionError
        assert state() == before
    finally:
        logger.propagate = True  # before the test ends: pytest listens at loggers that do not propagate


def test_a_bar_is_drawn_and_messages_stand_above_it(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with shown():
        for number in track([1, 2], "reading", 2):
            say(f"[bold] image {number}")
    assert "reading" in terminal.getvalue()
    assert all(terminal.getvalue().count(f"[bold] image {number}\n") == 1 for number in (1, 2))


def test_no_bar_where_messages_are_not_shown(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with progress_bar("reading", 1) as advance:
        advance()
    with shown(), shown(verbose=False), progress_bar("reading", 1) as advance:
        advance()
    assert terminal.getvalue() == ""


def test_no_bar_without_a_terminal(capsys):
    with shown():
        assert list(track(iter("ab"), "reading", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_details_are_shown_only_where_asked_for_and_never_against_quiet(capsys):
    with shown():
        detail("kept back")
        with details_too():
            detail("told")
        with warnings_only(), details_too():
            detail("kept back")
            say("kept back")
    assert capsys.readouterr().err == "told\n"


def test_without_a_terminal_a_line_tells_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 0.01)
    with shown(), progress_bar("training", 4) as advance:
        advance()
        lines = ""
        while "25 %" not in lines:
            lines += capsys.readouterr().err
    assert re.fullmatch(r"training: 25 %, about \d+ s left", lines.splitlines()[-1])
    told = threading.active_count()
    with shown(), progress_bar("training", 4):
        assert threading.active_count() == told + 1
    assert threading.active_count() == told


def test_a_line_of_ones_own_breaks_the_silence(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LONGEST_SILENCE", 1e6)
    with shown(), progress_bar("training", 4) as advance:
        say("epoch 1")
        advance()
    assert capsys.readouterr().err == "epoch 1\n"


def test_bars_within_a_stage_fill_it(monkeypatch):
    terminal = open_terminal(monkeypatch)
    filled = []
    monkeypatch.setattr(
        progress._Bar,
        "fill",
        lambda bar, done, fill=progress._Bar.fill: (fill(bar, done), filled.append((bar.total, bar.done))),
    )
    with shown(), progress_bar("whole", 100.0):
        with stage(20.0), progress_bar("first", 4) as advance:
            advance()
            with progress_bar("within the first", 1) as advance_inner:
                advance_inner()  # is of no stage, so it moves nothing
        with stage(60.0):
            assert list(track("ab", "second", 2)) == ["a", "b"]
        with progress_bar("of no stage", 1) as advance:
            advance()
    whole = [done for total, done in filled if total == 100.0]
    assert whole == [5.0, 20.0, 50.0, 80.0, 80.0]
    assert "whole" in terminal.getvalue()
    assert "first" not in terminal.getvalue()


def test_a_stage_without_a_bar_changes_nothing(capsys):
    with shown(), stage(3.0):
        say("said")
    assert capsys.readouterr().err == "said\n"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (7.4, "7 s"), (94, "94 s"), (145, "2 min"), (1260, "21 min"), (9000, "2.5 h")]
)
def test_durations_have_two_digits(seconds, words):
    assert duration(seconds) == f"about {words}"


def test_a_process_without_stderr_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with shown(), progress_bar("reading", 1) as advance:
        say("into the void")
        advance()
