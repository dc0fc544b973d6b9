//! Foreign text, made fit for people and for logs.

/// Foreign text for people: control characters and those that change the direction of writing are replaced by spaces, and
/// it is cut after `max` characters.
pub(crate) fn shown(text: &str, max: usize) -> String {
    let mut out = String::new();
    let mut len = 0;
    for c in text.chars() {
        let c = if is_harmful(c) { ' ' } else { c };
        if c == ' ' && (out.is_empty() || out.ends_with(' ')) {
            continue;
        }
        if len == max {
            out.push('…');
            break;
        }
        out.push(c);
        len += 1;
    }
    out.truncate(out.trim_end().len());
    out
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
