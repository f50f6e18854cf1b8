//! Writing PQL safely. No I/O.

/// A text as a PQL string literal.
#[must_use]
pub fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Texts as a PQL list literal.
pub(crate) fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(quote).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_leave_its_quotes() {
        assert_eq!(quote(r#"x" or certname ~ "."#), r#""x\" or certname ~ \".""#);
        assert_eq!(quote(r"\"), r#""\\""#);
        assert_eq!(list(["a", "b"].into_iter()), r#"["a", "b"]"#);
    }
}
