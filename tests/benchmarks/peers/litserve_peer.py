"""LitServe with its defaults."""

import os
import sys

import litserve
import numpy as np
import xgboost

NUMBERS = ("Age", "Height", "Weight", "Duration", "Heart_Rate", "Body_Temp")


class Peer(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = xgboost.Booster(model_file=os.environ["BOOSTER"])
        self.model.set_param({"nthread": 1})

    def decode_request(self, request: dict) -> np.ndarray:
        values = [request[name] for name in NUMBERS]
        return np.array([[*values, request["Gender"] == "male", request["Duration"] * request["Heart_Rate"]]])

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.inplace_predict(x.astype(np.float32))

    def encode_response(self, output: np.ndarray) -> dict[str, float]:
        return {"calories": float(output[0])}


if __name__ == "__main__":
    server = litserve.LitServer(Peer(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
