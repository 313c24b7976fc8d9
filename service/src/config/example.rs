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

/// Keys first, then sections: in TOML a key after a section's head belongs to that section.
fn write_table(text: &mut String, root: &Schema, schema: &Json, table: &Table, path: &[&str]) {
    let field =
        |key: &str| resolve(root, schema.pointer(&format!("/properties/{key}")).unwrap_or(&Json::Null));
    let mut keys = properties(schema);
    keys.extend(table.keys().map(String::as_str));
    keys.sort_unstable();
    keys.dedup();
    let is_section = |key: &str| matches!(table.get(key), Some(Value::Table(_)));
    for key in keys.iter().filter(|key| !is_section(key)) {
        let (description, schema) = field(key);
        write_comment(text, "# ", &description);
        match table.get(*key) {
            Some(Value::Array(items)) if items.is_empty() && item_example(root, schema).is_some() => {
                let section = [path, &[key]].concat().join(".");
                text.push_str(&format!("#[[{section}]]\n"));
                write_item(text, root, schema);
            }
            Some(value) => text.push_str(&format!("#{key} = {value}\n")),
            None => text.push_str(&format!("#{key} = \"\"\n")),
        }
        text.push('\n');
    }
    for key in keys.iter().filter(|key| is_section(key)) {
        let Some(Value::Table(inner)) = table.get(*key) else { continue };
        let (description, schema) = field(key);
        let path = [path, &[key]].concat();
        write_comment(text, "# ", &description);
        text.push_str(&format!("[{}]\n", path.join(".")));
        if inner.is_empty() {
            text.push('\n');
        }
        write_table(text, root, schema, inner, &path);
    }
}

/// The keys of a list's entries, with their meaning.
fn write_item(text: &mut String, root: &Schema, schema: &Json) {
    let Some((item, fields)) = item_example(root, schema) else { return };
    for key in fields {
        let (description, field) =
            resolve(root, item.pointer(&format!("/properties/{key}")).unwrap_or(&Json::Null));
        write_comment(text, "#   # ", &description);
        let value = if field.get("type").and_then(Json::as_str) == Some("array") { "[]" } else { "\"\"" };
        text.push_str(&format!("#{key} = {value}\n"));
    }
}

fn item_example<'s>(root: &'s Schema, schema: &'s Json) -> Option<(&'s Json, Vec<&'s str>)> {
    let (_, item) = resolve(root, schema.get("items")?);
    let fields = properties(item);
    (!fields.is_empty()).then_some((item, fields))
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

fn write_comment(text: &mut String, prefix: &str, description: &str) {
    let mut line = String::new();
    for word in description.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > COMMENT_WIDTH {
            text.push_str(&format!("{prefix}{line}\n"));
            line.clear();
        }
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(word);
    }
    if !line.is_empty() {
        text.push_str(&format!("{prefix}{line}\n"));
    }
}
