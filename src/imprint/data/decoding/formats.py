"""File formats by their first bytes, and by name where bytes do not tell: those refused, and what to do about each."""

from __future__ import annotations

import zlib
from functools import cache
from importlib.util import find_spec

PEEK = 1024  # bytes that are enough for every format here
GZIP_START = b"\x1f\x8b"
TAR_MAGIC = slice(257, 262)  # POSIX.1-1988, the field magic
READ = "JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, PGM, PBM, AVIF or HEIC"

# ISO 14496-12, section 4.3: the brands that a file says it conforms to.
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_PHOTO = "a HEIC photo; install its decoder: pip install pillow-heif"

CONVERT = "convert it to PNG or JPEG"
EXPORT = "export it as PNG or JPEG"
SAVE_ARRAYS = "save its arrays with numpy.savez"
UNPACK = "unpack it, and name the folder"
TAKE_FRAMES = "save frames of it as JPEG"
PICKLE = f"a Python pickle, which could run code; take the data's binary or image version, or {SAVE_ARRAYS}"
TORCH = f"a PyTorch file, a pickle, which could run code; {SAVE_ARRAYS}"
HDF5 = f"HDF5, as Keras, h5py and MATLAB 7.3 write it; {SAVE_ARRAYS}, or from MATLAB with save -v7"
RAW = f"a camera's RAW; {EXPORT}"
VIDEO = f"a video; {TAKE_FRAMES}"
WORKBOOK = "an Excel workbook; save the sheet as CSV"
NIFTI = "NIfTI, a medical volume; save its slices as PNG"
DICOM = "DICOM, a medical scan; convert it to PNG"
TFRECORD = "TFRecord; write its images into class folders, or as Parquet"

# (offset, bytes there, what it is; the step that helps)
SIGNATURES = (
    (0, b"\x89HDF\r\n\x1a\n", HDF5),
    (512, b"\x89HDF\r\n\x1a\n", HDF5),
    (128, b"DICM", DICOM),
    (344, b"n+1\0", NIFTI),
    (344, b"ni1\0", NIFTI),
    (0, b"8BPS", f"PSD, a Photoshop document; {EXPORT}"),
    (0, b"gimp xcf", f"XCF, a GIMP document; {EXPORT}"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", f"JPEG 2000; {CONVERT}"),
    (0, b"\xff\x4f\xff\x51", f"JPEG 2000; {CONVERT}"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", f"JPEG XL; {CONVERT}"),
    (0, b"\xff\x0a", f"JPEG XL; {CONVERT}"),
    (0, b"v/1\x01", f"OpenEXR; {CONVERT}"),
    (0, b"#?RADIANCE", f"Radiance HDR; {CONVERT}"),
    (0, b"DDS ", f"DDS, a texture; {CONVERT}"),
    (0, b"\0\0\x01\0", f"an icon (ICO); {CONVERT}"),
    (8, b"CR\x02", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"IIU\0", RAW),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"FOVb", RAW),
    (4, b"ftypcrx", RAW),
    (4, b"ftyp", VIDEO),  # after HEIC, AVIF and Canon's RAW
    (0, b"\x1a\x45\xdf\xa3", VIDEO),
    (8, b"AVI LIST", VIDEO),
    (0, b"\0\0\x01\xba", VIDEO),
    (0, b"\0\0\x01\xb3", VIDEO),
    (0, b"FLV\x01", VIDEO),
    (4, b"moov", VIDEO),
    (4, b"mdat", VIDEO),
    (0, b"Rar!\x1a\x07", f"a RAR archive; {UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {UNPACK}"),
    (0, b"\xfd7zXZ\0", f"an xz archive; {UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"a Zstandard archive; {UNPACK}"),
    (0, b"BZh", f"a bzip2 archive; {UNPACK}"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of Microsoft Office; save a table as CSV, images as PNG or JPEG"),
    (0, b"SQLite format 3\0", "an SQLite database; save its images as files, or as Parquet"),
    (0, b"ARROW1", "Arrow (Feather); write it as Parquet"),
    (0, b"PAR1", "Parquet; let its name end with .parquet"),
    (0, b"\x93NUMPY", "a NumPy array; let its name end with .npy"),
    (0, b"MATLAB 5.0 MAT-file", "a MATLAB file; let its name end with .mat"),
    (0, b"MATLAB 7.3 MAT-file", HDF5),
    (0, b"RDX", f"a file of R; save the images as PNG, or {SAVE_ARRAYS}"),
)
# What begins in words, in lower case and after blanks.
WORDS = (
    (b"<svg", f"SVG, a drawing; {EXPORT}"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML"),
    (b"%!ps", f"PostScript; {CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"PostScript; {CONVERT}"),
    (b"%pdf", "PDF; save its pages as PNG or JPEG"),
    (b"version https://git-lfs", "a Git LFS pointer; run git lfs pull"),
    (b"@relation", "ARFF; save the table as CSV"),
)
# Inside a zip, by the name of its first member.
ZIPPED = (
    (b"[content_types].xml", "a file of Microsoft Office; save a table as CSV, images as PNG or JPEG"),
    (b"xl/", WORKBOOK),
    (b"mimetype", "a file of an office suite; save a table as CSV, images as PNG or JPEG"),
)
VIDEO_ENDINGS = (".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp")
ENDINGS = {
    (".tfrecord", ".tfrecords", ".tfrec"): TFRECORD,
    (".pkl", ".pickle", ".joblib"): PICKLE,
    (".pt", ".pth", ".ckpt"): TORCH,
    (".h5", ".hdf5", ".he5"): HDF5,
    (".dcm", ".dicom", ".ima"): DICOM,
    (".nii", ".nii.gz"): NIFTI,
    (".xlsx", ".xlsm", ".xls", ".ods"): WORKBOOK,
    (".tga",): f"a TGA image; {CONVERT}",
    (".jp2", ".j2k", ".jpx"): f"JPEG 2000; {CONVERT}",
    (".jxl",): f"JPEG XL; {CONVERT}",
    (".psd",): f"PSD, a Photoshop document; {EXPORT}",
    VIDEO_ENDINGS: VIDEO,
}
# Most of them are TIFFs, of which a reader would take the small preview for the image.
RAW_ENDINGS = (
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf", ".rw2"),
    *(".pef", ".srw", ".x3f", ".erf", ".mrw", ".kdc", ".3fr", ".iiq"),
)


def name_format(start: bytes, name: str = "") -> str | None:
    """Name a format that is not read, and after a semicolon the step that helps; None where nothing tells.

    `start` is the file's first `PEEK` bytes. One that has its right name was found among images.
    """
    known = _name_content(start, name)
    what, asked, ending = (known or "").partition("; let its name end with ")
    return f"{what}; name it on its own" if asked and name.lower().endswith(ending) else known


def _name_content(start: bytes, name: str) -> str | None:
    if is_heic(start):
        return HEIC_PHOTO
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        text = b"<svg"
    for signature, known in WORDS:
        if text.startswith(signature):
            return known
    if start.startswith(b"PK\x03\x04"):
        return _name_zip(start, name)
    if start.startswith(GZIP_START):
        inside = _gunzipped(start)
        known_inside = None if inside.startswith(GZIP_START) else name_format(inside, name.lower().removesuffix(".gz"))
        return known_inside or "gzipped; unpack it, or let its name end with .tar.gz if it is such an archive"
    for offset, signature, known in SIGNATURES:
        if start.startswith(signature, offset):
            return known
    if start[TAR_MAGIC] == b"ustar":
        return "a tar archive; let its name end with .tar"
    if len(start) > 2 and start[0] == 0x80 and 2 <= start[1] <= 5:  # pickle protocols 2 to 5
        return PICKLE
    return name_by_ending(name)


def name_by_ending(name: str) -> str | None:
    """Name a format that is not read by the ending of a file's name alone."""
    lower = name.lower()
    if lower.endswith(RAW_ENDINGS):
        return RAW
    if ".tfrecord" in lower.replace("\\", "/").rpartition("/")[2]:  # train.tfrecord-00000-of-00010
        return TFRECORD
    return next((known for endings, known in ENDINGS.items() if lower.endswith(endings)), None)


def split_step(known: str) -> tuple[str, str]:
    """Split what a format is from the step that helps, as a sentence; that is empty where there is none."""
    what, _, step = known.partition("; ")
    return what, f"{step[0].upper()}{step[1:]}." if step else ""


def is_heic(start: bytes) -> bool:
    """Tell a HEIC photo by its brands; AVIF has the same container."""
    if start[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(start[:4]), len(start), 256)
    brands = {start[8:12], *(start[place : place + 4] for place in range(16, end - 3, 4))}
    return bool(brands & HEIC_BRANDS) and not brands & AVIF_BRANDS


@cache
def can_read_heic() -> bool:
    """Tell whether the decoder of HEIC is installed, without importing it."""
    return find_spec("pillow_heif") is not None


def _name_zip(start: bytes, name: str) -> str:
    """Name what a zip holds by its first member, since many formats are zips."""
    length = int.from_bytes(start[26:28], "little")
    first = start[30 : 30 + length].lower()
    if first.endswith((b"data.pkl", b".format_version", b"byteorder")):
        return TORCH
    if first.endswith(b".npy"):
        return "NumPy arrays; let its name end with .npz"
    known = next((known for signature, known in ZIPPED if first.startswith(signature)), None)
    return name_by_ending(name) or known or "a zip archive; let its name end with .zip"


def _gunzipped(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start, PEEK)
    except zlib.error:
        return b""
