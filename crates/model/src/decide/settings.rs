//! Settings of the whole.

use super::Draft;
use crate::change::{Patch, SetSettings};
use crate::edit::Object;
use crate::protocol::{PortRange, Protocol};
use crate::refusal::Refusal;

pub(super) fn set(draft: &mut Draft<'_>, patch: SetSettings) -> Result<(), Refusal> {
    if patch == SetSettings::default() {
        return Err(Refusal::NothingToChange {
            kind: "settings",
            reference: "gateway".to_owned(),
        });
    }
    let mut settings = draft.state.settings.clone();
    if let Some(port) = patch.listen_port {
        check_listen_port(draft, port)?;
        settings.listen_port = port;
    }
    if let Some(servers) = patch.dns_servers {
        if let Some(server) = servers
            .iter()
            .find(|server| server.is_unspecified() || server.is_multicast())
        {
            return refuse(
                "dns-servers",
                format!("{server} is no address of a resolver"),
            );
        }
        settings.dns_servers = servers;
    }
    if let Some((first, last)) = patch.snat_ports {
        check_snat_ports(draft, first, last)?;
        (settings.snat_first, settings.snat_last) = (first, last);
    }
    if let Patch::Set(mtu) = patch.mtu
        && !(1280..=9000).contains(&mtu)
    {
        return refuse(
            "mtu",
            format!("{mtu} does not lie between 1280 (RFC 8200 section 5) and 9000"),
        );
    }
    patch.mtu.apply(&mut settings.mtu);
    if let Some(clamp) = patch.clamp_mtu {
        if !(576..=9000).contains(&clamp) {
            return refuse(
                "clamp-mtu",
                format!("{clamp} does not lie between 576 and 9000"),
            );
        }
        settings.clamp_mtu = clamp;
    }
    if let Some(limit) = patch.connection_limit {
        if !(64..=65_536).contains(&limit) {
            return refuse(
                "connection-limit",
                format!("{limit} does not lie between 64 and 65536"),
            );
        }
        settings.connection_limit = limit;
    }
    if let Some(least) = patch.lease_minimum {
        settings.lease_minimum = least;
    }
    if let Some(most) = patch.lease_maximum {
        settings.lease_maximum = most;
    }
    check_lifetimes(settings.lease_minimum, settings.lease_maximum)?;
    draft.set(Object::Settings(settings));
    Ok(())
}

fn refuse(setting: &'static str, reason: String) -> Result<(), Refusal> {
    Err(Refusal::SettingInvalid { setting, reason })
}

fn check_lifetimes(least: u32, most: u32) -> Result<(), Refusal> {
    if !(1..=86_400).contains(&least) {
        return refuse(
            "lease-minimum",
            format!("{least} does not lie between 1 and 86400 seconds"),
        );
    }
    if !(120..=2_592_000).contains(&most) || most < least {
        return refuse(
            "lease-maximum",
            format!(
                "{most} does not lie between 120 (or the minimum, {least}) and 2592000 seconds"
            ),
        );
    }
    Ok(())
}

fn check_listen_port(draft: &Draft<'_>, port: u16) -> Result<(), Refusal> {
    if port == 0 {
        return refuse("listen-port", "0 is no port".to_owned());
    }
    let forwards = PortRange::new(port, port).map(|range| draft.state.forwards_on(range));
    let forward =
        (forwards.iter().flatten()).find(|forward| forward.protocols.contains(&Protocol::Udp));
    if let Some(forward) = forward {
        return refuse(
            "listen-port",
            format!("{port}/udp is taken by forward {}", forward.id),
        );
    }
    let other = draft.facts.listeners.iter().find(|listener| {
        listener.protocol == Protocol::Udp
            && listener.port == port
            && port != draft.state.settings.listen_port
    });
    match other {
        Some(listener) => {
            let process = listener
                .process
                .clone()
                .unwrap_or_else(|| "another program".to_owned());
            refuse("listen-port", format!("{port}/udp is taken by {process}"))
        }
        None => Ok(()),
    }
}

fn check_snat_ports(draft: &Draft<'_>, first: u16, last: u16) -> Result<(), Refusal> {
    let Some(range) = PortRange::new(first, last).filter(|range| range.first() >= 1024) else {
        return refuse(
            "snat-ports",
            format!("{first}-{last} is no range of ports above 1023"),
        );
    };
    if range.last() - range.first() < 1023 {
        return refuse("snat-ports", format!("{range} holds fewer than 1024 ports"));
    }
    match draft.state.forwards_on(range).first() {
        Some(forward) => refuse(
            "snat-ports",
            format!("{range} holds a port of forward {}", forward.id),
        ),
        None => Ok(()),
    }
}
