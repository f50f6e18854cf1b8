//! What PuppetDB learns of a node's run, by the commands that Puppet Server sends it. Talks to PuppetDB without the
//! client under test.
//!
//! See PuppetDB's [wire formats](https://www.puppet.com/docs/puppetdb/7/api/wire_format/report_format_v8.html).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use stagedoor_types::{Certname, InstanceId};

use super::site::{Site, answer};

/// The version of each command that PuppetDB 7 and 8 take.
const REPLACE_FACTS: (&str, u8) = ("replace_facts", 5);
const REPLACE_CATALOG: (&str, u8) = ("replace_catalog", 9);
const STORE_REPORT: (&str, u8) = ("store_report", 8);

/// PuppetDB's clock, whole milliseconds: what it stores.
pub(crate) async fn server_time(site: &Site) -> Timestamp {
    let at = site.puppetdb().server_time().await.expect("PuppetDB's time");
    Timestamp::from_millisecond(at.as_millisecond()).expect("a time")
}

/// The facts of a node in this account and Region.
pub(crate) async fn facts_from(site: &Site, certname: &Certname, account: &str, region: &str) {
    let values = json!({
        "trusted": {"authenticated": "remote", "certname": certname.as_str(), "extensions": {}},
        "ec2_metadata": {
            "placement": {"region": region, "availability-zone": format!("{region}a")},
            "network": {"interfaces": {"macs": {"02:00:00:00:00:01": {"owner-id": account}}}},
        },
    });
    let body = json!({
        "certname": certname.as_str(),
        "environment": "production",
        "producer": "localhost",
        "producer_timestamp": server_time(site).await.to_string(),
        "values": values,
    });
    command(site, REPLACE_FACTS, certname, &body).await;
}

/// The facts of a node, those about its identity among them.
pub(crate) async fn facts(
    site: &Site,
    certname: &Certname,
    certified: Option<&InstanceId>,
    reported: Option<&InstanceId>,
    at: Timestamp,
) {
    let extensions = certified.map_or_else(|| json!({}), |id| json!({"pp_instance_id": id.as_str()}));
    let mut values = json!({
        "kernel": "Linux",
        "trusted": {"authenticated": "remote", "certname": certname.as_str(), "extensions": extensions},
    });
    if let Some(reported) = reported {
        values["ec2_metadata"] = json!({"instance-id": reported.as_str(), "instance-type": "t3.micro"});
    }
    let body = json!({
        "certname": certname.as_str(),
        "environment": "production",
        "producer": "localhost",
        "producer_timestamp": at.to_string(),
        "values": values,
    });
    command(site, REPLACE_FACTS, certname, &body).await;
}

/// Stores an empty catalog; returns its `catalog_uuid`.
pub(crate) async fn catalog(site: &Site, certname: &Certname, at: Timestamp) -> String {
    let uuid = uuid::Uuid::new_v4().to_string();
    let body = json!({
        "certname": certname.as_str(),
        "version": "1",
        "environment": "production",
        "transaction_uuid": uuid::Uuid::new_v4().to_string(),
        "catalog_uuid": uuid,
        "code_id": null,
        "job_id": null,
        "producer": "localhost",
        "producer_timestamp": at.to_string(),
        "edges": [],
        "resources": [],
    });
    command(site, REPLACE_CATALOG, certname, &body).await;
    uuid
}

/// A report of a run that began 10 s and ended 2 s before the report was made, at `at`.
pub(crate) async fn report(site: &Site, certname: &Certname, status: &str, at: Timestamp) {
    report_with(site, certname, at, json!({"status": status})).await;
}

/// The same report, with some fields replaced by `fields`.
pub(crate) async fn report_with(site: &Site, certname: &Certname, at: Timestamp, fields: Value) {
    let mut body = json!({
        "certname": certname.as_str(),
        "environment": "production",
        "puppet_version": "7.23.0",
        "report_format": 12,
        "configuration_version": "1",
        "start_time": (at - SignedDuration::from_secs(10)).to_string(),
        "end_time": (at - SignedDuration::from_secs(2)).to_string(),
        "producer": "localhost",
        "producer_timestamp": at.to_string(),
        "transaction_uuid": uuid::Uuid::new_v4().to_string(),
        "catalog_uuid": uuid::Uuid::new_v4().to_string(),
        "code_id": null,
        "job_id": null,
        "cached_catalog_status": "not_used",
        "status": "changed",
        "noop": false,
        "noop_pending": false,
        "corrective_change": false,
        "resources": [],
        "metrics": [],
        "logs": [],
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    command(site, STORE_REPORT, certname, &body).await;
}

/// Everything that a successful run of an instance stores, made at the time that is returned, a minute ago.
pub(crate) async fn run(site: &Site, certname: &Certname, instance: &InstanceId) -> Timestamp {
    let at = server_time(site).await - SignedDuration::from_secs(60);
    facts(site, certname, Some(instance), Some(instance), at).await;
    catalog(site, certname, at).await;
    report(site, certname, "unchanged", at).await;
    at
}

/// Sends a command and waits until PuppetDB has carried it out.
async fn command(site: &Site, (name, version): (&str, u8), certname: &Certname, body: &Value) {
    let url = format!("{}/pdb/cmd/v1", site.puppetdb_url);
    let version = version.to_string();
    let query = [
        ("command", name),
        ("version", version.as_str()),
        ("certname", certname.as_str()),
        ("secondsToWaitForCompletion", "60"),
    ];
    let request = site.http(Some(&site.controller)).post(url).query(&query).json(body);
    let answer = answer(request).await;
    let status = answer.status();
    let text = answer.text().await.expect("text");
    let receipt: Value = serde_json::from_str(&text).unwrap_or_default();
    assert!(status == 200 && receipt["processed"] == true, "{name} of {certname}: {status} {text}");
}
