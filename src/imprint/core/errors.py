"""The errors that Imprint raises on purpose: each names what, where, the cause and the remedy."""


def spelled(line: str) -> str:
    r"""Spell what cannot be printed: names of files and classes come from anybody, and may steer a terminal.

    Parameters
    ----------
    line : str
        Any text.

    Returns
    -------
    str
        The same on one line.

    Examples
    --------
    >>> print(spelled("two\nlines"))
    two\nlines
    """
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class ImprintError(Exception):
    """Base of every error that Imprint raises on purpose.

    Its text is one line, ``WHAT at WHERE: CAUSE. REMEDY``, as the command line prints it.

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

    def __init__(self, what: str, where: str, cause: str, remedy: str) -> None:
        self.what, self.where, self.cause, self.remedy = what, where, cause, remedy
        super().__init__(spelled(f"{what} at {where}: {cause}. {remedy}"))


class DataError(ImprintError, ValueError):
    """Images or labels that cannot be used as they are.

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
    >>> issubclass(DataError, ImprintError)
    True
    """


class ModelFileError(ImprintError, ValueError):
    """A file that is not a whole Imprint model.

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
    >>> issubclass(ModelFileError, ImprintError)
    True
    """


class UsageError(ImprintError, ValueError):
    """A recipe, option or argument that makes no sense.

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
    >>> issubclass(UsageError, ImprintError)
    True
    """


class StoppedError(ImprintError):
    """A run that Ctrl-C ended before its results were written, with something kept to go on from.

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
    >>> issubclass(StoppedError, ImprintError)
    True
    """
