//! Evaluates the rules of node groups, to explain why a node is not in a group. No I/O.
//!
//! See the [grammar of rules](https://help.puppet.com/pe/current/topics/node_classifier_rule_condition_grammar.htm) and
//! [how rules are inherited](https://help.puppet.com/pe/current/topics/how_node_group_inheritance_works.htm). Whether a node is in
//! a group is for the classifier to say. What is found here only explains its answer.

use std::collections::BTreeSet;

use regex_lite::Regex;
use serde_json::Value;
use stagedoor_types::Certname;

use super::{Group, ROOT};
use crate::x509::long_name;

/// What is known of a node whose groups are to be explained.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// Its name.
    pub certname: &'a Certname,
    /// Its trusted facts, as far as they are known.
    pub trusted: &'a Value,
    /// Its facts, and with them its complete trusted facts; `None` before its first run.
    pub facts: Option<&'a Value>,
}

/// How the rules of a group and of the groups above it fit a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// All of them match.
    Matches,
    /// Facts decide, and they are not known yet.
    FactsNeeded,
    /// They hold a condition that cannot be evaluated here, or belong to a group that is not shown.
    NotEvaluated,
    /// They do not match: holds the conditions that are not met.
    Contradicts(Vec<Unmet>),
}

/// A condition that a node does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The group whose rule it is in: the one that was asked about, or one above it.
    pub group: String,
    /// The condition, in the classifier's notation; `None` where the group has no rule.
    pub condition: Option<String>,
    /// The value that the node has there, unless it has none or the whole condition is not about one value.
    pub found: Option<String>,
}

/// The extension whose value is never shown.
const PRESHARED_KEY: &str = "pp_preshared_key";
/// The longest value that is shown, in characters.
const LONGEST_VALUE: usize = 60;

/// How this group's rule and those of the groups above it fit a node.
///
/// A group without a rule has no nodes, and does not restrict the groups under it.
#[must_use]
pub fn fit(groups: &[Group], group: &Group, node: NodeFacts<'_>) -> Fit {
    let (chain, complete) = chain(groups, group);
    let fits = chain.into_iter().map(|one| match &one.rule {
        Some(rule) => evaluate(rule, &one.name, node),
        None if one.id == group.id => {
            Fit::Contradicts(vec![Unmet { group: one.name.clone(), condition: None, found: None }])
        }
        None => Fit::Matches,
    });
    let hidden = (!complete).then_some(Fit::NotEvaluated);
    all(fits.chain(hidden))
}

/// The facts, by their first name, that the rules of this group and of the groups above it are about; `None` if one of these groups
/// is not shown.
#[must_use]
pub fn facts_of_rules(groups: &[Group], group: &Group) -> Option<BTreeSet<String>> {
    let (chain, complete) = chain(groups, group);
    let mut names = BTreeSet::new();
    chain.iter().filter_map(|one| one.rule.as_ref()).for_each(|rule| collect_facts(rule, &mut names));
    complete.then_some(names)
}

/// The group and those above it, as far as they are shown; and whether all of them are.
fn chain<'a>(groups: &'a [Group], group: &'a Group) -> (Vec<&'a Group>, bool) {
    let mut chain = vec![group];
    let mut last = group;
    while let Some(parent) = &last.parent {
        // The root is its own parent.
        if chain.iter().any(|one| one.id == *parent) {
            return (chain, true);
        }
        match groups.iter().find(|one| one.id == *parent) {
            Some(parent) => last = parent,
            // Every node matches the rule of the root, which a token's role need not see.
            None => return (chain, parent.as_str() == ROOT),
        }
        chain.push(last);
    }
    (chain, true)
}

fn collect_facts(rule: &Value, names: &mut BTreeSet<String>) {
    match rule.as_array().map(Vec::as_slice) {
        Some([Value::String(kind), Value::String(name), ..]) if kind == "fact" => drop(names.insert(name.clone())),
        Some(parts) => parts.iter().for_each(|part| collect_facts(part, names)),
        None => {}
    }
}

/// Whether a node meets a condition of this group's rule.
fn evaluate(condition: &Value, group: &str, node: NodeFacts<'_>) -> Fit {
    let unmet = |found: Option<String>| {
        let shown = if is_secret(condition) {
            format!("a condition on {PRESHARED_KEY}, which is not shown")
        } else {
            condition.to_string()
        };
        let condition = Some(shown);
        Fit::Contradicts(vec![Unmet { group: group.to_owned(), condition, found }])
    };
    let Some([Value::String(operator), operands @ ..]) = condition.as_array().map(Vec::as_slice) else {
        return Fit::NotEvaluated;
    };
    let below = || operands.iter().map(|one| evaluate(one, group, node));
    match (operator.as_str(), operands) {
        ("and", [_, ..]) => all(below()),
        ("or", [_, ..]) => any(below()),
        ("not", [one]) => match evaluate(one, group, node) {
            Fit::Matches => unmet(None),
            Fit::Contradicts(_) => Fit::Matches,
            open => open,
        },
        (comparison, [path, Value::String(wanted)]) => match value(path, node) {
            Known::Unknown => Fit::FactsNeeded,
            Known::NotUnderstood => Fit::NotEvaluated,
            Known::Absent => unmet(None),
            Known::Text(found) => match compares(comparison, &found, wanted) {
                None => Fit::NotEvaluated,
                Some(true) => Fit::Matches,
                Some(false) => unmet(shown(path, &found)),
            },
        },
        _ => Fit::NotEvaluated,
    }
}

fn all(fits: impl Iterator<Item = Fit>) -> Fit {
    let (mut unmet, mut open) = (Vec::new(), Fit::Matches);
    for fit in fits {
        match fit {
            Fit::Contradicts(more) => unmet.extend(more),
            Fit::FactsNeeded => open = Fit::FactsNeeded,
            Fit::NotEvaluated if open == Fit::Matches => open = Fit::NotEvaluated,
            Fit::NotEvaluated | Fit::Matches => {}
        }
    }
    if unmet.is_empty() { open } else { Fit::Contradicts(unmet) }
}

/// The pins of other nodes are alternatives too, and explain nothing where there are other conditions.
fn any(fits: impl Iterator<Item = Fit>) -> Fit {
    let (mut unmet, mut open) = (Vec::new(), None);
    for fit in fits {
        match fit {
            Fit::Matches => return Fit::Matches,
            Fit::FactsNeeded => open = Some(Fit::FactsNeeded),
            Fit::NotEvaluated => open = open.or(Some(Fit::NotEvaluated)),
            Fit::Contradicts(more) => unmet.extend(more),
        }
    }
    if unmet.iter().any(|one| !is_pin(one)) {
        unmet.retain(|one| !is_pin(one));
    }
    open.unwrap_or(Fit::Contradicts(unmet))
}

fn is_pin(unmet: &Unmet) -> bool {
    unmet.condition.as_ref().is_some_and(|condition| condition.starts_with(r#"["=","name","#))
}

/// What a condition speaks of.
enum Known {
    Text(String),
    /// The node has nothing there.
    Absent,
    /// Only the facts of a run will say.
    Unknown,
    /// A path of a form that is not known here, or one that leads to more than one value.
    NotUnderstood,
}

fn value(path: &Value, node: NodeFacts<'_>) -> Known {
    let (root, steps) = match path.as_array().map(Vec::as_slice) {
        None if path == "name" => return Known::Text(node.certname.to_string()),
        Some([Value::String(kind), steps @ ..]) if kind == "trusted" => (Some(node.trusted), steps),
        Some([Value::String(kind), steps @ ..]) if kind == "fact" => (node.facts, steps),
        _ => return Known::NotUnderstood,
    };
    let Some(mut at) = root else { return Known::Unknown };
    for step in steps {
        let next = match (at, step) {
            (Value::Array(list), Value::Number(index)) => {
                index.as_u64().and_then(|index| list.get(usize::try_from(index).ok()?))
            }
            _ => step.as_str().and_then(|step| at.get(step)),
        };
        match next {
            Some(next) => at = next,
            None if node.facts.is_none() && !says_the_certificate(steps) => return Known::Unknown,
            None => return Known::Absent,
        }
    }
    match at {
        Value::String(text) => Known::Text(text.clone()),
        Value::Bool(_) | Value::Number(_) => Known::Text(at.to_string()),
        Value::Null => Known::Absent,
        Value::Array(_) | Value::Object(_) => Known::NotUnderstood,
    }
}

/// Whether the certificate alone says whether there is such a trusted fact. A site may give its own names to OIDs
/// (`custom_trusted_oid_mapping.yaml`), and `external` comes from a program of the server: these show in the facts of a run.
fn says_the_certificate(steps: &[Value]) -> bool {
    match steps {
        [Value::String(first), Value::String(name), ..] if first == "extensions" => {
            long_name(name).is_some() || name.starts_with(|c: char| c.is_ascii_digit())
        }
        [Value::String(first)] => ["authenticated", "certname", "domain", "hostname"].contains(&first.as_str()),
        _ => false,
    }
}

/// `None`: not an operator that is known here, or not a pattern.
fn compares(operator: &str, found: &str, wanted: &str) -> Option<bool> {
    let numbers = || Some((found.parse::<f64>().ok()?, wanted.parse::<f64>().ok()?));
    match operator {
        "=" => Some(found == wanted),
        // The classifier's patterns are Java's. What both understand they understand alike.
        "~" => Regex::new(wanted).ok().map(|pattern| pattern.is_match(found)),
        "<" => Some(numbers().is_some_and(|(found, wanted)| found < wanted)),
        ">" => Some(numbers().is_some_and(|(found, wanted)| found > wanted)),
        "<=" => Some(numbers().is_some_and(|(found, wanted)| found <= wanted)),
        ">=" => Some(numbers().is_some_and(|(found, wanted)| found >= wanted)),
        _ => None,
    }
}

/// Whether a condition, or a path, is about the extension whose value is never shown.
fn is_secret(part: &Value) -> bool {
    match part {
        Value::String(text) => text == PRESHARED_KEY || long_name(PRESHARED_KEY).as_ref() == Some(text),
        Value::Array(parts) => parts.iter().any(is_secret),
        _ => false,
    }
}

/// A value for a person, shortened; none where it may be a secret.
fn shown(path: &Value, found: &str) -> Option<String> {
    if is_secret(path) {
        return None;
    }
    let short: String = found.chars().take(LONGEST_VALUE).collect();
    Some(if short.len() < found.len() { format!("{short}…") } else { short })
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { group, condition, found } = self;
        match (condition, found) {
            (None, _) => write!(f, "{group} has no rule"),
            (Some(condition), Some(found)) => write!(f, "{group} requires {condition}, and the node has {found:?}"),
            (Some(condition), None) => write!(f, "{group} requires {condition}"),
        }
    }
}

#[cfg(test)]
mod tests;
