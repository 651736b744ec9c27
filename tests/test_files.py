import pytest

from imprint import UsageError
from imprint.files import written_whole


def test_a_failure_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_once_whole(tmp_path):
    path = tmp_path / "result.csv"
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_a_missing_folder_is_refused(tmp_path):
    with (
        pytest.raises(UsageError, match="cannot be written"),
        written_whole(tmp_path / "no" / "a.csv") as temporary,
    ):
        temporary.write_text("x")
