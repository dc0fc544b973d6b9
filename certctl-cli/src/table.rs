//! Lists and single things, as text.

use comfy_table::{ContentArrangement, Table as Grid, presets};

use crate::text::{printable, wrap};

/// A list: a heading, and a line for each item.
#[derive(Clone, Debug, Default)]
pub struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns.
    pub fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a line.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // A tab or a line's end in a cell would break the table.
        self.rows.push(cells.into_iter().map(|cell| printable(&cell.replace(['\n', '\t'], " "))).collect());
    }

    /// The text. Without a width, each item is exactly one line, however long: for other programs.
    pub fn render(&self, width: Option<usize>) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        match width.and_then(|width| u16::try_from(width).ok()) {
            Some(width) => {
                grid.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                grid.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        grid.set_header(&self.heading).add_rows(&self.rows);
        for column in grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        lines(grid.lines())
    }
}

/// One thing: its fields, each with its name.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Adds a field.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // A reference is a value, too.
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// Adds a field if there is a value.
    #[must_use]
    pub fn maybe(self, name: impl Into<String>, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The text: names in one column, values in the other, wrapped to the width if there is one.
    pub fn render(&self, width: Option<usize>) -> String {
        let names = self.0.iter().map(|(name, _)| name.chars().count() + 1).max().unwrap_or(0);
        let indent = " ".repeat(names + 2);
        let rows = self.0.iter().flat_map(|(name, value)| {
            let head = if name.is_empty() { String::new() } else { format!("{name}:") };
            let mut values = printable(value)
                .lines()
                .flat_map(|line| match width {
                    Some(width) => wrap(line, width.saturating_sub(names + 2).max(20), ""),
                    None => vec![line.to_owned()],
                })
                .collect::<Vec<_>>()
                .into_iter();
            let first = format!("{head:<names$}  {}", values.next().unwrap_or_default());
            [first].into_iter().chain(values.map(|line| format!("{indent}{line}"))).collect::<Vec<_>>()
        });
        lines(rows)
    }
}

fn lines(rows: impl Iterator<Item = String>) -> String {
    rows.map(|row| format!("{}\n", row.trim_end())).collect()
}
