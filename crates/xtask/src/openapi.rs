//! What the OpenAPI document has to tell those who read it, or make a client of it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];
const PROBLEM: &str = "application/problem+json";

/// Everything that is missing, as `place: what`.
pub(crate) fn check(document: &Value) -> Vec<String> {
    let mut lint = Lint {
        document,
        findings: Vec::new(),
        operation_ids: BTreeSet::new(),
        tags: BTreeSet::new(),
        references: BTreeSet::new(),
    };
    lint.check_tags();
    for (path, operations) in object(&document["paths"]) {
        lint.check_path(path, object(operations));
    }
    for (name, schema) in object(&document["components"]["schemas"]) {
        lint.check_schema(&format!("schema {name}"), schema, true);
    }
    lint.check_references();
    lint.findings
}

struct Lint<'a> {
    document: &'a Value,
    findings: Vec<String>,
    operation_ids: BTreeSet<&'a str>,
    tags: BTreeSet<&'a str>,
    references: BTreeSet<&'a str>,
}

impl<'a> Lint<'a> {
    fn find(&mut self, place: &str, what: impl AsRef<str>) {
        self.findings.push(format!("{place}: {}", what.as_ref()));
    }

    fn check_tags(&mut self) {
        for tag in array(&self.document["tags"]) {
            let name = text(&tag["name"]);
            if !is_sentence(&tag["description"]) {
                self.find(&format!("tag {name}"), "has no description");
            }
            self.tags.insert(name);
        }
    }

    fn check_path(&mut self, path: &'a str, operations: &'a Map<String, Value>) {
        if path.len() > 1 && path.ends_with('/') {
            self.find(path, "ends with a slash");
        }
        for (method, operation) in operations {
            if !METHODS.contains(&method.as_str()) {
                self.find(path, format!("`{method}` is no method"));
                continue;
            }
            self.check_operation(
                &format!("{} {path}", method.to_uppercase()),
                path,
                operation,
            );
        }
    }

    fn check_operation(&mut self, place: &str, path: &str, operation: &'a Value) {
        match operation["operationId"].as_str() {
            None => self.find(place, "has no operationId"),
            Some(id) if !self.operation_ids.insert(id) => {
                self.find(place, format!("its operationId `{id}` is another's too"));
            }
            Some(_) => {}
        }
        if !is_sentence(&operation["summary"]) {
            self.find(place, "has no summary");
        }
        let tags = array(&operation["tags"]);
        if tags.is_empty() {
            self.find(place, "has no tag");
        }
        for tag in tags {
            if !self.tags.contains(text(tag)) {
                self.find(place, format!("its tag {tag} is not described"));
            }
        }
        self.check_parameters(place, path, operation);
        self.check_answers(place, operation);
        for content in object(&operation["requestBody"]["content"]).values() {
            self.check_schema(&format!("{place}, the body"), &content["schema"], false);
        }
    }

    fn check_parameters(&mut self, place: &str, path: &str, operation: &'a Value) {
        let in_path: BTreeSet<&str> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let mut described = BTreeSet::new();
        let mut names = BTreeSet::new();
        for parameter in array(&operation["parameters"]) {
            let (name, kind) = (text(&parameter["name"]), text(&parameter["in"]));
            let here = format!("{place}, {kind} parameter {name}");
            if !names.insert((kind, name)) {
                self.find(&here, "is there twice");
            }
            if !is_sentence(&parameter["description"]) {
                self.find(&here, "has no description");
            }
            if kind == "path" {
                described.insert(name);
                if parameter["required"] != true {
                    self.find(&here, "is not said to be required");
                }
                if parameter["example"].is_null() {
                    self.find(&here, "has no example");
                }
            }
            if parameter["schema"].is_null() {
                self.find(&here, "has no schema");
            }
            self.check_schema(&here, &parameter["schema"], false);
        }
        for name in in_path.symmetric_difference(&described) {
            self.find(
                place,
                format!("`{name}` is not both in the path and described"),
            );
        }
    }

    fn check_answers(&mut self, place: &str, operation: &'a Value) {
        let answers = object(&operation["responses"]);
        if !answers.keys().any(|status| status.starts_with('2')) {
            self.find(place, "has no answer that is a success");
        }
        if answers
            .get("default")
            .is_none_or(|answer| answer["content"][PROBLEM].is_null())
        {
            self.find(place, "does not say what a problem looks like (`default`)");
        }
        for (status, answer) in answers {
            let here = format!("{place}, answer {status}");
            if !is_sentence(&answer["description"]) {
                self.find(&here, "has no description");
            }
            for (name, header) in object(&answer["headers"]) {
                if !is_sentence(&header["description"]) {
                    self.find(&here, format!("its header {name} has no description"));
                }
            }
            for content in object(&answer["content"]).values() {
                self.check_schema(&here, &content["schema"], false);
            }
        }
    }

    /// Named schemas and the fields of all have to be described; a reference is described where it leads.
    fn check_schema(&mut self, place: &str, schema: &'a Value, is_named: bool) {
        if !schema.is_object() {
            return;
        }
        if let Some(reference) = schema["$ref"].as_str() {
            self.references.insert(reference);
            return;
        }
        // What may be null is described where it is not.
        let is_described = |schema: &Value| is_sentence(&schema["description"]);
        if is_named && !is_described(schema) && !array(&schema["oneOf"]).iter().any(is_described) {
            self.find(place, "has no description");
        }
        let fields = object(&schema["properties"]);
        for (name, field) in fields {
            let here = format!("{place}, field {name}");
            // The one value of a tag says which of several schemas it is, and that one is described.
            let is_tag = array(&field["enum"]).len() == 1;
            self.check_schema(&here, field, !is_tag);
        }
        for required in array(&schema["required"]) {
            if !fields.contains_key(text(required)) {
                self.find(
                    place,
                    format!("requires {required}, which it does not have"),
                );
            }
        }
        for word in ["items", "additionalProperties"] {
            self.check_schema(place, &schema[word], false);
        }
        for word in ["allOf", "oneOf", "anyOf"] {
            for part in array(&schema[word]) {
                self.check_schema(place, part, false);
            }
        }
    }

    fn check_references(&mut self) {
        let mut used = BTreeSet::new();
        for reference in std::mem::take(&mut self.references) {
            let found = reference
                .strip_prefix('#')
                .and_then(|pointer| self.document.pointer(pointer));
            if found.is_none() {
                self.find(reference, "leads nowhere");
            }
            used.insert(reference);
        }
        for name in object(&self.document["components"]["schemas"]).keys() {
            if !used.contains(format!("#/components/schemas/{name}").as_str()) {
                self.find(&format!("schema {name}"), "is used by nothing");
            }
        }
    }
}

fn object(value: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NONE)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn is_sentence(value: &Value) -> bool {
    !text(value).trim().is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sound() -> Value {
        json!({
            "tags": [{"name": "devices", "description": "Devices"}],
            "paths": {"/devices/{id}": {"get": {
                "operationId": "show_device", "summary": "One device.", "tags": ["devices"],
                "parameters": [{
                    "name": "id", "in": "path", "required": true, "description": "Id", "example": "1",
                    "schema": {"type": "string"},
                }],
                "responses": {
                    "200": {
                        "description": "The device",
                        "headers": {"ETag": {"description": "Its version"}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Device"}}},
                    },
                    "default": {
                        "description": "Refused",
                        "content": {PROBLEM: {"schema": {"type": "object"}}},
                    },
                },
            }}},
            "components": {"schemas": {"Device": {
                "description": "One device.",
                "required": ["id"],
                "properties": {"id": {"type": "integer", "description": "Identifier"}},
            }}},
        })
    }

    #[test]
    fn every_rule_finds_its_fault() {
        assert_eq!(check(&sound()), Vec::<String>::new());
        let operation = "/paths/~1devices~1{id}/get";
        let schema = "/components/schemas/Device";
        for (pointer, value, what) in [
            (
                format!("{operation}/operationId"),
                json!(null),
                "no operationId",
            ),
            (format!("{operation}/summary"), json!(""), "no summary"),
            (format!("{operation}/tags"), json!([]), "no tag"),
            (format!("{operation}/tags/0"), json!("x"), "not described"),
            (
                format!("{operation}/parameters"),
                json!([]),
                "`id` is not both",
            ),
            (
                format!("{operation}/parameters/0/name"),
                json!("x"),
                "`x` is not both",
            ),
            (
                format!("{operation}/parameters/0/example"),
                json!(null),
                "no example",
            ),
            (
                format!("{operation}/parameters/0/description"),
                json!(" "),
                "no description",
            ),
            (
                format!("{operation}/responses/default"),
                json!({}),
                "problem",
            ),
            (
                format!("{operation}/responses/200/description"),
                json!(""),
                "no description",
            ),
            (
                format!("{operation}/responses/200/headers/ETag"),
                json!({}),
                "ETag",
            ),
            (
                format!("{schema}/description"),
                json!(""),
                "schema Device: has no description",
            ),
            (
                format!("{schema}/properties/id/description"),
                json!(""),
                "field id",
            ),
            (format!("{schema}/required/0"), json!("x"), "requires"),
            (
                format!("{operation}/responses/200/content/application~1json/schema"),
                json!({"$ref": "#/components/schemas/Gone"}),
                "leads nowhere",
            ),
            (
                format!("{operation}/responses/200/content/application~1json/schema"),
                json!({}),
                "used by nothing",
            ),
            ("/tags/0/description".to_owned(), json!(""), "tag devices"),
        ] {
            let mut document = sound();
            *document.pointer_mut(&pointer).unwrap() = value;
            let findings = check(&document);
            assert!(
                findings.iter().any(|finding| finding.contains(what)),
                "{pointer}: {findings:?}"
            );
        }
        let mut document = sound();
        let operation = document.pointer(operation).unwrap().clone();
        document["paths"]["/other/"] = json!({"get": operation});
        let findings = check(&document).join("\n");
        assert!(
            findings.contains("another's too") && findings.contains("slash"),
            "{findings}"
        );
    }
}
