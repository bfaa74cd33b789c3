"""Judge the images of a camera as they come, and tell others what was found.

``python camera.py MODEL FOLDER [--post URL] [--once]``

The camera writes its images into a folder. Each new file is judged once it is whole, and leaves one
line of JSON on standard output; ``--post`` sends the same to a web server, such as the one that
moves the part off the line. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import knnspect as ks

#: Seconds between two looks at the folder; a file that did not change meanwhile is whole.
LOOK_EVERY = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--post", metavar="URL", help="send each finding there, as JSON")
    parser.add_argument("--once", action="store_true", help="end when no file is left")
    args = parser.parse_args()
    detector = ks.load(args.model)
    for file in new_files(args.folder, args.once):
        try:
            finding = judged(detector, file)
        except ks.ImageError as error:  # one bad image must not stop the line
            finding = {"image": file.name, "error": str(error)}
        print(json.dumps(finding), flush=True)
        if args.post:
            send(finding, args.post)


def new_files(folder: Path, once: bool) -> Iterator[Path]:
    """Yield each file that comes, when it is whole, the oldest first."""
    seen: set[Path] = set()
    before: dict[Path, tuple[int, int]] = {}
    while True:
        now = {}
        for file in sorted(folder.glob("*.png")):
            state = file.stat()
            now[file] = (state.st_size, state.st_mtime_ns)
        whole = [file for file in now if file not in seen and before.get(file) == now[file]]
        for file in sorted(whole, key=lambda file: now[file][1]):
            seen.add(file)
            yield file
        if once and seen >= now.keys():
            return
        before = now
        time.sleep(LOOK_EVERY)


def judged(detector: ks.Detector, file: Path) -> dict[str, Any]:
    """Return what is to be told of an image."""
    (prediction,) = detector.predict(file)
    return {
        "image": file.name,
        "verdict": prediction.verdict,
        "p_value": prediction.p_value,
        "regions": [
            {
                "box": list(region.box),
                "p_value": region.p_value,
                "known_defect": region.known_defect and region.known_defect.name,
            }
            for region in prediction.regions
        ],
    }


def send(finding: dict[str, Any], url: str) -> None:
    """Send a finding to a web server; if it cannot be reached, say so and go on."""
    request = urllib.request.Request(
        url, json.dumps(finding).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=2):
            pass
    except (urllib.error.URLError, OSError) as error:
        print(f"{url}: {finding['image']} could not be sent: {error}", file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
