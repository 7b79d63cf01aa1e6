"""Keep a copy of a folder on a server: `python file_sync.py FOLDER URL CA`, once or again and again.

URL is a folder of `whimbrel serve DIR --upload DIR`. What is there with the same hash is not sent again, and what an
earlier run could not finish goes on where it stopped. The connection changes networks when this machine does.
"""

import asyncio
import base64
import hashlib
import sys
from pathlib import Path
from urllib.parse import quote

from whimbrel import http

BEGIN = {"upload-complete": "?0"}
LAST = {"upload-complete": "?1", "content-type": "application/partial-upload"}


async def send(client: http.Client, file: Path, target: str) -> str:
    content = await asyncio.to_thread(file.read_bytes)
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    about = {"upload-length": str(len(content)), "repr-digest": f"sha-256=:{digest}:"}
    begun = await client.request("PUT", target, headers=BEGIN | about)
    if begun.headers.get("upload-complete") == "?1":
        return "is there"
    offset = int(begun.headers["upload-offset"])
    rest = LAST | {"upload-offset": str(offset)}
    done = await client.request("PATCH", begun.headers["location"], headers=rest, body=content[offset:])
    assert done.headers["upload-complete"] == "?1", await done.read()
    return f"sent from byte {offset} on"


async def main(root: Path, paths: list[Path], url: str, ca: str) -> None:
    base = http.Url.parse(url).target
    async with http.connect(url, verify=ca) as client:
        for path in paths:
            target = base + quote(path.relative_to(root).as_posix())
            if path.is_dir():
                await client.request("MKCOL", target + "/")
            elif path.is_file():
                print(f"{path.relative_to(root)} {await send(client, path, target)}")


folder = Path(sys.argv[1])
asyncio.run(main(folder, sorted(folder.rglob("*")), *sys.argv[2:]))
