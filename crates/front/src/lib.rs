//! The front: leads TLS, QUIC and HTTP connections to devices by the names that they ask for, and carries them.
