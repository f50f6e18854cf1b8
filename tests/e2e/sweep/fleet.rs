//! A fleet of compilers, some of which are long gone and still known to Puppet.

use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_lab::Options;
use stagedoor_lab::scene::Scene;
use stagedoor_lab_puppet::PuppetOptions;

use crate::e2e::rehearsal::{Rehearsal, TOPIC};

/// The account and Region that the lab is.
pub(crate) const ACCOUNT: &str = "111122223333";
pub(crate) const REGION: &str = "eu-west-1";

/// The id of a numbered instance.
pub(crate) fn id(number: u32) -> String {
    format!("i-{number:017x}")
}

/// Its name.
pub(crate) fn name(number: u32) -> String {
    format!("ip-10-0-{}-{}.{REGION}.compute.internal", number / 250, number % 250)
}

/// What its agent said of it, from this account and Region.
pub(crate) fn metadata(number: u32, account: &str, region: &str) -> Value {
    json!({
        "instance-id": id(number),
        "placement": {"region": region, "availability-zone": format!("{region}a")},
        "network": {"interfaces": {"macs": {"02:00:00:00:00:01": {"owner-id": account}}}},
    })
}

/// The node that a numbered instance is to Puppet.
pub(crate) fn node(number: u32) -> Value {
    json!({
        "certname": name(number),
        "instance_id": id(number),
        "extensions": {"pp_role": "compiler"},
        "puppetdb": {"facts": {"ec2_metadata": metadata(number, ACCOUNT, REGION)}},
    })
}

/// A group with these members; Puppet knows them and those who are gone, of whom EC2 knows nothing any more.
pub(crate) fn fleet(members: std::ops::Range<u32>, gone: std::ops::Range<u32>) -> Value {
    let instances: Vec<Value> =
        members.clone().map(|number| json!({"id": id(number), "private_dns": name(number)})).collect();
    json!({
        "groups": [{
            "name": "compilers",
            "tags": {"stagedoor:profile": "compiler"},
            "hooks": [{"name": "stagedoor-terminate", "transition": "terminating", "default_result": "CONTINUE"}],
            "instances": instances,
        }],
        "instances": [],
        "nodes": members.chain(gone).map(node).collect::<Vec<_>>(),
        "topics": [TOPIC],
    })
}

/// A stage on which all of this happened three hours ago, and a sweep for which housekeeping is always due.
pub(crate) async fn stage(scene: Value) -> Rehearsal {
    stage_of(scene, SignedDuration::from_hours(3), PuppetOptions::default()).await
}

/// The same, so long ago, at this Puppet site.
pub(crate) async fn stage_of(scene: Value, ago: SignedDuration, puppet: PuppetOptions) -> Rehearsal {
    let mut stage = Rehearsal::with(json!({}), Options { puppet, ..Options::default() }).await;
    let lab = &stage.lab;
    lab.clock.advance(-ago);
    lab.set_scene(&Scene::from_json(scene).expect("a scene")).expect("a scene that can be");
    lab.clock.advance(ago);
    stage.configure(|config| {
        let config = config.replace("\"never\"", "\"1m\"").replace("budget = \"2s\"", "budget = \"20s\"");
        format!("{config}sign.require = {{ pp_role = \"compiler\" }}\n")
    });
    stage
}

/// The names that a sweep's housekeeping dealt with, each with what became of it.
pub(crate) async fn keep_house(stage: &mut Rehearsal) -> Vec<(String, String)> {
    dealt_with(&stage.invoke("sweep", &json!({})).await)
}

/// The same, of the answer of a sweep.
pub(crate) fn dealt_with(answer: &Value) -> Vec<(String, String)> {
    let orphans = &answer["housekeeping"]["orphans"];
    let results = orphans["results"].as_array().unwrap_or_else(|| panic!("{answer:#}")).iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let result = |result: &Value| {
        let (outcome, code) = (text(&result["outcome"]), text(&result["code"]));
        (text(&result["certname"]), format!("{outcome}: {code}"))
    };
    results.map(result).collect()
}

/// Of these, how many does Puppet still have a certificate and an active node of?
pub(crate) fn still_there(stage: &Rehearsal, numbers: std::ops::Range<u32>) -> usize {
    numbers.filter(|number| stage.puppet_has(&name(*number)) == (true, true)).count()
}
