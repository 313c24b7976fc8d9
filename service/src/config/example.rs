//! A configuration file with every key, its meaning and its default.

use schemars::{JsonSchema, Schema, schema_for};
use serde_json::Value as Json;
use toml::{Table, Value};

/// Columns of a comment's text.
const COMMENT_WIDTH: usize = 100;

/// Writes `defaults` as TOML, every key preceded by the doc comment of its field in `T`, and commented out:
/// the file, as it is, changes nothing.
pub fn example_toml<T: JsonSchema>(defaults: &Table) -> String {
    let schema = schema_for!(T);
    let mut text = String::new();
    write_table(&mut text, &schema, schema.as_value(), defaults, &[]);
    text
}

/// Keys first, then lists of sections, then sections: in TOML a key belongs to the section whose head it follows.
fn write_table(text: &mut String, root: &Schema, schema: &Json, table: &Table, path: &[&str]) {
    let field = |key: &str| resolve(root, property(schema, key));
    let rank = |key: &str| match table.get(key) {
        Some(Value::Table(_)) => 2,
        Some(Value::Array(items)) if items.is_empty() && entry(root, field(key).1).is_some() => 1,
        _ => 0,
    };
    let mut keys: Vec<&str> = properties(schema);
    keys.extend(table.keys().map(String::as_str));
    keys.sort_unstable_by_key(|key| (rank(key), *key));
    keys.dedup();
    for key in keys {
        let (description, schema) = field(key);
        write_comment(text, &description);
        let inner_path = [path, &[key]].concat();
        match table.get(key) {
            Some(Value::Table(inner)) => {
                text.push_str(&format!("[{}]\n", inner_path.join(".")));
                if inner.is_empty() {
                    text.push('\n');
                }
                write_table(text, root, schema, inner, &inner_path);
                continue;
            }
            Some(_) if rank(key) == 1 => write_entry(text, root, schema, &inner_path),
            Some(value) => text.push_str(&format!("#{key} = {value}\n")),
            None => text.push_str(&format!("#{key} = \"\"\n")),
        }
        text.push('\n');
    }
}

/// One entry of a list of sections.
fn write_entry(text: &mut String, root: &Schema, schema: &Json, path: &[&str]) {
    text.push_str(&format!("#[[{}]]\n", path.join(".")));
    let Some(entry) = entry(root, schema) else { return };
    for key in properties(entry) {
        let (description, field) = resolve(root, property(entry, key));
        write_comment(text, &description);
        let value = match field.get("type").and_then(Json::as_str) {
            Some("array") => "[]",
            Some("integer" | "number") => "0",
            Some("boolean") => "false",
            _ => "\"\"",
        };
        text.push_str(&format!("#{key} = {value}\n"));
    }
}

/// The schema of a list's entries, if those are sections.
fn entry<'s>(root: &'s Schema, schema: &'s Json) -> Option<&'s Json> {
    let (_, entry) = resolve(root, schema.get("items")?);
    (!properties(entry).is_empty()).then_some(entry)
}

fn property<'s>(schema: &'s Json, key: &str) -> &'s Json {
    schema.get("properties").and_then(|properties| properties.get(key)).unwrap_or(&Json::Null)
}

/// The field's own description, or its type's; and its type's schema.
fn resolve<'s>(root: &'s Schema, field: &'s Json) -> (String, &'s Json) {
    let reference = field
        .get("$ref")
        .or_else(|| field.pointer("/allOf/0/$ref"))
        .or_else(|| field.pointer("/anyOf/0/$ref"))
        .and_then(Json::as_str);
    let target = reference
        .and_then(|reference| reference.strip_prefix('#'))
        .and_then(|pointer| root.as_value().pointer(pointer))
        .unwrap_or(field);
    let description = field.get("description").or_else(|| target.get("description")).and_then(Json::as_str);
    (description.unwrap_or_default().to_owned(), target)
}

/// Keys in alphabetical order.
fn properties(schema: &Json) -> Vec<&str> {
    let keys = schema.get("properties").and_then(Json::as_object);
    keys.map(|keys| keys.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn write_comment(text: &mut String, description: &str) {
    let mut line = String::new();
    for word in description.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > COMMENT_WIDTH {
            text.push_str(&format!("# {line}\n"));
            line.clear();
        }
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(word);
    }
    if !line.is_empty() {
        text.push_str(&format!("# {line}\n"));
    }
}
