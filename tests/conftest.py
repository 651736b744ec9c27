"""Small real data, and one model trained on it, for all tests."""

import atexit
import os
import shutil
import signal
import tempfile

import jaxtyping
import numpy as np
import pytest

# What the tests keep must not depend on, or change, what this machine's user keeps.
os.environ["IMPRINT_CACHE"] = tempfile.mkdtemp(prefix="imprint-tests-")
atexit.register(shutil.rmtree, os.environ["IMPRINT_CACHE"], ignore_errors=True)

# Some tests press Ctrl-C, which is ignored by what a script has put into the background, and by all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The shapes in signatures are checked here, and only here.
jaxtyping.install_import_hook("imprint", "beartype.beartype")

import imprint  # noqa: E402
from helpers import pixel_table  # noqa: E402

# Fixtures that train a network, write much, or start a browser: the tests that use one stay together on one worker.
COSTLY = (
    "browser built checked detecting fitted followed foreign good lesson mapped mnist page prepared server "
    "stopped_folder trained"
)
# What `make test-fast` leaves out: files that take more than ten seconds, and single tests that take more than five.
SLOW_FILES = (
    "test_kills.py test_glyph.py test_browser.py test_build.py test_examples.py test_lesson.py test_ood_detector.py "
    "test_no_hidden_effects.py test_page_check.py test_page_teach.py test_page_try.py test_fuzz.py "
    "test_estimator.py test_docs.py test_teacher.py"
)
SLOW_TESTS = (
    "test_nothing_copies_mapped_images_whole test_wrong_labels_come_first_with_the_right_one test_photos_are_learnt "
    "test_ctrl_c_keeps_the_best_model test_ctrl_c_again_and_again_ends_in_one_line test_killed_and_taken_up "
    "test_a_terminal_gets_a_bar_with_the_time_left test_confidence_fits_accuracy_on_images_not_seen "
    "test_without_validation_new_digits_are_seldom_flagged_and_confidence_fits test_every_flipped_bit_is_noticed "
    "test_an_ensemble_of_it_and_one_of_our_own test_training_does_not_import_torchs_compiler "
    "test_a_request_that_does_not_come_is_cut test_a_model_file_is_exported_once_and_then_kept "
    "test_a_changed_model_file_is_exchanged_and_a_broken_one_is_not "
    "test_requests_made_from_the_document_get_the_answers_of_the_document "
    "test_a_missing_package_is_named_with_its_remedy test_int8_leaves_the_logging_of_its_host_alone"
)


def pytest_collection_modifyitems(items):
    for item in items:
        costly = [name for name in COSTLY.split() if name in getattr(item, "fixturenames", ())]
        if costly:
            item.add_marker(pytest.mark.xdist_group(costly[0]))
        if item.path.name in SLOW_FILES.split() or getattr(item, "originalname", "") in SLOW_TESTS.split():
            item.add_marker("slow")


@pytest.fixture(scope="session")
def digits():
    return imprint.load("digits")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "0001-quick"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["imprint", "train", "digits"])  # which the run's provenance notes
        return imprint.train("digits", recipe="quick", epochs=12, min_steps=0, run=folder, verbose=False)


@pytest.fixture(scope="session")
def model(run):
    return run.model


@pytest.fixture(scope="session")
def run_folder(run):
    """What `imprint train digits` leaves behind."""
    return run.folder


@pytest.fixture(scope="session")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def onnx_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "digits.onnx"
    imprint.export(model, path)
    return path


@pytest.fixture(scope="session")
def digits_csv(digits, tmp_path_factory):
    """The first 600 bundled digits as train.csv, the next 100 as test.csv, in one folder."""
    folder = tmp_path_factory.mktemp("csv")
    (folder / "train.csv").write_text(pixel_table(digits[:600]))
    (folder / "test.csv").write_text(pixel_table(digits[600:700], labelled=False))
    (folder / "labelled.csv").write_text(pixel_table(digits[600:700]))
    return folder


@pytest.fixture
def table(tmp_path):
    """Write a text or bytes as table.csv and give its path."""

    def write(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def predictions():
    """Probabilities of four classes for 500 images, and labels that they know nothing of."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 4)) * 3
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    return probabilities, generator.choice(4, size=500, p=[0.5, 0.3, 0.1, 0.1])


@pytest.fixture
def unchecked():
    """Leave the types in signatures unchecked, as users have it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
