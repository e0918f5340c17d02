//! The gateway from outside: the real binary in a lab, real `wg-quick` on the devices, and packets that arrive or do not.

mod reach;
mod support;
