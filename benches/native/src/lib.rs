//! What the programs share: connections of the bare engine behind one socket, and orders that come line by line.

pub mod host;
pub mod options;
pub mod orders;
