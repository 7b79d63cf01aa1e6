//! What happened, in a form that is cheap to queue and to hand over in one call for many connections.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Connected = 0,
    Lost = 1,
    Readable = 2,
    Writable = 3,
    Finished = 4,
    Stopped = 5,
    Opened = 6,
    Available = 7,
    Datagram = 8,
    DatagramRoom = 9,
    Incoming = 10,
    Moved = 11,
    SendFailed = 12,
    Heard = 13,
    Due = 14,
    /// A server's client has proven its address: by the handshake, or after a move (RFC 9000 §8.2).
    Proven = 15,
    /// There is no connected socket to be had for this connection; the value is an errno.
    Crowded = 16,
    /// The server's handshake is complete as well as the client's (RFC 9001 §4.1.2).
    Confirmed = 17,
}

/// One thing that happened to one connection. `value` is a stream, a direction, an errno or a move, as the
/// kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    pub connection: u64,
    pub kind: Kind,
    pub value: u64,
}
