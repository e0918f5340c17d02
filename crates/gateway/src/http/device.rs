//! Devices, their keys and their configurations.

use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::types::Removed;
use adit_api::types::device::{
    AddDevice, AddedDevice, ConfigurationQuery, Device, DeviceDetail, Devices, RekeyDevice,
    SetDevice,
};
use adit_api::types::page::DevicePageQuery;
use adit_model::change::Change;
use adit_model::configuration::{Format, PrivateKeySource, Routing};
use adit_model::edit::Key;
use adit_model::key::{PrivateKey, PublicKey};
use adit_model::refusal::Refusal;
use adit_model::state::{self, DeviceKind};
use adit_model::uplink::Uplink;
use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::answer::{Answer, Failure, NOT_APPLIED, vanished};
use super::configuration::{self, check_key_file, key_source};
use super::guard::not_allowed;
use super::kind::{self, Audience, Kind, Page};
use super::request::{Body, Query, Reference, Terms};
use super::view;
use crate::caller::Caller;
use crate::control::{Control, Snapshot};

impl Kind for state::Device {
    type View = Device;

    const NAME: &'static str = "device";
    const PATH: &'static str = "/devices";

    fn find<'a>(state: &'a state::State, reference: &str) -> Result<&'a Self, Refusal> {
        state.device(reference)
    }

    fn all(state: &state::State) -> impl Iterator<Item = &Self> {
        state.devices.values()
    }

    fn key(&self) -> Key {
        Key::Device(self.id)
    }

    fn view(&self, snapshot: &Snapshot) -> Device {
        view::device(snapshot, self)
    }

    fn others(&self, _: &state::State) -> Vec<Key> {
        vec![Key::Subnet(self.subnet)]
    }
}

/// All devices, or a part of them.
#[utoipa::path(
    get,
    path = "/devices",
    operation_id = "list_devices",
    tag = "devices",
    params(DevicePageQuery),
    responses((status = 200, description = "The devices", body = Devices), Failure)
)]
pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Query(query): Query<DevicePageQuery>,
) -> Result<Json<Devices>, Failure> {
    let snapshot = match query.after {
        None => control.refreshed().await,
        Some(_) => control.refreshed_lately().await,
    };
    let state = &snapshot.state;
    let subnet = query.subnet.as_deref();
    // Which subnets there are is not for everybody to know.
    if subnet.is_some() && caller.device().is_some() {
        return Err(not_allowed());
    }
    let owner = subnet.map(|subnet| state.subnet(subnet)).transpose()?;
    let page = Page {
        limit: query.limit,
        after: query.after,
        filter: owner.map(|owner| ("subnet", owner.id.0)),
    };
    let (devices, next) = page.cut(state, |device: &state::Device| {
        caller.sees(device.id) && owner.is_none_or(|owner| device.subnet == owner.id)
    })?;
    let devices = view::devices(&snapshot, &devices);
    Ok(Json(Devices { devices, next }))
}

/// One device, with what would go along when it is removed.
#[utoipa::path(
    get,
    path = "/devices/{reference}",
    operation_id = "show_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name", example = "nas")),
    responses((status = 200, description = "The device", body = DeviceDetail), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Response, Failure> {
    let snapshot = control.refreshed().await;
    let device = snapshot.state.device(&reference)?;
    let detail = view::device_detail(&snapshot, device);
    kind::answer(&snapshot, &terms, device, &detail)
}

/// Adds a device; a private key that the gateway made is in this answer only.
#[utoipa::path(
    post,
    path = "/devices",
    operation_id = "add_device",
    tag = "devices",
    request_body = AddDevice,
    responses((status = 201, description = "The device and its configuration", body = AddedDevice), Failure)
)]
pub(super) async fn add(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Body(mut request): Body<AddDevice>,
) -> Result<Answer, Failure> {
    let key_file = request.key_file.take();
    let keys = Keys::new(request.public_key.take(), key_file)?;
    let name = request.name.clone();
    let change = Change::AddDevice(request.into_change(keys.public));
    let base = control.snapshot();
    kind::make(
        &control,
        terms,
        change,
        None,
        base,
        move |snapshot, committed, audience| {
            let device = kind::added::<state::Device>(committed)?;
            let answer = answer(snapshot, device, &keys, audience)?;
            Ok(answer.created(state::Device::PATH, device.id.0))
        },
    )
    .await
    .map_err(|failure| lost_key(failure, &name))
}

/// Changes a device.
#[utoipa::path(
    patch,
    path = "/devices/{reference}",
    operation_id = "set_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name", example = "nas")),
    request_body = SetDevice,
    responses((status = 200, description = "The device", body = Device), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
    Body(request): Body<SetDevice>,
) -> Result<Answer, Failure> {
    let change = Change::SetDevice(reference.clone(), request.into());
    let base = control.refreshed_lately().await;
    kind::set::<state::Device>(&control, terms, &reference, change, base).await
}

/// Gives a device another key; a private key that the gateway made is in this answer only.
#[utoipa::path(
    post,
    path = "/devices/{reference}/rekey",
    operation_id = "rekey_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name", example = "nas")),
    request_body = RekeyDevice,
    responses((status = 200, description = "The device and its configuration", body = AddedDevice), Failure)
)]
pub(super) async fn rekey(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
    Body(request): Body<RekeyDevice>,
) -> Result<Answer, Failure> {
    let keys = Keys::new(request.public_key, request.key_file)?;
    let base = control.snapshot();
    let id = base.state.device(&reference)?.id;
    let name = reference.clone();
    let change = Change::RekeyDevice {
        reference,
        public_key: keys.public,
    };
    let key = Some(Key::Device(id));
    kind::make(
        &control,
        terms,
        change,
        key,
        base,
        move |snapshot, _, audience| {
            let device = snapshot.state.devices.get(&id);
            let device = device.ok_or_else(|| vanished("device"))?;
            answer(snapshot, device, &keys, audience)
        },
    )
    .await
    .map_err(|failure| lost_key(failure, &name))
}

/// The configuration of a device, with its preshared key and never with its private key.
#[utoipa::path(
    get,
    path = "/devices/{reference}/config",
    operation_id = "show_device_configuration",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name", example = "nas"), ConfigurationQuery),
    responses((status = 200, description = "The text in the format", body = String, content_type = "text/plain"), Failure)
)]
pub(super) async fn configuration(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Query(query): Query<ConfigurationQuery>,
) -> Result<String, Failure> {
    let format = configuration::format(query.format.as_deref())?;
    let snapshot = control.snapshot();
    let device = snapshot.state.device(&reference)?;
    let source = key_source(device, query.key_file)?;
    control.audit.configuration_shown(&caller, device).await;
    configuration::text(&snapshot, device, source, format)
}

/// Removes a device with its forwards, pinholes and delegations.
#[utoipa::path(
    delete,
    path = "/devices/{reference}",
    operation_id = "remove_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name", example = "nas")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    terms: Terms,
    Reference(reference): Reference,
) -> Result<Answer, Failure> {
    let change = Change::RemoveDevice(reference.clone());
    kind::remove::<state::Device>(&control, terms, &reference, change).await
}

/// The key of a device that is added or gets another one.
struct Keys {
    public: PublicKey,
    /// Ours, unless the device brought its own.
    private: Option<PrivateKey>,
    key_file: Option<String>,
}

impl Keys {
    fn new(public: Option<String>, key_file: Option<String>) -> Result<Self, Failure> {
        if let Some(path) = &key_file {
            check_key_file(path)?;
        }
        if let Some(text) = public {
            let public = text.parse().map_err(|error: adit_model::key::KeyError| {
                let reason = error.to_string();
                Refusal::KeyInvalid { reason }
            })?;
            return Ok(Self {
                public,
                private: None,
                key_file,
            });
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random)
            .map_err(|error| Problem::new(500, "no-random", error.to_string(), "try again"))?;
        let private = PrivateKey::from_random(random);
        Ok(Self {
            public: private.public_key(),
            private: Some(private),
            key_file,
        })
    }
}

/// Tells of a device that was added or got another key. What is kept of that has no configuration: a key of ours is not
/// stored, and the preshared key only where it belongs.
fn answer(
    snapshot: &Snapshot,
    device: &state::Device,
    keys: &Keys,
    audience: Audience,
) -> Result<Answer, Failure> {
    let version = snapshot.state.version(device.key());
    let private_key_shown = keys.private.is_some() && audience == Audience::Caller;
    let key_is_missing = !private_key_shown && keys.key_file.is_none();
    let mut added = AddedDevice {
        device: device.view(snapshot),
        config: None,
        private_key_shown,
        next: Vec::new(),
    };
    match audience {
        Audience::Caller => {
            let source = match &keys.private {
                Some(private) => PrivateKeySource::Inline(private.to_base64()),
                None => key_source(device, keys.key_file.clone())?,
            };
            added.config = Some(configuration::text(
                snapshot,
                device,
                source,
                Format::WgQuick,
            )?);
            added.next = next(snapshot, device, private_key_shown, key_is_missing);
        }
        Audience::Record => added.next = again(&device.name, keys),
    }
    Answer::of(version, &added)
}

/// What to do when the first answer was lost.
fn again(name: &str, keys: &Keys) -> Vec<String> {
    let mut next = vec![format!(
        "This request was made before, and is not made twice. Take the configuration from `adit device config {name}`."
    )];
    if keys.private.is_some() {
        next.push(format!(
            "The private key was in the first answer only, and is not stored: if that was lost, `adit device rekey {name}` makes another."
        ));
    }
    next
}

fn next(
    snapshot: &Snapshot,
    device: &state::Device,
    private_key_shown: bool,
    key_is_missing: bool,
) -> Vec<String> {
    let name = &device.name;
    let port = snapshot.state.settings.listen_port;
    let mut next = Vec::new();
    let host = configuration::endpoint_host(snapshot, device);
    let has_name = snapshot
        .uplinks
        .iter()
        .any(|uplink| uplink.endpoint.is_some());
    let unadvertised = snapshot.uplinks.iter().find_map(Uplink::unadvertised);
    let say = match (unadvertised.filter(|_| !has_name), host) {
        (Some(local), host) => Some(format!(
            "The Internet sees this host's address {local} as another, which is not known{}: say it with `adit uplink set --advertised ADDR`",
            host.map(|host| format!(", so that the configuration names {host}")).unwrap_or_default()
        )),
        (None, None) => Some(
            "This host has no address that devices could connect to: say one with `adit uplink set --endpoint HOST`"
                .to_owned(),
        ),
        (None, Some(_)) => None,
    };
    if let Some(say) = say {
        next.push(format!(
            "{say}, then take the configuration from `adit device config {name}`."
        ));
    }
    if private_key_shown {
        next.push(
            "The configuration holds the device's private key. It is shown this once and not stored: bring it to the device now."
                .to_owned(),
        );
    }
    if key_is_missing {
        next.push(format!(
            "The configuration lacks the device's private key: put it in place of the `# PrivateKey` line, or take \
             `adit device config {name} --key-file PATH`, which reads it from a file on the device."
        ));
    }
    next.push(match device.routing {
        Routing::Inbound => {
            "On the device: save it as /etc/wireguard/adit.conf with mode 600, then `wg-quick up adit`.".to_owned()
        }
        Routing::Full | Routing::Split => {
            "On the device: import it into a WireGuard app (`--qr` draws it for a camera), or save it as \
             /etc/wireguard/adit.conf with mode 600, then `wg-quick up adit`."
                .to_owned()
        }
    });
    next.push(format!(
        "Let UDP port {port} through in your provider's firewall; `adit device show {name}` shows when the device connects."
    ));
    if device.kind == DeviceKind::Server {
        next.push(format!(
            "Lead a public port to it: `adit forward add 443/tcp {name}`."
        ));
    }
    next
}

/// A change that is stored but not in force answers with no configuration, so the key in it is lost.
fn lost_key(mut failure: Failure, name: &str) -> Failure {
    if failure.0.code == NOT_APPLIED {
        failure.0.hint = format!(
            "{}; then `adit device rekey {name}` gives the device its configuration",
            failure.0.hint
        );
    }
    failure
}
