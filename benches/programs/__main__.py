"""Runs one side: ``python -m programs server NAME FILES OPTIONS`` or ``client NAME FILES PORT WORK COUNT``.

A server tells its port in a line of JSON, and then, for each line that comes, what it has used; it goes when its
standard input ends. A client tells its results.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from programs import _kinds, _orders, _work
from programs._files import Files


def main() -> None:
    side, name, folder, *rest = sys.argv[1:]
    kind = _kinds.named(name)
    files = Files(Path(folder))
    _orders.raise_descriptor_limit()
    # Ctrl-C is for whoever started this, and ends it by closing its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if side == "server":
        _orders.serve(kind, files, **json.loads(rest[0]))
        return
    port, work, count, *_ = rest
    _work.run(kind, files, int(port), work, int(count))
    sys.stdout.flush()
    # Without waiting for what QUIC calls draining: others take seconds over it.
    os._exit(0)


if __name__ == "__main__":
    main()
