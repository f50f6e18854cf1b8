//! Node groups and classifications, as values. No I/O.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use stagedoor_types::Certname;

use crate::x509::{Certificate, short_name};

/// The id of a node group: a UUID, given out by the classifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct GroupId(String);

impl GroupId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A node group.
/// See [`GET /v1/groups`](https://help.puppet.com/pe/current/topics/get_v1_groups.htm).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its name.
    pub name: String,
    /// The group that it belongs under.
    #[serde(default)]
    pub parent: Option<GroupId>,
    /// The environment that it gives to its nodes.
    #[serde(default)]
    pub environment: Option<String>,
    /// Which nodes are in it: a condition in the classifier's notation.
    #[serde(default)]
    pub rule: Option<Value>,
}

impl Group {
    /// The nodes that are pinned to the group. What is no certname is left out.
    #[must_use]
    pub fn pinned(&self) -> Vec<Certname> {
        let Some(rule) = self.rule.as_ref().and_then(Value::as_array) else { return Vec::new() };
        let name = |condition: &[Value]| match condition {
            [Value::String(equal), Value::String(name), Value::String(node)] if equal == "=" && name == "name" => {
                node.parse().ok()
            }
            _ => None,
        };
        match rule.as_slice() {
            [Value::String(operator), alternatives @ ..] if operator == "or" => {
                alternatives.iter().filter_map(Value::as_array).filter_map(|one| name(one)).collect()
            }
            rule => name(rule).into_iter().collect(),
        }
    }

    /// Whether this node is pinned to the group: named by its rule, alone or as one of the alternatives. A node
    /// that the rule matches by its facts is in the group and not pinned to it.
    #[must_use]
    pub fn pins(&self, certname: &Certname) -> bool {
        let pin = json!(["=", "name", certname.as_str()]);
        match self.rule.as_ref().and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(operator), alternatives @ ..]) if operator == "or" => alternatives.contains(&pin),
            _ => self.rule.as_ref() == Some(&pin),
        }
    }
}

/// A node group as other answers mention it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GroupRef {
    /// Its id.
    pub id: GroupId,
    /// Its name.
    pub name: String,
}

/// How a node is classified.
/// See [`POST /v2/classified/nodes/<name>`](https://help.puppet.com/pe/current/topics/post_v2_classified_nodes_name.htm).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub struct Classification {
    /// The groups that it is in, by rule or by pin.
    pub groups: Vec<GroupRef>,
    /// The classes that these give it.
    pub classes: Vec<String>,
    /// The environment that these give it.
    pub environment: Option<String>,
}

impl Classification {
    /// Whether the node is in the group of this name.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member.name == group)
    }
}

#[derive(Deserialize)]
struct Wire {
    groups: Vec<GroupRef>,
    #[serde(default)]
    classes: Classes,
    environment: Option<String>,
}

/// Names, or names with their parameters.
#[derive(Deserialize)]
#[serde(untagged)]
enum Classes {
    Names(Vec<String>),
    Parameters(Map<String, Value>),
}

impl Default for Classes {
    fn default() -> Self {
        Self::Names(Vec::new())
    }
}

impl From<Wire> for Classification {
    fn from(wire: Wire) -> Self {
        let classes = match wire.classes {
            Classes::Names(names) => names,
            Classes::Parameters(parameters) => parameters.into_iter().map(|(name, _)| name).collect(),
        };
        Self { groups: wire.groups, classes, environment: wire.environment }
    }
}

/// The [trusted facts](https://www.puppet.com/docs/puppet/8/lang_facts_builtin_variables.html) of a node that has
/// this certificate, each extension under its OID and, where it has one, under its short name as well: rules are written with
/// either. Puppet Server knows an extension by one of them, which depends on its version and settings: `pp_role`, but
/// `1.3.6.1.4.1.34380.1.1.9812`, unless the site gave that a name.
#[must_use]
pub fn trusted_facts(certificate: &Certificate) -> Value {
    let certname = certificate.common_name();
    let (hostname, domain) = match certname.split_once('.') {
        Some((hostname, domain)) => (hostname, Some(domain)),
        None => (certname, None),
    };
    let spellings = |(oid, text): (&str, &str)| {
        let names = [Some(oid.to_owned()), short_name(oid).map(str::to_owned)];
        let text = text.to_owned();
        names.into_iter().flatten().map(move |name| (name, Value::from(text.clone())))
    };
    let extensions: Map<String, Value> = certificate.extensions().iter().flat_map(spellings).collect();
    json!({
        "authenticated": "remote",
        "certname": certname,
        "domain": domain,
        "extensions": extensions,
        "external": {},
        "hostname": hostname,
    })
}

/// The same with what Puppet Server recorded of them at the node's newest run (the fact `trusted` in PuppetDB): the names that the
/// site gave to OIDs, and `external`. What the certificate says is not replaced.
#[must_use]
pub fn reported_trusted_facts(certificate: &Certificate, recorded: &Value) -> Value {
    let mut trusted = trusted_facts(certificate);
    if let (Some(all), Some(recorded)) = (trusted["extensions"].as_object_mut(), recorded["extensions"].as_object()) {
        for (name, value) in recorded {
            all.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    if let Some(external) = recorded.get("external") {
        trusted["external"] = external.clone();
    }
    trusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_pinned_by_its_name_and_by_nothing_else() {
        let n: Certname = "n.example.net".parse().unwrap();
        let pins = |rule: Value| {
            let group: Group = serde_json::from_value(json!({"id": "g", "name": "G", "rule": rule})).unwrap();
            group.pins(&n)
        };
        assert!(pins(json!(["=", "name", "n.example.net"])));
        assert!(pins(json!(["or", ["=", "name", "x"], ["=", "name", "n.example.net"]])));
        assert!(pins(json!([
            "or",
            ["and", ["=", ["trusted", "extensions", "pp_role"], "x"]],
            ["=", "name", "n.example.net"]
        ])));
        assert!(!pins(Value::Null));
        assert!(!pins(json!(["or", ["=", "name", "x"]])));
        assert!(!pins(json!(["not", ["=", "name", "n.example.net"]])));
        assert!(!pins(json!(["and", ["=", "name", "n.example.net"], ["=", ["fact", "os"], "x"]])));
        assert!(!pins(json!(["=", ["fact", "name"], "n.example.net"])));
    }

    #[test]
    fn those_who_are_pinned_are_listed_and_those_whom_a_rule_names_otherwise_are_not() {
        let pinned = |rule: Value| {
            let group: Group = serde_json::from_value(json!({"id": "g", "name": "G", "rule": rule})).unwrap();
            let names: Vec<String> = group.pinned().iter().map(ToString::to_string).collect();
            names
        };
        assert_eq!(pinned(json!(["=", "name", "a"])), ["a"]);
        let rule = json!([
            "or",
            ["and", ["=", "name", "x"]],
            ["=", "name", "a"],
            ["=", "name", "No Certname"],
            ["=", "name", "b"]
        ]);
        assert_eq!(pinned(rule), ["a", "b"]);
        for rule in [Value::Null, json!(["not", ["=", "name", "a"]]), json!(["~", "name", "a"])] {
            assert_eq!(pinned(rule.clone()), Vec::<String>::new(), "{rule}");
        }
    }

    #[test]
    fn classes_are_named_in_either_form() {
        for classes in [json!(["a", "b"]), json!({"a": {"x": 1}, "b": {}})] {
            let found: Classification = serde_json::from_value(json!({"groups": [], "classes": classes})).unwrap();
            assert_eq!(found.classes, ["a", "b"]);
        }
    }
}
