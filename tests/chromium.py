"""A page as headless Chromium sees it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)


def screenshot(page: Path, picture: Path, *, width: int, height: int) -> Path:
    """The top of a page, as PNG."""
    _open(page, f"--screenshot={picture}", width, height)
    return picture


def measured(page: Path, expression: str, *, width: int, height: int = 800) -> str:
    """The value of a JavaScript expression, once a copy of the page has loaded."""
    text = page.read_text(encoding="utf-8")
    policy = "script-src 'unsafe-inline'; default-src"
    script = f"onload = () => document.body.dataset.found = String({expression})"
    copy = page.with_name(f"{page.stem}-measured.html")
    copy.write_text(
        text.replace("default-src", policy).replace("</body>", f"<script>{script}</script></body>")
    )
    shown = _open(copy, "--dump-dom", width, height)
    return shown.split('data-found="', 1)[1].split('"', 1)[0]


def _open(page: Path, action: str, width: int, height: int) -> str:
    profile = page.parent / "chromium"
    command = [
        str(PROGRAM),
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={width},{height}",
        action,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
