//! Node groups, their rules and pins. No I/O.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::rule::matches;
use crate::site::SERVER;

/// The group above all others.
const ROOT: &str = "00000000-0000-4000-8000-000000000000";

/// A node group of a scene. One of the name of a preconfigured group takes its place and keeps its id and parent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeGroup {
    /// Its name.
    pub name: String,
    /// Its id; made up if absent.
    pub id: Option<String>,
    /// The name of the group above it; `All Nodes` if absent.
    pub parent: Option<String>,
    /// The environment that it gives; `production` if absent.
    pub environment: Option<String>,
    /// Which nodes are in it, in the classifier's notation; absent: none but those in the groups under it.
    pub rule: Option<Value>,
    /// Nodes that are pinned to it.
    pub pinned: Vec<String>,
    /// Its classes with their parameters.
    pub classes: Map<String, Value>,
}

pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) parent: String,
    pub(crate) environment: String,
    pub(crate) rule: Option<Value>,
    pub(crate) classes: Map<String, Value>,
}

/// All node groups, parents first.
pub(crate) struct Groups(Vec<Group>);

impl Group {
    pub(crate) fn json(&self) -> Value {
        let mut group = json!({
            "id": self.id,
            "name": self.name,
            "parent": self.parent,
            "environment": self.environment,
            "environment_trumps": false,
            "classes": self.classes,
            "config_data": {},
            "variables": {},
        });
        // A group without a rule has no such key.
        if let Some(rule) = &self.rule {
            group["rule"] = rule.clone();
        }
        group
    }

    /// Whether the rule names the node, alone or as an alternative.
    pub(crate) fn pins(&self, node: &str) -> bool {
        let pin = pin(node);
        match self.rule.as_ref().and_then(Value::as_array).map(Vec::as_slice) {
            Some([operator, alternatives @ ..]) if operator == "or" => alternatives.contains(&pin),
            _ => self.rule.as_ref() == Some(&pin),
        }
    }

    /// Makes the name one of the alternatives of the rule.
    pub(crate) fn pin(&mut self, node: &str) {
        let pin = pin(node);
        match &mut self.rule {
            Some(Value::Array(rule)) if rule.first().is_some_and(|operator| operator == "or") => {
                if !rule.contains(&pin) {
                    rule.push(pin);
                }
            }
            Some(rule) if *rule == pin => {}
            other => {
                let alternatives = other.take().into_iter().chain([pin]);
                *other = Some(std::iter::once(json!("or")).chain(alternatives).collect());
            }
        }
    }

    /// Takes the name out of the rule; says whether it was there.
    pub(crate) fn unpin(&mut self, node: &str) -> bool {
        let pin = pin(node);
        if self.rule.as_ref() == Some(&pin) {
            self.rule = None;
            return true;
        }
        let Some(Value::Array(rule)) = &mut self.rule else { return false };
        if rule.first().is_none_or(|operator| operator != "or") {
            return false;
        }
        let before = rule.len();
        rule.retain(|alternative| *alternative != pin);
        let found = rule.len() < before;
        if rule.len() == 1 {
            self.rule = None;
        }
        found
    }
}

fn pin(node: &str) -> Value {
    json!(["=", "name", node])
}

impl Groups {
    /// What a fresh Puppet Enterprise has, as far as it matters to compilers
    /// (<https://help.puppet.com/pe/current/topics/preconfigured_node_groups.htm>).
    pub(crate) fn preconfigured() -> Self {
        let compiler = json!(["and", ["=", ["trusted", "extensions", "pp_auth_role"], "pe_compiler"]]);
        let primary = pin(SERVER);
        let mut groups = Self(vec![Group {
            id: ROOT.to_owned(),
            name: "All Nodes".to_owned(),
            parent: ROOT.to_owned(),
            environment: "production".to_owned(),
            rule: Some(json!(["and", ["~", "name", ".*"]])),
            classes: Map::new(),
        }]);
        for (name, parent, rule, class) in [
            ("PE Infrastructure", None, None, "puppet_enterprise"),
            (
                "PE Master",
                Some("PE Infrastructure"),
                Some(json!(["or", compiler, primary])),
                "puppet_enterprise::profile::master",
            ),
            ("PE Compiler", Some("PE Master"), Some(compiler.clone()), "puppet_enterprise::profile::master"),
            (
                "PE Database",
                Some("PE Infrastructure"),
                Some(json!(["or", primary])),
                "puppet_enterprise::profile::database",
            ),
            (
                "PE Infrastructure Agent",
                Some("PE Infrastructure"),
                Some(json!(["or", primary])),
                "puppet_enterprise::profile::agent",
            ),
        ] {
            let mut classes = Map::from_iter([(class.to_owned(), json!({}))]);
            if name == "PE Compiler" {
                classes.insert("puppet_enterprise::profile::puppetdb".to_owned(), json!({}));
            }
            let parent = parent.map(str::to_owned);
            let group = NodeGroup { name: name.to_owned(), parent, rule, classes, ..NodeGroup::default() };
            // Their parents come before them.
            let _ = groups.put(&group);
        }
        groups
    }

    /// Adds a group, or replaces the one of its name.
    pub(crate) fn put(&mut self, from: &NodeGroup) -> anyhow::Result<()> {
        anyhow::ensure!(!from.name.is_empty(), "a node group has no name");
        let old = self.0.iter().position(|group| group.name == from.name);
        let parent = match &from.parent {
            Some(parent) => {
                let found = self.0.iter().find(|group| group.name == *parent && group.name != from.name);
                let found = found.ok_or_else(|| {
                    anyhow::anyhow!("node group {} has the parent {parent}, which is not there", from.name)
                })?;
                found.id.clone()
            }
            None => old.map_or(ROOT.to_owned(), |old| self.0[old].parent.clone()),
        };
        let id = from.id.clone().or_else(|| old.map(|old| self.0[old].id.clone()));
        let mut group = Group {
            id: id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            name: from.name.clone(),
            parent,
            environment: from.environment.clone().unwrap_or_else(|| "production".to_owned()),
            rule: from.rule.clone(),
            classes: from.classes.clone(),
        };
        for node in &from.pinned {
            group.pin(node);
        }
        match old {
            Some(old) => self.0[old] = group,
            None => self.0.push(group),
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Group> {
        self.0.iter()
    }

    pub(crate) fn all_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.0.iter_mut()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Group> {
        self.0.iter().find(|group| group.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Group> {
        self.0.iter_mut().find(|group| group.id == id)
    }

    /// The groups that a node is in: those whose rule it matches, and the rules of all groups above it. A group
    /// without a rule has no nodes, and does not restrict the groups under it
    /// (<https://help.puppet.com/pe/current/topics/how_node_group_inheritance_works.htm>).
    pub(crate) fn of_node(&self, name: &str, facts: &Value) -> Vec<&Group> {
        let own = |group: &&Group| group.rule.as_ref().is_some_and(|rule| matches(rule, name, facts));
        self.0.iter().filter(own).filter(|group| self.ancestors_match(group, name, facts)).collect()
    }

    fn ancestors_match(&self, group: &Group, name: &str, facts: &Value) -> bool {
        let mut group = group;
        // No chain is longer than there are groups: a circle ends too.
        for _ in 0..self.0.len() {
            let Some(parent) = self.get(&group.parent) else { return true };
            if !parent.rule.as_ref().is_none_or(|rule| matches(rule, name, facts)) {
                return false;
            }
            if parent.id == ROOT {
                return true;
            }
            group = parent;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(groups: &Groups, node: &str, facts: &Value) -> Vec<String> {
        groups.of_node(node, facts).iter().map(|group| group.name.clone()).collect()
    }

    #[test]
    fn a_compiler_is_known_by_its_certificate_and_a_stranger_is_in_no_group_but_the_root() {
        let groups = Groups::preconfigured();
        let compiler = json!({"trusted": {"extensions": {"pp_auth_role": "pe_compiler"}}});
        assert_eq!(names(&groups, "c", &compiler), ["All Nodes", "PE Master", "PE Compiler"]);
        assert_eq!(names(&groups, "c", &json!({})), ["All Nodes"]);
    }

    #[test]
    fn a_rule_above_a_group_must_match_too_even_for_a_pinned_node() {
        let mut groups = Groups::preconfigured();
        let narrow = NodeGroup {
            name: "narrow".into(),
            parent: Some("PE Compiler".into()),
            pinned: vec!["n".into()],
            ..NodeGroup::default()
        };
        groups.put(&narrow).unwrap();
        assert_eq!(names(&groups, "n", &json!({})), ["All Nodes"]);
        let compiler = json!({"trusted": {"extensions": {"pp_auth_role": "pe_compiler"}}});
        assert!(names(&groups, "n", &compiler).contains(&"narrow".to_owned()));
    }

    #[test]
    fn pinning_adds_an_alternative_and_unpinning_takes_just_that_away() {
        let dynamic = json!(["and", ["=", ["trusted", "extensions", "pp_role"], "compiler"]]);
        for (before, pinned) in [
            (None, json!(["or", ["=", "name", "n"]])),
            (Some(dynamic.clone()), json!(["or", dynamic, ["=", "name", "n"]])),
            (Some(json!(["or", ["=", "name", "x"]])), json!(["or", ["=", "name", "x"], ["=", "name", "n"]])),
        ] {
            let mut groups = Groups::preconfigured();
            let group = NodeGroup { name: "g".into(), rule: before, ..NodeGroup::default() };
            groups.put(&group).unwrap();
            let group = groups.all_mut().find(|group| group.name == "g").unwrap();
            group.pin("n");
            group.pin("n");
            assert_eq!(group.rule.as_ref(), Some(&pinned));
            assert!(group.unpin("n"));
            assert!(!group.unpin("n"));
        }
    }
}
