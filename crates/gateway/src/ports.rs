//! Where devices ask for ports.

mod promise;

pub(crate) use self::promise::Promises;
