//! The HTTP interface, on the administrator's socket and over TCP: routes, and what holds for all of them.

mod admission;
mod answer;
mod attempts;
mod authority;
mod backup;
mod condition;
mod configuration;
mod confirmation;
mod connection;
mod declaration;
mod device;
mod document;
mod events;
mod forward;
mod guard;
mod import;
mod kind;
mod lease;
mod listener;
mod log;
mod metrics;
mod origin;
mod pinhole;
mod repetition;
mod request;
mod scope;
mod settings;
mod source;
mod status;
mod subnet;
mod token;
mod uplink;
mod view;

use std::sync::Arc;

use adit_api::problem::Problem;
use axum::Router;
use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::listener::{Listener, Tls};

use self::answer::Failure;
use self::attempts::Allowance;
pub(crate) use self::connection::serve;
use self::guard::Guard;
pub(crate) use self::metrics::serve_metrics;
use self::scope::Operations;
use crate::control::Control;

const PREFIX: &str = "/api/v1";
const LARGEST_REQUEST: usize = 256 << 10;
/// Some ten thousand devices.
const LARGEST_DECLARATION: usize = 16 << 20;
/// Everything of a hundred thousand objects; only from the administrator.
const LARGEST_BACKUP: usize = 64 << 20;

/// Everything under `/api/v1`, for the administrator; anything else is answered with a problem.
pub(crate) fn router(control: Arc<Control>) -> Router {
    let (router, _) = service(&control);
    router
        .route("/metrics", get(metrics::show))
        .layer(from_fn(guard::refuse_browsers))
        .layer(map_response(answer::keep_private))
        .with_state(control)
}

/// The same for those who come with a token, over `http` or `https`; `names` are those of this gateway.
pub(crate) fn remote_router(
    control: Arc<Control>,
    names: Vec<String>,
    scheme: &'static str,
) -> Router {
    guarded_router(control, names, scheme, Allowance::default())
}

fn guarded_router(
    control: Arc<Control>,
    names: Vec<String>,
    scheme: &'static str,
    allowance: Allowance,
) -> Router {
    let (router, operations) = service(&control);
    let guard = Guard::new(Arc::clone(&control), operations, names, scheme, allowance);
    let guard = Arc::new(guard);
    let layer = move |request, next| Arc::clone(&guard).pass(request, next);
    let guarded = router.layer(from_fn(layer)).with_state(control);
    // The router adds `Allow` to whatever a layer answers for a method that a path does not take.
    Router::new()
        .fallback_service(guarded)
        .layer(map_response(guard::same_for_all))
        .layer(map_response(answer::keep_private))
}

/// The routes with their document. Every layer around this comes after routing, so it knows the path as the router does.
fn service(control: &Arc<Control>) -> (Router<Arc<Control>>, Operations) {
    let (router, mut document) = routes().split_for_parts();
    let operations = Operations::declare(&mut document);
    let router = router
        .layer(document::layer(&document))
        .layer(from_fn_with_state(Arc::clone(control), repetition::layer))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn(connection::check_head))
        .layer(from_fn_with_state(Arc::clone(control), metrics::count));
    (router, operations)
}

/// The OpenAPI document.
pub fn document() -> serde_json::Value {
    let (_, mut document) = routes().split_for_parts();
    Operations::declare(&mut document);
    document::complete(&document)
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
        .routes(routes!(lease::list))
        .routes(routes!(lease::show, lease::remove))
        .routes(routes!(pinhole::list, pinhole::add))
        .routes(routes!(pinhole::show, pinhole::set, pinhole::remove))
        .routes(routes!(token::list, token::add))
        .routes(routes!(token::show, token::remove))
        .routes(routes!(uplink::list))
        .routes(routes!(uplink::show, uplink::set))
        .routes(routes!(backup::make))
        .routes(routes!(backup::restore))
        .routes(routes!(confirmation::confirm))
        .routes(routes!(declaration::show))
        .routes(routes!(declaration::outlook))
        .routes(routes!(declaration::plan))
        .routes(routes!(declaration::apply))
        .routes(routes!(import::import))
        .routes(routes!(log::show))
        .routes(routes!(events::listen))
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

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod stopped;
#[cfg(test)]
mod tests;
