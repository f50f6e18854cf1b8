//! Reading nodes, identities and reports from PuppetDB.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use stagedoor_lab_core::clock::Clock;
use stagedoor_puppet::{Error, NodeStatus, Report, RunTimes};
use stagedoor_types::{Certname, InstanceId, Location};

use super::reporting::{facts, facts_from, report, run, server_time};
use super::site::{Site, fresh, fresh_instance};

#[derive(Debug, Deserialize)]
struct Row {
    certname: Certname,
}

pub(super) async fn deactivate(site: &Site, certname: &Certname) {
    let at = server_time(site).await;
    site.puppetdb_admin().deactivate(certname, at).await.expect("deactivated");
}

pub(super) async fn an_unknown_node_is_none(site: &Site) {
    assert_eq!(site.puppetdb().node(&fresh("nobody")).await, Ok(None));
}

pub(super) async fn a_node_that_reported_is_active(site: &Site) {
    let certname = fresh("web");
    let at = server_time(site).await - SignedDuration::from_secs(60);
    facts(site, &certname, None, None, at).await;
    report(site, &certname, "changed", at).await;
    let node = site.puppetdb().node(&certname).await.unwrap().expect("the node");
    assert!(node.is_active());
    assert_eq!(node.certname, certname);
    // Facts and catalogs are shown with the time at which they came in, reports with the time at which the run ended.
    assert!(node.facts_timestamp > Some(at + SignedDuration::from_secs(30)), "{node:?}");
    assert_eq!((node.report_timestamp, node.catalog_timestamp), (Some(at - SignedDuration::from_secs(2)), None));
    assert_eq!(node.report_environment.as_deref(), Some("production"));
    assert_eq!(node.latest_report_status.as_deref(), Some("changed"));
    assert_eq!(node.latest_report_noop, Some(false));
    assert_eq!(node.cached_catalog_status.as_deref(), Some("not_used"));
    assert_eq!(node.latest_report_hash.map(|hash| hash.len()), Some(40));
}

pub(super) async fn a_node_with_facts_alone_has_no_report(site: &Site) {
    let certname = fresh("web");
    facts(site, &certname, None, None, server_time(site).await).await;
    let node = site.puppetdb().node(&certname).await.unwrap().expect("the node");
    assert!(node.is_active() && node.facts_timestamp.is_some());
    assert_eq!((node.report_timestamp, node.latest_report_status, node.latest_report_hash), (None, None, None));
}

pub(super) async fn nodes_leaves_out_unknown_names_and_shows_deactivated_ones(site: &Site) {
    let (active, gone) = (fresh("active"), fresh("gone"));
    run(site, &active, &fresh_instance()).await;
    run(site, &gone, &fresh_instance()).await;
    deactivate(site, &gone).await;
    let asked = [fresh("nobody"), gone.clone(), active.clone()];
    let mut nodes = site.puppetdb().nodes(&asked).await.unwrap();
    nodes.sort_by(|a, b| a.certname.cmp(&b.certname));
    let seen: Vec<_> = nodes.iter().map(|node| (&node.certname, node.is_active())).collect();
    assert_eq!(seen, [(&active, true), (&gone, false)]);
    let single = site.puppetdb().node(&active).await.unwrap().expect("the node");
    assert_eq!(nodes[0], single, "both calls say the same");
    assert_eq!(site.puppetdb().nodes(&[]).await, Ok(vec![]));
}

pub(super) async fn many_names_are_asked_in_one_call(site: &Site) {
    // More than go into one query.
    let known = fresh("web");
    run(site, &known, &fresh_instance()).await;
    let names: Vec<Certname> = (0..600).map(|_| fresh("nobody")).chain([known.clone()]).collect();
    let found: Vec<_> = site.puppetdb().nodes(&names).await.unwrap().into_iter().map(|node| node.certname).collect();
    assert_eq!(found, std::slice::from_ref(&known));
    let found: Vec<_> = site.puppetdb().identities(&names).await.unwrap().into_iter().map(|one| one.certname).collect();
    assert_eq!(found, std::slice::from_ref(&known));
    let found = site.puppetdb().latest_reports(&names).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|report| report.certname).collect();
    assert_eq!(found, [known]);
}

pub(super) async fn identities_tell_certificate_and_facts_apart(site: &Site) {
    let (both, reported, neither) = (fresh("a-both"), fresh("b-reported"), fresh("c-neither"));
    let (one, other) = (fresh_instance(), fresh_instance());
    let at = server_time(site).await;
    facts(site, &both, Some(&one), Some(&other), at).await;
    facts(site, &reported, None, Some(&other), at).await;
    facts(site, &neither, None, None, at).await;
    let asked = [both.clone(), reported.clone(), neither.clone(), fresh("nobody")];
    let known = site.puppetdb().identities(&asked).await.unwrap();
    let told: Vec<_> =
        known.iter().map(|known| (&known.certname, known.certified.as_ref(), known.reported.as_ref())).collect();
    assert_eq!(
        told,
        [(&both, Some(&one), Some(&other)), (&reported, None, Some(&other)), (&neither, None, None)],
        "by name"
    );
    assert!(known[0].is_contradictory() && !known[1].is_contradictory());
}

pub(super) async fn identities_of_a_deactivated_node_are_still_told(site: &Site) {
    let (certname, instance) = (fresh("web"), fresh_instance());
    run(site, &certname, &instance).await;
    deactivate(site, &certname).await;
    let known = site.puppetdb().identities(std::slice::from_ref(&certname)).await.unwrap();
    assert_eq!(known.len(), 1, "{known:?}");
    assert_eq!(known[0].instance_id(), Some(&instance));
    assert_eq!(names_of(site, &instance).await, [certname]);
}

async fn names_of(site: &Site, instance: &InstanceId) -> Vec<Certname> {
    let names = site.puppetdb().certnames_of(std::slice::from_ref(instance)).await.unwrap();
    names[instance].iter().cloned().collect()
}

pub(super) async fn an_instance_is_found_by_certificate_and_by_fact(site: &Site) {
    let (certified, reported) = (fresh("certified"), fresh("reported"));
    let (one, other) = (fresh_instance(), fresh_instance());
    let at = server_time(site).await;
    facts(site, &certified, Some(&one), None, at).await;
    facts(site, &reported, None, Some(&other), at).await;
    assert_eq!(names_of(site, &one).await, [certified]);
    assert_eq!(names_of(site, &other).await, [reported]);
    assert_eq!(names_of(site, &fresh_instance()).await, []);
}

pub(super) async fn a_query_hides_deactivated_nodes_unless_asked(site: &Site) {
    let certname = fresh("web");
    run(site, &certname, &fresh_instance()).await;
    deactivate(site, &certname).await;
    for (entity, state, expected) in [
        ("nodes", None, 0),
        ("nodes", Some("any"), 1),
        ("nodes", Some("inactive"), 1),
        ("nodes", Some("active"), 0),
        ("inventory", None, 0),
        ("inventory", Some("any"), 1),
    ] {
        let named = json!(["=", "certname", certname.as_str()]);
        let condition = match state {
            Some(state) => json!(["and", named, ["=", "node_state", state]]),
            None => named,
        };
        let query = json!(["from", entity, ["extract", ["certname"], condition]]);
        let rows: Vec<Row> = site.puppetdb().query(&query).await.unwrap();
        assert_eq!(rows.len(), expected, "{query}");
        assert!(rows.iter().all(|row| row.certname == certname));
    }
}

/// Neither quotes nor words of the query language in a text change what is asked.
pub(super) async fn text_in_a_query_stays_text(site: &Site) {
    let certname = fresh("web");
    run(site, &certname, &fresh_instance()).await;
    for hostile in [r#"x" or certname ~ ".*"#, r#"x"], ["=", "node_state", "any"#, r#"x\" or "#, r"\", "a'b", "ü"] {
        let query = json!(["from", "nodes", ["extract", ["certname"], ["=", "certname", hostile]]]);
        let rows: Vec<Row> = site.puppetdb().query(&query).await.unwrap();
        assert!(rows.is_empty(), "{query}: {rows:?}");
    }
    for word in ["and", "extract", "from", "in", "not", "or", "subquery", "tag"] {
        let names = [word.parse().unwrap(), certname.clone(), fresh("nobody")];
        for asked in [&names[..], &names[..2]] {
            let nodes = site.puppetdb().nodes(asked).await.unwrap();
            assert!(nodes.iter().any(|node| node.certname == certname), "{asked:?}: {nodes:?}");
        }
    }
}

async fn refusal(site: &Site, query: Value) -> String {
    let error = site.puppetdb().query::<Row>(&query).await.unwrap_err();
    let Error::Refused { status: 400, words, .. } = error else { panic!("{query}: {error}") };
    words
}

pub(super) async fn a_query_that_cannot_be_read_is_refused(site: &Site) {
    let words = refusal(site, json!(["nodes", ["=", "certname", "x"]])).await;
    assert!(words.contains("query must be of the form"), "{words}");
    let words = refusal(site, json!(["from", "nodes", ["=", "colour", "red"]])).await;
    assert!(words.contains("'colour' is not a queryable object for nodes"), "{words}");
    let words = refusal(site, json!(["from", "nodes", ["extract", ["colour"], ["=", "certname", "x"]]])).await;
    assert!(words.contains("Can't extract unknown 'nodes' field 'colour'"), "{words}");
    let words = refusal(site, json!(["from", "nodes", ["extract", ["certname"], ["odd", "certname", "x"]]])).await;
    assert_eq!(words, r#"["odd" "certname" "x"] is not a valid expression for "extract""#);
}

pub(super) async fn the_newest_report_can_be_asked_for(site: &Site) {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Run {
        status: String,
        start_time: Timestamp,
    }
    let certname = fresh("web");
    let newest = server_time(site).await - SignedDuration::from_secs(30);
    report(site, &certname, "failed", newest - SignedDuration::from_secs(600)).await;
    report(site, &certname, "changed", newest).await;
    let condition = json!(["and", ["=", "certname", certname.as_str()], ["=", "latest_report?", true]]);
    let query = json!(["from", "reports", ["extract", ["status", "start_time"], condition]]);
    let expected = Run { status: "changed".to_owned(), start_time: newest - SignedDuration::from_secs(10) };
    assert_eq!(site.puppetdb().query::<Run>(&query).await, Ok(vec![expected]));
    let node: NodeStatus = site.puppetdb().node(&certname).await.unwrap().expect("the node");
    assert_eq!(node.latest_report_status.as_deref(), Some("changed"));
}

pub(super) async fn the_newest_reports_of_a_set_are_those_of_its_active_nodes(site: &Site) {
    let (twice, gone, silent) = (fresh("twice"), fresh("gone"), fresh("silent"));
    let newest = server_time(site).await - SignedDuration::from_secs(30);
    report(site, &twice, "failed", newest - SignedDuration::from_secs(600)).await;
    report(site, &twice, "changed", newest).await;
    report(site, &gone, "changed", newest).await;
    deactivate(site, &gone).await;
    facts(site, &silent, None, None, newest).await;
    let mut told = site.puppetdb().latest_reports(&[silent, gone, twice.clone(), fresh("nobody")]).await.unwrap();
    assert!(told[0].catalog_uuid.take().is_some(), "{told:?}");
    // By PuppetDB's own clock, whatever the report says of itself.
    let receive_time = told[0].receive_time;
    assert!(receive_time >= newest + SignedDuration::from_secs(29), "{told:?}");
    let expected = Report {
        certname: twice,
        start_time: newest - SignedDuration::from_secs(10),
        end_time: newest - SignedDuration::from_secs(2),
        producer_timestamp: newest,
        receive_time,
        status: Some("changed".to_owned()),
        job_id: None,
        noop: Some(false),
        cached_catalog_status: Some("not_used".to_owned()),
        catalog_uuid: None,
        metrics: RunTimes::default(),
    };
    assert_eq!(told, [expected]);
    assert_eq!(site.puppetdb().latest_reports(&[]).await, Ok(vec![]));
}

/// As when a name is used again: its former owner was purged.
pub(super) async fn the_newest_report_of_a_node_that_came_back_is_told(site: &Site) {
    let certname = fresh("web");
    run(site, &certname, &fresh_instance()).await;
    deactivate(site, &certname).await;
    assert_eq!(site.puppetdb().latest_reports(std::slice::from_ref(&certname)).await, Ok(vec![]));
    let (at, instance) = (server_time(site).await, fresh_instance());
    facts(site, &certname, Some(&instance), Some(&instance), at).await;
    report(site, &certname, "failed", at).await;
    let told = site.puppetdb().latest_reports(std::slice::from_ref(&certname)).await.unwrap();
    let told: Vec<_> = told.iter().map(|report| (report.status.as_deref(), report.end_time)).collect();
    assert_eq!(told, [(Some("failed"), at - SignedDuration::from_secs(2))]);
    let known = site.puppetdb().identities(&[certname]).await.unwrap();
    assert_eq!(known[0].instance_id(), Some(&instance));
}

pub(super) async fn the_facts_of_a_set_are_asked_for_by_name(site: &Site) {
    let (certname, gone, instance) = (fresh("web"), fresh("gone"), fresh_instance());
    let at = server_time(site).await - SignedDuration::from_secs(30);
    facts(site, &certname, Some(&instance), Some(&instance), at).await;
    facts(site, &gone, None, None, at).await;
    deactivate(site, &gone).await;
    let names = [certname.clone(), gone.clone(), fresh("nobody")];
    let wanted = ["kernel".to_owned(), "trusted".to_owned(), "extract".to_owned()].into();
    let found = site.puppetdb().facts(&names, Some(&wanted)).await.unwrap();
    assert_eq!(found.keys().collect::<BTreeSet<_>>(), BTreeSet::from([&certname, &gone]), "inactive nodes too");
    let own = &found[&certname];
    assert_eq!((own.len(), &own["kernel"]), (2, &json!("Linux")), "{own:?}");
    assert_eq!(own["trusted"]["extensions"]["pp_instance_id"], json!(instance.as_str()));
    let all = site.puppetdb().facts(&names, None).await.unwrap();
    assert_eq!(all[&certname]["ec2_metadata"]["instance-id"], json!(instance.as_str()));
}

pub(super) async fn nodes_of_another_account_or_region_are_left_out_by_the_query(site: &Site) {
    let home = Location { account: "111122223333".into(), region: "eu-west-1".into() };
    let [here, region, account, silent] = ["here", "region", "account", "silent"].map(fresh);
    facts_from(site, &here, &home.account, &home.region).await;
    facts_from(site, &region, &home.account, "us-east-1").await;
    facts_from(site, &account, "999988887777", &home.region).await;
    facts(site, &silent, None, None, server_time(site).await).await;
    let known = site.puppetdb().certified(Some(&home), |known| Some(known.certname)).await.unwrap();
    let is_known = [&here, &region, &account, &silent].map(|name| known.contains(name));
    assert_eq!(is_known, [true, false, false, true], "a node that does not say where it is may be here");

    let located = || async { site.puppetdb().located_in(&home).await.unwrap() };
    let found = located().await;
    assert_eq!([&here, &region, &account, &silent].map(|name| found.contains(name)), [true, false, false, false]);
    deactivate(site, &here).await;
    assert!(located().await.contains(&here), "where a deactivated node was is still known");
}

pub(super) async fn the_names_of_active_nodes_are_listed(site: &Site) {
    let (active, gone) = (fresh("active"), fresh("gone"));
    run(site, &active, &fresh_instance()).await;
    run(site, &gone, &fresh_instance()).await;
    deactivate(site, &gone).await;
    let mut names = Vec::new();
    site.puppetdb().active_names(|name| names.push(name.to_owned())).await.unwrap();
    let is_listed = |name: &Certname| names.iter().any(|listed| listed == name.as_str());
    assert!(is_listed(&active) && !is_listed(&gone), "{names:?}");
}

pub(super) async fn the_server_tells_its_time_and_version(site: &Site) {
    let off = site.puppetdb().server_time().await.unwrap().duration_since(Clock::machine_now());
    assert!(off.abs() < SignedDuration::from_mins(1), "{off:?}");
    assert_eq!(site.puppetdb().version().await, Ok(site.puppetdb_version.clone()));
}
