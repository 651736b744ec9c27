"""A classifier as one ONNX file."""
