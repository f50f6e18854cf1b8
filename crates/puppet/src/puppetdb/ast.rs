//! Conditions of PuppetDB queries as JSON, in which a text is a value and needs no quoting. No I/O.
//!
//! See PuppetDB's [AST query language](https://www.puppet.com/docs/puppetdb/8/api/query/v4/ast.html).

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stagedoor_types::{Certname, Location};

/// Two texts that are no certname, to stand in front of a list of certnames.
///
/// PuppetDB looks for expressions inside lists of values as well. It refuses the list `["extract", "web"]`, and in a list
/// of three it changes the second value from `tag` to `tags`; all of these are valid certnames. A list that begins with two
/// empty texts matches none of its rules: `validate-query-fields`, `validate-binary-operators` and `expand-query-node` in
/// the [query engine](https://github.com/puppetlabs/puppetdb/blob/8.8.1/src/puppetlabs/puppetdb/query_eng/engine.clj).
const PREFIX: [&str; 2] = ["", ""];

/// The condition that a row belongs to a node with one of these names.
pub(super) fn named(certnames: &[Certname]) -> Value {
    let names: Vec<&str> = PREFIX.into_iter().chain(certnames.iter().map(Certname::as_str)).collect();
    json!(["in", "certname", ["array", names]])
}

/// The condition that a report is of one of these nodes, and came to PuppetDB in so long after the node's time.
pub(super) fn heard_of(wanted: &[(Certname, Timestamp)], span: SignedDuration) -> Value {
    let of = |(name, since): &(Certname, Timestamp)| {
        let until = since.saturating_add(span).unwrap_or(Timestamp::MAX);
        json!([
            "and",
            ["=", "certname", name.as_str()],
            [">", "receive_time", since.to_string()],
            ["<=", "receive_time", until.to_string()]
        ])
    };
    json!(["or"].into_iter().map(Value::from).chain(wanted.iter().map(of)).collect::<Vec<_>>())
}

/// The condition that a fact has one of these names, its first one where it is structured.
pub(super) fn facts_named(names: &BTreeSet<String>) -> Value {
    let names: Vec<&str> = PREFIX.into_iter().chain(names.iter().map(String::as_str)).collect();
    json!(["in", "name", ["array", names]])
}

/// The condition under which deactivated and expired nodes are shown too. Without it, PuppetDB shows active nodes alone.
pub(super) fn in_any_state() -> Value {
    json!(["=", "node_state", "any"])
}

/// The account is `owner-id` of each network interface, whose MAC address is part of the path.
/// See [categories of instance metadata](https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html).
const ACCOUNT: [&str; 6] = ["ec2_metadata", "network", "interfaces", "macs", ".*", "owner-id"];
const REGION: [&str; 3] = ["ec2_metadata", "placement", "region"];
const ZONE: [&str; 3] = ["ec2_metadata", "placement", "availability-zone"];

/// The condition that the facts of a row's node say that it is in another account or Region.
pub(super) fn elsewhere(home: &Location) -> Value {
    let account = json!(["and", ["~>", "path", ACCOUNT], ["not", ["=", "value", home.account]]]);
    let region = json!(["and", ["=", "path", REGION], ["not", ["=", "value", home.region]]]);
    of_contents(&json!(["or", account, region]))
}

/// The condition on fact contents that they say that their node is in this account, and that it is in this Region. Old metadata has
/// only the zone, whose name is the Region's and a letter.
pub(super) fn located_in(home: &Location) -> Value {
    let zones: Vec<String> = ('a'..='h').map(|letter| format!("{}{letter}", home.region)).collect();
    let region = json!(["and", ["=", "path", REGION], ["=", "value", home.region]]);
    let zone = json!(["and", ["=", "path", ZONE], ["in", "value", ["array", zones]]]);
    let account = json!(["and", ["~>", "path", ACCOUNT], ["=", "value", home.account]]);
    json!(["and", account, of_contents(&json!(["or", region, zone])), in_any_state()])
}

/// The condition that a row's node has such fact contents.
fn of_contents(condition: &Value) -> Value {
    json!(["in", "certname", ["extract", "certname", ["select_fact_contents", condition]]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_word_of_the_query_language_is_neither_first_nor_second_of_its_list() {
        for word in ["extract", "from", "in", "not", "subquery", "tag"] {
            let names = [word, "web"].map(|name| name.parse().unwrap());
            assert_eq!(named(&names), json!(["in", "certname", ["array", ["", "", word, "web"]]]));
            assert_eq!(named(&names[..1]), json!(["in", "certname", ["array", ["", "", word]]]));
            assert_eq!(facts_named(&[word.to_owned()].into()), json!(["in", "name", ["array", ["", "", word]]]));
        }
    }
}
