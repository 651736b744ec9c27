import sys
from types import SimpleNamespace

import pytest

from imprint.core import notebook
from imprint.core.notebook import in_notebook
from imprint.core.progress import progress_bar, say, shown, warn


@pytest.fixture
def displayed(monkeypatch):
    """Make this process the kernel of a notebook, and give what it displays."""
    messages = []

    def display(data, **options):
        assert options == {"raw": True, "display_id": True}
        messages.append(data)
        return SimpleNamespace(update=lambda data, raw: messages.append(data))

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(notebook, "REFRESH", 0)
    return messages


def test_a_bar_is_updated_in_place_and_gone_at_the_end(displayed, capsys):
    with shown(), progress_bar("reading <b>", 4) as advance:
        for _ in range(4):
            advance()
    assert [data["text/plain"].split(",")[0] for data in displayed] == [
        *(f"reading <b> {percent} %" for percent in (0, 25, 50, 75, 100)),
        "",
    ]
    assert 'value="3"' in displayed[3]["text/html"]
    assert "0 s left" in displayed[3]["text/html"]
    assert "reading &lt;b&gt;" in displayed[0]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_it_is_gone_after_a_failure_too(displayed):
    with pytest.raises(ZeroDivisionError), shown(), progress_bar("reading", 4):
        raise ZeroDivisionError
    assert displayed[-1] == {"text/html": "", "text/plain": ""}


def test_updates_are_few(displayed, monkeypatch):
    monkeypatch.setattr(notebook, "REFRESH", 60)
    with shown(), progress_bar("reading", 1000) as advance:
        for _ in range(1000):
            advance()
    assert len(displayed) == 2


def test_only_warnings_stand_on_stderr_which_a_notebook_shows_in_red(displayed, capsys):
    with shown():
        say("how it goes")
        warn("what may be wrong")
    assert capsys.readouterr() == ("how it goes\n", "warning: what may be wrong\n")


def test_nothing_is_shown_where_messages_are_muted(displayed):
    with shown(verbose=False), progress_bar("reading", 1) as advance:
        advance()
    assert displayed == []


def test_a_terminal_is_no_notebook(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not in_notebook()
    for shell in (None, SimpleNamespace()):  # a module that imported IPython; IPython in a terminal
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert not in_notebook()
