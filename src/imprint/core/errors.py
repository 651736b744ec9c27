"""The errors that Imprint raises on purpose: each names what is wrong, where, the cause and the remedy."""

from collections.abc import Iterable


def spelled(line: str) -> str:
    """Escape unprintable characters: names of files and classes are not trusted and could steer a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def brief(thing: object, words: str) -> str:
    """Make a repr of one line: the class, and what tells this object from others."""
    return f"<{type(thing).__name__} {spelled(words)}>"


def closest(word: str, choices: Iterable[str]) -> list[str]:
    """Give the choices that are spelt most like a word, in any case, the likeliest first."""
    from difflib import get_close_matches

    forms: dict[str, str] = {}
    for choice in choices:
        forms.setdefault(_form(choice), choice)
    return [forms[form] for form in get_close_matches(_form(word), forms)]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Ask whether a choice that is spelt alike was meant, with a blank after it; empty where none is."""
    found = closest(word, choices)
    return f"Did you mean {found[0]}? " if found else ""


def _form(word: str) -> str:
    return word.lower().replace("-", "_")


class ImprintError(Exception):
    """Base class of every error that Imprint raises on purpose.

    Its text is one line, ``WHAT at WHERE: CAUSE. REMEDY``, as the command line prints it. The four parts are attributes
    of the same names, unprintable characters included; in the text these are escaped.

    Parameters
    ----------
    what : str
        The thing that is wrong, e.g. ``"pixel 256"``.
    where : str
        The place: file, row, column or option.
    cause : str
        Why it cannot be used, without a full stop.
    remedy : str
        What the reader can do about it, one sentence.

    Examples
    --------
    >>> str(ImprintError("pixel 256", "a.csv row 1", "too bright", "Clip it."))
    'pixel 256 at a.csv row 1: too bright. Clip it.'
    """

    muted: bool | None = None  # whether another of several processes tells it; None where nobody has settled that

    def __init__(self, what: str, where: str, cause: str, remedy: str) -> None:
        self.what, self.where, self.cause, self.remedy = what, where, cause, remedy
        super().__init__(spelled(f"{what} at {where}: {cause}. {remedy}"))


class DataError(ImprintError, ValueError):
    """Images or labels that cannot be used as they are.

    Parameters
    ----------
    what, where, cause, remedy : str
        The four parts of the message, as in `ImprintError`.

    Examples
    --------
    >>> issubclass(DataError, ImprintError)
    True
    """


class ModelFileError(ImprintError, ValueError):
    """A file that is not a complete Imprint model.

    Parameters
    ----------
    what, where, cause, remedy : str
        The four parts of the message, as in `ImprintError`.

    Examples
    --------
    >>> issubclass(ModelFileError, ImprintError)
    True
    """


class UsageError(ImprintError, ValueError):
    """A recipe, option or argument that makes no sense.

    Parameters
    ----------
    what, where, cause, remedy : str
        The four parts of the message, as in `ImprintError`.

    Examples
    --------
    >>> issubclass(UsageError, ImprintError)
    True
    """


class StoppedError(ImprintError):
    """Ctrl-C ended a run before its results were written, but it left a checkpoint to resume from."""


def missing_package(error: ModuleNotFoundError, where: str, otherwise: str) -> UsageError:
    """Say that a package is not installed which only some work needs, and how to do without."""
    name = (error.name or "").split(".")[0]
    return UsageError(f"package {name}", where, "it is not installed", f"pip install {name}, or {otherwise}.")
