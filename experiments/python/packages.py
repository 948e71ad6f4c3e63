"""Debian's packages as real text that needs no download: what apt knows of them."""

import subprocess


def packages() -> list[tuple[str, str]]:
    """(description, section) of every package, in apt's order; run `apt-get update` if it is short.

    Raises:
        RuntimeError: Where apt knows fewer than 1,000.
    """
    dump = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True)
    found = {}
    for stanza in dump.stdout.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        description = fields.get("Description") or fields.get("Description-en")
        if description and "Section" in fields:
            found.setdefault(fields["Package"], (description, fields["Section"].split("/")[-1]))
    if len(found) < 1000:
        raise RuntimeError(f"apt knows {len(found)} packages: run apt-get update")
    return list(found.values())
