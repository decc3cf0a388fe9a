"""Pages in headless Chromium: a page as it stands, plus one script of the test's own that says what it saw.

Without chromium (Debian: `apt-get install chromium`) tests that need it are skipped, and say so.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
QUIET = (
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
BUDGET_MS = 3_000  # of the page's own clock, which runs ahead where nothing happens
DESKTOP, PHONE = (1440, 900), (390, 844)
RUN = """
const blocked = [];
document.addEventListener("securitypolicyviolation", (e) => blocked.push(e.violatedDirective + " " + e.blockedURI));
const key = (name) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", {{ key: name, bubbles: true, cancelable: true }}));
addEventListener("load", async () => {{
  let seen;
  try {{ seen = await (async () => {{ {script} }})(); }} catch (error) {{ seen = {{ error: String(error) }}; }}
  const said = document.createElement("pre");
  said.id = "seen";
  said.textContent = JSON.stringify({{ seen, blocked }});
  document.body.replaceChildren(said);
}});
"""


def look(
    page: Path, script: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False, axe: bool = False
) -> Any:
    """What `script`, the body of an async function, returns in the page once it is there, as JSON.

    In it, `key(name)` presses a key. `axe`: the global of that name is there too. Fails where the page's policy
    blocked anything.
    """
    found = json.loads(_dumped(_with(page.read_text(encoding="utf-8"), script, axe), size, dark))
    assert found["blocked"] == []
    assert not (isinstance(found["seen"], dict) and found["seen"].get("error")), found["seen"]
    return found["seen"]


def serious(page: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> list[str]:
    """axe's findings of impact serious or critical, in words."""
    script = """
      const found = await axe.run(document, { resultTypes: ["violations"] });
      return found.violations.filter((v) => ["serious", "critical"].includes(v.impact))
        .map((v) => [v.id, ...v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + n.failureSummary)].join(" | "));
    """
    findings: list[str] = look(page, script, size, dark=dark, axe=True)
    return findings


def _with(text: str, script: str, axe: bool) -> str:
    """The page with the test's scripts at its end, which its policy is told of."""
    own = [RUN.format(script=script)]
    if axe:
        own.insert(0, (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in own]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    before, policy, after = text.partition("script-src ")
    assert policy
    body, end, _ = (before + policy + allowed + " " + after).rpartition("</body>")
    return body + "".join(f"<script>{one}</script>" for one in own) + end + "</html>"


def _dumped(text: str, size: tuple[int, int], dark: bool) -> str:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(text, encoding="utf-8")
        flags = [f"--user-data-dir={folder}/profile", "--window-size={},{}".format(*size), "--dump-dom"]
        flags += [f"--virtual-time-budget={BUDGET_MS}"]
        flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
        done = subprocess.run(
            [CHROMIUM, *QUIET, *flags, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"chromium showed nothing: {done.stderr[-1000:]}"
    return html.unescape(found[1])
