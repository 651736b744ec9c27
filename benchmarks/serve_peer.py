"""A service of an exported model as the peers' own tutorials write it: serve_peer.py fastapi|litserve MODEL PORT."""

import base64
import io
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

kind, path, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


def load():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = json.loads(session.get_modelmeta().custom_metadata_map["imprint"])["class_names"]
    return session, names


def decode(content, shape):
    _, channels, height, width = shape
    image = Image.open(io.BytesIO(content)).convert("L" if channels == 1 else "RGB").resize((width, height))
    return np.asarray(image, dtype=np.uint8).reshape(1, height, width, channels).transpose(0, 3, 1, 2)


def answer(session, names, pixels):
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    rows = probabilities.tolist()
    return [{"label": names[int(np.argmax(row))], "probabilities": dict(zip(names, row, strict=True))} for row in rows]


if kind == "fastapi":
    import uvicorn
    from fastapi import FastAPI, Request, UploadFile

    app = FastAPI()
    session, names = load()
    shape = session.get_inputs()[0].shape

    @app.post("/raw")
    async def raw(request: Request):
        return answer(session, names, decode(await request.body(), shape))

    @app.post("/form")
    def form(file: UploadFile):
        return answer(session, names, decode(file.file.read(), shape))

    if __name__ == "__main__":
        uvicorn.run(app, port=port, log_level="warning")
else:
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device):
            self.session, self.names = load()
            self.shape = self.session.get_inputs()[0].shape

        def decode_request(self, request):  # JSON, which is what it takes of itself
            return decode(base64.b64decode(request["image"]), self.shape)

        def batch(self, inputs):
            return np.concatenate(inputs)

        def predict(self, pixels):
            return answer(self.session, self.names, pixels)

        def unbatch(self, output):
            return output

        def encode_response(self, output):
            return output

    if __name__ == "__main__":  # its workers import this file again
        api = Api(max_batch_size=32, batch_timeout=0.002)
        litserve.LitServer(api, accelerator="cpu").run(port=port, log_level="warning", generate_client_file=False)
