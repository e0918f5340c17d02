//! Why a change is refused: a stable code, a reason that names the object, and the way out.

mod lease;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::protocol::{PortRange, Protocol};

pub use self::lease::{LeaseRefusal, Obstacle};

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident { $($field:ident : $type:ty),* $(,)? } = $code:literal, $message:literal, $hint:literal;)*) => {
        /// A change that is not made. The message names the object and the reason, the hint the way out.
        #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Refusal {
            $(
                $(#[$doc])*
                #[error($message)]
                #[expect(missing_docs, reason = "the fields are named in the message")]
                $variant { $($field: $type),* },
            )*
        }

        impl Refusal {
            /// Every code, for documentation and for clients.
            pub const CODES: &'static [(&'static str, &'static str)] = &[$(($code, $hint)),*];

            /// The stable code.
            pub const fn code(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $code,)*
                }
            }

            /// What to do about it.
            #[expect(unused_variables, reason = "not every hint uses every field")]
            pub fn hint(&self) -> String {
                match self {
                    $(Self::$variant { $($field),* } => format!($hint),)*
                }
            }
        }
    };
}

refusals! {
    /// The object that a change names is not there.
    NotFound { kind: &'static str, reference: String } =
        "not-found", "there is no {kind} `{reference}`", "`adit {kind} list` shows what there is";
    /// A name that breaks the rules for names.
    NameInvalid { kind: &'static str, name: String } =
        "name-invalid", "`{name}` cannot be the name of a {kind}",
        "use 1 to 63 letters, digits, `-`, `_` and `.`, starting with a letter or digit, and not digits alone";
    /// A name that is in use.
    NameTaken { kind: &'static str, name: String } =
        "name-taken", "there is a {kind} `{name}` already", "choose another name, or `adit {kind} remove {name}` first";
    /// A text too long for what it is.
    LabelTooLong { length: usize } =
        "label-too-long", "the label has {length} bytes", "use at most 200 bytes and no control characters";
    /// No subnet was named and there is none, or several.
    SubnetUnclear { count: usize } =
        "subnet-unclear", "there are {count} subnets, so the device's subnet is not clear",
        "name one with `--subnet`; make one with `adit subnet add NAME --ipv4 10.59.0.0/24`";
    /// A subnet with devices is not removed just so.
    SubnetInUse { subnet: String, devices: usize } =
        "subnet-in-use", "subnet `{subnet}` has {devices} devices", "remove the devices first, or add `--force` to remove them along with it";
    /// An IPv4 subnet that cannot be one.
    Ipv4SubnetInvalid { network: Ipv4Net, reason: &'static str } =
        "ipv4-subnet-invalid", "{network} cannot be a tunnel subnet: {reason}", "take a private network such as 10.59.0.0/24";
    /// An IPv6 prefix that cannot be a subnet's.
    Ipv6PrefixInvalid { prefix: Ipv6Net, reason: &'static str } =
        "ipv6-prefix-invalid", "{prefix} cannot be a subnet's prefix: {reason}",
        "give a global prefix of /32 to /127 that your provider delivers to this host, leave `--ipv6` out for a private one, or say `--ipv6 none`";
    /// Two networks that overlap.
    Overlap { network: IpNet, other: IpNet, owner: String } =
        "overlap", "{network} overlaps {other} of {owner}", "choose a network that is free";
    /// A global prefix on a host that cannot reach the IPv6 Internet.
    NoIpv6DefaultRoute { prefix: Ipv6Net } =
        "no-ipv6-default-route", "this host has no IPv6 default route, so nothing sent to {prefix} would find its way out",
        "mend the host's IPv6 first (`ip -6 route show default`), or add `--force` if the route comes later";
    /// An egress that is no uplink.
    EgressUnknown { egress: String } =
        "egress-unknown", "`{egress}` is neither an uplink nor an address of one", "`adit uplink list` shows the uplinks and their addresses";
    /// A prefix in which two hosts would get the same address.
    Ipv6Collision { prefix: Ipv6Net, address: Ipv6Addr, first: String, second: String } =
        "ipv6-collision", "in {prefix} both {first} and {second} would get {address}",
        "use a shorter prefix, or IPv4 addresses that differ in the bits that the prefix leaves free";
    /// An explicit address whose IPv6 counterpart belongs to another.
    AddressCollision { address: Ipv4Addr, ipv6: Ipv6Addr, other: String } =
        "address-collision", "{address} would make the IPv6 address {ipv6}, which belongs to {other}", "leave `--ipv4` out to get a free address, or choose another";
    /// An address in use.
    AddressTaken { address: Ipv4Addr, other: String } =
        "address-taken", "{address} belongs to {other}", "leave `--ipv4` out to get a free address, or choose another";
    /// An address outside the subnet, or its network or broadcast address.
    AddressOutside { address: Ipv4Addr, network: Ipv4Net } =
        "address-outside", "{address} is no host address of {network}", "choose an address inside the subnet, or leave `--ipv4` out";
    /// The subnet is full.
    AddressesExhausted { subnet: String, network: IpNet } =
        "addresses-exhausted", "subnet `{subnet}` has no free address left in {network}", "remove devices, or add a subnet with a larger network";
    /// A key that is another device's.
    KeyTaken { device: String } =
        "key-taken", "this public key belongs to device `{device}`", "make a key of its own for each device: `wg genkey | tee private | wg pubkey`";
    /// A key that no Curve25519 private key gives, or the gateway's own.
    KeyInvalid { reason: String } =
        "key-invalid", "the public key cannot be used: {reason}", "give the output of `wg pubkey`: 44 characters that end in `=`";
    /// A time that has passed.
    ExpiryPassed { name: String } =
        "expiry-passed", "the expiry date of `{name}` lies in the past", "give a date in the future, or `none`; `adit device set {name} --disable` disables it at once";
    /// A delegation that is not possible.
    DelegationInvalid { prefix: String, reason: String } =
        "delegation-invalid", "delegation {prefix}: {reason}", "`adit device show NAME` lists a device's delegations; delegate a length (`--delegate 64`) to get a free prefix, or a prefix that is free and lies in nobody else's network";
    /// No room for a delegation.
    DelegationExhausted { length: u8, subnet: String, prefix: String } =
        "delegation-exhausted", "no /{length} is free in {prefix} of subnet `{subnet}`", "use a longer length, or give the subnet a shorter prefix";
    /// A delegated prefix that would take an address of a host.
    DelegationCoversHost { prefix: IpNet, address: IpAddr, owner: String } =
        "delegation-covers-host", "{prefix} cannot be delegated: it holds {address} of {owner}", "choose a prefix without hosts, or give a length (`--delegate 64`)";
    /// A forward to an address that this host does not have.
    ForwardAddressUnknown { address: IpAddr } =
        "forward-address-unknown", "{address} is no address of an uplink", "leave the address out, or take one that `adit uplink list` shows";
    /// A forward whose device has no uplink to be reached by.
    NoUplink { device: String } =
        "no-uplink", "device `{device}` has no uplink with an IPv4 address", "mend the host's default route (`ip route show default`), or name the address: `adit forward add ADDR:PORT …`";
    /// A range that would be renumbered.
    RangeShifted { range: PortRange, target: u16 } =
        "range-shifted", "the range {range} cannot be shifted to {target}: a range keeps its numbers", "leave the target port out, or add forwards one by one";
    /// A port in use.
    PortTaken { range: PortRange, protocol: Protocol, other: String } =
        "port-taken", "port {range}/{protocol} is taken by {other}", "choose another port, or remove what holds it";
    /// A port that the gateway itself listens on.
    PortReserved { port: u16, protocol: Protocol, listener: String } =
        "port-reserved", "port {port}/{protocol} is the gateway's own: {listener} listens there", "choose another port, or move that service first";
    /// A port out of the range that SNAT uses.
    PortInSnatRange { range: PortRange, snat: PortRange } =
        "port-in-snat-range", "port {range} lies in {snat}, which connections of devices use on their way out",
        "choose a port outside, or move the range: `adit settings set snat-ports FIRST-LAST`";
    /// A forward that a split tunnel cannot answer.
    SplitTunnel { device: String } =
        "split-tunnel", "device `{device}` routes only the tunnel's own networks through the tunnel (routing `split`), so its replies to the Internet would leave elsewhere",
        "`adit device set {device} --routing inbound` (servers) or `full`, then bring its new configuration to the device";
    /// NAT66 where addresses are not private.
    ForwardIpv6Global { device: String, address: IpAddr } =
        "forward-ipv6-global", "device `{device}` has no private IPv6 address (RFC 4193) that {address} could be translated to", "open the port on its own global address with `adit pinhole add {device} PORT`, or forward an IPv4 address";
    /// A pinhole to a device without IPv6.
    PinholeWithoutIpv6 { device: String } =
        "pinhole-without-ipv6", "device `{device}` has no IPv6 address: its subnet has no prefix", "`adit subnet set NAME --ipv6 PREFIX` gives it one; without, use `adit forward add`, or remove its pinholes first";
    /// A port that a device asked for and does not get.
    LeaseRefused { reason: LeaseRefusal } =
        "lease-refused", "{reason}", "`adit lease list` shows what devices have opened, and `adit device show NAME` what they may";
    /// A port that a device has opened by itself.
    PortLeased { range: PortRange, protocol: Protocol, lease: u64, device: String } =
        "port-leased", "port {range}/{protocol} was opened by device `{device}` itself (lease {lease})",
        "`adit lease remove {lease}`, and `adit device set {device} --auto-ports off` if it is not to ask again; or choose another port";
    /// A forward or pinhole that is a lease.
    IsLease { kind: &'static str, id: u64 } =
        "is-lease", "{kind} {id} is a lease, which its device made", "`adit lease remove {id}`";
    /// A TLS name on a forward.
    HostnameUnsupported { hostname: String } =
        "hostname-unsupported", "a forward by the TLS name `{hostname}` is not possible yet", "forward the port itself";
    /// A setting with a value that cannot be.
    SettingInvalid { setting: &'static str, reason: String } =
        "setting-invalid", "the setting `{setting}` cannot have this value: {reason}", "`adit settings show` lists the settings and what they take";
    /// An uplink that this host does not have.
    UplinkUnknown { name: String } =
        "uplink-unknown", "`{name}` is not one uplink with a default route", "name one that `adit uplink list` shows";
    /// A value for an uplink that cannot be.
    UplinkInvalid { name: String, reason: String } =
        "uplink-invalid", "uplink `{name}`: {reason}", "give an IPv4 address that the Internet sees, or a host name that resolves to it";
    /// A declaration of which a part cannot be.
    DeclarationRefused { object: String, reason: String, hint: String } =
        "declaration-refused", "{object} cannot be as the declaration says: {reason}", "{hint}";
    /// A change that would be in the way of taking another back, or has to be taken back itself.
    AwaitsConfirmation { revision: u64, reason: String } =
        "awaits-confirmation", "the change of revision {revision} awaits its confirmation, and this one would be in the way of taking it back: {reason}",
        "`adit confirm` first, if all is well; else wait until it is taken back (`adit status` shows when)";
    /// A change that would have to be confirmed, and cannot be taken back.
    NotTakenBack { reason: String } =
        "not-taken-back", "this change cannot be taken back when nobody confirms it: {reason}",
        "come by a way that does not lead through the tunnel, and add `--confirm off`";
    /// No change awaits its confirmation.
    NothingToConfirm { revision: u64 } =
        "nothing-to-confirm", "no change awaits its confirmation (the gateway is at revision {revision})",
        "`adit log` shows whether it was taken back in the meantime; then make the change again, with a longer `--confirm SECONDS`";
    /// The state is not, or no longer, the one that the caller saw.
    RevisionMoved { expected: u64, revision: u64 } =
        "revision-moved", "the gateway is at revision {revision}, and the change was made for revision {expected}", "look at the plan again: `adit plan -f FILE`";
    /// The object is not, or no longer, the one that the caller saw.
    VersionMismatch { kind: &'static str, id: u64 } =
        "version-mismatch", "{kind} {id} was changed or removed in the meantime", "look at it again and repeat the change";
    /// Another server's key cannot become the gateway's while devices know the gateway by its own.
    ImportKeyTaken { devices: usize } =
        "import-key-taken", "the gateway has {devices} devices, which know it by the key that it has, and not by that of the other server",
        "import into a gateway without devices: a new one, or after `adit subnet remove NAME --force`";
    /// Something in another server's configuration that cannot be here.
    ImportRefused { place: String, reason: String, hint: String } =
        "import-refused", "{place}: {reason}",
        "{hint}; nothing was taken over. The other server has to be down (`wg-quick down wg0`): its addresses and its port become the gateway's";
    /// Nothing to change was given.
    NothingToChange { kind: &'static str, reference: String } =
        "nothing-to-change", "no new value was given for {kind} `{reference}`", "`adit {kind} set --help` shows what can be set";
}
