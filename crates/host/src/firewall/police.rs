//! The table that limits sources while the dataplane is overloaded.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use adit_model::policing::{CLIPPED, TABLE, render, render_limit, render_removal};
use serde_json::Value;

use super::{FirewallError, Journal, Table, commit, is_loaded, run};

/// That table in this network namespace. It is nobody's drift: whoever flushes it is answered by the next limit.
#[derive(Debug)]
pub struct Police {
    journal: Arc<Journal>,
}

/// Where packets beyond the limit came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Address and port outside the tunnel.
    pub endpoint: SocketAddr,
    /// How many there were, as long as it is remembered.
    pub packets: u64,
}

impl Police {
    /// Its transactions are told apart from foreign ones by `table`.
    pub fn beside(table: &Table) -> Self {
        Self {
            journal: Arc::clone(&table.journal),
        }
    }

    /// Makes the table, in place of one that is there; `limit` is in packets per second.
    pub async fn begin(&self, port: u16, limit: u64) -> Result<(), FirewallError> {
        self.commit("police", &render(port, limit)).await
    }

    /// Sets another limit; makes the table if others removed it.
    pub async fn change(&self, port: u16, limit: u64) -> Result<(), FirewallError> {
        match self.commit("police", &render_limit(limit)).await {
            Err(FirewallError::Refused { .. }) => self.begin(port, limit).await,
            outcome => outcome,
        }
    }

    /// Removes the table; succeeds when there is none.
    pub async fn remove(&self) -> Result<(), FirewallError> {
        if !is_loaded(TABLE)? {
            return Ok(());
        }
        self.commit("unpolice", &render_removal()).await
    }

    /// What exceeded the limit.
    pub async fn clipped(&self) -> Result<Vec<Source>, FirewallError> {
        let mut sources = Vec::new();
        for set in CLIPPED {
            let words = ["--json", "list", "set"];
            let name = TABLE.split(' ').chain([set]);
            let arguments: Vec<&str> = words.into_iter().chain(name).collect();
            let listing = run("list", &arguments, "").await?;
            sources.extend(sources_in(&serde_json::from_slice(&listing.stdout)?));
        }
        Ok(sources)
    }

    async fn commit(&self, operation: &'static str, text: &str) -> Result<(), FirewallError> {
        let mut own = self.journal.0.lock().await;
        commit(&mut own, operation, text).await.map(drop)
    }
}

fn sources_in(listing: &Value) -> Vec<Source> {
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let elements = objects.filter_map(|object| object["set"]["elem"].as_array());
    let sources = elements.flatten().filter_map(|element| {
        let element = &element["elem"];
        let address: IpAddr = element["val"]["concat"][0].as_str()?.parse().ok()?;
        let port = u16::try_from(element["val"]["concat"][1].as_u64()?).ok()?;
        Some(Source {
            endpoint: SocketAddr::new(address, port),
            packets: element["counter"]["packets"].as_u64()?,
        })
    });
    sources.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_nft_lists() {
        let listing = serde_json::json!({"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"set": {"family": "inet", "name": "clipped6", "table": "adit_police", "type": ["ipv6_addr", "inet_service"],
                "size": 1024, "flags": ["timeout"], "timeout": 60, "elem": [
                    {"elem": {"val": {"concat": ["2001:db8::1", 49202]}, "expires": 59,
                        "counter": {"packets": 2884, "bytes": 248024}}},
                    {"elem": {"val": {"concat": ["not an address", 1]}, "counter": {"packets": 1, "bytes": 1}}}]}}]});
        let expected = Source {
            endpoint: "[2001:db8::1]:49202".parse().unwrap(),
            packets: 2884,
        };
        assert_eq!(sources_in(&listing), [expected]);
        let empty = serde_json::json!({"nftables": [{"set": {"name": "clipped4"}}]});
        assert_eq!(sources_in(&empty), []);
    }
}
