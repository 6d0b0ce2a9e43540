"""Say what pip-audit's report says, and what it could not ask: python .ci/audit.py REPORT.json

A known vulnerability fails. pip-audit itself says "No known vulnerabilities found" also where its service knew none
of the packages, as behind a registry that serves packages and no advisories: that is told apart here, and does not
fail, for it says nothing about the packages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson


def main(report: Path) -> int:
    """Print the verdict; 1 if a vulnerability is known."""
    if not report.is_file() or not report.stat().st_size:
        print(
            "NOT AUDITED: pip-audit could not ask its service; whether anything is vulnerable is not known."
        )
        return 0
    packages = orjson.loads(report.read_bytes())["dependencies"]
    unasked = [package["name"] for package in packages if "skip_reason" in package]
    if len(unasked) == len(packages):
        print(
            f"NOT AUDITED: the service knows none of {len(packages)} packages; run this where it can be asked."
        )
        return 0
    if unasked:
        print(f"not audited, the service does not know them: {', '.join(unasked)}")
    found = [(package, known) for package in packages for known in package.get("vulns", ())]
    for package, known in found:
        mended = ", ".join(known["fix_versions"]) or "no version"
        print(f"VULNERABLE: {package['name']} {package['version']}: {known['id']}, mended in {mended}")
    print(f"{len(packages) - len(unasked)} packages audited, {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
