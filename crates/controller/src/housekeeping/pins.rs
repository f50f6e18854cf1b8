//! Finds pins without a node or certificate, which the next owner of the name would inherit, and reports them. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use stagedoor_lifecycle::pins::{is_left_over, ours};
use stagedoor_lifecycle::profile::Profile;
use stagedoor_lifecycle::reason::Code;
use stagedoor_types::{Certname, Service, Trouble};

use crate::call::{call, in_turn};
use crate::context::{Puppet, Run};
use crate::observe::orphans::{closely_with, names_without_node};

/// The most names in one published message, or in an answer.
const SHOWN: usize = 100;
/// How many names without a node are examined each time.
const READ: usize = 100;

/// Pins that nothing else is left of.
#[derive(Debug, Default)]
pub(crate) struct LeftOver {
    /// The names, each with its node groups.
    names: BTreeMap<Certname, BTreeSet<String>>,
    /// Those of which that could not be found out, and why.
    unclear: Vec<(Certname, Trouble)>,
}

/// Looks for them among the names that the profiles pin: by one query for their nodes, and by reading the certificates and requests of
/// those without an active node, a hundred each time. `turn` says which.
pub(super) async fn look(
    run: Run<'_>,
    puppet: &Puppet,
    launching: &BTreeSet<Certname>,
    turn: i64,
) -> Result<LeftOver, Trouble> {
    let profiles: Vec<&Profile> = run.context.config.profiles.values().map(AsRef::as_ref).collect();
    let Some(classifier) = &puppet.classifier else { return Ok(LeftOver::default()) };
    let groups = call(run.context, run.budget.work, Service::Classifier, classifier.groups()).await?;
    let pins = groups.iter().map(|group| (group.name.as_str(), group.pinned()));
    let mut pinned = ours(pins, &profiles, &puppet.protected, launching);
    let names: Vec<Certname> = pinned.keys().cloned().collect();
    let without_node = names_without_node(run, puppet, &names).await?;
    let read = in_turn(&without_node, READ, turn);
    let seen = Box::pin(closely_with(run, puppet, read, std::future::ready(Some(Ok(groups))))).await;
    let mut left = LeftOver::default();
    for suspect in seen.suspects {
        let name = suspect.view.certname.clone();
        match is_left_over(&suspect.view) {
            Ok(true) => left.names.extend(pinned.remove_entry(&name)),
            Ok(false) => {}
            Err(trouble) => left.unclear.push((name, trouble.clone())),
        }
    }
    Ok(left)
}

impl LeftOver {
    /// Logs them, and returns the message to publish when a reminder is due.
    pub(super) fn tell(&self, remind: bool) -> Option<(String, Value)> {
        for (certname, groups) in &self.names {
            let groups = listed(groups);
            tracing::warn!(
                %certname,
                groups,
                "{certname} is pinned, and has no certificate and no active node: the next instance with this name would be in these node \
                 groups. Unpin it, unless the pin is intended"
            );
        }
        if let Some((certname, trouble)) = self.unclear.first() {
            let (unclear, code) = (self.unclear.len(), Code::from(trouble).as_str());
            tracing::warn!(unclear, %certname, code, "could not determine whether a pin has a node: {trouble}");
        }
        let subject = format!("Stagedoor: {} pins without a node", self.names.len());
        (remind && !self.names.is_empty())
            .then(|| (subject, json!({"function": "sweep", "alert": "pins", "pins": self.shown()})))
    }

    pub(super) fn payload(&self) -> Value {
        json!({"left_over": self.shown(), "unclear": self.unclear.len()})
    }

    fn shown(&self) -> Vec<Value> {
        let names = self.names.iter().take(SHOWN);
        names.map(|(certname, groups)| json!({"certname": certname, "groups": groups})).collect()
    }
}

fn listed(groups: &BTreeSet<String>) -> String {
    groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_that_are_left_over_are_published_when_a_reminder_is_due() {
        let names = [("a.example.com".parse().unwrap(), ["Agents".to_owned()].into())].into();
        let left = LeftOver { names, unclear: Vec::new() };
        assert_eq!(left.tell(false), None);
        let (_, message) = left.tell(true).unwrap();
        assert_eq!(message["pins"], json!([{"certname": "a.example.com", "groups": ["Agents"]}]));
        assert_eq!(LeftOver::default().tell(true), None);
        assert_eq!(left.payload()["left_over"], message["pins"]);
    }
}
