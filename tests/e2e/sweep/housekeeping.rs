//! What the sweep does every few minutes: orphans, and what expires.

use insta::assert_snapshot;
use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab_aws::Terminate;
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_puppet::{CsrAttributes, PuppetOptions};
use stagedoor_lifecycle::receipt::Outcome;

use super::fleet::{ACCOUNT, REGION, dealt_with, fleet, id, keep_house, metadata, name, stage, stage_of, still_there};
use crate::e2e::rehearsal::{only, without_numbers};

fn dealt(numbers: impl IntoIterator<Item = u32>, outcome: &str) -> Vec<(String, String)> {
    numbers.into_iter().map(|number| (name(number), outcome.to_owned())).collect()
}

fn text_fault(status: u16, body: &str) -> FaultKind {
    FaultKind::Status { status, body: body.into(), content_type: Some("text/xml".into()) }
}

#[tokio::test]
async fn an_orphan_is_removed_and_the_living_are_left_alone() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    let serial = stage.serial_of(&name(3));
    assert_eq!(keep_house(&mut stage).await, dealt([3], "removed: purged"));
    assert_eq!(stage.puppet_has(&name(3)), (false, false));
    assert!(stage.lab.puppet.is_revoked(serial));
    assert_eq!(still_there(&stage, 0..3), 3);
    let news = stage.published();
    assert_eq!(news.len(), 1, "{news:#?}");
    let orphan = &news[0]["orphans"][0];
    assert_eq!((&orphan["instance_id"], &orphan["outcome"]), (&json!(id(3)), &json!("removed")), "{news:#?}");
    assert_eq!(orphan["evidence"], "instance_unknown", "{news:#?}");
    assert_snapshot!(without_numbers(orphan["reason"].as_str().unwrap()), @"EC2 does not know i-00000000000000003, and it has shown no activity since [time]; certificate [serial], PuppetDB node of ip-10-0-0-3.eu-west-1.compute.internal: revoked and deleted the certificate of ip-10-0-0-3.eu-west-1.compute.internal, known by pp_instance_id in its certificate; deactivated ip-10-0-0-3.eu-west-1.compute.internal in PuppetDB; its serial is in the CRL");
    let metrics = stage.metrics("sweep").await;
    assert_eq!((&metrics["OrphansRemoved"], &metrics["BreakerOpen"]), (&json!(1), &json!(0)), "{metrics}");
    let named = metrics["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
    for metric in ["OrphansRemoved", "BreakerOpen", "CredentialDaysLeft"] {
        assert!(named.iter().any(|named| named["Name"] == metric), "{metric}: {named:#?}");
    }
}

#[tokio::test]
async fn a_terminated_instance_needs_no_grace_time_and_its_certificate_no_node() {
    let ago = SignedDuration::from_mins(45);
    let mut scene = fleet(0..3, 3..5);
    scene["instances"] = json!([{"id": id(3), "ec2_state": "terminated"}, {"id": id(4), "ec2_state": "terminated"}]);
    scene["nodes"][3]["puppetdb"] = Value::Null;
    // EC2 forgets them after an hour.
    let mut stage = stage_of(scene, ago, PuppetOptions::default()).await;
    let mut done = keep_house(&mut stage).await;
    done.sort();
    assert_eq!(done, dealt([3, 4], "removed: purged"));
    assert_eq!(stage.puppet_has(&name(3)), (false, false));
}

#[tokio::test]
async fn a_node_that_a_late_report_brought_back_goes_again() {
    let mut scene = fleet(0..3, 3..4);
    scene["nodes"][3]["certificate"] = "none".into();
    scene["nodes"][3]["puppetdb"]["facts"]["trusted"] =
        json!({"certname": name(3), "extensions": {"pp_instance_id": id(3), "pp_role": "compiler"}});
    let mut stage = stage(scene).await;
    assert_eq!(stage.puppet_has(&name(3)), (false, true));
    assert_eq!(keep_house(&mut stage).await, dealt([3], "removed: purged"));
    assert_eq!(stage.puppet_has(&name(3)), (false, false));
}

#[tokio::test]
async fn what_may_live_is_left_alone() {
    let mut scene = fleet(0..3, 3..9);
    // Stopped, outside of every group.
    scene["instances"] = json!([{"id": id(3), "ec2_state": "stopped"}]);
    // Last heard of too recently.
    scene["nodes"][4]["puppetdb"]["age_s"] = 0.into();
    // One of another profile, and one of no profile.
    scene["nodes"][5]["extensions"] = json!({"pp_role": "database"});
    scene["nodes"][6]["extensions"] = json!({});
    // Protected.
    let protected = name(7);
    // Its name has gone to a living instance, which has not run yet.
    scene["nodes"][8]["instance_id"] = id(2).into();
    scene["nodes"][8]["puppetdb"]["facts"]["trusted"] =
        json!({"certname": name(8), "extensions": {"pp_instance_id": id(8), "pp_role": "compiler"}});
    let mut stage = stage(scene).await;
    stage.configure(|config| {
        let config = config.replace("[puppet]", &format!("[puppet]\nprotected = [\"{protected}\"]"));
        format!("orphans.grace = \"181m\"\n{config}")
    });
    assert_eq!(keep_house(&mut stage).await, []);
    assert_eq!(still_there(&stage, 0..9), 9);
    assert_eq!(stage.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn the_breaker_holds_back_what_would_be_too_much_at_once_and_alerts() {
    let mut stage = stage(fleet(0..14, 14..20)).await;
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(dealt_with(&answer), dealt(14..20, "held: breaker_open"));
    assert_eq!(answer["housekeeping"]["orphans"]["breaker"]["code"], "breaker_open", "{answer:#}");
    assert_eq!(still_there(&stage, 0..20), 20);
    let news = stage.published();
    assert_eq!((news.len(), &news[0]["alert"]), (1, &json!("orphans")), "{news:#?}");
    assert_eq!(news[0]["code"], "breaker_open", "{news:#?}");
    let metrics = stage.metrics("sweep").await;
    assert_eq!((&metrics["BreakerOpen"], &metrics["OrphansRemoved"]), (&json!(1), &json!(0)), "{metrics}");

    // An operator has looked at them, and allows their removal.
    stage.configure(|config| format!("orphans.max_share = 30\n{config}"));
    stage.lab.journal.clear();
    assert_eq!(keep_house(&mut stage).await, dealt(14..20, "removed: purged"));
    assert_eq!((still_there(&stage, 0..14), still_there(&stage, 14..20)), (14, 0));
    assert_eq!(stage.lab.journal.count("ca", "PUT /puppet-ca/v1/clean"), 1, "as a set");
}

#[tokio::test]
async fn a_large_set_goes_in_pieces() {
    let mut stage = stage(fleet(0..2, 2..107)).await;
    stage.configure(|config| format!("orphans.max_share = 100\n{config}"));
    assert_eq!(keep_house(&mut stage).await.len(), 105);
    assert_eq!((still_there(&stage, 0..2), still_there(&stage, 2..107)), (2, 0));
    assert_eq!(stage.lab.journal.count("ca", "PUT /puppet-ca/v1/clean"), 2);
}

#[tokio::test]
async fn an_instance_of_another_region_or_account_is_not_ours() {
    let mut scene = fleet(0..3, 3..6);
    scene["nodes"][3]["puppetdb"]["facts"]["ec2_metadata"] = metadata(3, ACCOUNT, "us-east-1");
    scene["nodes"][4]["puppetdb"]["facts"]["ec2_metadata"] = metadata(4, "999988887777", REGION);
    scene["nodes"][5]["puppetdb"]["facts"]["ec2_metadata"] = json!({"instance-id": id(5)});
    let mut stage = stage(scene).await;
    let answer = stage.invoke("sweep", &json!({})).await;
    let orphans = &answer["housekeeping"]["orphans"];
    assert_eq!(orphans["results"], json!([]), "{answer:#}");
    let left_alone: Vec<(&Value, &Value)> =
        orphans["left_alone"].as_array().unwrap().iter().map(|left| (&left["certname"], &left["code"])).collect();
    // The others were left out by the query.
    assert_eq!(left_alone, [(&json!(name(5)), &json!("other_place"))], "{answer:#}");
    assert_eq!(orphans["fleet"], 3, "{answer:#}");
    assert_eq!(still_there(&stage, 0..6), 6);
    assert_eq!(stage.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_controller_in_the_wrong_region_or_account_purges_nothing() {
    // Nothing of the fleet is here; Puppet knows all of it.
    for group in [false, true] {
        let mut scene = fleet(0..0, 0..4);
        if !group {
            scene["groups"] = json!([]);
        }
        // An unrelated instance is.
        scene["instances"] = json!([{"id": id(99)}]);
        let mut stage = stage(scene).await;
        assert_eq!(keep_house(&mut stage).await, [], "with a group of that tag: {group}");
        assert_eq!(still_there(&stage, 0..4), 4);
        assert_eq!(stage.writes(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn while_ec2_is_down_nothing_is_purged() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    stage.fault("ec2", "DescribeInstances", None, text_fault(503, "<Response/>"));
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(answer["housekeeping"]["orphans"]["code"], "ec2_unavailable", "{answer:#}");
    assert_eq!(still_there(&stage, 0..4), 4);
    assert_eq!(stage.writes(), Vec::<String>::new());
    let metrics = stage.metrics("sweep").await;
    assert_eq!(metrics.get("BreakerOpen"), None, "it could not be determined: {metrics}");
    assert_eq!((&metrics["HousekeepingOk"], &metrics["SweepOk"]), (&json!(0), &json!(0)), "{metrics}");
}

#[tokio::test]
async fn an_empty_answer_of_ec2_purges_nothing() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    let empty = "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><reservationSet/></DescribeInstancesResponse>";
    stage.fault("ec2", "DescribeInstances", None, text_fault(200, empty));
    assert_eq!(keep_house(&mut stage).await, []);
    assert_eq!(still_there(&stage, 0..4), 4);
    assert_eq!(stage.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn while_puppetdb_or_the_ca_is_down_nothing_is_purged() {
    for (service, at, code) in
        [("puppetdb", "/code", "puppetdb_unavailable"), ("ca", "/certificates/code", "ca_unavailable")]
    {
        let mut stage = stage(fleet(0..3, 3..4)).await;
        stage.fault(service, "*", None, FaultKind::Reset);
        let answer = stage.invoke("sweep", &json!({})).await;
        let orphans = &answer["housekeeping"]["orphans"];
        assert_eq!(orphans.pointer(at), Some(&json!(code)), "{service}: {answer:#}");
        assert_eq!(still_there(&stage, 0..4), 4);
        assert_eq!(stage.writes(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_close_look_that_fails_purges_nothing() {
    for (service, call) in
        [("ca", "GET /puppet-ca/v1/certificate/*"), ("ca", "GET /puppet-ca/v1/certificate_request/*")]
    {
        let mut stage = stage(fleet(0..3, 3..4)).await;
        stage.fault(service, call, None, FaultKind::Reset);
        assert_eq!(keep_house(&mut stage).await, [], "{call}");
        assert_eq!(still_there(&stage, 0..4), 4);
        assert_eq!(stage.writes(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_removal_that_fails_is_told_and_tried_again_next_time() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    stage.fault("ca", "PUT /puppet-ca/v1/clean", Some(1), FaultKind::Reset);
    stage.fault("ca", "PUT /puppet-ca/v1/clean", Some(2), FaultKind::Reset);
    assert_eq!(keep_house(&mut stage).await, dealt([3], "failed: ca_unavailable"));
    // Housekeeping finds it by its active node.
    assert_eq!(stage.puppet_has(&name(3)), (true, true));
    assert_eq!(stage.published()[0]["orphans"][0]["code"], "ca_unavailable");
    assert_eq!(keep_house(&mut stage).await, dealt([3], "removed: purged"));
    assert_eq!(stage.puppet_has(&name(3)), (false, false));
}

#[tokio::test]
async fn what_can_never_be_removed_is_not_reported_every_few_minutes() {
    let mut stage = stage(fleet(0..3, 3..5)).await;
    stage.fault("ca", "PUT /puppet-ca/v1/clean", None, text_fault(500, "Error while cleaning certs: no"));
    let fault = text_fault(500, "no");
    let call = "PUT /puppet-ca/v1/certificate_status/{certname}";
    let subject = Some(name(4));
    stage.lab.faults.add(Fault { service: "ca".into(), call: call.into(), nth: None, subject, kind: fault });
    // It does not keep the other from being cleaned, and is tried again each time.
    assert_eq!(
        keep_house(&mut stage).await,
        [dealt([3], "removed: purged"), dealt([4], "failed: ca_unavailable")].concat()
    );
    for _ in 0..2 {
        assert_eq!(keep_house(&mut stage).await, dealt([4], "failed: ca_unavailable"));
    }
    assert_eq!((stage.puppet_has(&name(3)).0, stage.puppet_has(&name(4)).0), (false, true));
    let results =
        stage.published().into_iter().flat_map(|news| news["orphans"].as_array().cloned().unwrap_or_default());
    let failed = results.filter(|result| result["outcome"] == "failed").count();
    // Once, and once more should midnight pass meanwhile.
    assert!((1..=2).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_ca_that_cannot_list_its_certificates_does_not_keep_the_nodes_from_being_looked_after() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    stage.lab.puppet.empty_certificate_file(&name(0));
    let answer = stage.invoke("sweep", &json!({})).await;
    let orphans = &answer["housekeeping"]["orphans"];
    assert_eq!(orphans["certificates"]["code"], "ca_unavailable", "{answer:#}");
    assert_eq!(orphans["results"][0]["outcome"], "removed", "{answer:#}");
    assert_eq!(stage.puppet_has(&name(3)), (false, false));
}

#[tokio::test]
async fn a_warm_function_remembers_the_list_of_certificates() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    for _ in 0..3 {
        keep_house(&mut stage).await;
    }
    assert_eq!(stage.lists_of_certificates(), 1);
}

#[tokio::test]
async fn a_second_region_on_the_same_ca_costs_no_call_and_opens_no_breaker() {
    let mut scene = fleet(0..3, 3..123);
    for number in 4..123 {
        scene["nodes"][number]["puppetdb"]["facts"]["ec2_metadata"] =
            metadata(u32::try_from(number).unwrap(), ACCOUNT, "us-east-1");
    }
    let mut stage = stage(scene).await;
    let answer = stage.invoke("sweep", &json!({})).await;
    let orphans = &answer["housekeeping"]["orphans"];
    assert_eq!((&orphans["fleet"], &orphans["breaker"]), (&json!(4), &Value::Null), "{answer:#}");
    assert_eq!(stage.puppet_has(&name(3)), (false, false), "the one that is gone from here is removed");
    assert_eq!(still_there(&stage, 4..123), 119);
    let entries = stage.lab.journal.entries();
    let foreign = |entry: &&stagedoor_lab_core::journal::Entry| {
        entry.subject.as_ref().is_some_and(|subject| (4..123).any(|number| *subject == name(number)))
    };
    assert_eq!(entries.iter().filter(foreign).count(), 0, "{entries:#?}");
}

#[tokio::test]
async fn an_instance_that_lives_on_with_the_certificate_of_a_terminated_one_is_left_alone() {
    let mut scene = fleet(0..3, 3..4);
    scene["instances"] = json!([{"id": id(3), "ec2_state": "terminated"}]);
    // Its image runs elsewhere, with its certificate, and without the fact that would say so.
    scene["nodes"][3]["puppetdb"]["facts"] = json!({});
    let mut stage = stage_of(scene, SignedDuration::from_mins(55), PuppetOptions::default()).await;
    let now = Clock::machine_now();
    stage.lab.puppet.report(&name(3), "unchanged", now - SignedDuration::from_secs(20));
    assert_eq!(keep_house(&mut stage).await, []);
    assert_eq!(still_there(&stage, 0..4), 4);
    assert_eq!(stage.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn on_puppet_enterprise_the_agents_crl_is_not_taken_for_evidence() {
    let mut stage = stage_of(fleet(0..3, 3..4), SignedDuration::from_hours(3), PuppetOptions::enterprise()).await;
    assert_eq!(keep_house(&mut stage).await, dealt([3], "removed: purged"));
    let news = stage.published();
    assert_snapshot!(without_numbers(news[0]["orphans"][0]["reason"].as_str().unwrap()), @"EC2 does not know i-00000000000000003, and it has shown no activity since [time]; certificate [serial], PuppetDB node of ip-10-0-0-3.eu-west-1.compute.internal: revoked and deleted the certificate of ip-10-0-0-3.eu-west-1.compute.internal, known by pp_instance_id in its certificate; deactivated ip-10-0-0-3.eu-west-1.compute.internal in PuppetDB; the CA says that it is revoked; the CRL that Puppet Enterprise gives to agents lists infrastructure certificates only, so absence from it proves nothing");
}

#[tokio::test]
async fn where_they_are_only_reported_nothing_is_written() {
    for (mode, result) in
        [("orphans.mode = \"report\"", "found: report_mode"), ("mode = \"observe\"", "found: observe_mode")]
    {
        let mut stage = stage(fleet(0..3, 3..4)).await;
        stage.configure(|config| format!("{mode}\n{config}"));
        assert_eq!(keep_house(&mut stage).await, dealt([3], result), "{mode}");
        assert_eq!(still_there(&stage, 0..4), 4);
        let writes = stage.writes();
        // The report is published once a day, which may be now.
        let may = |write: &String| mode.starts_with("orphans") && write.starts_with("sns");
        assert!(writes.iter().all(may), "{mode}: {writes:?}");
    }
}

#[tokio::test]
async fn the_request_of_a_terminated_instance_is_deleted_and_every_other_is_left() {
    for (mode, outcome, code) in [
        ("orphans.mode = \"purge\"", "removed", "instance_terminated"),
        ("orphans.mode = \"report\"", "found", "report_mode"),
        ("mode = \"observe\"", "found", "observe_mode"),
    ] {
        let mut scene = fleet(0..3, 0..0);
        scene["instances"] = json!([{"id": id(3), "ec2_state": "terminated"}]);
        // EC2 forgets it after an hour.
        let mut stage = stage_of(scene, SignedDuration::ZERO, PuppetOptions::default()).await;
        stage.configure(|config| format!("{mode}\n{config}"));
        let asks = |instance: Option<String>| CsrAttributes { instance_id: instance, ..CsrAttributes::default() };
        let puppet = &stage.lab.puppet;
        // Of the terminated one; of one that EC2 does not know; of one that lives; of none.
        for (number, instance) in [(3, Some(id(3))), (4, Some(id(4))), (5, Some(id(1))), (6, None)] {
            puppet.submit_csr(&name(number), &asks(instance)).unwrap();
        }
        let answer = stage.invoke("sweep", &json!({})).await;
        let dealt = &answer["housekeeping"]["requests"];
        let expected =
            json!([{"certname": name(3), "instance_id": id(3), "outcome": outcome, "code": code, "error": null}]);
        assert_eq!(*dealt, expected, "{answer:#}");
        let left = (3..7).filter(|number| stage.lab.puppet.has_request(&name(*number)));
        assert_eq!(left.collect::<Vec<_>>(), if outcome == "removed" { vec![4, 5, 6] } else { vec![3, 4, 5, 6] });
        assert_eq!(still_there(&stage, 0..3), 3);
    }
}

#[tokio::test]
async fn the_greatest_difference_of_clocks_is_a_metric() {
    let options = PuppetOptions { ca_clock_ahead_s: -150, ..PuppetOptions::default() };
    let mut stage = stage_of(fleet(0..1, 0..0), SignedDuration::ZERO, options).await;
    stage.invoke("sweep", &json!({})).await;
    let seconds = stage.metrics("sweep").await["ClockSkewSeconds"].as_i64();
    assert!(seconds.is_some_and(|seconds| (145..=155).contains(&seconds)), "{seconds:?}");
}

#[tokio::test]
async fn who_looks_for_no_orphans_finds_none() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    stage.configure(|config| format!("orphans.mode = \"off\"\n{config}"));
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(answer["housekeeping"]["orphans"], Value::Null, "{answer:#}");
    assert_eq!(stage.lab.journal.count("puppetdb", "POST /pdb/query*"), 0);
}

#[tokio::test]
async fn looking_after_a_sound_fleet_costs_a_few_calls_however_large_it_is() {
    let mut stage = stage(fleet(0..250, 0..0)).await;
    assert_eq!(keep_house(&mut stage).await, []);
    let calls: Vec<String> = stage.lab.journal.entries().into_iter().map(|entry| entry.call).collect();
    // Waiting instances; the secret; all nodes; all certificates; EC2 for each 200; the certificates of the two servers,
    // which have no node; what expires. And a small read of EC2, the CA and PuppetDB, to see whether they can be reached.
    assert!(calls.len() <= 13, "{calls:#?}");
    assert_eq!(calls.iter().filter(|call| *call == "DescribeInstances").count(), 3);
}

#[tokio::test]
async fn those_who_wait_are_dealt_with_first() {
    let mut stage = stage(fleet(0..3, 3..4)).await;
    stage.lab.aws.terminate(&id(0), &Terminate::default()).expect("it can be terminated");
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(only(&answer).outcome, Outcome::Continued, "{answer:#}");
    assert_eq!(answer["housekeeping"]["orphans"]["results"][0]["outcome"], "removed", "{answer:#}");
    let calls: Vec<String> = stage.lab.journal.entries().into_iter().map(|entry| entry.call).collect();
    let first = |prefix: &str| calls.iter().position(|call| call.starts_with(prefix));
    assert!(first("CompleteLifecycleAction") < first("GET /puppet-ca/v1/certificate_statuses"), "{calls:#?}");
    assert_eq!(stage.puppet_has(&name(0)), (false, false));
    assert_eq!(still_there(&stage, 1..3), 2);
    // However many wait in later sweeps, the one list that housekeeping needs is remembered.
    for leaving in 1..3 {
        stage.lab.aws.terminate(&id(leaving), &Terminate::default()).expect("it can be terminated");
        let answer = stage.invoke("sweep", &json!({})).await;
        assert_eq!(only(&answer).outcome, Outcome::Continued, "{answer:#}");
    }
    assert_eq!(stage.lists_of_certificates(), 1);
}

#[tokio::test]
async fn the_first_credential_to_expire_is_measured() {
    let puppet = PuppetOptions {
        rbac_token_expires: Some(Clock::machine_now() + SignedDuration::from_hours(5 * 24 + 12)),
        ..PuppetOptions::enterprise()
    };
    let mut stage = stage_of(fleet(0..1, 0..0), SignedDuration::ZERO, puppet).await;
    let answer = stage.invoke("sweep", &json!({})).await;
    let known = answer["housekeeping"]["credentials"]["known"].as_array().unwrap().clone();
    let names: Vec<&str> = known.iter().map(|credential| credential["name"].as_str().unwrap()).collect();
    assert_snapshot!(names.join("\n"), @"
    the controller's certificate stagedoor.example.net
    the CA certificate Puppet CA: puppet
    the CA certificate Puppet Root CA: 7a1e5
    the CRL of Puppet CA: puppet
    the CRL of Puppet Root CA: 7a1e5
    the RBAC token
    ");
    let metrics = stage.metrics("sweep").await;
    assert_eq!((&metrics["CredentialDaysLeft"], &metrics["HousekeepingOk"]), (&json!(5), &json!(1)), "{metrics}");
}

#[tokio::test]
async fn what_could_not_be_asked_is_not_taken_for_fine() {
    let mut stage = stage(fleet(0..1, 0..0)).await;
    stage.fault("ca", "GET /puppet-ca/v1/expirations", None, FaultKind::Reset);
    let answer = stage.invoke("sweep", &json!({})).await;
    let unknown = &answer["housekeeping"]["credentials"]["unknown"];
    assert_eq!((&unknown[0]["code"], unknown.as_array().unwrap().len()), (&json!("ca_unavailable"), 1), "{answer:#}");
    let metrics = stage.metrics("sweep").await;
    assert_eq!((&metrics["HousekeepingOk"], &metrics["PuppetReachable"]), (&json!(0), &json!(1)), "{metrics}");
}

#[tokio::test]
async fn a_pin_without_a_node_is_reported_and_left_to_an_operator() {
    let mut scene = fleet(0..3, 3..3);
    let pinned = [name(0), name(7), "primary.example.com".to_owned()];
    scene["node_groups"] = json!([{"name": "Agents", "pinned": pinned}, {"name": "Operators", "pinned": [name(8)]}]);
    let mut stage = stage_of(scene, SignedDuration::from_hours(3), PuppetOptions::enterprise()).await;
    stage.configure(|config| {
        let config = config.replace("[puppet]", "[puppet]\nprotected = [\"primary.example.com\"]");
        format!("{config}pin = [\"Agents\"]\n")
    });
    let answer = stage.invoke("sweep", &json!({})).await;
    let left = json!({"left_over": [{"certname": name(7), "groups": ["Agents"]}], "unclear": 0});
    assert_eq!(answer["housekeeping"]["pins"], left, "{answer:#}");
    assert!(stage.lab.puppet.is_pinned("Agents", &name(7)));
    assert_eq!(stage.writes().iter().filter(|write| write.starts_with("classifier")).count(), 0);

    stage.fault("classifier", "*", None, FaultKind::Reset);
    let answer = stage.invoke("sweep", &json!({})).await;
    assert_eq!(answer["housekeeping"]["pins"]["code"], "classifier_unavailable", "{answer:#}");
}
