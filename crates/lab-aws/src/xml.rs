//! A writer for the XML of the query protocols. No I/O.

use std::fmt::{Display, Write as _};

/// XML under construction: well-formed as long as it is built by nesting.
#[derive(Debug, Default)]
pub(crate) struct Xml(String);

impl Xml {
    /// `<name>value</name>`, escaped.
    pub(crate) fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.within(name, |xml| {
            xml.value(value);
        })
    }

    /// Text inside the element now open, escaped.
    pub(crate) fn value(&mut self, value: impl Display) -> &mut Self {
        escape(&value.to_string(), &mut self.0);
        self
    }

    /// Like [`Xml::text`], or nothing.
    pub(crate) fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        if let Some(value) = value {
            self.text(name, value);
        }
        self
    }

    /// `<name>…</name>` around what `inner` writes.
    pub(crate) fn within(&mut self, name: &str, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let _ = write!(self.0, "<{name}>");
        inner(self);
        let _ = write!(self.0, "</{name}>");
        self
    }

    /// `<name><item>…</item><item>…</item></name>`: a list, each element written by `each`.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        item: &str,
        elements: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.within(name, |xml| {
            for element in elements {
                xml.within(item, |xml| each(xml, element));
            }
        })
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Unescaped, a parser would turn it into a line feed.
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut xml = Xml::default();
        xml.list("Tags", "member", ["a<b&\"c\"\r\n"], |xml, tag| {
            xml.text("Value", tag).maybe("Missing", None::<u8>);
        });
        assert_eq!(xml.into_string(), "<Tags><member><Value>a&lt;b&amp;&quot;c&quot;&#xD;\n</Value></member></Tags>");
    }
}
