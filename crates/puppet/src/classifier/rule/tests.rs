use serde_json::json;

use super::*;

/// Groups by name, each with the one above it and its rule; ids are names.
fn groups(all: &[(&str, Option<&str>, Value)]) -> Vec<Group> {
    let group = |(name, parent, rule): &(&str, Option<&str>, Value)| {
        let value = json!({"id": name, "name": name, "parent": parent, "rule": rule});
        serde_json::from_value(value).unwrap()
    };
    all.iter().map(group).collect()
}

fn trusted() -> Value {
    json!({"certname": "n.example.net", "extensions": {"pp_role": "web", "1.3.6.1.4.1.34380.1.1.13": "web"}})
}

fn facts() -> Value {
    json!({"os": {"family": "Debian"}, "processors": {"count": 4}, "nics": ["a", "b"], "virtual": false})
}

fn fit_of(rule: Value, facts: Option<&Value>) -> Fit {
    let groups = groups(&[("g", None, rule)]);
    let (certname, trusted) = ("n.example.net".parse().unwrap(), trusted());
    fit(&groups, &groups[0], NodeFacts { certname: &certname, trusted: &trusted, facts })
}

fn unmet(fit: Fit) -> Vec<Unmet> {
    match fit {
        Fit::Contradicts(unmet) => unmet,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_operator_of_the_grammar_is_evaluated() {
    let facts = facts();
    for (rule, matches) in [
        (json!(["=", "name", "n.example.net"]), true),
        (json!(["~", "name", "^n[.]"]), true),
        (json!(["~", "name", "^x"]), false),
        (json!(["=", ["trusted", "extensions", "pp_role"], "web"]), true),
        (json!(["=", ["trusted", "extensions", "1.3.6.1.4.1.34380.1.1.13"], "web"]), true),
        (json!(["=", ["trusted", "extensions", "pp_role"], "db"]), false),
        (json!(["=", ["trusted", "extensions", "pp_zone"], "x"]), false),
        (json!(["not", ["=", ["trusted", "extensions", "pp_zone"], "x"]]), true),
        (json!(["not", ["=", "name", "n.example.net"]]), false),
        (json!([">", ["fact", "processors", "count"], "3"]), true),
        (json!(["<=", ["fact", "processors", "count"], "3"]), false),
        (json!([">=", ["fact", "os", "family"], "3"]), false),
        (json!(["=", ["fact", "nics", 1], "b"]), true),
        (json!(["=", ["fact", "nics", 2], "b"]), false),
        (json!(["=", ["fact", "virtual"], "false"]), true),
        (json!(["and", ["=", "name", "n.example.net"], ["=", ["fact", "os", "family"], "x"]]), false),
        (json!(["or", ["=", "name", "n.example.net"], ["=", ["fact", "os", "family"], "x"]]), true),
    ] {
        match fit_of(rule.clone(), Some(&facts)) {
            Fit::Matches => assert!(matches, "{rule}"),
            Fit::Contradicts(unmet) => assert!(!matches && !unmet.is_empty(), "{rule}"),
            other => panic!("{rule}: {other:?}"),
        }
    }
}

#[test]
fn a_rule_on_a_fact_is_open_until_there_are_facts_unless_something_else_decides_it() {
    let on_a_fact = json!(["=", ["fact", "os", "family"], "Debian"]);
    let (ours, others) = (json!(["=", "name", "n.example.net"]), json!(["=", "name", "x"]));
    for (rule, before, after) in [
        (on_a_fact.clone(), Fit::FactsNeeded, Fit::Matches),
        (json!(["not", on_a_fact]), Fit::FactsNeeded, fit_of(json!(["not", on_a_fact]), Some(&facts()))),
        (json!(["and", on_a_fact, ours]), Fit::FactsNeeded, Fit::Matches),
        (json!(["or", on_a_fact, ours]), Fit::Matches, Fit::Matches),
        (json!(["or", on_a_fact, others]), Fit::FactsNeeded, Fit::Matches),
    ] {
        assert_eq!(fit_of(rule.clone(), None), before, "{rule}");
        assert_eq!(fit_of(rule.clone(), Some(&facts())), after, "{rule}");
    }
    unmet(fit_of(json!(["and", on_a_fact, others]), None));
    unmet(fit_of(json!(["not", on_a_fact]), Some(&facts())));
}

#[test]
fn what_a_certificate_alone_does_not_say_is_open_until_there_are_facts() {
    for path in [
        json!(["trusted", "extensions", "our_tier"]),
        json!(["trusted", "external", "cmdb", "tier"]),
        json!(["trusted", "of_the_future"]),
    ] {
        let rule = json!(["=", path, "gold"]);
        assert_eq!(fit_of(rule.clone(), None), Fit::FactsNeeded, "{rule}");
        unmet(fit_of(rule, Some(&facts())));
    }
    for name in ["pp_zone", "1.3.6.1.4.1.34380.1.1.9812"] {
        unmet(fit_of(json!(["=", ["trusted", "extensions", name], "x"]), None));
    }
}

#[test]
fn what_is_not_understood_contradicts_nothing() {
    for rule in [
        json!("x"),
        json!([]),
        json!(["and"]),
        json!(["sounds like", "name", "n"]),
        json!(["=", "osfamily", "Debian"]),
        json!(["~", "name", "(?<=n)x"]),
        json!(["=", ["fact", "os"], "Debian"]),
        json!(["=", "name", 7]),
        json!(["not", ["sounds like", "name", "n"]]),
    ] {
        assert_eq!(fit_of(rule.clone(), Some(&facts())), Fit::NotEvaluated, "{rule}");
    }
}

#[test]
fn a_contradiction_names_the_condition_and_what_the_node_has_instead() {
    let rule = json!(["and", ["=", "name", "n.example.net"], ["=", ["trusted", "extensions", "pp_role"], "db"]]);
    let found = unmet(fit_of(rule, None));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].condition.as_deref(), Some(r#"["=",["trusted","extensions","pp_role"],"db"]"#));
    assert_eq!((found[0].group.as_str(), found[0].found.as_deref()), ("g", Some("web")));
    // Of a group that hundreds of nodes are pinned to, the rule matters, and not who is pinned.
    let pinned =
        json!(["or", ["=", ["trusted", "extensions", "pp_role"], "db"], ["=", "name", "x"], ["=", "name", "y"]]);
    assert_eq!(unmet(fit_of(pinned, None)).len(), 1);
    assert_eq!(unmet(fit_of(json!(["or", ["=", "name", "x"], ["=", "name", "y"]]), None)).len(), 2);
}

#[test]
fn a_long_value_is_shortened_and_a_preshared_key_is_not_shown() {
    let certname = "n.example.net".parse().unwrap();
    let oid = crate::long_name("pp_preshared_key").unwrap();
    let trusted = json!({"extensions": {"pp_preshared_key": "hush", &oid: "hush"}});
    let node = NodeFacts { certname: &certname, trusted: &trusted, facts: None };
    let is = |key: &str, value: &str| json!(["=", ["trusted", "extensions", key], value]);
    let rules = [
        is("pp_preshared_key", "hush-wanted"),
        is(&oid, "hush-wanted"),
        json!(["not", is("pp_preshared_key", "hush")]),
        json!(["and", is("pp_preshared_key", "hush-wanted"), is("pp_preshared_key", "hush-wanted")]),
    ];
    for rule in rules {
        let groups = groups(&[("g", None, rule)]);
        for unmet in unmet(fit(&groups, &groups[0], node)) {
            assert_eq!(unmet.found, None);
            assert!(!format!("{unmet} {unmet:?}").contains("hush"), "{unmet}");
        }
    }
    let long = json!({"motd": "x".repeat(500)});
    let found = unmet(fit_of(json!(["=", ["fact", "motd"], "y"]), Some(&long)));
    assert_eq!(found[0].found.as_ref().unwrap().chars().count(), LONGEST_VALUE + 1);
}

#[test]
fn the_rules_above_a_group_must_match_too_and_one_without_a_rule_restricts_nothing() {
    let narrow = json!(["=", ["trusted", "extensions", "pp_role"], "db"]);
    let ours = json!(["=", "name", "n.example.net"]);
    let groups = groups(&[
        ("All Nodes", Some("All Nodes"), json!(["~", "name", ".*"])),
        ("open", Some("All Nodes"), Value::Null),
        ("narrow", Some("open"), narrow),
        ("under open", Some("open"), ours.clone()),
        ("under narrow", Some("narrow"), ours.clone()),
        ("under hidden", Some("hidden"), ours.clone()),
        ("under the hidden root", Some(ROOT), ours),
    ]);
    let (certname, trusted) = ("n.example.net".parse().unwrap(), trusted());
    let fit_in = |name: &str| {
        let group = groups.iter().find(|group| group.name == name).unwrap();
        fit(&groups, group, NodeFacts { certname: &certname, trusted: &trusted, facts: None })
    };
    assert_eq!(fit_in("under open"), Fit::Matches);
    assert_eq!(unmet(fit_in("under narrow"))[0].group, "narrow");
    assert_eq!(unmet(fit_in("open"))[0].condition, None);
    assert_eq!(fit_in("under hidden"), Fit::NotEvaluated, "the rule of the hidden group is not known");
    assert_eq!(fit_in("under the hidden root"), Fit::Matches);
}

#[test]
fn the_facts_that_rules_are_about_are_those_of_the_group_and_of_all_above_it() {
    let on = |fact: &str| {
        json!(["and", ["not", ["=", ["fact", fact, "x"], "y"]], ["=", ["trusted", "extensions", "pp_role"], "z"]])
    };
    let groups = groups(&[
        ("root", Some("root"), on("os")),
        ("middle", Some("root"), Value::Null),
        ("leaf", Some("middle"), on("processors")),
        ("other", Some("root"), on("memory")),
        ("lost", Some("hidden"), on("disks")),
    ]);
    let names = facts_of_rules(&groups, &groups[2]).unwrap();
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["os", "processors"]);
    assert_eq!(facts_of_rules(&groups, &groups[4]), None);
}
