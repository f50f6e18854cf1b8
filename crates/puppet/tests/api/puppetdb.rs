//! PuppetDB: one test for each answer it is known to give.

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_puppet::{Deactivated, Error};
use stagedoor_types::{Certname, InstanceId, Location};

use crate::stage::{Act, Stage, balancer_says, pdb_says};

fn name() -> Certname {
    "n.example.net".parse().unwrap()
}

fn at() -> Timestamp {
    "2026-03-04T05:06:07.8901234Z".parse().unwrap()
}

fn text(status: u16, body: &str) -> Act {
    Act::Say(status, "Content-Type: text/plain; charset=utf-8\r\n", body.to_owned())
}

/// The query that the client sent first.
fn query(stage: &Stage) -> Value {
    let mut body: Value = serde_json::from_str(&stage.seen()[0].body).unwrap();
    body["query"].take()
}

const NODE: &str = r#"{"certname":"n.example.net","deactivated":null,"expired":null,
"catalog_timestamp":"2026-03-04T05:06:07.890Z","facts_timestamp":"2026-03-04T05:06:07.890Z","report_timestamp":"2026-03-04T05:06:08.000Z",
"catalog_environment":"production","facts_environment":"production","report_environment":"production",
"latest_report_status":"changed","latest_report_noop":false,"latest_report_noop_pending":false,
"latest_report_corrective_change":null,"latest_report_hash":"abc","latest_report_job_id":"81","cached_catalog_status":"not_used"}"#;

#[tokio::test]
async fn node_200_tells_when_it_was_last_heard_of() {
    let stage = Stage::new([pdb_says(200, NODE)]).await;
    let node = stage.puppetdb().node(&name()).await.unwrap().unwrap();
    assert!(node.is_active());
    assert_eq!(node.report_timestamp.unwrap().to_string(), "2026-03-04T05:06:08Z");
    assert_eq!(node.latest_report_status.as_deref(), Some("changed"));
    assert_eq!(stage.lines(), ["GET /pdb/query/v4/nodes/n.example.net"]);
}

#[tokio::test]
async fn node_200_of_a_deactivated_node_says_since_when() {
    let body = r#"{"certname":"n.example.net","deactivated":"2026-03-04T05:06:07.890Z"}"#;
    let stage = Stage::new([pdb_says(200, body)]).await;
    let node = stage.puppetdb().node(&name()).await.unwrap().unwrap();
    assert!(!node.is_active());
    assert_eq!(node.deactivated.unwrap().to_string(), "2026-03-04T05:06:07.89Z");
}

#[tokio::test]
async fn node_404_of_puppetdb_is_absence_and_of_anybody_else_is_not() {
    let unknown = "{\n  \"error\" : \"No information is known about node n.example.net\"\n}";
    let stage = Stage::new([pdb_says(404, unknown)]).await;
    assert_eq!(stage.puppetdb().node(&name()).await, Ok(None));
    for body in ["Not Found", "<html>404</html>", "404 page not found", "{}", "null"] {
        let stage = Stage::new([balancer_says(404, body)]).await;
        assert!(stage.puppetdb().node(&name()).await.is_err(), "{body}");
    }
}

#[tokio::test]
async fn node_403_names_the_allowlist() {
    let body = "Permission denied: The client certificate name lc.example.net doesnt appear in the certificate allowlist. Is your master's (or other PuppetDB client's) certname listed in PuppetDB's certificate-allowlist file?";
    let stage = Stage::new([text(403, body)]).await;
    let error = stage.puppetdb().node(&name()).await.unwrap_err();
    assert!(matches!(&error, Error::NotPermitted { remedy, .. } if remedy.contains("certificate-allowlist")));
}

#[tokio::test]
async fn maintenance_mode_is_to_be_asked_again() {
    let stage = Stage::new([text(503, "PuppetDB is currently down. Try again later.")]).await;
    let error = stage.puppetdb().node(&name()).await.unwrap_err();
    assert!(matches!(error, Error::Busy { status: 503, .. }), "{error}");
}

#[tokio::test]
async fn a_set_of_nodes_is_one_query_that_shows_inactive_ones_too() {
    let stage = Stage::new([pdb_says(200, format!("[{NODE}]"))]).await;
    let nodes = stage.puppetdb().nodes(&[name(), "x".parse().unwrap()]).await.unwrap();
    assert_eq!(nodes.len(), 1);
    let names = json!(["in", "certname", ["array", ["", "", "n.example.net", "x"]]]);
    assert_eq!(stage.lines(), ["POST /pdb/query/v4"]);
    assert_eq!(query(&stage), json!(["from", "nodes", ["and", names, ["=", "node_state", "any"]]]));
}

/// What is read of a report.
const OF_A_REPORT: [&str; 11] = [
    "certname",
    "start_time",
    "end_time",
    "producer_timestamp",
    "receive_time",
    "status",
    "job_id",
    "noop",
    "cached_catalog_status",
    "catalog_uuid",
    "metrics",
];

#[tokio::test]
async fn the_newest_reports_of_a_set_are_one_query() {
    let rows = r#"[{"certname":"n.example.net","start_time":"2026-03-04T05:06:07.890Z","end_time":"2026-03-04T05:06:55Z","producer_timestamp":"2026-03-04T05:06:56Z","receive_time":"2026-03-04T05:06:57Z","status":"changed","job_id":"81","noop":false,"cached_catalog_status":"on_failure","catalog_uuid":"5a1c1b5e-0b9c-4c0e-9d3f-0f2c6d0e7a11"},
                   {"certname":"x","start_time":"2026-03-04T05:06:07.890Z","end_time":"2026-03-04T05:06:55Z","producer_timestamp":"2026-03-04T05:06:56Z","receive_time":"2026-03-04T05:06:57Z","status":null,"job_id":null,"noop":null,"catalog_uuid":null}]"#;
    let stage = Stage::new([pdb_says(200, rows)]).await;
    let reports = stage.puppetdb().latest_reports(&[name(), "x".parse().unwrap()]).await.unwrap();
    assert_eq!(reports[0].start_time.to_string(), "2026-03-04T05:06:07.89Z");
    assert_eq!((reports[0].status.as_deref(), reports[0].job_id.as_deref()), (Some("changed"), Some("81")));
    assert_eq!(reports[0].cached_catalog_status.as_deref(), Some("on_failure"));
    assert_eq!((&reports[1].status, &reports[1].job_id, reports[1].noop), (&None, &None, None));
    assert!(reports[0].catalog_uuid.is_some() && reports[1].catalog_uuid.is_none());
    assert_eq!(stage.lines(), ["POST /pdb/query/v4"]);
    let names = json!(["in", "certname", ["array", ["", "", "n.example.net", "x"]]]);
    let newest = json!(["=", "latest_report?", true]);
    assert_eq!(query(&stage), json!(["from", "reports", ["extract", OF_A_REPORT, ["and", newest, names]]]));
}

#[tokio::test]
async fn the_runs_of_a_set_since_a_time_of_each_are_one_query() {
    let rows = r#"[{"certname":"n.example.net","start_time":"2026-03-04T05:06:07.890Z","end_time":"2026-03-04T05:06:55Z","producer_timestamp":"2026-03-04T05:06:56Z","receive_time":"2026-03-04T05:06:57Z","status":"failed","job_id":"81","noop":false,"cached_catalog_status":"not_used","catalog_uuid":"5a1c1b5e",
                    "metrics":{"href":"/pdb/query/v4/reports/abc/metrics","data":[{"category":"time","name":"catalog_application","value":40.5}]}},
                   {"certname":"Not A Certname","start_time":7}]"#;
    let stage = Stage::new([pdb_says(200, rows), pdb_says(200, "[]")]).await;
    let hour: Timestamp = "2026-03-04T05:00:00Z".parse().unwrap();
    let wanted = [(name(), hour), ("x".parse().unwrap(), at())];
    let runs = stage.puppetdb().runs_since(&wanted).await.unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!(runs[0].metrics.catalog_application.unwrap().as_millis(), 40_500);
    assert_eq!(runs[0].metrics.config_retrieval, None);
    assert!(stage.puppetdb().runs_since(&wanted[..1]).await.unwrap().is_empty());
    let of = |name: &str, from: &str, until: &str| {
        json!(["and", ["=", "certname", name], [">", "receive_time", from], ["<=", "receive_time", until]])
    };
    let first = of("n.example.net", "2026-03-04T05:00:00Z", "2026-03-06T07:00:00Z");
    let second = of("x", "2026-03-04T05:06:07.8901234Z", "2026-03-06T07:06:07.8901234Z");
    assert_eq!(query(&stage), json!(["from", "reports", ["extract", OF_A_REPORT, ["or", first, second]]]));
    let one: Value = serde_json::from_str(&stage.seen()[1].body).unwrap();
    assert_eq!(one["query"], json!(["from", "reports", ["extract", OF_A_REPORT, ["or", first]]]));
    assert_eq!(stage.puppetdb().runs_since(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn the_stored_catalogs_of_a_set_are_one_query_without_their_contents() {
    let rows = r#"[{"certname":"n.example.net","catalog_uuid":"5a1c1b5e","producer_timestamp":"2026-03-04T05:06:07.890Z"},
                   {"certname":"x","catalog_uuid":null,"producer_timestamp":"2026-03-04T05:06:08Z"}]"#;
    let stage = Stage::new([pdb_says(200, rows)]).await;
    let catalogs = stage.puppetdb().catalogs(&[name(), "x".parse().unwrap()]).await.unwrap();
    assert_eq!(catalogs[0].producer_timestamp.to_string(), "2026-03-04T05:06:07.89Z");
    assert_eq!((catalogs[0].catalog_uuid.as_deref(), &catalogs[1].catalog_uuid), (Some("5a1c1b5e"), &None));
    let names = json!(["in", "certname", ["array", ["", "", "n.example.net", "x"]]]);
    let fields = ["certname", "catalog_uuid", "producer_timestamp"];
    assert_eq!(query(&stage), json!(["from", "catalogs", ["extract", fields, names]]));
}

#[tokio::test]
async fn the_newest_deactivations_are_those_of_valid_names_since_a_time() {
    let rows = r#"[{"certname":"a","deactivated":"2026-03-04T05:06:07Z"},{"certname":"expired","deactivated":null},
                   {"certname":"b","deactivated":"2026-03-04T05:06:09Z"},{"certname":"c","deactivated":"2026-03-04T05:06:10Z"},
                   {"certname":"Not A Certname","deactivated":"2026-03-04T05:06:11Z"}]"#;
    let stage = Stage::new([pdb_says(200, rows)]).await;
    let since = "2026-03-04T05:06:07Z".parse().unwrap();
    let newest = stage.puppetdb().deactivated_since(since, 1).await.unwrap();
    assert_eq!(newest, [("c".parse().unwrap(), "2026-03-04T05:06:10Z".parse().unwrap())]);
    let inactive = json!(["=", "node_state", "inactive"]);
    assert_eq!(query(&stage), json!(["from", "nodes", ["extract", ["certname", "deactivated"], inactive]]));
}

#[tokio::test]
async fn a_large_set_is_asked_for_in_chunks_and_an_empty_one_not_at_all() {
    let names: Vec<Certname> = (0..501).map(|i| format!("n{i}").parse().unwrap()).collect();
    let stage = Stage::new((0..4).map(|_| pdb_says(200, "[]"))).await;
    let puppetdb = stage.puppetdb();
    assert_eq!(puppetdb.nodes(&[]).await.unwrap(), []);
    assert_eq!(puppetdb.latest_reports(&[]).await.unwrap(), []);
    assert_eq!(puppetdb.nodes(&names).await.unwrap(), []);
    assert_eq!(puppetdb.latest_reports(&names).await.unwrap(), []);
    assert_eq!(stage.lines().len(), 4);
}

#[tokio::test]
async fn the_facts_of_a_set_are_those_that_are_named_or_all() {
    let rows = r#"[
        {"certname":"n.example.net","name":"os","value":{"family":"Debian"}},
        {"certname":"n.example.net","name":"virtual","value":"kvm"},
        {"certname":"Not A Certname","name":"os","value":{}}]"#;
    let stage = Stage::new([pdb_says(200, rows), pdb_says(200, "[]")]).await;
    let wanted = ["os".to_owned(), "virtual".to_owned()].into();
    let facts = stage.puppetdb().facts(&[name()], Some(&wanted)).await.unwrap();
    assert_eq!(facts.len(), 1);
    assert_eq!(serde_json::to_value(&facts[&name()]).unwrap(), json!({"os": {"family": "Debian"}, "virtual": "kvm"}));
    assert!(stage.puppetdb().facts(&[name()], None).await.unwrap().is_empty());
    assert!(stage.puppetdb().facts(&[], None).await.unwrap().is_empty());
    let names = json!(["in", "certname", ["array", ["", "", "n.example.net"]]]);
    let (any, of_these) =
        (json!(["=", "node_state", "any"]), json!(["in", "name", ["array", ["", "", "os", "virtual"]]]));
    let columns = json!(["certname", "name", "value"]);
    let expected = json!(["from", "facts", ["extract", columns, ["and", names, any, of_these]]]);
    assert_eq!(query(&stage), expected);
    let all: Value = serde_json::from_str(&stage.seen()[1].body).unwrap();
    assert_eq!(all["query"], json!(["from", "facts", ["extract", columns, ["and", names, any]]]));
}

#[tokio::test]
async fn identities_come_from_certificate_and_facts() {
    let rows = r#"[
        {"certname":"n.example.net","name":"trusted","value":{"extensions":{"pp_instance_id":"i-0a1b2c3d4e5f60718"}}},
        {"certname":"n.example.net","name":"ec2_metadata","value":{"instance-id":"i-0a1b2c3d4e5f60718"}}]"#;
    let stage = Stage::new([pdb_says(200, rows)]).await;
    let known = stage.puppetdb().identities(&[name()]).await.unwrap();
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].certified, known[0].reported);
    let facts = json!(["in", "name", ["array", ["trusted", "ec2_metadata"]]]);
    let names = json!(["in", "certname", ["array", ["", "", "n.example.net"]]]);
    let condition = json!(["and", facts, names, ["=", "node_state", "any"]]);
    assert_eq!(query(&stage), json!(["from", "facts", ["extract", ["certname", "name", "value"], condition]]));
}

#[tokio::test]
async fn what_all_certificates_said_comes_in_one_query_of_the_active_nodes() {
    let rows = r#"[{"certname":"n.example.net","name":"trusted","value":{"extensions":{"pp_instance_id":"i-0a1b2c3d4e5f60718"}}}]"#;
    let stage = Stage::new([pdb_says(200, rows)]).await;
    let known = stage.puppetdb().certified(None, |known| known.certified).await.unwrap();
    assert_eq!(known, ["i-0a1b2c3d4e5f60718".parse().unwrap()]);
    let condition = json!(["=", "name", "trusted"]);
    assert_eq!(query(&stage), json!(["from", "facts", ["extract", ["certname", "name", "value"], condition]]));
}

fn home() -> Location {
    Location { account: "111122223333".into(), region: "eu-west-1".into() }
}

#[tokio::test]
async fn nodes_of_another_account_or_region_are_left_out_by_the_query_itself() {
    let stage = Stage::new([pdb_says(200, "[]")]).await;
    assert_eq!(stage.puppetdb().certified(Some(&home()), Some).await.unwrap(), []);
    let owner = json!(["ec2_metadata", "network", "interfaces", "macs", ".*", "owner-id"]);
    let account = json!(["and", ["~>", "path", owner], ["not", ["=", "value", "111122223333"]]]);
    let path = json!(["ec2_metadata", "placement", "region"]);
    let region = json!(["and", ["=", "path", path], ["not", ["=", "value", "eu-west-1"]]]);
    let elsewhere =
        json!(["in", "certname", ["extract", "certname", ["select_fact_contents", ["or", account, region]]]]);
    let condition = json!(["and", ["=", "name", "trusted"], ["not", elsewhere]]);
    assert_eq!(query(&stage), json!(["from", "facts", ["extract", ["certname", "name", "value"], condition]]));
}

#[tokio::test]
async fn a_name_that_is_no_certname_does_not_keep_the_others_from_being_read() {
    let rows = r#"[{"certname":"Not A Certname"},{"certname":"n.example.net"}]"#;
    let script = || pdb_says(200, rows);
    let stage = Stage::new([script(), script(), script(), script()]).await;
    let puppetdb = stage.puppetdb();
    assert_eq!(puppetdb.nodes(&[name()]).await.unwrap()[0].certname, name());
    assert_eq!(puppetdb.located_in(&home()).await.unwrap().into_iter().collect::<Vec<_>>(), [name()]);
    let mut names = Vec::new();
    puppetdb.active_names(|name| names.push(name.to_owned())).await.unwrap();
    assert_eq!(names, ["Not A Certname", "n.example.net"]);
    // A row that lacks what was asked for is another matter.
    assert!(puppetdb.latest_reports(&[name()]).await.is_err());
}

#[tokio::test]
async fn an_answer_that_ends_early_or_is_no_list_is_not_an_empty_one() {
    for body in [r#"[{"certname":"n.example.net"}"#, r#"{"error":"no"}"#, "<html>", ""] {
        let stage = Stage::new([pdb_says(200, body)]).await;
        assert!(matches!(stage.puppetdb().active_names(|_| {}).await, Err(Error::Unexpected { .. })), "{body}");
    }
}

#[tokio::test]
async fn the_names_of_instances_are_looked_up_by_both_identities_in_one_query() {
    let [one, other]: [InstanceId; 2] = ["i-0a1b2c3d4e5f60718", "i-0b2c3d4e5f6071829"].map(|id| id.parse().unwrap());
    let rows = r#"[{"certname":"n.example.net","value":"i-0a1b2c3d4e5f60718"},{"certname":"n.example.net","value":"i-0a1b2c3d4e5f60718"}]"#;
    let stage = Stage::new([pdb_says(200, rows)]).await;
    let names = stage.puppetdb().certnames_of(&[one.clone(), other.clone()]).await.unwrap();
    assert_eq!(names[&one], [name()].into());
    assert!(names[&other].is_empty());
    let certified = json!(["=", "path", ["trusted", "extensions", "pp_instance_id"]]);
    let reported = json!(["=", "path", ["ec2_metadata", "instance-id"]]);
    let known = json!(["in", "value", ["array", [one.as_str(), other.as_str()]]]);
    let condition = json!(["and", ["or", certified, reported], known, ["=", "node_state", "any"]]);
    assert_eq!(query(&stage), json!(["from", "fact_contents", ["extract", ["certname", "value"], condition]]));
}

#[tokio::test]
async fn text_in_a_query_stays_one_value() {
    for hostile in [r#"x" or certname ~ ".*"#, r#"x"], ["=", "node_state", "any"#, r"\", r#"\""#, "a'b", "ü"] {
        let stage = Stage::new([pdb_says(200, "[]")]).await;
        let sent = json!(["from", "nodes", ["=", "certname", hostile]]);
        stage.puppetdb().query::<Value>(&sent).await.unwrap();
        assert_eq!(query(&stage), sent);
    }
}

#[tokio::test]
async fn a_query_that_is_not_understood_is_refused_with_puppetdbs_words() {
    let said = r#"["odd" "certname" "x"] is not a valid expression for "extract""#;
    let stage = Stage::new([text(400, said)]).await;
    let odd = json!(["from", "nodes", ["extract", ["certname"], ["odd", "certname", "x"]]]);
    let error = stage.puppetdb().query::<Value>(&odd).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { status: 400, words, .. } if words == said), "{error}");
}

#[tokio::test]
async fn server_time_and_version_are_read() {
    let stage = Stage::new([
        pdb_says(200, r#"{"server_time":"2026-03-04T05:06:07.890Z"}"#),
        pdb_says(200, r#"{"version":"8.7.2"}"#),
    ])
    .await;
    let puppetdb = stage.puppetdb();
    assert_eq!(puppetdb.server_time().await.unwrap().to_string(), "2026-03-04T05:06:07.89Z");
    assert_eq!(puppetdb.version().await.unwrap(), "8.7.2");
    assert_eq!(stage.lines(), ["GET /pdb/meta/v1/server-time", "GET /pdb/meta/v1/version"]);
}

#[tokio::test]
async fn deactivating_waits_for_the_command_and_carries_its_time() {
    let stage = Stage::new([pdb_says(200, r#"{"uuid":"u","processed":true,"timed_out":false}"#)]).await;
    assert_eq!(stage.puppetdb_admin().deactivate(&name(), at()).await, Ok(Deactivated::Done));
    let seen = &stage.seen()[0];
    assert_eq!(
        seen.line,
        "POST /pdb/cmd/v1?command=deactivate_node&version=3&certname=n.example.net&secondsToWaitForCompletion=10"
    );
    let body: Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(body, json!({"certname": "n.example.net", "producer_timestamp": "2026-03-04T05:06:07.890Z"}));
    assert!(seen.head.contains("application/json"));
}

#[tokio::test]
async fn a_command_that_is_only_queued_is_no_error() {
    for (status, body) in [(200, r#"{"uuid":"u"}"#), (503, r#"{"uuid":"u","processed":false,"timed_out":true}"#)] {
        let stage = Stage::new([pdb_says(status, body)]).await;
        assert_eq!(stage.puppetdb_admin().deactivate(&name(), at()).await, Ok(Deactivated::Queued));
    }
}

#[tokio::test]
async fn a_command_that_failed_is_busy_and_says_why() {
    let body = r#"{"uuid":"u","processed":true,"timed_out":false,"error":"database is read-only","stack_trace":[]}"#;
    let stage = Stage::new([pdb_says(503, body)]).await;
    let error = stage.puppetdb_admin().deactivate(&name(), at()).await.unwrap_err();
    assert!(matches!(&error, Error::Busy { words, .. } if words == "database is read-only"), "{error}");
}

#[tokio::test]
async fn a_command_that_is_invalid_or_not_acceptable_is_refused_for_good() {
    for (status, body) in [
        (
            400,
            r#"{"error":"Command \"deactivate node\" for certname \"x\" is invalid. Command is missing required parameters: certname."}"#,
        ),
        (406, r#"{"kind":"not-acceptable","msg":"accept header must include application/json"}"#),
        (415, r#"{"kind":"unsupported-type","msg":"content-type text/plain is not a supported type"}"#),
        (413, "Command size exceeds max-command-size"),
    ] {
        let stage = Stage::new([pdb_says(status, body)]).await;
        let error = stage.puppetdb_admin().deactivate(&name(), at()).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
}
