//! The firewall as data, and its nftables text.
