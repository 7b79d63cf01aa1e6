"""Servers and clients that `peers.py` and `dispatch.py` run, each in a process of its own.

All speak the same exchange: a client opens a stream, says in 8 bytes how many it wants, sends as many as it likes and
finishes; the server answers with as many as were wanted. Over TLS, which has no streams, 8 more bytes say beforehand
how many follow, and the connection stays open. Certificates are verified, nothing is resumed.
"""
