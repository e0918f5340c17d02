//! One instance of a topology: up, found again, changed, down.

use std::env;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};

use crate::build;
use crate::device::WgQuick;
use crate::gateway::Gateway;
use crate::host::Host;
use crate::registry::{self, Registry};
use crate::teardown;
use crate::topology::{PATH, Topology};

/// A lab that is up. Dropping this leaves it up.
#[derive(Debug)]
pub struct Lab {
    instance: String,
    topology: Topology,
    registry: Registry,
}

/// A lab for a test: taken down when this is dropped, unless `keep` is set or `ADIT_LAB_KEEP` is in the environment.
#[derive(Debug)]
pub struct TemporaryLab {
    lab: Lab,
    pub keep: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub instance: String,
    /// None when nothing but remains of it are there.
    pub topology: Option<String>,
    /// False while it is being built, and after a build that was cut off.
    pub complete: bool,
}

impl Lab {
    /// Builds the topology under a name that no other instance has; what a failure leaves half-built is removed.
    pub fn up(topology: &Topology, instance: &str) -> Result<Self> {
        require_root()?;
        let registry = Registry::new(instance)?;
        topology.check()?;
        ensure!(
            registry.claim()?,
            "lab instance {instance} is there already: take it down first"
        );
        Self::build(topology, instance, registry)
    }

    /// [`Self::up`] under the first name of `base`, `base-2`, `base-3` … that no other instance has.
    pub fn up_numbered(topology: &Topology, base: &str) -> Result<Self> {
        require_root()?;
        topology.check()?;
        for number in 1_u32.. {
            let instance = match number {
                1 => base.to_owned(),
                _ => format!("{base}-{number}"),
            };
            let registry = Registry::new(&instance)?;
            // Namespaces without a folder are what is left of an instance.
            if registry.namespaces()?.is_empty() && registry.claim()? {
                return Self::build(topology, &instance, registry);
            }
        }
        bail!("no number is left for a lab instance {base}")
    }

    fn build(topology: &Topology, instance: &str, registry: Registry) -> Result<Self> {
        let lab = Self {
            instance: instance.to_owned(),
            topology: topology.clone(),
            registry,
        };
        let built = lab
            .registry
            .create(topology)
            .and_then(|()| build::build(topology, instance, &lab.registry));
        if let Err(error) = built {
            let error = error.context(format!(
                "build lab instance {instance} of topology {}",
                topology.name
            ));
            return Err(match lab.down() {
                Ok(()) => error,
                Err(second) => {
                    error.context(format!("and its remains could not be removed: {second:#}"))
                }
            });
        }
        lab.registry.mark_complete()?;
        Ok(lab)
    }

    /// [`Self::up`] under a name that begins with `purpose` and is unique on this machine.
    pub fn temporary(topology: &Topology, purpose: &str) -> Result<TemporaryLab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let instance = format!("{purpose}-{}-{count}", std::process::id());
        let lab = Self::up(topology, &instance)?;
        Ok(TemporaryLab {
            lab,
            keep: env::var_os("ADIT_LAB_KEEP").is_some(),
        })
    }

    /// A lab that is up, whoever made it.
    pub fn open(instance: &str) -> Result<Self> {
        let registry = Registry::new(instance)?;
        let topology = registry.topology()?;
        Ok(Self {
            instance: instance.to_owned(),
            topology,
            registry,
        })
    }

    pub fn list() -> Result<Vec<Summary>> {
        let mut summaries = Vec::new();
        for instance in registry::instances()? {
            let registry = Registry::new(&instance)?;
            let topology = registry.topology().ok().map(|topology| topology.name);
            summaries.push(Summary {
                topology,
                complete: registry.is_complete(),
                instance,
            });
        }
        Ok(summaries)
    }

    /// Removes an instance, or what there is of it. Not an error when there is nothing.
    pub fn take_down(instance: &str) -> Result<()> {
        let registry = Registry::new(instance)?;
        teardown::tear_down(instance, &registry)
            .with_context(|| format!("take down lab instance {instance}"))
    }

    pub fn down(&self) -> Result<()> {
        Self::take_down(&self.instance)
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The folder of this instance: logs, the gateway's directories, and what is recorded for taking it down.
    pub fn folder(&self) -> PathBuf {
        self.registry.folder()
    }

    pub fn host(&self, name: &str) -> Result<Host> {
        self.topology.find_host(name).with_context(|| {
            let names: Vec<&str> = self
                .topology
                .hosts
                .iter()
                .map(|host| host.name.as_str())
                .collect();
            format!(
                "lab instance {} has no host {name:?}: there are {}",
                self.instance,
                names.join(", ")
            )
        })?;
        Ok(self.host_named(name))
    }

    /// Narrows, or widens, the way between VPS and home in its middle, on both ends of one link.
    pub fn set_path_mtu(&self, mtu: u32) -> Result<()> {
        build::set_link_mtu(&self.topology, PATH, mtu, &|name| self.host_named(name))
    }

    /// Makes every router swallow "fragmentation needed" and "packet too big".
    pub fn drop_icmp(&self) -> Result<()> {
        build::set_icmp_drop(&self.topology, true, &|name| self.host_named(name))
    }

    pub fn pass_icmp(&self) -> Result<()> {
        build::set_icmp_drop(&self.topology, false, &|name| self.host_named(name))
    }

    /// Starts the gateway on `vps` and waits until it is applied.
    pub fn start_gateway(&self, adit: &Path) -> Result<Gateway> {
        let mut gateway = self.gateway(adit)?;
        gateway.start()?;
        Ok(gateway)
    }

    /// The gateway on `vps`, running or not.
    pub fn gateway(&self, adit: &Path) -> Result<Gateway> {
        Gateway::new(self.host("vps")?, &self.instance, adit)
    }

    /// Makes a host a device by the real `wg-quick`. A host can be one device at a time.
    pub fn wg_quick_up(&self, host: &str, configuration: &str) -> Result<WgQuick> {
        WgQuick::up(self.host(host)?, &self.instance, configuration)
    }

    fn host_named(&self, name: &str) -> Host {
        Host::new(&self.registry, &self.instance, name)
    }
}

/// An error that says what to do, unless this process may make network namespaces.
pub fn require_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a lab is made of network namespaces, which only root can make and enter: run this as root, or with sudo"
    );
    Ok(())
}

impl Deref for TemporaryLab {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl Drop for TemporaryLab {
    #[expect(
        clippy::print_stderr,
        reason = "a test that leaves something behind must say so, and drop cannot fail"
    )]
    fn drop(&mut self) {
        if self.keep {
            eprintln!("lab instance {} is kept", self.lab.instance);
        } else if let Err(error) = self.lab.down() {
            eprintln!("{error:#}");
        }
    }
}
