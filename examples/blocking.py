"""Streams as files, without asyncio: `python blocking.py CA CERTIFICATE KEY FOLDER` packs a folder into a stream.

Server and client would be two programs; the connection changes networks when the client's machine does.
"""

import sys
import tarfile
import threading

import whimbrel.sync


def unpack(connection: whimbrel.sync.Connection) -> None:
    for stream in connection.streams():
        assert isinstance(stream, whimbrel.sync.Stream)
        with stream:
            with tarfile.open(fileobj=stream, mode="r|gz") as archive:
                for entry in archive:
                    stream.write(f"{entry.name}: {entry.size} bytes\n".encode())
            stream.readall()  # The archive's padding: whoever closes before the end tells the sender to stop.


def tell(connection: whimbrel.sync.Connection) -> None:
    for change in connection.path_changes():
        print(change)


def pack(connection: whimbrel.sync.Connection, folder: str) -> None:
    with connection.open_stream(timeout=5) as stream:
        with tarfile.open(fileobj=stream, mode="w|gz") as archive:
            archive.add(folder, arcname=".")
        stream.finish()
        print(stream.read(timeout=60).decode(), end="")


def main(ca: str, certificate: str, key: str, folder: str) -> None:
    with whimbrel.sync.serve(unpack, "127.0.0.1", cert=(certificate, key), alpn="tar") as server:
        host, port = server.addresses[0]
        with whimbrel.sync.connect(host, port, alpn="tar", verify=ca) as connection:
            threading.Thread(target=tell, args=(connection,)).start()
            pack(connection, folder)


main(*sys.argv[1:])
