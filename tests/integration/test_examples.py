"""The examples of the documentation do what they say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_a_camera_s_images_are_judged_and_told_to_a_server(tmp_path: Path) -> None:
    split = elpv_split(n_train=6, n_functional=1, n_defective=1)
    model, line = tmp_path / "cells.ks", tmp_path / "line"
    backbone = ks.Backbone(image_size=64, levels=(1, 2), device="cpu")
    ks.Spade(backbone).fit(split.train).save(model)
    line.mkdir()
    shutil.copy(split.functional[0], line / "good.png")
    cell = np.array(read_image(split.functional[0]))
    cell[100:180, 100:180] = 0
    Image.fromarray(cell).save(line / "hole.png")
    (line / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    received: list[dict[str, Any]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/findings"
        command = [sys.executable, EXAMPLES / "camera.py", model, line, "--post", url, "--once"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    told = [json.loads(text) for text in done.stdout.splitlines()]
    assert received == told
    by_image = {one["image"]: one for one in told}
    assert by_image["hole.png"]["verdict"] == "anomalous"
    assert by_image["hole.png"]["regions"]
    assert "torn.png" in by_image["torn.png"]["error"]
    assert set(by_image) == {"good.png", "hole.png", "torn.png"}
