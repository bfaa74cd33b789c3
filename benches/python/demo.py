"""The demo's figures, from the command that users run.

python benches/python/demo.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write_result


def main() -> None:
    """Run the demo in a process of its own and keep its figures."""
    command = Path(sys.executable).with_name("knnspect")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([command, "demo", "--output", folder], check=True)
        process_seconds = time.perf_counter() - start
        document = json.loads((Path(folder) / "scores.json").read_text())
    kept = {key: value for key, value in document.items() if key not in ("images", "left_out")}
    write_result("demo", {**kept, "process_seconds": round(process_seconds, 2)})


if __name__ == "__main__":
    main()
