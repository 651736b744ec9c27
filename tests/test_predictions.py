import csv
import io

import numpy as np
import pytest

from imprint import Predictions, UsageError


def predictions(sources, names=("cat", "dog, big")):
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], dtype=np.float32)
    doubt = np.array([4.7, 6.2, 5.1], dtype=np.float32)
    return Predictions(probabilities, names, np.array(sources), doubt, unsure_above=6.0)


def test_kaggles_form_counts_from_one_in_order(tmp_path):
    path = tmp_path / "result.csv"
    predictions([5, 9, 7]).write_csv(path)
    assert path.read_bytes() == b'ImageId,Label\n1,cat\n2,"dog, big"\n3,"dog, big"\n'


def test_other_data_get_all_facts():
    text = predictions(["a.png", "b\n.png", "c.png"]).to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[1] == {"source": "b\n.png", "label": "dog, big", "confidence": "0.6000", "unsure": "yes"}
    assert [row["unsure"] for row in rows] == ["no", "yes", "no"]


def test_a_failed_write_leaves_the_former_result(tmp_path, monkeypatch):
    path = tmp_path / "result.csv"
    path.write_text("former")
    monkeypatch.setattr("imprint.files.os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UsageError, match="No space left"):
        predictions([1, 2, 3]).write_csv(path)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]
