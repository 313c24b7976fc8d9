//! Where in a file a key stands.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Line and column, both from 1; the column counts characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    line: usize,
    column: usize,
}

impl Position {
    pub(super) fn in_file(self, name: &str) -> String {
        format!("{name}:{}:{}", self.line, self.column)
    }
}

/// The position of the byte at `offset`.
pub(super) fn position(text: &str, offset: usize) -> Position {
    let before = text.get(..offset).unwrap_or(text);
    let line_begin = before.rfind('\n').map_or(0, |index| index + 1);
    let column = before.get(line_begin..).map_or(0, |line| line.chars().count()) + 1;
    Position { line: before.matches('\n').count() + 1, column }
}

/// The position of what stands at `path`: its key if `of_key`, else its value. When it is not there, that of
/// the nearest section above.
pub(super) fn find(text: &str, path: &[String], of_key: bool) -> Position {
    let offset = DeTable::parse(text).ok().map_or(0, |root| {
        let begin = root.span().start;
        offset_in_table(root.get_ref(), path, of_key, begin)
    });
    position(text, offset)
}

fn offset_in_table(table: &DeTable<'_>, path: &[String], of_key: bool, begin: usize) -> usize {
    let Some((first, rest)) = path.split_first() else { return begin };
    let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == first.as_str()) else {
        return begin;
    };
    if rest.is_empty() && of_key { key.span().start } else { offset_in_value(value, rest, of_key) }
}

fn offset_in_value(value: &Spanned<DeValue<'_>>, path: &[String], of_key: bool) -> usize {
    let begin = value.span().start;
    let Some((first, rest)) = path.split_first() else { return begin };
    match value.get_ref() {
        DeValue::Table(table) => offset_in_table(table, path, of_key, begin),
        DeValue::Array(items) => match first.parse::<usize>().ok().and_then(|index| items.get(index)) {
            Some(item) => offset_in_value(item, rest, of_key),
            None => begin,
        },
        _ => begin,
    }
}
