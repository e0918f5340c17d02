//! What each operation needs of a token; declared in the OpenAPI document, and enforced from the same table.

use std::collections::HashMap;

use adit_model::state::Scope;
use axum::http::Method;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, PathItem};

/// Name of the security scheme in the document.
const SCHEME: &str = "token";

/// Stands in the document where no token will do.
const ADMINISTRATOR: &str = "administrator";

/// Who may do an operation besides the administrator at the Unix socket, who may do all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nobody. Tokens are made here alone: a stolen one must not leave others behind when it is removed.
    Administrator,
    /// Tokens with all of these scopes.
    Token {
        scopes: &'static [Scope],
        reach: Reach,
    },
}

/// What of it a token for one device may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nothing.
    Everything,
    /// The operation itself keeps to the device: a list that is filtered, a change that the writer looks at.
    Confined,
    /// The path has to name the device.
    Device,
    /// The path has to name a forward that leads to the device.
    Forward,
    /// The path has to name a pinhole of the device.
    Pinhole,
    /// The path has to name a lease of the device.
    Lease,
}

const READ: &[Scope] = &[Scope::Read];
const WRITE: &[Scope] = &[Scope::Write];
const SECRETS: &[Scope] = &[Scope::Secrets];
/// The answer is a configuration with its keys.
const WRITE_AND_SECRETS: &[Scope] = &[Scope::Write, Scope::Secrets];

/// Every operation, by its id in the document. One that is missing here is the administrator's, and a test fails.
const OPERATIONS: &[(&str, Access)] = &[
    ("show_status", token(READ, Reach::Everything)),
    ("make_backup", Access::Administrator),
    ("restore_backup", Access::Administrator),
    ("confirm_change", token(WRITE, Reach::Everything)),
    ("show_declaration", token(READ, Reach::Everything)),
    ("show_plan", token(READ, Reach::Everything)),
    ("plan_declaration", token(READ, Reach::Everything)),
    ("apply_declaration", token(WRITE, Reach::Everything)),
    ("show_log", token(READ, Reach::Everything)),
    ("listen", token(READ, Reach::Everything)),
    ("show_document", token(&[], Reach::Confined)),
    ("list_subnets", token(READ, Reach::Everything)),
    ("show_subnet", token(READ, Reach::Everything)),
    ("add_subnet", token(WRITE, Reach::Everything)),
    ("set_subnet", token(WRITE, Reach::Everything)),
    ("remove_subnet", token(WRITE, Reach::Everything)),
    ("list_devices", token(READ, Reach::Confined)),
    ("show_device", token(READ, Reach::Device)),
    ("add_device", token(WRITE_AND_SECRETS, Reach::Everything)),
    ("set_device", token(WRITE, Reach::Device)),
    ("remove_device", token(WRITE, Reach::Everything)),
    ("rekey_device", token(WRITE_AND_SECRETS, Reach::Everything)),
    ("show_device_configuration", token(SECRETS, Reach::Device)),
    ("list_forwards", token(READ, Reach::Confined)),
    ("show_forward", token(READ, Reach::Forward)),
    ("add_forward", token(WRITE, Reach::Confined)),
    ("set_forward", token(WRITE, Reach::Forward)),
    ("remove_forward", token(WRITE, Reach::Forward)),
    ("list_pinholes", token(READ, Reach::Confined)),
    ("show_pinhole", token(READ, Reach::Pinhole)),
    ("add_pinhole", token(WRITE, Reach::Confined)),
    ("set_pinhole", token(WRITE, Reach::Pinhole)),
    ("remove_pinhole", token(WRITE, Reach::Pinhole)),
    ("list_leases", token(READ, Reach::Confined)),
    ("show_lease", token(READ, Reach::Lease)),
    ("remove_lease", token(WRITE, Reach::Lease)),
    ("list_tokens", token(READ, Reach::Everything)),
    ("show_token", token(READ, Reach::Everything)),
    ("add_token", Access::Administrator),
    ("remove_token", Access::Administrator),
    ("list_uplinks", token(READ, Reach::Everything)),
    ("show_uplink", token(READ, Reach::Everything)),
    ("set_uplink", token(WRITE, Reach::Everything)),
    ("show_settings", token(READ, Reach::Everything)),
    ("set_settings", token(WRITE, Reach::Everything)),
    // A private key is not for the network.
    ("import_server", Access::Administrator),
];

/// The operations of the document, by path and method.
#[derive(Clone, Debug, Default)]
pub(super) struct Operations(HashMap<String, Vec<(Method, Access)>>);

/// What a path and method stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Operation(Access),
    NoSuchMethod,
    NoSuchPath,
}

impl Operations {
    /// Writes into the document what each operation needs, and keeps that.
    pub(super) fn declare(document: &mut OpenApi) -> Self {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(format!(
            "A token of `adit token add`. The scopes beside an operation are all needed; `{ADMINISTRATOR}` stands where no token \
             will do, but the Unix socket alone, which needs no token for anything."
        ));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme(SCHEME, SecurityScheme::Http(scheme));
        let mut found = HashMap::new();
        for (path, item) in &mut document.paths.paths {
            let operations = methods(item).into_iter().filter_map(|(method, operation)| {
                let operation = operation.as_mut()?;
                let access = access(operation);
                let needs = match access {
                    Some(Access::Token { scopes, .. }) => {
                        scopes.iter().map(|scope| scope.name()).collect()
                    }
                    Some(Access::Administrator) => vec![ADMINISTRATOR],
                    None => return Some((method, Access::Administrator)),
                };
                operation.security = Some(vec![SecurityRequirement::new(SCHEME, needs)]);
                Some((method, access.unwrap_or(Access::Administrator)))
            });
            found.insert(path.clone(), operations.collect());
        }
        Self(found)
    }

    /// Looks up the path as the router knows it.
    pub(super) fn find(&self, path: Option<&str>, method: &Method) -> Found {
        let Some(operations) = path.and_then(|path| self.0.get(path)) else {
            return Found::NoSuchPath;
        };
        // The router answers HEAD as it does GET.
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        operations
            .iter()
            .find(|(known, _)| known == method)
            .map_or(Found::NoSuchMethod, |(_, access)| Found::Operation(*access))
    }
}

const fn token(scopes: &'static [Scope], reach: Reach) -> Access {
    Access::Token { scopes, reach }
}

fn access(operation: &Operation) -> Option<Access> {
    let id = operation.operation_id.as_deref()?;
    let row = OPERATIONS.iter().find(|(known, _)| *known == id)?;
    Some(row.1)
}

fn methods(item: &mut PathItem) -> [(Method, &mut Option<Operation>); 8] {
    [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::DELETE, &mut item.delete),
        (Method::OPTIONS, &mut item.options),
        (Method::HEAD, &mut item.head),
        (Method::PATCH, &mut item.patch),
        (Method::TRACE, &mut item.trace),
    ]
}
