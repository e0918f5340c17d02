//! Doors for the fuzz targets: what reads bytes that come from outside, as functions of those bytes.

use std::convert::Infallible;

use adit_model::edit::Object;
use adit_store::snapshot::Snapshot;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::header::CONTENT_TYPE;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

use crate::caller::Caller;
use crate::http;
use crate::options::RunOptions;

/// Answers requests as the administrator's socket does, with a state that is empty and takes no change.
pub struct Server {
    runtime: Runtime,
    router: Router,
}

impl Server {
    /// # Errors
    ///
    /// When this machine has no room for a runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            router: http::router(http::stopped::stopped()),
        })
    }

    /// The status of the answer; none for what is no request.
    pub fn answer(&self, method: &str, target: &str, body: &[u8]) -> Option<u16> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(CONTENT_TYPE, "application/json")
            .extension(Caller::User { uid: Some(0) })
            .body(Body::from(body.to_vec()))
            .ok()?;
        self.runtime.block_on(async {
            let answered: Result<_, Infallible> = self.router.clone().oneshot(request).await;
            let answer = answered.ok()?;
            let status = answer.status().as_u16();
            to_bytes(answer.into_body(), usize::MAX).await.ok()?;
            Some(status)
        })
    }
}

/// A configuration file.
pub fn configuration(text: &str) {
    if let Ok(file) = toml::from_str(text) {
        let _ = RunOptions::default().settle_over(file);
    }
}

/// What a snapshot says the objects are.
pub fn objects(snapshot: Snapshot) {
    for object in snapshot.objects {
        let _ = Object::from_body(&object.kind, object.id, object.body);
    }
}
