"""What a connection tells of its peer: whether and how well it can move."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from tests.loopback.support import dial, echo_server, pair, until
from whimbrel import _core

if TYPE_CHECKING:
    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio


async def test_our_own_server_lets_its_clients_move(certificates: Certificates) -> None:
    async with pair(certificates) as (client, server):
        said = client.peer_parameters
        assert said is not None
        assert said.allows_migration
        assert (said.connection_id_length, said.preferred_address) == (8, ())
        assert said.max_idle_timeout == 90.0
        assert server.peer_parameters is not None
        await until(lambda: client.stats().spare_connection_ids == 4)
    assert client.peer_parameters is None


@pytest.mark.parametrize(("migration", "id_length"), [(False, 8), (True, 0)])
async def test_a_server_that_forbids_moving_is_known_by_it(
    certificates: Certificates, migration: bool, id_length: int
) -> None:
    config = functools.partial(_core.ServerConfig, migration=migration, id_length=id_length)
    with mock.patch.object(_core, "ServerConfig", config):
        serving = echo_server(certificates)
    async with serving as server, dial(server, certificates) as client:
        said = client.peer_parameters
        assert said is not None
        assert not said.allows_migration
        assert said.disable_active_migration is not migration
        assert said.connection_id_length == id_length
