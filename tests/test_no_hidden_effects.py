"""What Imprint sets for itself is as before after a call, since it may run inside somebody's server."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, logging, os, signal, sys, threading, warnings
import torch
import imprint
import imprint.core.malloc, imprint.runs.training

tuned = []
for module in (imprint.core.malloc, imprint.runs.training):
    module.tune_malloc = lambda: tuned.append(True)

torch.set_num_threads(3)
torch.manual_seed(5)
warnings.filterwarnings("ignore", message="of the host")

def log_state(logger):
    return logger.level, logger.propagate, logger.disabled, len(logger.handlers)

def state():
    return {
        "threads": torch.get_num_threads(),
        "denormals": float(torch.tensor(1e-30) * torch.tensor(1e-10)) > 0,
        "warnings": [str(one) for one in warnings.filters],
        "logging": [*map(log_state, (logging.getLogger(), logging.getLogger("imprint"))), logging.root.manager.disable],
        "random": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "signals": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "live threads": threading.active_count(),
        "malloc": bool(tuned),
    }

path, flush = sys.argv[1:]
torch.set_flush_denormal(flush == "flushed")
digits = imprint.load("digits")
model = imprint.Classifier.load(path)
calls = {
    "load": lambda: imprint.Classifier.load(path),
    "predict": lambda: model.predict(digits),
    "evaluate": lambda: imprint.evaluate(model, digits),
    "train": lambda: imprint.train(digits[:300], "quick", epochs=1, min_steps=1, verbose=False),
}
found = {}
for name, call in calls.items():
    before = state()
    call()
    found[name] = {key: [before[key], value] for key, value in state().items() if value != before[key]}
print(json.dumps(found))
"""


@pytest.mark.parametrize("denormals", ["flushed", "kept"])
def test_the_calling_process_is_as_before(model_file, tmp_path, monkeypatch, denormals):
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))  # so that the self-check runs too
    command = [sys.executable, "-c", SCRIPT, str(model_file), denormals]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("train") == {"malloc": [False, True]}  # which its docstring says
    assert found == {"load": {}, "predict": {}, "evaluate": {}}
