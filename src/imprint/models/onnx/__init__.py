"""A classifier as one ONNX file."""

import os

# Since 1.29 onnxruntime collects facts of models and machine for Microsoft, on Linux and macOS too, with an identifier
# below the home folder, unless it finds this when it starts. Whoever sets it otherwise is heard.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
