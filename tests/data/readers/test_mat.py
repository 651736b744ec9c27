import numpy as np
import pytest
from scipy.io import savemat

from imprint import DataError, InputSpec, load
from imprint.data.load import parts

COLOUR = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)  # n h w c


@pytest.fixture
def mat(tmp_path):
    def write(name="train_32x32.mat", **arrays):
        options = {key: arrays.pop(key) for key in ("format", "do_compression") if key in arrays}
        savemat(tmp_path / name, arrays, **options)
        return tmp_path / name

    return write


@pytest.mark.parametrize("options", [{"do_compression": True}, {}])
def test_svhn(mat, options):
    images = load(mat(X=COLOUR.transpose(1, 2, 3, 0), y=np.array([[10, 1, 2, 10, 1, 2, 3]]).T, **options))
    assert np.array_equal(images.pixels, COLOUR.transpose(0, 3, 1, 2))
    assert images.class_counts() == {"1": 2, "2": 2, "3": 1, "10": 2}
    assert images.sources[0] == "train_32x32.mat#1"


def test_its_parts_lie_in_a_folder(mat, tmp_path, caplog):
    caplog.set_level("INFO", logger="imprint")
    for name, count in (("train", 7), ("test", 3), ("extra", 5)):
        mat(f"{name}_32x32.mat", X=COLOUR.transpose(1, 2, 3, 0)[..., :count], y=np.arange(count)[:, None])
    assert parts(tmp_path) == ("train", "test")
    assert [len(load(tmp_path, part=part)) for part in (None, "test")] == [7, 3]
    assert "left out 1 files of" in caplog.messages[0]
    assert "extra_32x32.mat" in caplog.messages[0]


@pytest.mark.parametrize(
    "stack", [COLOUR[..., 0].transpose(1, 2, 0), COLOUR[..., 0], COLOUR, COLOUR[..., :1].transpose(1, 2, 3, 0)]
)
def test_the_labels_tell_the_axis_of_the_images(mat, stack):
    images = load(mat(images=stack, labels=np.arange(7)))
    assert np.array_equal(images.pixels[:, 0], COLOUR[..., 0])


def test_rows_are_read_column_by_column(mat, digits):
    rows = digits.pixels[:20, 0].transpose(0, 2, 1).reshape(20, 64)
    for fea in (rows, rows.T):
        images = load(mat(fea=fea, gnd=digits.labels[:20][:, None]))
        assert np.array_equal(images.pixels, digits.pixels[:20])
    plain = digits.pixels[:20].reshape(20, 64).T
    images = load(mat(data=plain, label=digits.labels[:20][None], mldata_descr_ordering=np.array([1, 2])))
    assert np.array_equal(images.pixels, digits.pixels[:20])


def test_deep_numbers_get_a_range_or_that_of_a_model(mat):
    path = mat(X=COLOUR[..., 0].transpose(1, 2, 0) * np.uint16(16), y=np.arange(7))
    images = load(path)
    assert images.pixel_range[1] > 3000
    assert images.sources[6] == "train_32x32.mat#7"
    assert load(path, spec=InputSpec.from_shape(images.shape, (0, 65535))).pixels.max() == 16


def test_logical_and_shares_become_bytes(mat):
    assert load(mat(X=COLOUR[..., 0].transpose(1, 2, 0) > 99, y=np.arange(7))).pixels.max() == 255
    assert load(mat(X=COLOUR[..., 0].transpose(1, 2, 0) / 255, y=np.arange(7))).pixels.max() > 200


def test_what_is_no_array_of_numbers_is_refused(mat, tmp_path):
    boxed = np.empty(3, dtype=object)
    boxed[:] = [COLOUR[0], COLOUR[1], "x"]
    for arrays, words in (
        ({"X": boxed}, r"it holds X \(cell\). Take them out of the cell or struct"),
        ({"dataset": {"images": COLOUR}}, r"it holds dataset \(struct\)"),
        ({"accuracy": np.ones(3)}, "no array of numbers is called X, images or data"),
        ({"X": COLOUR, "images": COLOUR}, "X and images could both be meant"),
        ({"X": COLOUR, "y": np.arange(6)}, r"that is no stack of images beside 6 labels"),
        ({"X": COLOUR, "y": np.array([0.5] * 7)}, "they are no list of whole numbers"),
        ({"X": COLOUR[0, 0]}, "that is no stack of images"),
    ):
        with pytest.raises(DataError, match=words):
            load(mat(**arrays))


def test_damage_and_bombs_are_refused(mat, tmp_path):
    path = mat(X=COLOUR, y=np.arange(7), do_compression=True)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:200], whole[:300], whole[:126] + b"IM" + b"\x0f\0\0\0\x08\0\0\0" + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(DataError):
            load(path)
    with pytest.raises(DataError, match="would grow to more than"):
        load(mat(X=np.zeros((300, 300, 300), dtype=np.uint8), do_compression=True))
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform" + bytes(600))
    with pytest.raises(DataError, match=r"of version 7.3, that is HDF5"):
        load(path)
