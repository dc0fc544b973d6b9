//! Plain text for terminals.

/// The text without what a terminal would obey: other people's words can hold escape sequences.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Lines of at most `width` columns, broken between words; all but the first of each paragraph begin with `indent`. A word
/// that is wider stands alone on its line.
pub fn wrap(text: &str, width: usize, indent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let own = paragraph.len() - paragraph.trim_start_matches(' ').len();
        let mut line = paragraph[..own].to_owned();
        let mut begun = false;
        for word in paragraph.split_whitespace() {
            let wide = line.chars().count() + usize::from(begun) + word.chars().count();
            if begun && wide > width {
                lines.push(std::mem::replace(&mut line, indent.to_owned()));
                begun = false;
            }
            if begun {
                line.push(' ');
            }
            line.push_str(word);
            begun = true;
        }
        lines.push(line);
    }
    lines
}

/// A count with its noun.
pub(crate) fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}
