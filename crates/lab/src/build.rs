//! Makes a topology real: namespaces, links, addresses, routes, and the services on them.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::host::Host;
use crate::names;
use crate::process;
use crate::registry::Registry;
use crate::topology::{HostKind, HostPlan, Service, Topology};
use crate::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn build(topology: &Topology, instance: &str, registry: &Registry) -> Result<()> {
    make_namespaces(topology, instance)?;
    let host = |name: &str| Host::new(registry, instance, name);
    for plan in &topology.hosts {
        // Before the interfaces are made, for they take over `conf.default`.
        host(&plan.name).write_sysctls(&sysctls(plan))?;
    }
    for plan in &topology.hosts {
        host(&plan.name).configure(&link_commands(topology, instance, plan))?;
    }
    for plan in &topology.hosts {
        host(&plan.name).configure(&address_commands(topology, plan))?;
    }
    for plan in &topology.hosts {
        for service in &plan.services {
            start_service(&host(&plan.name), service)?;
        }
    }
    for plan in &topology.hosts {
        await_links(&host(&plan.name))?;
        for service in &plan.services {
            await_service(topology, plan, service, &host)?;
        }
    }
    Ok(())
}

fn make_namespaces(topology: &Topology, instance: &str) -> Result<()> {
    let mut commands = String::new();
    for plan in &topology.hosts {
        let _ = writeln!(
            commands,
            "netns add {}",
            names::namespace(instance, &plan.name)
        );
    }
    process::run_successfully(
        Command::new("ip").args(["-batch", "-"]),
        "ip netns add",
        &commands,
        LIMIT,
    )?;
    Ok(())
}

/// IPv4 settings of a new namespace are those of the initial one at that moment: a lab must not depend on them.
fn sysctls(plan: &HostPlan) -> Vec<(String, String)> {
    let forwarding = match plan.kind {
        HostKind::Router => "1",
        HostKind::Endpoint | HostKind::Switch => "0",
    };
    let mut sysctls = Vec::new();
    let mut set = |name: &str, value: &str| sysctls.push((name.to_owned(), value.to_owned()));
    for scope in ["all", "default"] {
        set(&format!("net.ipv4.conf.{scope}.forwarding"), forwarding);
        set(&format!("net.ipv6.conf.{scope}.forwarding"), forwarding);
        set(&format!("net.ipv4.conf.{scope}.rp_filter"), "0");
        set(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "0");
    }
    match plan.kind {
        // Duplicate address detection would cost every start two seconds.
        HostKind::Endpoint | HostKind::Router => set("net.ipv6.conf.default.accept_dad", "0"),
        HostKind::Switch => {
            set("net.ipv6.conf.all.disable_ipv6", "1");
            set("net.ipv6.conf.default.disable_ipv6", "1");
        }
    }
    sysctls.extend(plan.sysctls.iter().cloned());
    sysctls
}

/// Bridges, and the links whose first end is here.
fn link_commands(topology: &Topology, instance: &str, plan: &HostPlan) -> String {
    let mut commands = String::new();
    for bridge in &plan.bridges {
        // Without a querier, snooping would in time forget who listens to Neighbor Discovery.
        let _ = writeln!(
            commands,
            "link add {} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            bridge.name
        );
    }
    for (number, link) in topology.links.iter().enumerate() {
        let [left, right] = &link.ends;
        // The kernel takes a veth whose peer has the same index for no veth, and lets its carrier wait for a second.
        let index = 100 + 2 * number;
        if left.host == plan.name {
            let _ = writeln!(
                commands,
                "link add {} index {index} mtu {mtu} type veth peer name {} index {} mtu {mtu} netns {}",
                left.interface,
                right.interface,
                index + 1,
                names::namespace(instance, &right.host),
                mtu = link.mtu,
            );
        }
    }
    commands
}

fn address_commands(topology: &Topology, plan: &HostPlan) -> String {
    let mut commands = String::from("link set lo up\n");
    for bridge in &plan.bridges {
        write_addresses(&mut commands, &bridge.name, &bridge.addresses);
        let _ = writeln!(commands, "link set {} up", bridge.name);
    }
    for end in topology.ends_of(&plan.name) {
        if let Some(bridge) = &end.bridge {
            let _ = writeln!(commands, "link set {} master {bridge}", end.interface);
        }
        write_addresses(&mut commands, &end.interface, &end.addresses);
        let _ = writeln!(commands, "link set {} up", end.interface);
    }
    for route in &plan.routes {
        let family = if route.via.contains(':') { "-6" } else { "-4" };
        // `ip -batch` takes no family on a line, but an address of it.
        let destination = match (route.destination.as_str(), family) {
            ("default", "-6") => "::/0",
            ("default", _) => "0.0.0.0/0",
            (other, _) => other,
        };
        let _ = writeln!(commands, "route add {destination} via {}", route.via);
    }
    commands
}

fn write_addresses(commands: &mut String, interface: &str, addresses: &[String]) {
    for address in addresses {
        let suffix = if address.contains(':') { " nodad" } else { "" };
        let _ = writeln!(commands, "address add {address} dev {interface}{suffix}");
    }
}

/// Until its carrier has been noticed, an interface that is up drops what it is to send.
fn await_links(host: &Host) -> Result<()> {
    #[derive(Deserialize)]
    struct Interface {
        operstate: String,
    }
    let what = format!("carrier on every interface of {}", host.name());
    wait_until(&what, Duration::from_secs(10), || {
        let mut ip = Command::new("ip");
        ip.args(["-n", host.namespace(), "-json", "link", "show"]);
        let output = process::run_successfully(&mut ip, &what, "", LIMIT)?;
        let interfaces: Vec<Interface> =
            serde_json::from_str(&output.stdout).with_context(|| output.stdout.clone())?;
        // The loopback interface is UNKNOWN.
        Ok(interfaces
            .iter()
            .all(|interface| matches!(interface.operstate.as_str(), "UP" | "UNKNOWN")))
    })
}

fn start_service(host: &Host, service: &Service) -> Result<()> {
    match service {
        Service::Masquerade { interface } => {
            let rules = format!(
                "table ip lab {{\n  chain postrouting {{\n    type nat hook postrouting priority srcnat\n    oifname \
                 \"{interface}\" masquerade\n  }}\n}}\n"
            );
            host.exec_with_input(["nft", "-f", "-"], &rules)?;
        }
        Service::OneToOne {
            interface,
            public,
            private,
        } => {
            let rules = format!(
                "table ip lab_one_to_one {{\n  chain prerouting {{\n    type nat hook prerouting priority dstnat\n    iifname \
                 \"{interface}\" ip daddr {public} dnat to {private}\n  }}\n  chain postrouting {{\n    type nat hook \
                 postrouting priority srcnat\n    oifname \"{interface}\" ip saddr {private} snat to {public}\n  }}\n}}\n"
            );
            host.exec_with_input(["nft", "-f", "-"], &rules)?;
        }
        Service::SourceFilter {
            interface,
            prefixes,
        } => {
            let of_family = |ipv6| {
                let own = prefixes
                    .iter()
                    .filter(|prefix| prefix.contains(':') == ipv6);
                own.map(String::as_str).collect::<Vec<_>>().join(", ")
            };
            let rules = format!(
                "table inet lab_sources {{\n  chain forward {{\n    type filter hook forward priority filter\n    iifname \
                 \"{interface}\" ip saddr != {{ {} }} counter drop\n    iifname \"{interface}\" ip6 saddr != {{ {} }} counter \
                 drop\n  }}\n}}\n",
                of_family(false),
                of_family(true)
            );
            host.exec_with_input(["nft", "-f", "-"], &rules)?;
        }
        Service::DestinationFilter { interface, prefix } => {
            let rules = format!(
                "table ip6 lab_destinations {{\n  chain forward {{\n    type filter hook forward priority filter\n    oifname \
                 \"{interface}\" ip6 daddr != {prefix} drop\n  }}\n}}\n"
            );
            host.exec_with_input(["nft", "-f", "-"], &rules)?;
        }
        Service::Radvd {
            interface,
            prefixes,
            interval,
            lifetime,
        } => {
            let folder = host.folder()?;
            let configuration = folder.join("radvd.conf");
            let mut text = format!(
                "interface {interface} {{\n  AdvSendAdvert on;\n  MinRtrAdvInterval {};\n  MaxRtrAdvInterval {};\n  \
                 AdvDefaultLifetime {lifetime};\n",
                interval.0, interval.1
            );
            for prefix in prefixes {
                let _ = writeln!(
                    text,
                    "  prefix {prefix} {{ AdvOnLink on; AdvAutonomous off; }};"
                );
            }
            text.push_str("};\n");
            fs::write(&configuration, text)
                .with_context(|| format!("write {}", configuration.display()))?;
            let command = [
                "radvd".into(),
                "--nodaemon".into(),
                "--logmethod=stderr".into(),
                "--config".into(),
                configuration.into_os_string(),
                "--pidfile".into(),
                folder.join("radvd.pid").into_os_string(),
            ];
            host.start_daemon(command, &folder.join("radvd.log"))?;
        }
    }
    Ok(())
}

/// A lab is up when its hosts have learnt their routes.
fn await_service(
    topology: &Topology,
    plan: &HostPlan,
    service: &Service,
    host: &dyn Fn(&str) -> Host,
) -> Result<()> {
    match service {
        Service::Masquerade { .. }
        | Service::OneToOne { .. }
        | Service::SourceFilter { .. }
        | Service::DestinationFilter { .. } => Ok(()),
        Service::Radvd { interface, .. } => {
            for link in &topology.links {
                let [left, right] = &link.ends;
                for (end, other) in [(left, right), (right, left)] {
                    if end.host == plan.name
                        && end.interface == *interface
                        && other.bridge.is_none()
                    {
                        await_default_route(&host(&other.host), &other.interface).with_context(
                            || {
                                format!(
                                    "radvd on {}, see {}",
                                    plan.name,
                                    radvd_log(&host(&plan.name))
                                )
                            },
                        )?;
                    }
                }
            }
            Ok(())
        }
    }
}

fn await_default_route(host: &Host, interface: &str) -> Result<()> {
    let what = format!(
        "a Router Advertisement that gives {} a default route on {interface}",
        host.name()
    );
    wait_until(&what, Duration::from_secs(10), || {
        let routes = host.exec([
            "ip", "-6", "route", "show", "default", "dev", interface, "proto", "ra",
        ])?;
        Ok(!routes.stdout.is_empty())
    })
}

fn radvd_log(host: &Host) -> String {
    match host.folder() {
        Ok(folder) => fs::read_to_string(folder.join("radvd.log")).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// Stops, or lets pass again, the messages by which a sender learns that a packet is too big.
pub(crate) fn set_icmp_drop(
    topology: &Topology,
    drop: bool,
    host: &dyn Fn(&str) -> Host,
) -> Result<()> {
    let mut rules = String::from("table inet lab_icmp\ndelete table inet lab_icmp\n");
    if drop {
        rules.push_str("table inet lab_icmp {\n");
        for hook in ["output", "forward"] {
            let _ = writeln!(
                rules,
                "chain {hook} {{ type filter hook {hook} priority raw; icmp type destination-unreachable icmp code \
                 frag-needed drop; icmpv6 type packet-too-big drop; }}"
            );
        }
        rules.push_str("}\n");
    }
    for plan in &topology.hosts {
        match plan.kind {
            HostKind::Router => {
                host(&plan.name).exec_with_input(["nft", "-f", "-"], &rules)?;
            }
            HostKind::Endpoint | HostKind::Switch => {}
        }
    }
    Ok(())
}

pub(crate) fn set_link_mtu(
    topology: &Topology,
    link: &str,
    mtu: u32,
    host: &dyn Fn(&str) -> Host,
) -> Result<()> {
    let Some(link) = topology.find_link(link) else {
        bail!("topology {} has no link named {link:?}", topology.name);
    };
    for end in &link.ends {
        host(&end.host).configure(&format!("link set {} mtu {mtu}\n", end.interface))?;
    }
    Ok(())
}
