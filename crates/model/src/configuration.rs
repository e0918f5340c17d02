//! The text of a device's WireGuard configuration.
