//! The document and the routes tell the same story, and every answer is JSON.

use std::sync::Arc;

use adit_model::facts::Facts;
use adit_model::key::PrivateKey;
use adit_model::state::State;
use axum::body::{Body, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tower::ServiceExt as _;

use self::stopped::stopped;
use super::*;
use crate::caller::Caller;

async fn ask(method: &str, path: &str, body: impl Into<Body>) -> (u16, String, Value) {
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .extension(Caller::User { uid: Some(0) })
        .body(body.into())
        .unwrap();
    let response = router(stopped()).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let media_type = response.headers()[CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, media_type, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn the_document_holds_every_route_and_every_route_answers() {
    let (_, _, document) = ask("GET", "/api/v1/openapi.json", "").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut found = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let real = path
                .replace("{reference}", "a")
                .replace("{id}", "1")
                .replace("{name}", "a");
            let (_, _, answer) = ask(&method, &real, "").await;
            let code = answer["code"].as_str().unwrap_or_default();
            assert!(!code.starts_with("no-such"), "{method} {path}: {answer}");
            found.push(format!("{method} {}", path.trim_start_matches("/api/v1")));
        }
    }
    found.sort();
    let mut expected: Vec<String> = Vec::new();
    for (path, methods) in [
        ("/status", "GET"),
        ("/log", "GET"),
        ("/events", "GET"),
        ("/openapi.json", "GET"),
        ("/settings", "GET PATCH"),
        ("/backup", "POST"),
        ("/restore", "POST"),
        ("/confirm", "POST"),
        ("/declaration", "GET"),
        ("/declaration/apply", "POST"),
        ("/declaration/plan", "POST"),
        ("/import", "POST"),
        ("/plan", "GET"),
        ("/uplinks", "GET"),
        ("/uplinks/{name}", "GET PATCH"),
        ("/subnets", "GET POST"),
        ("/subnets/{reference}", "GET PATCH DELETE"),
        ("/devices", "GET POST"),
        ("/devices/{reference}", "GET PATCH DELETE"),
        ("/devices/{reference}/rekey", "POST"),
        ("/devices/{reference}/config", "GET"),
        ("/forwards", "GET POST"),
        ("/forwards/{id}", "GET PATCH DELETE"),
        ("/pinholes", "GET POST"),
        ("/pinholes/{id}", "GET PATCH DELETE"),
        ("/leases", "GET"),
        ("/leases/{id}", "GET DELETE"),
        ("/tokens", "GET POST"),
        ("/tokens/{reference}", "GET DELETE"),
    ] {
        expected.extend(methods.split(' ').map(|method| format!("{method} {path}")));
    }
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    let (_, _, document) = ask("GET", "/api/v1/openapi.json", "").await;
    let text = document.to_string();
    let names: Vec<&str> = text
        .split("\"#/components/schemas/")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(
        names.contains(&"Problem") && names.contains(&"AddedDevice"),
        "{names:?}"
    );
    for name in names {
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_a_problem_that_names_the_field() {
    let large = "x".repeat(LARGEST_REQUEST + 1);
    for (method, path, body, status, code, part) in [
        (
            "GET",
            "/api/v1/nothing",
            "",
            404,
            "no-such-path",
            "/api/v1/nothing",
        ),
        ("GET", "/", "", 404, "no-such-path", "/"),
        ("PUT", "/api/v1/devices", "", 405, "no-such-method", "PUT"),
        (
            "POST",
            "/api/v1/devices",
            &large,
            413,
            "too-large",
            "256 KiB",
        ),
        (
            "POST",
            "/api/v1/devices",
            "{",
            400,
            "invalid-request",
            "the body",
        ),
        (
            "POST",
            "/api/v1/devices",
            r#"{"name":"a","delegate":["2001:db8::"]}"#,
            400,
            "invalid-request",
            "`delegate[0]`: `2001:db8::` has no prefix length",
        ),
        (
            "POST",
            "/api/v1/devices",
            r#"{"name":"a","nmae":"b"}"#,
            400,
            "invalid-request",
            "nmae",
        ),
        (
            "POST",
            "/api/v1/devices",
            r#"{"name":"a","public_key":"AAAA"}"#,
            422,
            "key-invalid",
            "44 characters",
        ),
        (
            "POST",
            "/api/v1/devices",
            r#"{"name":"a","key_file":"adit.key"}"#,
            400,
            "invalid-request",
            "`key_file`",
        ),
        (
            "POST",
            "/api/v1/subnets",
            r#"{"name":"a","ipv4":"10.59.0.0"}"#,
            400,
            "invalid-request",
            "`ipv4`: `10.59.0.0` has no prefix length",
        ),
        (
            "POST",
            "/api/v1/subnets",
            r#"{"ipv4":"10.59.0.0/24"}"#,
            400,
            "invalid-request",
            "`name`",
        ),
        (
            "DELETE",
            "/api/v1/subnets/a?force=maybe",
            "",
            400,
            "invalid-request",
            "force",
        ),
        (
            "GET",
            "/api/v1/devices/nas",
            "",
            404,
            "not-found",
            "device `nas`",
        ),
        (
            "GET",
            &format!("/api/v1/devices?subnet={}", "x".repeat(5000)),
            "",
            414,
            "target-too-long",
            "4096",
        ),
        (
            "PATCH",
            "/api/v1/settings",
            "[51820]",
            400,
            "invalid-request",
            "a list",
        ),
        (
            "GET",
            "/api/v1/devices?after=9223372036854775808",
            "",
            400,
            "invalid-request",
            "`after`",
        ),
        (
            "GET",
            "/api/v1/devices?limit=0",
            "",
            400,
            "invalid-request",
            "`limit`",
        ),
        (
            "GET",
            "/api/v1/forwards?device=nas",
            "",
            404,
            "not-found",
            "device `nas`",
        ),
        (
            "GET",
            "/api/v1/devices/nas/config?format=pdf",
            "",
            422,
            "format-unknown",
            "pdf",
        ),
        (
            "GET",
            "/api/v1/uplinks/eth9",
            "",
            404,
            "uplink-unknown",
            "eth9",
        ),
        (
            "POST",
            "/api/v1/devices",
            r#"{"name":"nas"}"#,
            503,
            "stopping",
            "about to end",
        ),
    ] {
        let (got, media_type, answer) = ask(method, path, body.to_owned()).await;
        let place = format!(
            "{method} {path} {}: {answer}",
            body.chars().take(60).collect::<String>()
        );
        assert_eq!(
            (got, answer["code"].as_str().unwrap()),
            (status, code),
            "{place}"
        );
        assert_eq!(media_type, "application/problem+json", "{place}");
        assert_eq!(answer["status"], status, "{place}");
        assert!(answer["detail"].as_str().unwrap().contains(part), "{place}");
    }
}

mod access;
