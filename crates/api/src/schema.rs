//! Schemas of the model's types that have none of their own.

use adit_model::protocol::or_all;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::{Array, Object};

pub(crate) fn routing() -> Object {
    one_of(
        &["full", "split", "inbound"],
        "What goes through the tunnel.",
    )
}

pub(crate) fn protocol_or_all() -> Object {
    one_of(
        &["tcp", "udp", or_all::ALL],
        "A transport protocol; `all`: whatever comes in.",
    )
}

pub(crate) fn protocols() -> Array {
    ArrayBuilder::new()
        .items(one_of(&["tcp", "udp"], "A transport protocol."))
        .description(Some("Transport protocols; none given: all."))
        .build()
}

pub(crate) fn delegations() -> Array {
    let wish = ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([
            Type::Integer,
            Type::String,
        ]))
        .build();
    ArrayBuilder::new()
        .items(wish)
        .description(Some(
            "Prefixes for the network behind the device: a length for the lowest free one, or a prefix.",
        ))
        .build()
}

fn one_of(values: &[&str], description: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(values.iter().copied()))
        .description(Some(description))
        .build()
}
