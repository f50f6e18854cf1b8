//! JSON with line breaks the way the Jackson library writes it, as PuppetDB does. No I/O.

use std::fmt::Write as _;

use serde_json::Value;

pub(super) fn print(value: &Value) -> String {
    let mut text = String::new();
    write(value, 0, &mut text);
    text
}

fn write(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Array(list) if list.is_empty() => text.push_str("[ ]"),
        Value::Object(map) if map.is_empty() => text.push_str("{ }"),
        // Lists stay on the line.
        Value::Array(list) => {
            for (position, entry) in list.iter().enumerate() {
                text.push_str(if position == 0 { "[ " } else { ", " });
                write(entry, depth, text);
            }
            text.push_str(" ]");
        }
        Value::Object(map) => {
            for (position, (key, entry)) in map.iter().enumerate() {
                text.push_str(if position == 0 { "{\n" } else { ",\n" });
                indent(depth + 1, text);
                // Writing to a String cannot fail.
                let _ = write!(text, "{} : ", Value::from(key.as_str()));
                write(entry, depth + 1, text);
            }
            text.push('\n');
            indent(depth, text);
            text.push('}');
        }
        plain => {
            let _ = write!(text, "{plain}");
        }
    }
}

fn indent(depth: usize, text: &mut String) {
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn lists_stay_on_the_line_and_maps_do_not() {
        let text = super::print(&json!([{"a": 1, "b": {"c": []}}]));
        assert_eq!(text, "[ {\n  \"a\" : 1,\n  \"b\" : {\n    \"c\" : [ ]\n  }\n} ]");
    }
}
