//! Kernel settings that we need.

use std::collections::BTreeMap;

/// Settings by path below `/proc/sys`, with `/` as separator (interface names may hold dots):
/// `net/ipv6/conf/eth0/accept_ra` → `2`.
pub type Sysctls = BTreeMap<String, String>;
