//! Wire formats and protocol machines of Adit, without I/O: time and random bytes are arguments.

pub mod igd;
