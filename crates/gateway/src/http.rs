//! The HTTP interface.

use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::control::Control;

pub(crate) fn router(_control: Arc<Control>) -> axum::Router {
    axum::Router::new()
}

pub(crate) async fn serve(listener: UnixListener, router: axum::Router, mut stop: watch::Receiver<bool>) {
    let _ = axum::serve(listener, router).with_graceful_shutdown(async move { let _ = stop.changed().await; }).await;
}
