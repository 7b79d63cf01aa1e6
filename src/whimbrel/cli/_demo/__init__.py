"""The parts of ``whimbrel demo``.

``servers``     who has the file: Caddy or gtlsserver, in the laboratory, with certificates of the demo's own
``messages``    what the clients' processes tell the demo
``migrating``   the client that moves: whimbrel, in a process of its own
``standing``    the client that does not: Python's HTTP over TCP, in another
``lane``        what the demo knows of a client while it runs
``crossing``    the whole: laboratory, server, clients, journey; and what was captured
``report``      what it cost: moves, gaps, networks; as JSON and as sentences
``live``        the terminal
``picture``     the figure
"""
