//! The text by which administrators and programs configure the interface: `wg` speaks it, too.

mod answer;
#[cfg(feature = "fuzzing")]
mod door;
mod request;
mod serving;

use answer::{write_interface, write_peer};
#[cfg(feature = "fuzzing")]
pub(crate) use door::{answer_text, apply_text};
use request::{Request, Setting};
pub(crate) use serving::{Interface, Server};
