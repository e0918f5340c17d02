//! The OpenAPI document.

use adit_api::problem::Problem;
use axum::Extension;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use utoipa::openapi::{ComponentsBuilder, Info, License, OpenApi, OpenApiBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};

/// The document as JSON, made once.
#[derive(Clone)]
pub(super) struct Document(axum::body::Bytes);

/// What the document says besides the routes.
pub(super) fn head() -> OpenApi {
    let mut info = Info::new("Adit", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "The administration of a gateway. Changes are answered when they are durable and in force."
            .to_owned(),
    );
    info.license = Some(License::new("MIT OR Apache-2.0"));
    let problem = ComponentsBuilder::new()
        .schema(Problem::name(), Problem::schema())
        .build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(problem))
        .build()
}

/// Hands the document to [`show`].
pub(super) fn layer(document: &OpenApi) -> Extension<Document> {
    let text = serde_json::to_vec(document).unwrap_or_default();
    Extension(Document(text.into()))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "show_document",
    tag = "gateway",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub(super) async fn show(Extension(document): Extension<Document>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document.0)
}
