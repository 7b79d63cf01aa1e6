"""Address translation: a namespace that masquerades, and can forget.

IPv4 only, as in most networks; IPv6 is routed.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from whimbrel.testing._namespace import LaboratoryUnavailable

if TYPE_CHECKING:
    from whimbrel.testing._namespace import Namespace

_SOURCE_NAT = 100  # NF_IP_PRI_NAT_SRC
_ACCEPT, _DROP = 1, 0
_EQUAL = 0  # NFT_CMP_EQ
_REGISTER = 1  # NFT_REG_1
_OUTGOING_INTERFACE, _PROTOCOL = 7, 16  # NFT_META_OIFNAME, NFT_META_L4PROTO


class Nat:
    """Everything that leaves by one interface gets that interface's address and a random port."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        """Begin to translate.

        Raises:
            LaboratoryUnavailable: this kernel has no nftables masquerade.
        """
        from pyroute2 import NetlinkError  # type: ignore[import-untyped]

        self._namespace = namespace
        try:
            namespace.run(_masquerade, interface)
        except NetlinkError as error:
            raise LaboratoryUnavailable(f"this kernel does not masquerade with nftables ({error})") from error

    def forget(self) -> None:
        """Drop every mapping: what comes for an old port is dropped, and what leaves gets a new one."""
        self._namespace.run(_flush)


def _masquerade(interface: str) -> None:
    from pyroute2.nftables.expressions import genex, verdict  # type: ignore[import-untyped]
    from pyroute2.nftables.main import NFTables  # type: ignore[import-untyped]

    leaves_by = [
        genex("meta", {"KEY": _OUTGOING_INTERFACE, "DREG": _REGISTER}),
        genex("cmp", {"SREG": _REGISTER, "OP": _EQUAL, "DATA": _value(interface.encode().ljust(16, b"\0"))}),
    ]
    # Random, since otherwise a flow keeps its own port and a new mapping would look like the old one.
    masquerade = genex("masq", {"FLAGS": ("NF_NAT_RANGE_PROTO_RANDOM_FULLY",)})
    is_icmp = [
        genex("meta", {"KEY": _PROTOCOL, "DREG": _REGISTER}),
        genex("cmp", {"SREG": _REGISTER, "OP": _EQUAL, "DATA": _value(bytes([socket.IPPROTO_ICMP]))}),
    ]
    with contextlib.closing(NFTables(nfgen_family=socket.AF_INET)) as nft:
        table = "whimbrel"
        nft.table("add", name=table)
        nft.chain("add", table=table, name="out", type="nat", hook="postrouting", priority=_SOURCE_NAT, policy=_ACCEPT)
        nft.rule("add", table=table, chain="out", expressions=([*leaves_by, masquerade],))
        # What has no mapping is for the router itself, which would answer with "port unreachable"; home routers do not.
        nft.chain("add", table=table, name="in", type="filter", hook="input", priority=0, policy=_DROP)
        nft.rule("add", table=table, chain="in", expressions=([*is_icmp, *verdict(_ACCEPT)],))


def _flush() -> None:
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket  # type: ignore[import-untyped]

    with contextlib.closing(NFCTSocket()) as conntrack:
        conntrack.flush()


def _value(data: bytes) -> dict[str, object]:
    return {"attrs": [("NFTA_DATA_VALUE", data)]}
