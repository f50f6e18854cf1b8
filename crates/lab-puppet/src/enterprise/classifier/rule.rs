//! The rules of node groups. No I/O.
//! (<https://help.puppet.com/pe/current/topics/node_classifier_rule_condition_grammar.htm>)

use regex_lite::Regex;
use serde_json::Value;

/// Whether a node of this name with these `fact`s and `trusted` facts matches the rule. A condition on a
/// fact that is missing does not match; nor does an invalid rule.
pub(super) fn matches(rule: &Value, name: &str, facts: &Value) -> bool {
    let Some(parts) = rule.as_array() else { return false };
    let Some((operator, operands)) = parts.split_first() else { return false };
    match (operator.as_str().unwrap_or_default(), operands) {
        ("and", all) => all.iter().all(|one| matches(one, name, facts)),
        ("or", any) => any.iter().any(|one| matches(one, name, facts)),
        ("not", [one]) => !matches(one, name, facts),
        (comparison, [what, Value::String(wanted)]) => {
            value(what, name, facts).is_some_and(|found| compares(comparison, &found, wanted))
        }
        _ => false,
    }
}

/// The text that a rule speaks of: the name, or a fact by its path.
fn value(what: &Value, name: &str, facts: &Value) -> Option<String> {
    if what == "name" {
        return Some(name.to_owned());
    }
    let mut at = facts;
    for step in what.as_array()? {
        at = match (at, step) {
            (Value::Array(list), Value::Number(index)) => list.get(usize::try_from(index.as_u64()?).ok()?)?,
            _ => at.get(step.as_str()?)?,
        };
    }
    match at {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(at.to_string()),
        _ => None,
    }
}

fn compares(operator: &str, found: &str, wanted: &str) -> bool {
    let numbers = || Some((found.parse::<f64>().ok()?, wanted.parse::<f64>().ok()?));
    match operator {
        "=" => found == wanted,
        "~" => Regex::new(wanted).is_ok_and(|pattern| pattern.is_match(found)),
        "<" => numbers().is_some_and(|(found, wanted)| found < wanted),
        ">" => numbers().is_some_and(|(found, wanted)| found > wanted),
        "<=" => numbers().is_some_and(|(found, wanted)| found <= wanted),
        ">=" => numbers().is_some_and(|(found, wanted)| found >= wanted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_operator_of_the_grammar_decides() {
        let facts = json!({
            "fact": {"processors": {"count": 4}, "ipaddress": "10.0.0.7", "nics": ["a", "b"]},
            "trusted": {"extensions": {"pp_role": "compiler"}},
        });
        for (rule, expected) in [
            (json!(["=", "name", "n.example.net"]), true),
            (json!(["~", "name", "^n[.]"]), true),
            (json!(["~", "name", "^x"]), false),
            (json!(["=", ["trusted", "extensions", "pp_role"], "compiler"]), true),
            (json!(["=", ["trusted", "extensions", "pp_role"], "other"]), false),
            (json!(["=", ["trusted", "extensions", "pp_zone"], "x"]), false),
            (json!(["not", ["=", ["trusted", "extensions", "pp_zone"], "x"]]), true),
            (json!([">", ["fact", "processors", "count"], "3"]), true),
            (json!(["<=", ["fact", "processors", "count"], "3"]), false),
            (json!(["=", ["fact", "nics", 1], "b"]), true),
            (json!(["and", ["=", "name", "n.example.net"], ["=", ["fact", "ipaddress"], "x"]]), false),
            (json!(["or", ["=", "name", "n.example.net"], ["=", ["fact", "ipaddress"], "x"]]), true),
            (json!(["sounds like", "name", "n.example.net"]), false),
            (json!(null), false),
        ] {
            assert_eq!(matches(&rule, "n.example.net", &facts), expected, "{rule}");
        }
    }
}
