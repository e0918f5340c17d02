//! HTTP types, errors and a typed client.
