import pytest

from imprint import DataError, ImprintError, ModelFileError, UsageError


@pytest.mark.parametrize("kind", [DataError, ModelFileError, UsageError])
def test_one_line_whatever_it_quotes(kind):
    error = kind("cell 'a\nb'", "x\t.csv", "bad\x1b[31m", "Mend it.")
    assert str(error) == r"cell 'a\nb' at x\t.csv: bad\x1b[31m. Mend it."
    assert isinstance(error, ImprintError)
    assert isinstance(error, ValueError)
