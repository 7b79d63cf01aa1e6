"""Tunnels for programs that know nothing of QUIC: TCP and UNIX sockets over HTTP/3's CONNECT (RFC 9114 §4.4).

What `whimbrel pipe`, `forward`, `proxy`, `run` and `serve --tunnel` are made of. May change at any time.
"""

from whimbrel.tunnel._audit import Audit
from whimbrel.tunnel._gate import Gate
from whimbrel.tunnel._listeners import Forwarding, Listeners, LocalPort, LocalSocket, parse_local
from whimbrel.tunnel._refusal import Reason, Refused
from whimbrel.tunnel._relay import Traffic, relay
from whimbrel.tunnel._rules import BadRule, Rule, Rules, parse_rule
from whimbrel.tunnel._target import BadTarget, Target, TcpTarget, UnixTarget, parse_port, parse_target, tcp_target
from whimbrel.tunnel._tokens import BadTokenFile, Tokens, default_file, read_token, write_token
from whimbrel.tunnel._tunnels import Tunnels

__all__ = [
    "Audit",
    "BadRule",
    "BadTarget",
    "BadTokenFile",
    "Forwarding",
    "Gate",
    "Listeners",
    "LocalPort",
    "LocalSocket",
    "Reason",
    "Refused",
    "Rule",
    "Rules",
    "Target",
    "TcpTarget",
    "Tokens",
    "Traffic",
    "Tunnels",
    "UnixTarget",
    "default_file",
    "parse_local",
    "parse_port",
    "parse_rule",
    "parse_target",
    "read_token",
    "relay",
    "tcp_target",
    "write_token",
]
