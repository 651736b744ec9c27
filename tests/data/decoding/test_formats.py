import gzip
import pickle
import zipfile
from io import BytesIO

import numpy as np
import pytest

from imprint import DataError, load
from imprint.data.decoding.formats import is_heic, name_format


def zipped(name):
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x")
    return file.getvalue()


def box(brand, *others):
    size = 16 + 4 * len(others)
    return size.to_bytes(4) + b"ftyp" + brand + bytes(4) + b"".join(others) + bytes(100)


FORMATS = {  # name of the file, its content, what is said, and the step
    "dicom": ("scan.dcm", bytes(128) + b"DICM" + bytes(300), "DICOM", "Convert it to PNG"),
    "dicom by its bytes": ("IM-0001", bytes(128) + b"DICM" + bytes(300), "DICOM", "Convert it"),
    "hdf5": ("data.h5", b"\x89HDF\r\n\x1a\n" + bytes(300), "HDF5", "Save its arrays with numpy.savez"),
    "matlab 7.3": ("a.mat", b"MATLAB 7.3 MAT-file" + bytes(600), "of version 7.3, that is HDF5", "save -v7"),
    "cifar's pickle": (
        "data_batch_1",
        pickle.dumps({b"data": 1}, 2),
        "a Python pickle, which could run code",
        "binary",
    ),
    "old pickle": ("a.pkl", pickle.dumps([1], 0), "a Python pickle", "numpy.savez"),
    "torch": ("weights.pth", zipped("archive/data.pkl"), "a PyTorch file", "numpy.savez"),
    "tfrecord": ("train.tfrecord-00000-of-00002", bytes(50), "TFRecord", "class folders"),
    "canon": ("a.CR2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(50), "a camera's RAW", "Export it"),
    "photoshop": ("a.psd", b"8BPS\0\1" + bytes(50), "PSD, a Photoshop document", "Export it"),
    "jpeg 2000": ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9), "JPEG 2000", "Convert it"),
    "jpeg xl": ("a.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9), "JPEG XL", "Convert it"),
    "svg": ("a.svg", b'<?xml version="1.0"?>\n<svg/>', "SVG, a drawing", "Export it"),
    "pdf": ("a.pdf", b"%PDF-1.7", "PDF", "Save its pages"),
    "quicktime": ("a.MOV", box(b"qt  "), "a video", "Save frames"),
    "mp4": ("a", box(b"isom", b"mp42"), "a video", "Save frames"),
    "rar": ("a.rar", b"Rar!\x1a\x07\0", "a RAR archive", "Unpack it"),
    "7z": ("a.7z", b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it"),
    "excel": ("a.xlsx", zipped("[Content_Types].xml"), "an Excel workbook", "Save the sheet as CSV"),
    "nifti": ("a.nii", bytes(344) + b"n+1\0", "NIfTI", "Save its slices"),
    "nifti gzipped": ("brain.nii.gz", gzip.compress(bytes(344) + b"n+1\0"), "NIfTI", "Save its slices"),
    "zip by another name": ("data.bak", zipped("cat/1.png"), "a zip archive", "end with .zip"),
    "gzip of anything": ("a.gz", gzip.compress(b"words"), "gzipped", "Unpack it"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_known_format_is_refused_by_its_name_with_one_step(tmp_path, kind):
    name, content, what, step = FORMATS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert f"it is {what}" in caught.value.cause
    assert step in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"words", b"\x80", b"PK\x03\x04", b"\x1f\x8b", b"\0\0\0\x08ftyp"])
def test_too_little_to_tell(content):
    assert name_format(content) is None or ";" in name_format(content)


def test_heic_is_told_from_avif_and_video_by_its_brands():
    assert is_heic(box(b"heic", b"mif1", b"heic"))
    assert is_heic(box(b"mif1", b"heic"))
    assert not is_heic(box(b"mif1", b"avif", b"miaf"))
    assert not is_heic(box(b"qt  "))


def test_random_bytes_never_break_it():
    dice = np.random.default_rng(0)
    for length in range(0, 300, 3):
        start = dice.integers(0, 256, length, dtype=np.uint8).tobytes()
        for prefix in (b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"\0\0\0\x20ftyp", b"<?xml"):
            name_format(prefix + start, "a.b")
