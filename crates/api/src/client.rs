//! A client for the administrator's Unix socket, or for a gateway's address with a token.

mod connection;
mod stream;
mod trust;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

pub use self::stream::{EventStream, Received};
use crate::problem::Problem;
use crate::types::Removed;
use crate::types::backup::{Backup, Kept, Restoring};
use crate::types::confirmation::Confirmed;
use crate::types::declaration::{Apply, Declared, HostPlan, Plan};
use crate::types::device::{
    AddDevice, AddedDevice, ConfigurationQuery, Device, DeviceDetail, Devices, RekeyDevice,
    SetDevice,
};
use crate::types::forward::{AddForward, Forward, Forwards, SetForward};
use crate::types::import::{ImportServer, Imported};
use crate::types::lease::{Lease, Leases};
use crate::types::log::{Log, LogOrder, LogParameters};
use crate::types::pinhole::{AddPinhole, Pinhole, Pinholes, SetPinhole};
use crate::types::settings::{SetSettings, Settings};
use crate::types::status::Status;
use crate::types::subnet::{AddSubnet, SetSubnet, Subnet, Subnets};
use crate::types::token::{AddToken, AddedToken, Tokens};
use crate::types::uplink::{SetUplink, Uplink, Uplinks};

const PREFIX: &str = "/api/v1";
/// An answer of so many devices is about half a megabyte.
const PAGE: u16 = 1000;

/// Talks to one gateway; each request has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    target: Target,
    token: Option<Secret>,
    /// The version that what is changed must have.
    version: Option<u64>,
    /// Seconds within which a change is to be confirmed, or `off`.
    confirm: Option<String>,
    /// Where whoever uses this host comes from.
    address: Option<IpAddr>,
    /// Seconds within which the last change has to be confirmed; 0: it has not.
    awaits: Arc<AtomicU64>,
}

/// Why there is no answer to work with.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers there.
    #[error("the gateway at {what} cannot be reached: {why}")]
    Unreachable {
        /// Where.
        what: String,
        /// Why.
        why: String,
    },
    /// Somebody answers there, and it cannot be told whether it is the gateway.
    #[error("the gateway at {what} cannot be trusted: {why}")]
    Untrusted {
        /// Where.
        what: String,
        /// Why.
        why: String,
        /// The way out.
        hint: String,
    },
    /// The gateway refused, or failed.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The answer is not one of this API.
    #[error("{what} did not answer as a gateway does: {why}")]
    Protocol {
        /// Where.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// An address or a token that cannot be used.
    #[error("{0}")]
    Target(String),
}

#[derive(Clone, Debug)]
enum Target {
    Unix(PathBuf),
    Tcp {
        authority: String,
        port: u16,
        host: String,
        tls: Option<Tls>,
    },
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(formatter)
    }
}

#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(hidden)")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(formatter),
            Self::Tcp {
                authority,
                tls: None,
                ..
            } => write!(formatter, "http://{authority}"),
            Self::Tcp { authority, .. } => write!(formatter, "https://{authority}"),
        }
    }
}

impl Client {
    /// A client for the administrator's socket.
    pub fn unix(socket: &Path) -> Self {
        Self {
            target: Target::Unix(socket.to_owned()),
            token: None,
            version: None,
            confirm: None,
            address: None,
            awaits: Arc::default(),
        }
    }

    /// A client for `https://HOST[:PORT]`, or `http://` on this host, with the text of a token. `authorities` are certificates
    /// in PEM to trust instead of this host's authorities: the gateway's own, or those of who signed it.
    ///
    /// # Errors
    ///
    /// When the address is not of that form, the token has characters that a header cannot carry or would be sent over a
    /// network in clear, or the certificates cannot be read.
    pub fn remote(
        url: &str,
        token: Option<&str>,
        authorities: Option<&[u8]>,
    ) -> Result<Self, ClientError> {
        let refuse = || {
            ClientError::Target(format!(
                "`{url}` cannot be used: give the gateway's address as https://HOST:PORT"
            ))
        };
        let uri: http::Uri = url.parse().map_err(|_| refuse())?;
        let authority = uri.authority().ok_or_else(refuse)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refuse());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let token = match token.map(str::trim) {
            Some(text) if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err(ClientError::Target(
                    "the token file holds no token".to_owned(),
                ));
            }
            token => token.map(|text| Secret(text.to_owned())),
        };
        let tls = match uri.scheme_str() {
            Some("https") => Some(Tls {
                connector: trust::connector(authorities)?,
                name: ServerName::try_from(host.clone()).map_err(|_| refuse())?,
            }),
            Some("http") if token.is_some() && !is_loopback(&host) => {
                return Err(ClientError::Target(format!(
                    "`{url}` would send the token over the network in clear: use https://"
                )));
            }
            Some("http") => None,
            Some(_) | None => return Err(refuse()),
        };
        let default_port = if tls.is_some() { 443 } else { 80 };
        Ok(Self {
            target: Target::Tcp {
                authority: authority.to_string(),
                port: authority.port_u16().unwrap_or(default_port),
                host,
                tls,
            },
            token,
            version: None,
            confirm: None,
            address: None,
            awaits: Arc::default(),
        })
    }

    /// The same client, for a request about an object that must have this version, where one is given.
    pub fn if_version(&self, version: Option<u64>) -> Self {
        Self {
            version,
            ..self.clone()
        }
    }

    /// The same client, whose changes are taken back unless they are confirmed within so many seconds, or `off`; unless said,
    /// those that may cut off whoever comes from the address, where one is known.
    pub fn confirming(self, confirm: Option<String>, address: Option<IpAddr>) -> Self {
        Self {
            confirm,
            address,
            ..self
        }
    }

    /// Seconds within which a change of this client, or a copy of it, has to be confirmed.
    pub fn awaits(&self) -> Option<u64> {
        Some(self.awaits.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }

    /// What the gateway has to do on its host.
    pub async fn host_plan(&self) -> Result<HostPlan, ClientError> {
        self.get("/plan").await
    }

    /// Everything that is kept, for a backup.
    pub async fn kept(&self) -> Result<Kept, ClientError> {
        let answer = self.request(Method::POST, "/backup", None).await?;
        self.read(&answer)
    }

    /// Puts a backup in the place of the gateway's state; the gateway starts anew then.
    pub async fn restore(&self, backup: &Backup) -> Result<Restoring, ClientError> {
        self.send(Method::POST, "/restore", backup).await
    }

    /// Confirms the change that awaits it.
    pub async fn confirm(&self) -> Result<Confirmed, ClientError> {
        let answer = self.request(Method::POST, "/confirm", None).await?;
        self.read(&answer)
    }

    /// The state of the whole.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/status").await
    }

    /// A part of the audit log.
    pub async fn log(&self, parameters: &LogParameters) -> Result<Log, ClientError> {
        let LogParameters {
            limit,
            after,
            order,
            device,
            object,
            since,
        } = parameters;
        let order = match order {
            LogOrder::Newest => None,
            LogOrder::Oldest => Some("oldest".to_owned()),
        };
        let parameters = [
            ("limit", limit.map(|limit| limit.to_string())),
            ("after", after.map(|after| after.to_string())),
            ("order", order),
            ("device", device.as_deref().map(escape)),
            ("object", object.as_deref().map(escape)),
            ("since", since.map(|since| since.to_string())),
        ];
        let query: Vec<String> = parameters
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
            .collect();
        self.get(&format!("/log?{}", query.join("&"))).await
    }

    /// Listens to the events; `last` is the id of the last one that was seen.
    pub async fn events(&self, last: Option<u64>) -> Result<EventStream, ClientError> {
        connection::listen(self, &format!("{PREFIX}/events"), last).await
    }

    /// Takes another server over, or tells what would be.
    pub async fn import(&self, request: &ImportServer) -> Result<Imported, ClientError> {
        self.send(Method::POST, "/import", request).await
    }

    /// All subnets.
    pub async fn subnets(&self) -> Result<Subnets, ClientError> {
        let mut all: Subnets = self.get(&first("/subnets")).await?;
        while let Some(next) = all.next.take() {
            let page: Subnets = self.get(self.further(&next)?).await?;
            all.subnets.extend(page.subnets);
            all.next = page.next;
        }
        Ok(all)
    }

    /// One subnet.
    pub async fn subnet(&self, reference: &str) -> Result<Subnet, ClientError> {
        self.get(&path("subnets", reference)).await
    }

    /// Adds a subnet.
    pub async fn add_subnet(&self, request: &AddSubnet) -> Result<Subnet, ClientError> {
        self.send(Method::POST, "/subnets", request).await
    }

    /// Changes a subnet.
    pub async fn set_subnet(
        &self,
        reference: &str,
        request: &SetSubnet,
    ) -> Result<Subnet, ClientError> {
        self.send(Method::PATCH, &path("subnets", reference), request)
            .await
    }

    /// Removes a subnet; with its devices if forced.
    pub async fn remove_subnet(
        &self,
        reference: &str,
        force: bool,
    ) -> Result<Removed, ClientError> {
        let query = if force { "?force=true" } else { "" };
        self.delete(&(path("subnets", reference) + query)).await
    }

    /// All devices.
    pub async fn devices(&self) -> Result<Devices, ClientError> {
        let mut all: Devices = self.get(&first("/devices")).await?;
        while let Some(next) = all.next.take() {
            let page: Devices = self.get(self.further(&next)?).await?;
            all.devices.extend(page.devices);
            all.next = page.next;
        }
        Ok(all)
    }

    /// One device with what depends on it.
    pub async fn device(&self, reference: &str) -> Result<DeviceDetail, ClientError> {
        self.get(&path("devices", reference)).await
    }

    /// Adds a device.
    pub async fn add_device(&self, request: &AddDevice) -> Result<AddedDevice, ClientError> {
        self.send(Method::POST, "/devices", request).await
    }

    /// Changes a device.
    pub async fn set_device(
        &self,
        reference: &str,
        request: &SetDevice,
    ) -> Result<Device, ClientError> {
        self.send(Method::PATCH, &path("devices", reference), request)
            .await
    }

    /// Gives a device another key.
    pub async fn rekey_device(
        &self,
        reference: &str,
        request: &RekeyDevice,
    ) -> Result<AddedDevice, ClientError> {
        let path = path("devices", reference) + "/rekey";
        self.send(Method::POST, &path, request).await
    }

    /// The configuration of a device, without its private key.
    pub async fn device_configuration(
        &self,
        reference: &str,
        query: &ConfigurationQuery,
    ) -> Result<String, ClientError> {
        let format = query.format.as_deref().map(|format| ("format", format));
        let key_file = query.key_file.as_deref().map(|file| ("key_file", file));
        let query: Vec<String> = format
            .into_iter()
            .chain(key_file)
            .map(|(name, value)| format!("{name}={}", escape(value)))
            .collect();
        let path = format!("{}/config?{}", path("devices", reference), query.join("&"));
        let answer = self.request(Method::GET, &path, None).await?;
        String::from_utf8(answer).map_err(|error| self.protocol(error.to_string()))
    }

    /// Removes a device with what depends on it.
    pub async fn remove_device(&self, reference: &str) -> Result<Removed, ClientError> {
        self.delete(&path("devices", reference)).await
    }

    /// All forwards.
    pub async fn forwards(&self) -> Result<Forwards, ClientError> {
        let mut all: Forwards = self.get(&first("/forwards")).await?;
        while let Some(next) = all.next.take() {
            let page: Forwards = self.get(self.further(&next)?).await?;
            all.forwards.extend(page.forwards);
            all.next = page.next;
        }
        Ok(all)
    }

    /// One forward.
    pub async fn forward(&self, reference: &str) -> Result<Forward, ClientError> {
        self.get(&path("forwards", reference)).await
    }

    /// Adds a forward.
    pub async fn add_forward(&self, request: &AddForward) -> Result<Forward, ClientError> {
        self.send(Method::POST, "/forwards", request).await
    }

    /// Changes a forward.
    pub async fn set_forward(
        &self,
        reference: &str,
        request: &SetForward,
    ) -> Result<Forward, ClientError> {
        self.send(Method::PATCH, &path("forwards", reference), request)
            .await
    }

    /// Removes a forward.
    pub async fn remove_forward(&self, reference: &str) -> Result<Removed, ClientError> {
        self.delete(&path("forwards", reference)).await
    }

    /// All leases.
    pub async fn leases(&self) -> Result<Leases, ClientError> {
        let mut all: Leases = self.get(&first("/leases")).await?;
        while let Some(next) = all.next.take() {
            let page: Leases = self.get(self.further(&next)?).await?;
            all.leases.extend(page.leases);
            all.next = page.next;
        }
        Ok(all)
    }

    /// One lease.
    pub async fn lease(&self, reference: &str) -> Result<Lease, ClientError> {
        self.get(&path("leases", reference)).await
    }

    /// Removes a lease.
    pub async fn remove_lease(&self, reference: &str) -> Result<Removed, ClientError> {
        self.delete(&path("leases", reference)).await
    }

    /// All pinholes.
    pub async fn pinholes(&self) -> Result<Pinholes, ClientError> {
        let mut all: Pinholes = self.get(&first("/pinholes")).await?;
        while let Some(next) = all.next.take() {
            let page: Pinholes = self.get(self.further(&next)?).await?;
            all.pinholes.extend(page.pinholes);
            all.next = page.next;
        }
        Ok(all)
    }

    /// One pinhole.
    pub async fn pinhole(&self, reference: &str) -> Result<Pinhole, ClientError> {
        self.get(&path("pinholes", reference)).await
    }

    /// Adds a pinhole.
    pub async fn add_pinhole(&self, request: &AddPinhole) -> Result<Pinhole, ClientError> {
        self.send(Method::POST, "/pinholes", request).await
    }

    /// Changes a pinhole.
    pub async fn set_pinhole(
        &self,
        reference: &str,
        request: &SetPinhole,
    ) -> Result<Pinhole, ClientError> {
        self.send(Method::PATCH, &path("pinholes", reference), request)
            .await
    }

    /// Removes a pinhole.
    pub async fn remove_pinhole(&self, reference: &str) -> Result<Removed, ClientError> {
        self.delete(&path("pinholes", reference)).await
    }

    /// All tokens.
    pub async fn tokens(&self) -> Result<Tokens, ClientError> {
        let mut all: Tokens = self.get(&first("/tokens")).await?;
        while let Some(next) = all.next.take() {
            let page: Tokens = self.get(self.further(&next)?).await?;
            all.tokens.extend(page.tokens);
            all.next = page.next;
        }
        Ok(all)
    }

    /// Adds a token.
    pub async fn add_token(&self, request: &AddToken) -> Result<AddedToken, ClientError> {
        self.send(Method::POST, "/tokens", request).await
    }

    /// Removes a token.
    pub async fn remove_token(&self, reference: &str) -> Result<Removed, ClientError> {
        self.delete(&path("tokens", reference)).await
    }

    /// All uplinks.
    pub async fn uplinks(&self) -> Result<Uplinks, ClientError> {
        self.get("/uplinks").await
    }

    /// One uplink.
    pub async fn uplink(&self, name: &str) -> Result<Uplink, ClientError> {
        self.get(&path("uplinks", name)).await
    }

    /// Changes an uplink.
    pub async fn set_uplink(&self, name: &str, request: &SetUplink) -> Result<Uplink, ClientError> {
        self.send(Method::PATCH, &path("uplinks", name), request)
            .await
    }

    /// The manual state as a document.
    pub async fn declaration(&self) -> Result<Declared, ClientError> {
        self.get("/declaration").await
    }

    /// What a declaration would change.
    pub async fn plan(&self, request: &Apply) -> Result<Plan, ClientError> {
        self.send(Method::POST, "/declaration/plan", request).await
    }

    /// Makes the manual state what a declaration says.
    pub async fn apply(&self, request: &Apply) -> Result<Plan, ClientError> {
        self.send(Method::POST, "/declaration/apply", request).await
    }

    /// The settings.
    pub async fn settings(&self) -> Result<Settings, ClientError> {
        self.get("/settings").await
    }

    /// Changes settings.
    pub async fn set_settings(&self, request: &SetSettings) -> Result<Settings, ClientError> {
        self.send(Method::PATCH, "/settings", request).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.request(Method::GET, path, None).await?;
        self.read(&answer)
    }

    /// The path of a further page, as the gateway told it.
    fn further<'a>(&self, next: &'a str) -> Result<&'a str, ClientError> {
        next.strip_prefix(PREFIX)
            .ok_or_else(|| self.protocol(format!("its next page is at `{next}`")))
    }

    async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let answer = self.request(Method::DELETE, path, None).await?;
        self.read(&answer)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.protocol(error.to_string()))?;
        let answer = self.request(method, path, Some(body)).await?;
        self.read(&answer)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, ClientError> {
        let path = format!("{PREFIX}{path}");
        connection::request(self, method, &path, body).await
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|error| self.protocol(error.to_string()))
    }

    fn protocol(&self, why: String) -> ClientError {
        ClientError::Protocol {
            what: self.target.to_string(),
            why,
        }
    }
}

/// The path of the first page of a list.
fn first(list: &str) -> String {
    format!("{list}?limit={PAGE}")
}

fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    address.map_or(host.eq_ignore_ascii_case("localhost"), |address| {
        address.to_canonical().is_loopback()
    })
}

fn path(collection: &str, reference: &str) -> String {
    format!("/{collection}/{}", escape(reference))
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3, so that a name stays one segment.
pub fn escape(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte);
    // `.` and `..` would be taken for steps.
    let dots = text.bytes().all(|byte| byte == b'.');
    text.bytes()
        .map(|byte| {
            if is_plain(byte) && !dots {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
