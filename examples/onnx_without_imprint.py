"""Classify images with an exported model, without Imprint: python onnx_without_imprint.py digits.onnx seven.png …"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
facts = json.loads(session.get_modelmeta().custom_metadata_map["imprint"])
_, channels, height, width = session.get_inputs()[0].shape
for path in sys.argv[2:]:
    image = Image.open(path).convert("L" if channels == 1 else "RGB").resize((width, height))
    pixels = np.asarray(image, dtype=np.uint8).reshape(1, height, width, channels).transpose(0, 3, 1, 2)
    probabilities, uncertainty = session.run(["probabilities", "uncertainty"], {"pixels": pixels})
    name, confidence = facts["class_names"][probabilities[0].argmax()], probabilities[0].max()
    strange, low = uncertainty[0] > facts["unsure_above"], confidence < facts["unsure_below"]
    print(path, name, f"{confidence:.4f}", "unsure: strange" if strange else "unsure: low confidence" if low else "")
