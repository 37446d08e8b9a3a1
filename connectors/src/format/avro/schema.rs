//! Avro schemas in a plain form: one JSON text in which every name stands for itself.
//!
//! What registries give out has references to other schemas, names that are defined in one field and used
//! in another, documentation, and attributes of everybody's tools. Here each use of a name becomes its
//! definition, so that a field can be taken out of its record and still says all that it needs.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::skip::Cut;
use crate::format::registry::Schema;

/// Deeper schemas are refused: records in records, and lists of lists.
const DEPTH_MAX: usize = 32;

/// Larger ones are refused; names that are used in names that are used may grow without end.
const TYPES_MAX: usize = 20_000;

/// A field of the outermost record.
#[derive(Clone, Debug, PartialEq)]
pub struct RootField {
    /// Its name.
    pub name: String,
    /// Its type in the plain form.
    pub of: Value,
    /// Its value for writers that don't have it.
    pub default: Option<Value>,
}

/// The outermost record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Its fields, in their order.
    pub fields: Vec<RootField>,
    /// Those that no columns can hold, with why. They can be passed over.
    pub left_out: BTreeMap<String, String>,
    /// Takes them out of messages, where there are any.
    pub cut: Option<Cut>,
}

/// What a message consists of.
#[derive(Clone, Debug, PartialEq)]
pub enum Root {
    /// Fields.
    Record(Record),
    /// One value, as keys often are.
    Value(Value),
}

/// Reads a schema.
///
/// # Errors
/// With what is wrong with it.
pub fn read(schema: &Schema) -> Result<Root, String> {
    let mut names = HashMap::new();
    for (name, text) in &schema.references {
        let value = parsed(text).map_err(|error| format!("its schema refers to {name}: {error}"))?;
        define(&value, None, &mut names);
    }
    let value = parsed(&schema.text)?;
    define(&value, None, &mut names);
    let mut reader = Reader { names: &names, open: Vec::new(), types: 0, depth: 0 };
    match outermost(&value, None, &names) {
        Some((record, namespace)) => reader.record(record, namespace).map(Root::Record),
        None => reader.plain(&value, None).map(Root::Value),
    }
}

/// The definition of the outermost record, and the namespace that it stands in; `None` if it is no record.
fn outermost<'a>(
    value: &'a Value,
    namespace: Option<&'a str>,
    names: &'a Names,
) -> Option<(&'a Map<String, Value>, Option<&'a str>)> {
    let mut found = (value, namespace);
    // Names of names have an end, or none is a record.
    for _ in 0..DEPTH_MAX {
        found = match found.0 {
            Value::String(name) => {
                let (definition, outer) = lookup(names, name, found.1).ok()?;
                (definition, outer.as_deref())
            }
            Value::Object(object) => match object.get("type")? {
                Value::String(name) if name == "record" || name == "error" => return Some((object, found.1)),
                of => (of, found.1),
            },
            _ => return None,
        };
    }
    None
}

/// The text of a record of such fields.
pub fn record<'a>(fields: impl IntoIterator<Item = &'a RootField>) -> String {
    let fields: Vec<Value> = fields
        .into_iter()
        .map(|field| {
            let mut object = json!({ "name": field.name, "type": field.of });
            if let (Some(default), Some(object)) = (&field.default, object.as_object_mut()) {
                object.insert("default".to_owned(), default.clone());
            }
            object
        })
        .collect();
    json!({ "type": "record", "name": "Row", "fields": fields }).to_string()
}

/// Whether values of a type take no bytes at all.
pub fn is_empty(of: &Value) -> bool {
    match of.get("type").and_then(Value::as_str) {
        None => of == "null",
        Some("record") => {
            of["fields"].as_array().is_some_and(|fields| fields.iter().all(|field| is_empty(&field["type"])))
        }
        Some("fixed") => of["size"] == 0,
        Some(_) => false,
    }
}

fn parsed(text: &str) -> Result<Value, String> {
    // A schema that is a name may come without quotes.
    let named = || text.trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(_) if !text.trim().is_empty() && named() => Ok(Value::from(text.trim())),
        Err(error) => Err(format!("its schema is not JSON: {error}")),
    }
}

/// Definitions by their full name, each with the namespace that it stands in.
pub type Names = HashMap<String, (Value, Option<String>)>;

/// What a name means in a namespace, and the namespace that it is defined in.
pub fn lookup<'a>(
    names: &'a Names,
    name: &str,
    namespace: Option<&str>,
) -> Result<(&'a Value, &'a Option<String>), String> {
    let inner = namespace.filter(|_| !name.contains('.')).map(|namespace| format!("{namespace}.{name}"));
    let found = inner.and_then(|name| names.get(&name)).or_else(|| names.get(name));
    let (definition, outer) = found.ok_or_else(|| format!("its schema has the unknown type {name}"))?;
    Ok((definition, outer))
}

/// The full name of a definition, and the namespace of what is in it.
pub fn full_name(object: &Map<String, Value>, namespace: Option<&str>) -> Option<(String, Option<String>)> {
    let name = object.get("name")?.as_str()?;
    if let Some((namespace, _)) = name.rsplit_once('.') {
        return Some((name.to_owned(), Some(namespace.to_owned())));
    }
    let namespace = object.get("namespace").and_then(Value::as_str).or(namespace).filter(|of| !of.is_empty());
    let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}.{name}"));
    Some((full, namespace.map(str::to_owned)))
}

/// Notes all definitions in a schema.
fn define(value: &Value, namespace: Option<&str>, names: &mut Names) {
    match value {
        Value::Array(branches) => branches.iter().for_each(|branch| define(branch, namespace, names)),
        Value::Object(object) => match object.get("type").and_then(Value::as_str) {
            Some("record" | "error" | "enum" | "fixed") => {
                let Some((full, inner)) = full_name(object, namespace) else { return };
                for field in object.get("fields").and_then(Value::as_array).into_iter().flatten() {
                    if let Some(of) = field.get("type") {
                        define(of, inner.as_deref(), names);
                    }
                }
                names.insert(full, (value.clone(), namespace.map(str::to_owned)));
            }
            Some(_) => ["items", "values"]
                .iter()
                .filter_map(|key| object.get(*key))
                .for_each(|of| define(of, namespace, names)),
            None => object.get("type").into_iter().for_each(|of| define(of, namespace, names)),
        },
        _ => {}
    }
}

struct Reader<'a> {
    names: &'a Names,
    /// The definitions that we are in.
    open: Vec<String>,
    types: usize,
    depth: usize,
}

impl Reader<'_> {
    /// The outermost record. A field that can't be brought into the plain form is left out of it.
    fn record(&mut self, object: &Map<String, Value>, namespace: Option<&str>) -> Result<Record, String> {
        let (full, inner) = full_name(object, namespace).ok_or("its schema has a nameless record")?;
        let fields =
            object.get("fields").and_then(Value::as_array).ok_or("its schema has a record without `fields`")?;
        let mut record = Record::default();
        let mut parts = Vec::with_capacity(fields.len());
        for field in fields {
            let name = field.get("name").and_then(Value::as_str).ok_or("its schema has a field without `name`")?;
            let of = field.get("type").ok_or_else(|| format!("its schema has the field {name} without `type`"))?;
            (self.open, self.depth) = (vec![full.clone()], 1);
            let types = self.types;
            match self.plain(of, inner.as_deref()) {
                Ok(of) => {
                    let default = field.get("default").cloned();
                    record.fields.push(RootField { name: name.to_owned(), of, default });
                }
                Err(reason) => {
                    self.types = types;
                    record.left_out.insert(name.to_owned(), reason);
                }
            }
            parts.push((of, inner.as_deref(), !record.left_out.contains_key(name)));
        }
        if !record.left_out.is_empty() {
            record.cut = Some(Cut::new(parts, self.names)?);
        }
        Ok(record)
    }

    fn plain(&mut self, value: &Value, namespace: Option<&str>) -> Result<Value, String> {
        self.types += 1;
        self.depth += 1;
        if self.types > TYPES_MAX {
            return Err(format!("its schema has more than {TYPES_MAX} types in it"));
        }
        if self.depth > DEPTH_MAX {
            return Err(format!("its schema is nested deeper than {DEPTH_MAX} levels"));
        }
        let plain = match value {
            Value::String(name) => self.named(name, namespace),
            Value::Array(branches) => {
                branches.iter().map(|branch| self.plain(branch, namespace)).collect::<Result<_, _>>().map(Value::Array)
            }
            Value::Object(object) => self.object(value, object, namespace),
            other => Err(format!("its schema has {other} where a type is to be")),
        };
        self.depth -= 1;
        plain
    }

    fn named(&mut self, name: &str, namespace: Option<&str>) -> Result<Value, String> {
        if PRIMITIVES.contains(&name) {
            return Ok(Value::from(name));
        }
        let (definition, outer) = lookup(self.names, name, namespace)?;
        self.plain(definition, outer.as_deref())
    }

    fn object(&mut self, value: &Value, object: &Map<String, Value>, namespace: Option<&str>) -> Result<Value, String> {
        let of = object.get("type").ok_or("its schema has a type without `type`")?;
        let Some(name) = of.as_str() else { return self.plain(of, namespace) };
        match name {
            "array" => {
                let items =
                    self.plain(object.get("items").ok_or("its schema has an array without `items`")?, namespace)?;
                // Two billion of them take five bytes.
                if is_empty(&items) {
                    return Err("its schema has an array of what takes no bytes".to_owned());
                }
                Ok(json!({ "type": "array", "items": items }))
            }
            "map" => {
                let values =
                    self.plain(object.get("values").ok_or("its schema has a map without `values`")?, namespace)?;
                Ok(json!({ "type": "map", "values": values }))
            }
            "record" | "error" | "enum" | "fixed" => self.definition(object, name, namespace),
            _ if PRIMITIVES.contains(&name) => Ok(logical(value, object, name)),
            _ => self.named(name, namespace),
        }
    }

    fn definition(
        &mut self,
        object: &Map<String, Value>,
        kind: &str,
        namespace: Option<&str>,
    ) -> Result<Value, String> {
        let (full, inner) = full_name(object, namespace).ok_or_else(|| format!("its schema has a nameless {kind}"))?;
        if self.open.contains(&full) {
            return Err(format!(
                "its schema has the type {full} within itself, and columns can't be nested without end"
            ));
        }
        let mut plain = Map::new();
        plain.insert("name".to_owned(), Value::from(full.rsplit('.').next().unwrap_or_default()));
        if let Some(namespace) = &inner {
            plain.insert("namespace".to_owned(), Value::from(namespace.as_str()));
        }
        plain.insert("type".to_owned(), Value::from(if kind == "error" { "record" } else { kind }));
        if kind == "fixed" || kind == "enum" {
            keep(object, &["size", "symbols", "logicalType", "precision", "scale"], &mut plain);
            return Ok(Value::Object(plain));
        }
        let fields =
            object.get("fields").and_then(Value::as_array).ok_or("its schema has a record without `fields`")?;
        self.open.push(full);
        let mut plain_fields = Vec::with_capacity(fields.len());
        for field in fields {
            let name = field.get("name").and_then(Value::as_str).ok_or("its schema has a field without `name`")?;
            let of = field.get("type").ok_or_else(|| format!("its schema has the field {name} without `type`"))?;
            plain_fields.push(json!({ "name": name, "type": self.plain(of, inner.as_deref())? }));
        }
        self.open.pop();
        plain.insert("fields".to_owned(), Value::Array(plain_fields));
        Ok(Value::Object(plain))
    }
}

/// A primitive type with its logical type, if it has one that we know; others are to be ignored.
fn logical(value: &Value, object: &Map<String, Value>, name: &str) -> Value {
    let known = matches!(
        (name, value.get("logicalType").and_then(Value::as_str)),
        ("bytes", Some("decimal"))
            | ("string", Some("uuid"))
            | ("int", Some("date" | "time-millis"))
            | ("long", Some("time-micros" | "timestamp-millis" | "timestamp-micros" | "timestamp-nanos"))
            | ("long", Some("local-timestamp-millis" | "local-timestamp-micros" | "local-timestamp-nanos"))
    );
    if !known {
        return Value::from(name);
    }
    let mut plain = Map::new();
    keep(object, &["type", "logicalType", "precision", "scale"], &mut plain);
    Value::Object(plain)
}

fn keep(object: &Map<String, Value>, keys: &[&str], plain: &mut Map<String, Value>) {
    for key in keys {
        if let Some(value) = object.get(*key) {
            plain.insert((*key).to_owned(), value.clone());
        }
    }
}

/// Types without a name of their own.
pub const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::registry::Language;

    fn of(text: &str, references: &[&str]) -> Result<Root, String> {
        let references = references.iter().map(|text| (String::new(), (*text).to_owned())).collect();
        read(&Schema { language: Language::Avro, text: text.to_owned(), references })
    }

    fn plain(text: &str, references: &[&str]) -> String {
        match of(text, references) {
            Ok(Root::Record(Record { fields, left_out, .. })) if left_out.is_empty() => record(&fields),
            Ok(Root::Record(Record { left_out, .. })) => left_out.into_values().collect(),
            Ok(Root::Value(value)) => value.to_string(),
            Err(error) => error,
        }
    }

    #[test]
    fn names_become_what_they_stand_for_in_their_namespaces() {
        let text = r#"{"type":"record","name":"Order","namespace":"shop","doc":"a \"doc\"","fields":[
            {"name":"a","type":{"type":"fixed","name":"Id","size":4,"who":"cares"}},
            {"name":"b","type":["null","Id"],"default":null},
            {"name":"c","type":{"type":"record","name":"other.In","fields":[{"name":"x","type":"Far"}]}},
            {"name":"d","type":{"type":"string","avro.java.string":"String"}},
            {"name":"e","type":{"type":"int","logicalType":"date"}},
            {"name":"f","type":{"type":{"type":"array","items":"shop.Id"}}}]}"#;
        let far = r#"{"type":"enum","name":"Far","namespace":"other","symbols":["A"]}"#;
        let id = r#"{"name":"Id","namespace":"shop","size":4,"type":"fixed"}"#;
        let far_plain = r#"{"name":"Far","namespace":"other","symbols":["A"],"type":"enum"}"#;
        let expected = format!(
            r#"{{"fields":[{{"name":"a","type":{id}}},{{"default":null,"name":"b","type":["null",{id}]}},{{"name":"c","type":{{"fields":[{{"name":"x","type":{far_plain}}}],"name":"In","namespace":"other","type":"record"}}}},{{"name":"d","type":"string"}},{{"name":"e","type":{{"logicalType":"date","type":"int"}}}},{{"name":"f","type":{{"items":{id},"type":"array"}}}}],"name":"Row","type":"record"}}"#
        );
        let sorted = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(sorted(&plain(text, &[far])), sorted(&expected));
        assert_eq!(plain("long", &[]), "\"long\"");
        assert_eq!(plain("\"other.Far\"", &[far]).len(), far_plain.len());
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let list = r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#;
        assert!(plain(list, &[]).contains("the type L within itself"));
        let mut text = "\"int\"".to_owned();
        for _ in 0..40 {
            text = format!(r#"{{"type":"array","items":{text}}}"#);
        }
        assert!(plain(&text, &[]).contains("deeper"));
        let mut fields = vec![r#"{"name":"f0","type":{"type":"record","name":"R0","fields":[]}}"#.to_owned()];
        for n in 1..25 {
            let twice = format!(r#"[{{"name":"a","type":"R{}"}},{{"name":"b","type":"R{}"}}]"#, n - 1, n - 1);
            fields.push(format!(r#"{{"name":"f{n}","type":{{"type":"record","name":"R{n}","fields":{twice}}}}}"#));
        }
        let text = format!(r#"{{"type":"record","name":"T","fields":[{}]}}"#, fields.join(","));
        assert!(plain(&text, &[]).contains("more than"));
        assert!(plain(r#"{"type":"array","items":"null"}"#, &[]).contains("no bytes"));
        for bad in ["", "{", "{}", "[1]", "Unknown", r#"{"type":"record","name":"r"}"#, r#"{"type":"enum"}"#] {
            assert!(of(bad, &[]).is_err(), "{bad}");
        }
    }
}
