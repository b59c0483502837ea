"""Which muxer a new connection gets: ours, where libp2p would take its own for the same protocol.

libp2p's class knows only one implementation of ``/yamux/1.0.0``, its own, whatever it is configured with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from libp2p.stream_muxer.muxer_multistream import MuxerMultistream

if TYPE_CHECKING:
    from libp2p.peer.id import ID

PROTOCOL: Final = "/yamux/1.0.0"


class Muxers(MuxerMultistream):  # type: ignore[misc]  # libp2p is not type-checked
    """Agrees on a muxer and makes a connection of the class that is configured for it."""

    async def new_conn(self, conn: Any, peer_id: ID) -> Any:
        """The connection that carries streams.

        Raises:
            MultiselectError: The two sides have no muxer in common.
        """
        muxer = await self.select_transport(conn)
        connection = muxer(conn, peer_id)
        connection.negotiated_muxer_protocol = PROTOCOL
        connection.negotiated_security_protocol = getattr(conn, "negotiated_security_protocol", None)
        return connection
