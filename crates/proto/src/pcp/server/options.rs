//! The options of a request, one after the other (RFC 6887 section 7.3).

use std::net::IpAddr;

use super::super::wire::{
    Body, ErrorCode, FilterChange, Hostname, Opcode, PcpOption, PortSet, RawOption, split_options,
};
use super::Policy;
use super::envelope::Processed;

/// What the options of a request say.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) third_party: Option<IpAddr>,
    pub(super) prefer_failure: bool,
    pub(super) filters: Vec<FilterChange>,
    pub(super) port_set: Option<PortSet>,
    pub(super) hostnames: Vec<Hostname>,
    pub(super) processed: Vec<Processed>,
}

/// What an option is judged by.
struct Setting<'a> {
    source: IpAddr,
    is_delete: bool,
    body: &'a Body,
    policy: &'a Policy,
}

impl Options {
    pub(super) fn read(
        octets: &[u8],
        source: IpAddr,
        lifetime: u32,
        body: &Body,
        policy: &Policy,
    ) -> Result<Self, ErrorCode> {
        let raw = split_options(octets).ok_or(ErrorCode::MalformedOption)?;
        let setting = Setting {
            source,
            is_delete: lifetime == 0,
            body,
            policy,
        };
        let mut options = Self::default();
        for option in raw {
            if options.process(option, &setting)? {
                options.processed.push(Processed {
                    code: option.code,
                    data: option.data.into(),
                });
            }
        }
        options.agree(&setting)?;
        Ok(options)
    }

    /// Takes in one option; whether it was processed, and comes back.
    fn process(&mut self, raw: RawOption<'_>, setting: &Setting<'_>) -> Result<bool, ErrorCode> {
        let opcode = setting.body.opcode();
        let is_map = opcode == Opcode::Map;
        // What a server may pass over, and would have no use for, is not even read.
        if !raw.is_mandatory() && !is_map {
            return Ok(false);
        }
        let option = PcpOption::decode(raw).map_err(|_| ErrorCode::MalformedOption)?;
        match option {
            PcpOption::ThirdParty(_) if opcode == Opcode::Announce => {
                Err(ErrorCode::MalformedOption)
            }
            PcpOption::ThirdParty(address) => self.third_party(address, setting),
            // Section 12.1.
            PcpOption::PreferFailure if opcode == Opcode::Peer => Err(ErrorCode::MalformedRequest),
            PcpOption::PreferFailure | PcpOption::Filter(_) if !is_map || setting.is_delete => {
                Err(ErrorCode::MalformedOption)
            }
            PcpOption::PreferFailure if self.prefer_failure => Err(ErrorCode::MalformedOption),
            PcpOption::PreferFailure => {
                self.prefer_failure = true;
                Ok(true)
            }
            PcpOption::Filter(change) => self.filter(change),
            PcpOption::PortSet(set) => self.port_set(set, setting),
            PcpOption::Hostname(_) if !setting.policy.hostnames && setting.is_delete => Ok(false),
            PcpOption::Hostname(_) if !setting.policy.hostnames => {
                Err(ErrorCode::HostnameUnsupported)
            }
            PcpOption::Hostname(name) => {
                self.hostnames.push(name);
                Ok(true)
            }
            PcpOption::HostnameCapability => Ok(false),
            PcpOption::Unknown(_) if raw.is_mandatory() => Err(ErrorCode::UnsupportedOption),
            PcpOption::Unknown(_) => Ok(false),
        }
    }

    /// RFC 6887 section 13.1.
    fn third_party(&mut self, address: IpAddr, setting: &Setting<'_>) -> Result<bool, ErrorCode> {
        if !setting.policy.third_party {
            return Err(ErrorCode::UnsupportedOption);
        }
        if self.third_party.is_some() || address.is_unspecified() || address.is_multicast() {
            return Err(ErrorCode::MalformedOption);
        }
        if address == setting.source {
            return Err(ErrorCode::MalformedRequest);
        }
        self.third_party = Some(address);
        Ok(true)
    }

    /// RFC 6887 section 13.3.
    fn filter(&mut self, change: FilterChange) -> Result<bool, ErrorCode> {
        self.filters.push(change);
        Ok(true)
    }

    /// RFC 7753 section 4.2.
    fn port_set(&mut self, set: PortSet, setting: &Setting<'_>) -> Result<bool, ErrorCode> {
        let Body::Map(body) = setting.body else {
            return Ok(false);
        };
        if body.internal_port == 0 {
            return Ok(false);
        }
        if self.port_set.is_some() {
            return Err(ErrorCode::MalformedOption);
        }
        if !setting.is_delete && (set.size == 0 || set.first_internal != body.internal_port) {
            return Err(ErrorCode::MalformedOption);
        }
        let most = u16::MAX - body.internal_port;
        let size = set.size.min(most.saturating_add(1));
        self.port_set = Some(PortSet { size, ..set });
        Ok(true)
    }

    /// What options say about each other, and about the body.
    fn agree(&mut self, setting: &Setting<'_>) -> Result<(), ErrorCode> {
        let Body::Map(body) = setting.body else {
            return Ok(());
        };
        let port = body.internal_port != 0;
        if self.prefer_failure && (self.port_set.is_some() || port && body.external_port == 0) {
            return Err(ErrorCode::MalformedOption);
        }
        let internal = self.third_party.unwrap_or(setting.source);
        let foreign = |change: &FilterChange| match change {
            FilterChange::Clear => false,
            FilterChange::Add(filter) => filter.prefix.addr().is_ipv4() != internal.is_ipv4(),
        };
        // Internal and remote addresses are of one family (RFC 6887 section 10).
        if self.filters.iter().any(foreign) {
            return Err(ErrorCode::MalformedOption);
        }
        // One port is no set.
        if !setting.is_delete && self.port_set.is_some_and(|set| set.size == 1) {
            self.port_set = None;
        }
        Ok(())
    }
}
