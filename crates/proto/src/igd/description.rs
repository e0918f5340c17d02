//! The documents: what each root device is made of, and what its services can do.

use std::fmt::Write as _;

use super::server::Seen;
use super::service::{Service, Version};
use super::xml::escape;

/// What a gateway says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Told apart from other gateways by this; the same over restarts.
    pub seed: [u8; 16],
    /// What people see in a list of gateways.
    pub name: String,
    /// The version of the software.
    pub software: String,
    /// Larger after each start, so that clients read the documents again; seconds since 1970 will do.
    pub boot: u32,
}

impl Identity {
    /// What the `Server` header says: system, UPnP and product, each with a version.
    pub(crate) fn server(&self) -> String {
        // The version of the kernel is nobody's business.
        format!("Linux/0 UPnP/1.1 Adit/{}", self.software)
    }

    /// The identifier of a device, with its prefix: of the seed, but different for each device of each version.
    pub(crate) fn udn(&self, version: Version, device: Device) -> String {
        let mut bytes = self.seed;
        // RFC 9562 §5.8: the layout is ours.
        let [.., layout, _, variant, _, _, _, _, _, _, last] = &mut bytes;
        *layout = (*layout & 0x0f) | 0x80;
        *variant = (*variant & 0x3f) | 0x80;
        *last = (*last & 0xf0) | (version.number() << 2) | device.number();
        let mut text = String::from("uuid:");
        for (number, byte) in bytes.iter().enumerate() {
            if matches!(number, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// What `GetDefaultConnectionService` returns.
    pub(crate) fn default_connection(&self, version: Version) -> String {
        format!(
            "{}:WANConnectionDevice:{},{}",
            self.udn(version, Device::WanConnection),
            version.number(),
            Service::WanIpConnection(version).id()
        )
    }
}

/// The devices that are inside one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    Root,
    Wan,
    WanConnection,
}

impl Device {
    pub(crate) const ALL: [Self; 3] = [Self::Root, Self::Wan, Self::WanConnection];

    fn number(self) -> u8 {
        match self {
            Self::Root => 0,
            Self::Wan => 1,
            Self::WanConnection => 2,
        }
    }

    pub(crate) fn urn(self, version: Version) -> String {
        let word = match self {
            Self::Root => "InternetGatewayDevice",
            Self::Wan => "WANDevice",
            Self::WanConnection => "WANConnectionDevice",
        };
        format!("urn:schemas-upnp-org:device:{word}:{}", version.number())
    }

    fn inside(self) -> Option<Self> {
        match self {
            Self::Root => Some(Self::Wan),
            Self::Wan => Some(Self::WanConnection),
            Self::WanConnection => None,
        }
    }

    /// The device that has a service.
    pub(crate) fn with(service: Service) -> Self {
        match service {
            Service::Layer3Forwarding => Self::Root,
            Service::WanCommonInterfaceConfig => Self::Wan,
            Service::WanIpConnection(_) | Service::WanIpv6FirewallControl => Self::WanConnection,
        }
    }
}

/// What a path of the HTTP server leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    Description(Version),
    Abilities(Service),
    Control(Version, Service),
    Seen(Seen),
}

impl Resource {
    pub(crate) fn at(path: &str) -> Option<Self> {
        let seen = Seen::ALL.map(|seen| (seen.path().to_owned(), Self::Seen(seen)));
        Version::ALL
            .into_iter()
            .flat_map(|version| {
                let services = Service::of(version).iter();
                let of_services = services.flat_map(move |service| {
                    [
                        (
                            Self::abilities_path(version, *service),
                            Self::Abilities(*service),
                        ),
                        (
                            Self::control_path(version, *service),
                            Self::Control(version, *service),
                        ),
                    ]
                });
                let description = (Self::description_path(version), Self::Description(version));
                of_services.chain([description])
            })
            .chain(seen)
            .find_map(|(known, resource)| (known == path).then_some(resource))
    }

    pub(crate) fn description_path(version: Version) -> String {
        format!("/igd{}/description.xml", version.number())
    }

    fn abilities_path(version: Version, service: Service) -> String {
        format!("/igd{}/{}.xml", version.number(), service.word())
    }

    fn control_path(version: Version, service: Service) -> String {
        format!("/igd{}/control/{}", version.number(), service.word())
    }
}

/// The description of a root device.
pub(crate) fn describe(identity: &Identity, version: Version) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\">\n\
         <specVersion><major>1</major><minor>{}</minor></specVersion>\n{}</root>\n",
        match version {
            Version::One => 0,
            Version::Two => 1,
        },
        device(identity, version, Device::Root)
    )
}

fn device(identity: &Identity, version: Version, level: Device) -> String {
    let name = escape(&identity.name);
    let software = escape(&identity.software);
    let services: String = Service::of(version)
        .iter()
        .filter(|service| Device::with(**service) == level)
        .map(|service| self::service(version, *service))
        .collect();
    let inside = level.inside().map_or_else(String::new, |inside| {
        format!(
            "<deviceList>\n{}</deviceList>\n",
            device(identity, version, inside)
        )
    });
    format!(
        "<device>\n<deviceType>{}</deviceType>\n<friendlyName>{name}</friendlyName>\n\
         <manufacturer>Adit</manufacturer>\n<modelDescription>Adit gateway</modelDescription>\n\
         <modelName>Adit</modelName>\n<modelNumber>{software}</modelNumber>\n<UDN>{}</UDN>\n\
         <serviceList>\n{services}</serviceList>\n{inside}</device>\n",
        level.urn(version),
        identity.udn(version, level),
    )
}

/// Nothing is evented, so the URL for it is empty (UPnP Device Architecture 1.1 §2.3).
fn service(version: Version, service: Service) -> String {
    format!(
        "<service>\n<serviceType>{}</serviceType>\n<serviceId>{}</serviceId>\n<SCPDURL>{}</SCPDURL>\n\
         <controlURL>{}</controlURL>\n<eventSubURL></eventSubURL>\n</service>\n",
        service.urn(),
        service.id(),
        Resource::abilities_path(version, service),
        Resource::control_path(version, service),
    )
}

/// The service control protocol description (SCPD) of a service.
pub(crate) fn abilities(service: Service) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<scpd xmlns=\"urn:schemas-upnp-org:service-1-0\">\n\
         <specVersion><major>1</major><minor>0</minor></specVersion>\n<actionList>\n",
    );
    for action in service.actions() {
        let _ = writeln!(text, "<action><name>{}</name>", action.name);
        let input = action.input.iter().map(|argument| (argument, "in"));
        let output = action.output.iter().map(|argument| (argument, "out"));
        let mut arguments = input.chain(output).peekable();
        let has_arguments = arguments.peek().is_some();
        if has_arguments {
            text.push_str("<argumentList>\n");
        }
        for ((name, variable), direction) in arguments {
            let _ = writeln!(
                text,
                "<argument><name>{name}</name><direction>{direction}</direction>\
                 <relatedStateVariable>{variable}</relatedStateVariable></argument>"
            );
        }
        if has_arguments {
            text.push_str("</argumentList>\n");
        }
        text.push_str("</action>\n");
    }
    text.push_str("</actionList>\n<serviceStateTable>\n");
    for variable in service.variables() {
        let _ = write!(
            text,
            "<stateVariable sendEvents=\"no\"><name>{}</name><dataType>{}</dataType>",
            variable.name,
            variable.kind.word()
        );
        if !variable.values.is_empty() {
            text.push_str("<allowedValueList>");
            for value in variable.values {
                let _ = write!(text, "<allowedValue>{value}</allowedValue>");
            }
            text.push_str("</allowedValueList>");
        }
        if let Some((least, most)) = variable.range {
            let _ = write!(
                text,
                "<allowedValueRange><minimum>{least}</minimum><maximum>{most}</maximum></allowedValueRange>"
            );
        }
        text.push_str("</stateVariable>\n");
    }
    text.push_str("</serviceStateTable>\n</scpd>\n");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Device, Identity, Resource, abilities, describe};
    use crate::igd::service::{Service, Version};
    use crate::igd::xml::{Element, Limits};

    fn identity() -> Identity {
        Identity {
            seed: [0xab; 16],
            name: "Adit <gateway>".to_owned(),
            software: "0.1.0".to_owned(),
            boot: 1,
        }
    }

    #[test]
    fn devices_are_told_apart() {
        let identity = identity();
        let all: BTreeSet<String> = Version::ALL
            .into_iter()
            .flat_map(|version| Device::ALL.map(|device| identity.udn(version, device)))
            .collect();
        assert_eq!(all.len(), 6);
        assert!(all.contains("uuid:abababab-abab-8bab-abab-abababababa4"));
    }

    fn services(device: &Element, found: &mut Vec<Element>) {
        if let Some(list) = device.child("serviceList") {
            found.extend(list.children.clone());
        }
        for device in device
            .child("deviceList")
            .iter()
            .flat_map(|list| &list.children)
        {
            services(device, found);
        }
    }

    #[test]
    fn every_path_of_a_description_leads_somewhere() {
        for version in Version::ALL {
            let text = describe(&identity(), version);
            let root = Element::parse(text.as_bytes(), Limits::DOCUMENT).unwrap();
            let device = root.child("device").unwrap();
            assert_eq!(device.text_of("friendlyName"), Some("Adit <gateway>"));
            let mut found = Vec::new();
            services(device, &mut found);
            assert_eq!(found.len(), Service::of(version).len());
            for (service, element) in Service::of(version).iter().zip(found) {
                assert_eq!(element.text_of("serviceType"), Some(service.urn().as_str()));
                let control = Resource::at(element.text_of("controlURL").unwrap());
                assert_eq!(control, Some(Resource::Control(version, *service)));
                let scpd = Resource::at(element.text_of("SCPDURL").unwrap());
                assert_eq!(scpd, Some(Resource::Abilities(*service)));
                let text = abilities(*service);
                let scpd = Element::parse(text.as_bytes(), Limits::DOCUMENT).unwrap();
                let actions = scpd.child("actionList").unwrap().children.len();
                assert_eq!(actions, service.actions().count());
            }
        }
        assert_eq!(Resource::at("/"), None);
        assert_eq!(Resource::at("/igd1/control/WANIPv6FirewallControl"), None);
    }
}
