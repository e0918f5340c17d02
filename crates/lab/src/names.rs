//! Names that are derived from the instance, so that they can be found again after a crash.

use anyhow::{Result, ensure};

const PREFIX: &str = "adit-";

pub(crate) fn check_instance(instance: &str) -> Result<()> {
    ensure!(
        (1..=40).contains(&instance.len())
            && instance
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !instance.starts_with('-'),
        "instance name {instance:?} is not made of 1 to 40 lower-case letters, digits and hyphens"
    );
    Ok(())
}

pub(crate) fn namespace(instance: &str, host: &str) -> String {
    format!("{PREFIX}{instance}-{host}")
}

/// The host part of a namespace of the instance. Host names have no hyphen, so `adit-a-b-vps` is not taken for
/// a part of the instance `a`.
pub(crate) fn host_of_namespace<'a>(instance: &str, namespace: &'a str) -> Option<&'a str> {
    let (owner, host) = namespace.strip_prefix(PREFIX)?.rsplit_once('-')?;
    (owner == instance).then_some(host)
}

/// UAPI sockets share one folder across network namespaces, so a WireGuard interface needs a name that is unique on
/// the machine; an interface name has at most 15 characters.
pub(crate) fn wireguard_interface(prefix: &str, instance: &str, host: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in instance.bytes().chain([b'/']).chain(host.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{prefix}{:08x}", (hash ^ (hash >> 32)) & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::host_of_namespace;

    #[test]
    fn an_instance_does_not_own_the_namespaces_of_one_whose_name_is_longer() {
        assert_eq!(host_of_namespace("a", "adit-a-vps"), Some("vps"));
        assert_eq!(host_of_namespace("a", "adit-a-b-vps"), None);
        assert_eq!(host_of_namespace("a-b", "adit-a-b-vps"), Some("vps"));
        assert_eq!(host_of_namespace("a", "other-a-vps"), None);
    }
}
