//! Everything that a gateway keeps, for a backup of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use adit_model::key::PrivateKey;
use adit_model::problem::Origin;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::timestamp::Timestamp;

/// Everything that is committed, secrets of devices included, and what the host is like. The gateway's private key is not
/// part of any answer: it is in a file of its own beside the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Kept {
    /// The revision that it is of.
    pub revision: u64,
    /// The directory of the state, on the gateway's host.
    pub state_dir: String,
    /// The objects.
    pub objects: Vec<KeptObject>,
    /// The addresses that devices may know the gateway by.
    #[schema(value_type = Object)]
    pub origin: Origin,
}

/// One object as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeptObject {
    /// `device`, `forward`, …
    pub kind: String,
    /// Its id.
    pub id: u64,
    /// The revision of its last write.
    pub version: u64,
    /// What it is.
    pub body: serde_json::Value,
}

/// A whole gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Of this document; 1.
    pub format: u32,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// The version of Adit that made it.
    pub version: String,
    /// The revision that it is of.
    pub revision: u64,
    /// The gateway's private key.
    #[schema(value_type = String)]
    pub private_key: PrivateKey,
    /// The objects.
    pub objects: Vec<KeptObject>,
    /// The addresses that devices may know the gateway by.
    #[schema(value_type = Object)]
    pub origin: Origin,
}

/// What is put in the place of the gateway's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restoring {
    /// The revision that it will have.
    pub revision: u64,
}

impl Backup {
    /// The format that this version reads and writes.
    pub const FORMAT: u32 = 1;

    /// The addresses of the gateway that it was made of.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.origin.addresses()
    }
}
