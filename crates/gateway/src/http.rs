//! The HTTP interface on the administrator's socket: routes, and what holds for all of them.

mod answer;
mod condition;
mod configuration;
mod device;
mod document;
mod forward;
mod kind;
mod pinhole;
mod repetition;
mod request;
mod settings;
mod status;
mod subnet;
mod token;
mod uplink;
mod view;

use std::sync::Arc;

use adit_api::problem::Problem;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use tokio::net::UnixListener;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::answer::Failure;
use crate::caller::Caller;
use crate::control::Control;

const PREFIX: &str = "/api/v1";
const LARGEST_REQUEST: usize = 256 << 10;

/// Everything under `/api/v1`; anything else is answered with a problem.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let (router, document) = routes().split_for_parts();
    router
        .layer(document::layer(&document))
        .layer(from_fn_with_state(Arc::clone(&control), repetition::layer))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(control)
}

/// Answers on the administrator's socket until `stop` changes, then finishes what it has begun.
pub(crate) async fn serve(listener: UnixListener, router: Router, mut stop: watch::Receiver<bool>) {
    let service = router.into_make_service_with_connect_info::<Caller>();
    let stopped = async move {
        // A sender that is gone stops it as well.
        let _ = stop.changed().await;
    };
    let served = axum::serve(listener, service).with_graceful_shutdown(stopped);
    if let Err(error) = served.await {
        tracing::error!(%error, "the administrator's socket is no longer served");
    }
}

fn routes() -> OpenApiRouter<Arc<Control>> {
    let api = OpenApiRouter::new()
        .routes(routes!(status::show))
        .routes(routes!(subnet::list, subnet::add))
        .routes(routes!(subnet::show, subnet::set, subnet::remove))
        .routes(routes!(device::list, device::add))
        .routes(routes!(device::show, device::set, device::remove))
        .routes(routes!(device::rekey))
        .routes(routes!(device::configuration))
        .routes(routes!(forward::list, forward::add))
        .routes(routes!(forward::show, forward::set, forward::remove))
        .routes(routes!(pinhole::list, pinhole::add))
        .routes(routes!(pinhole::show, pinhole::set, pinhole::remove))
        .routes(routes!(token::list, token::add))
        .routes(routes!(token::show, token::remove))
        .routes(routes!(uplink::list))
        .routes(routes!(uplink::show, uplink::set))
        .routes(routes!(settings::show, settings::set))
        .routes(routes!(document::show));
    OpenApiRouter::with_openapi(document::head()).nest(PREFIX, api)
}

async fn no_such_path(uri: Uri) -> Failure {
    Problem::new(
        404,
        "no-such-path",
        format!("there is nothing at {}", uri.path()),
        format!("{PREFIX}/openapi.json describes what there is"),
    )
    .into()
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    Problem::new(
        405,
        "no-such-method",
        format!("{} does not take {method}", uri.path()),
        format!("{PREFIX}/openapi.json describes what it takes"),
    )
    .into()
}

#[cfg(test)]
mod tests;
