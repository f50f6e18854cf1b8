//! What Puppet Enterprise keeps of a compiler.

use super::*;
use crate::profile::Probe;
use crate::signing::SigningRules;

/// Purged at second 0, when PuppetDB had its node.
fn purged() -> World {
    let mut world = world().purged();
    world.view().node = Lookup::Found(NodeView { deactivated: Some(at(0)), ..node(false) });
    world
}

fn requiring(role: &str) -> SigningRules {
    SigningRules { require: [("pp_auth_role".to_owned(), role.to_owned())].into(), ..SigningRules::default() }
}

fn allowing(role: &str) -> SigningRules {
    let values = [role.to_owned(), "another".to_owned()].into();
    SigningRules { allow: [("pp_auth_role".to_owned(), values)].into(), ..SigningRules::default() }
}

fn codes(world: &World) -> Vec<Code> {
    completed(world.decide()).codes()
}

const KEPT: [Code; 2] = [Code::NotInPuppet, Code::AllowlistLinesKept];

#[test]
fn the_lines_of_a_compiler_are_named_where_its_profile_shows_that_it_was_one() {
    for rules in ["pe_compiler", "pe_compiler_legacy"].iter().flat_map(|role| [requiring(role), allowing(role)]) {
        let mut world = purged();
        world.aws.profile.rules = rules;
        assert_eq!(codes(&world), KEPT);
    }
    for probe in ["file-sync", "status:8140/broker-service", "status:8140/file-sync-client-service"] {
        let mut world = purged();
        world.aws.profile.ready.push(probe.parse().unwrap());
        assert_eq!(codes(&world), KEPT, "{probe}");
    }
}

#[test]
fn nothing_is_kept_of_another_node() {
    let mut world = purged();
    world.aws.profile.rules = requiring("web_server");
    world.aws.profile.ready = vec![Probe::Report, Probe::Status(8140), Probe::Tcp(8142)];
    assert_eq!(codes(&world), [Code::NotInPuppet]);
}

#[test]
fn a_compiler_of_which_puppetdb_never_had_a_node_is_in_no_list() {
    for node in [Lookup::Absent, Lookup::Found(node(false))] {
        let mut world = purged();
        world.aws.profile.rules = requiring("pe_compiler");
        world.view().node = node;
        assert_eq!(codes(&world), [Code::NotInPuppet]);
    }
}

#[test]
fn a_certificate_of_a_compiler_is_enough_whatever_the_profile_says() {
    let mut world = world();
    let Lookup::Found(certificate) = &mut world.view().certificate else { panic!("there is no certificate") };
    certificate.holds.extensions.insert("pp_auth_role".to_owned(), "pe_compiler".to_owned());
    let removal = removals(world.decide()).remove(0);
    assert!(removal.compiler);
    let applied = [(removal.name.certname().clone(), removal.applied(world.now, true))].into();
    let removals = Removals { last: None, applied };
    let purged = purged();
    let decide = |removals: &Removals| {
        let seen = Observed { value: purged.puppet.clone(), at: purged.now };
        let terminating = purged.aws.admitted();
        completed(decide(&purged.aws.action, &terminating, &seen, removals, purged.site()))
    };
    let codes = decide(&removals).codes();
    assert!(matches!(codes[..], [Code::Purged(_), Code::AllowlistLinesKept]), "{codes:?}");
    assert_eq!(decide(&Removals::default()).codes(), [Code::NotInPuppet]);
}
