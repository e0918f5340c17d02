//! Leases in answers.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use adit_model::protocol::Protocol;
use adit_model::state::{Mechanism, Opening};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::schema;
use crate::timestamp::Timestamp;

/// A port that a device opened by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// Identifier; never used again.
    pub id: u64,
    /// The revision that it was last written in.
    pub version: u64,
    /// Name of the device.
    pub device: String,
    /// Name of the other device that asked for it in this one's stead (RFC 6887 section 13.1); none: this one did.
    pub asked_by: Option<String>,
    /// The protocol by which the device asked.
    pub mechanism: Mechanism,
    /// What it opens.
    pub opening: Opening,
    /// The transport protocol; `all`: whatever comes in.
    #[serde(with = "adit_model::protocol::or_all")]
    #[schema(required = true, schema_with = schema::protocol_or_all)]
    pub protocol: Option<Protocol>,
    /// The address and the first port that the Internet sees; none while the gateway has no address for it.
    #[schema(value_type = Option<String>, example = "203.0.113.10:51413")]
    pub external: Option<SocketAddr>,
    /// The address and the first port on the device.
    #[schema(value_type = Option<String>, example = "10.59.0.2:51413")]
    pub internal: Option<SocketAddr>,
    /// How many consecutive ports.
    pub count: u16,
    /// The only remote end that it is for.
    #[schema(value_type = Option<String>)]
    pub remote: Option<SocketAddr>,
    /// The only remote peers that are let in, as `NETWORK` or `NETWORK PORT`; empty: all.
    pub filters: Vec<String>,
    /// The TLS names that lead to the device by the port; empty: the whole port does.
    pub hostnames: BTreeSet<String>,
    /// What the device said of it.
    pub description: String,
    /// The service of the gateway's host that has the port by now, so that it does not lead to the device.
    pub suspended_by: Option<String>,
    /// When it ends, unless the device renews it.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Timestamp,
    /// Seconds until then.
    pub expires_in: u64,
}

/// All leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Leases {
    /// In order of their ids.
    pub leases: Vec<Lease>,
    /// The path of what follows, where a limit was given and more is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "/api/v1/leases?limit=100&after=117")]
    pub next: Option<String>,
}
