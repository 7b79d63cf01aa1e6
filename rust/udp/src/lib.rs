//! UDP as a QUIC endpoint wants it from Linux: many datagrams a system call (GSO, GRO, recvmmsg), each with the
//! interface, the addresses and the ECN mark it travels with, and a way to wait for sockets.
//!
//! Nothing here knows QUIC, and nothing decides: an error of the kernel's is the caller's news.

#[forbid(unsafe_code)]
mod address;
#[forbid(unsafe_code)]
mod control;
mod interface;
mod limit;
mod poll;
mod receive;
mod socket;

pub use control::Pin;
pub use interface::{interface_index, interface_name};
pub use limit::descriptor_limit;
pub use poll::{Epoll, EventFd};
pub use receive::{BATCH, ReceiveBuffers, Received};
pub use socket::{Instruction, Outgoing, Socket, steer};
