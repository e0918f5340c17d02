//! The OpenAPI document.

use adit_api::problem::Problem;
use axum::Extension;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, Info, License, OpenApi, OpenApiBuilder, ServerBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::answer::Failure;

/// What the groups of operations are about.
const TAGS: &[(&str, &str)] = &[
    ("gateway", "The gateway as a whole"),
    ("uplinks", "The interfaces that face the Internet"),
    ("subnets", "The tunnel's networks"),
    (
        "devices",
        "The machines that are connected through the tunnel",
    ),
    ("forwards", "Public ports that lead to devices"),
    (
        "pinholes",
        "Ports that are open on devices' own IPv6 addresses",
    ),
    ("leases", "Ports that devices opened by themselves"),
    ("tokens", "Tokens for programs"),
    ("settings", "The settings of the gateway"),
];

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
    let mut license = License::new("MIT OR Apache-2.0");
    license.identifier = Some("MIT OR Apache-2.0".to_owned());
    info.license = Some(license);
    let problem = ComponentsBuilder::new()
        .schema(Problem::name(), Problem::schema())
        .build();
    let tags = TAGS.iter().map(|(name, description)| {
        TagBuilder::new()
            .name(*name)
            .description(Some(*description))
            .build()
    });
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ServerBuilder::new().url("/").build()]))
        .tags(Some(tags))
        .components(Some(problem))
        .build()
}

/// Hands the document to [`show`].
pub(super) fn layer(document: &OpenApi) -> Extension<Document> {
    Extension(Document(complete(document).to_string().into()))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "show_document",
    tag = "gateway",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Failure)
)]
pub(super) async fn show(Extension(document): Extension<Document>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], document.0)
}

/// Adds what holds for many operations alike: conditions, tags and keys for requests that may be repeated.
pub(super) fn complete(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, operations) in paths.into_iter().flatten() {
        let Some(operations) = operations.as_object_mut() else {
            continue;
        };
        let is_object = is_object(path, operations);
        let is_collection = !is_object && operations.contains_key("get");
        for (method, operation) in operations {
            if is_object {
                condition(method, operation);
            }
            if matches!(method.as_str(), "post" | "patch" | "delete") {
                header_parameter(operation, "Idempotency-Key", KEY, "\"5f0c2f6e\"");
                response_header(operation, "Idempotency-Replayed", REPLAYED);
                let awaits = !["/backup", "/confirm", "/plan", "/restore"]
                    .iter()
                    .any(|end| path.ends_with(end));
                if awaits {
                    header_parameter(operation, "Confirm-Within", CONFIRM, "60");
                    response_header(operation, "Confirm-Within", AWAITS);
                }
            }
            if method == "post" && is_collection {
                response_header(operation, "ETag", TAG);
                response_header(operation, "Location", LOCATION);
            }
        }
    }
    document
}

const KEY: &str = "A key of the caller's choice for this very request, 1 to 255 visible ASCII characters. The same request with the same \
                   key within a day is not done again, and answered as the first time, without its secrets.";
const REPLAYED: &str =
    "`true` where the request was made before, and this is what was answered then.";
const CONFIRM: &str = "Takes the change back unless `/confirm` is asked for within so many seconds; `off`: never. Unless said, a change that \
                       may cut off a caller who comes through the tunnel has to be confirmed within a minute.";
const AWAITS: &str = "Seconds within which the change has to be confirmed, where it has to be.";
const TAG: &str = "The version of the object, in quotation marks.";
const LOCATION: &str = "The path of the object that was added.";
const IF_MATCH: &str = "Only if the object has one of these versions, as `ETag` tells them; else the answer is a problem with the code \
                        `version-mismatch` and status 412.";
const IF_NONE_MATCH: &str = "Only if the object has none of these versions; else the answer is 304 without a body. What is measured \
                             (handshakes, counters, addresses of the host) has no version.";

/// Whether a path names one object with a version: one of a collection, the settings, or what is done with one.
fn is_object(path: &str, operations: &Map<String, Value>) -> bool {
    let can_change = ["patch", "delete"]
        .iter()
        .any(|method| operations.contains_key(*method));
    can_change || path.ends_with("/rekey")
}

fn condition(method: &str, operation: &mut Value) {
    header_parameter(operation, "If-Match", IF_MATCH, "\"12\"");
    if method == "get" {
        header_parameter(operation, "If-None-Match", IF_NONE_MATCH, "\"12\"");
        let answer = json!({"description": "The caller has this version", "headers": {"ETag": described(TAG)}});
        if let Some(responses) = operation["responses"].as_object_mut() {
            responses.insert("304".to_owned(), answer);
        }
    }
    if method != "delete" {
        response_header(operation, "ETag", TAG);
    }
}

fn header_parameter(operation: &mut Value, name: &str, description: &str, example: &str) {
    let parameter = json!({
        "name": name, "in": "header", "description": description, "required": false,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255}, "example": example,
    });
    match operation["parameters"].as_array_mut() {
        Some(parameters) => parameters.push(parameter),
        None => operation["parameters"] = json!([parameter]),
    }
}

/// To every answer that is a success with a body.
fn response_header(operation: &mut Value, name: &str, description: &str) {
    let responses = operation["responses"].as_object_mut();
    for (status, response) in responses.into_iter().flatten() {
        if matches!(status.as_str(), "200" | "201") {
            response["headers"][name] = described(description);
        }
    }
}

fn described(text: &str) -> Value {
    json!({"description": text, "schema": {"type": "string"}})
}
