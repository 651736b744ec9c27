"""A classifier as one ONNX file."""

import os

# Since 1.29 onnxruntime tells Microsoft about models and machine, also on Linux and macOS, unless it finds this when it
# starts; it also keeps an identifier below the home folder. Whoever sets it otherwise is heard.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
