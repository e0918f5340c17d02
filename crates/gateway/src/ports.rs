//! Where devices ask for ports.

pub(crate) mod igd;
mod promise;

pub(crate) use self::promise::Promises;
