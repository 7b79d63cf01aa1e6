"""The parts of ``whimbrel demo``.

``servers``     who has the file: our own server, Caddy or gtlsserver, in the laboratory
``serving``     our own server, as a process that also tells when what it is sent arrives
``tcp_server``  what serves the other client beside it
``messages``    what the processes tell the demo
``migrating``   the client that moves: whimbrel, in a process of its own
``standing``    the client that does not: Python's HTTP over TCP, in another
``lane``        what the demo knows of a client while it runs
``race``        both clients at once, from the moment they are ready until they are done
``crossing``    the whole: laboratory, server, clients, journey; and what was captured
``gaps``        when the data stopped because of a change
``report``      what it cost: moves, gaps, networks; as JSON and as sentences
``summary``     the same as tables for a person
``live``        the terminal
``picture``     the figure
"""
