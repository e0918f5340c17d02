//! How lists are asked for: in pages, and of what belongs to one subnet or device.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// The most objects in a page.
pub const LARGEST: u16 = 5000;

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// The most objects to answer, 1 to 5000; all unless said.
    #[serde(default)]
    #[param(minimum = 1, maximum = 5000)]
    pub limit: Option<u16>,
    /// Only objects whose id is greater.
    #[serde(default)]
    pub after: Option<u64>,
}

/// A part of the list of devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DevicePageQuery {
    /// The most objects to answer, 1 to 5000; all unless said.
    #[serde(default)]
    #[param(minimum = 1, maximum = 5000)]
    pub limit: Option<u16>,
    /// Only objects whose id is greater.
    #[serde(default)]
    pub after: Option<u64>,
    /// Only those of this subnet, by id or name.
    #[serde(default)]
    pub subnet: Option<String>,
}

/// A part of a list of what belongs to devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PortPageQuery {
    /// The most objects to answer, 1 to 5000; all unless said.
    #[serde(default)]
    #[param(minimum = 1, maximum = 5000)]
    pub limit: Option<u16>,
    /// Only objects whose id is greater.
    #[serde(default)]
    pub after: Option<u64>,
    /// Only those of this device, by id or name.
    #[serde(default)]
    pub device: Option<String>,
}
