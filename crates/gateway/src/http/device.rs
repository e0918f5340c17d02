//! Devices, their keys and their configurations.

use std::sync::Arc;

use adit_api::problem::Problem;
use adit_api::types::Removed;
use adit_api::types::device::{
    AddDevice, AddedDevice, ConfigurationQuery, Device, DeviceDetail, Devices, RekeyDevice,
    SetDevice,
};
use adit_model::change::Change;
use adit_model::configuration::{PrivateKeySource, Routing};
use adit_model::edit::{Edit, Key, Object};
use adit_model::key::{PrivateKey, PublicKey};
use adit_model::refusal::Refusal;
use adit_model::state::{self, DeviceKind};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::answer::{Failure, removed, vanished};
use super::configuration::{self, check_format, check_key_file, key_source};
use super::request::{Body, Query, Reference};
use super::view;
use crate::caller::Caller;
use crate::control::{ChangeError, Committed, Control, Snapshot};

/// All devices.
#[utoipa::path(
    get,
    path = "/devices",
    operation_id = "list_devices",
    tag = "devices",
    responses((status = 200, description = "All devices", body = Devices), Failure)
)]
pub(super) async fn list(State(control): State<Arc<Control>>) -> Json<Devices> {
    let snapshot = control.refreshed().await;
    Json(view::devices(&snapshot))
}

/// One device, with what would go along when it is removed.
#[utoipa::path(
    get,
    path = "/devices/{reference}",
    operation_id = "show_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name")),
    responses((status = 200, description = "The device", body = DeviceDetail), Failure)
)]
pub(super) async fn show(
    State(control): State<Arc<Control>>,
    Reference(reference): Reference,
) -> Result<Json<DeviceDetail>, Failure> {
    let snapshot = control.refreshed().await;
    let device = snapshot.state.device(&reference)?;
    Ok(Json(view::device_detail(&snapshot, device)))
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
    caller: Caller,
    Body(mut request): Body<AddDevice>,
) -> Result<(StatusCode, Json<AddedDevice>), Failure> {
    let key_file = request.key_file.take();
    let keys = Keys::new(request.public_key.take(), key_file)?;
    let name = request.name.clone();
    let change = Change::AddDevice(request.into_change(keys.public));
    let committed = control
        .change(change, caller, None)
        .await
        .map_err(|error| lost_key(error, &name))?;
    answer(&control, &committed, keys).map(|answer| (StatusCode::CREATED, Json(answer)))
}

/// Changes a device.
#[utoipa::path(
    patch,
    path = "/devices/{reference}",
    operation_id = "set_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name")),
    request_body = SetDevice,
    responses((status = 200, description = "The device", body = Device), Failure)
)]
pub(super) async fn set(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Body(request): Body<SetDevice>,
) -> Result<Json<Device>, Failure> {
    let id = control.snapshot().state.device(&reference)?.id;
    let change = Change::SetDevice(reference, request.into());
    control.change(change, caller, None).await?;
    let snapshot = control.refreshed().await;
    let device = snapshot.state.devices.get(&id);
    let device = device.ok_or_else(|| vanished("device"))?;
    Ok(Json(view::device(&snapshot, device)))
}

/// Gives a device another key; a private key that the gateway made is in this answer only.
#[utoipa::path(
    post,
    path = "/devices/{reference}/rekey",
    operation_id = "rekey_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name")),
    request_body = RekeyDevice,
    responses((status = 200, description = "The device and its configuration", body = AddedDevice), Failure)
)]
pub(super) async fn rekey(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Body(request): Body<RekeyDevice>,
) -> Result<Json<AddedDevice>, Failure> {
    let keys = Keys::new(request.public_key, request.key_file)?;
    let name = reference.clone();
    let change = Change::RekeyDevice {
        reference,
        public_key: keys.public,
    };
    let committed = control
        .change(change, caller, None)
        .await
        .map_err(|error| lost_key(error, &name))?;
    answer(&control, &committed, keys).map(Json)
}

/// The configuration of a device, with its preshared key and never with its private key.
#[utoipa::path(
    get,
    path = "/devices/{reference}/config",
    operation_id = "show_device_configuration",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name"), ConfigurationQuery),
    responses((status = 200, description = "The text for wg-quick", body = String, content_type = "text/plain"), Failure)
)]
pub(super) async fn configuration(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
    Query(query): Query<ConfigurationQuery>,
) -> Result<String, Failure> {
    check_format(query.format.as_deref())?;
    let snapshot = control.snapshot();
    let device = snapshot.state.device(&reference)?;
    let source = key_source(device, query.key_file)?;
    tracing::info!(device = %device.name, %caller, "configuration shown");
    configuration::wg_quick(&snapshot, device, source)
}

/// Removes a device with its forwards, pinholes and delegations.
#[utoipa::path(
    delete,
    path = "/devices/{reference}",
    operation_id = "remove_device",
    tag = "devices",
    params(("reference" = String, Path, description = "Id or name")),
    responses((status = 200, description = "Removed", body = Removed), Failure)
)]
pub(super) async fn remove(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Reference(reference): Reference,
) -> Result<Json<Removed>, Failure> {
    let committed = control
        .change(Change::RemoveDevice(reference), caller, None)
        .await?;
    Ok(removed(&committed, |key| matches!(key, Key::Device(_))))
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

fn answer(control: &Control, committed: &Committed, keys: Keys) -> Result<AddedDevice, Failure> {
    // The answer is about the device as this change made it, whatever happened since.
    let snapshot = Snapshot {
        state: Arc::clone(&committed.state),
        ..control.snapshot()
    };
    let device = committed.edits.iter().find_map(|edit| match edit {
        Edit::Set(Object::Device(device)) => Some(device),
        Edit::Set(_) | Edit::Remove(_) => None,
    });
    let device = match device {
        Some(device) => device,
        // The very key that the device has already.
        None => {
            let mut devices = snapshot.state.devices.values();
            let same = devices.find(|device| device.public_key == keys.public);
            same.ok_or_else(|| vanished("device"))?
        }
    };
    let private_key_shown = keys.private.is_some();
    let key_is_missing = !private_key_shown && keys.key_file.is_none();
    let source = match &keys.private {
        Some(private) => PrivateKeySource::Inline(private.to_base64()),
        None => key_source(device, keys.key_file)?,
    };
    Ok(AddedDevice {
        device: view::device(&snapshot, device),
        config: configuration::wg_quick(&snapshot, device, source)?,
        private_key_shown,
        next: next(&snapshot, device, private_key_shown, key_is_missing),
    })
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
    if configuration::endpoint_host(snapshot, device).is_none() {
        next.push(format!(
            "This host has no address that devices could connect to: say one with `adit uplink set --endpoint HOST`, then take the \
             configuration from `adit device config {name}`."
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
fn lost_key(error: ChangeError, name: &str) -> Failure {
    let is_stored = match &error {
        ChangeError::Apply { .. } => true,
        ChangeError::Refused(_) | ChangeError::Store { .. } | ChangeError::Stopping => false,
    };
    let mut failure = Failure::from(error);
    if is_stored {
        let way_out = format!(
            "{}; then `adit device rekey {name}` gives the device its configuration",
            failure.0.hint
        );
        failure.0.hint = way_out;
    }
    failure
}
