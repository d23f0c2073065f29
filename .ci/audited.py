"""What pip-audit found: 0 nothing, 1 known vulnerabilities, 75 where not every package could be looked up.

pip-audit skips what it can't look up, and ends well: an index that has no list of vulnerabilities would look like a
clean one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(file: Path) -> int:
    """Say what was found, and return the exit code."""
    try:
        packages = json.loads(file.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError, KeyError):
        packages = []
    looked = [each for each in packages if "skip_reason" not in each]
    bad = [each for each in looked if each["vulns"]]
    for each in bad:
        sys.stdout.write(f"{each['name']} {each['version']}: {', '.join(known['id'] for known in each['vulns'])}\n")
    sys.stderr.write(f"run: {len(looked)} of {len(packages)} packages were looked up; {len(bad)} are vulnerable\n")
    if bad:
        sys.stderr.write("run: nothing was changed. Raise those packages, then: ./run lock\n")
        return 1
    if looked and len(looked) == len(packages):
        return 0
    sys.stderr.write("run: the rest were NOT: the list of vulnerabilities can't be reached. Run this again later.\n")
    return 75


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
