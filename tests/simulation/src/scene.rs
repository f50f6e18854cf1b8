//! The scene of a simulation: the group, the secret and the nodes that exist before anything happens. No I/O.

use serde_json::{Value, json};
use stagedoor_lab_aws::ACCOUNT;
use stagedoor_lab_aws::scene::{ActionResult, AwsScene, Group, Hook, Instance, Settings, Throttle, Transition};
use stagedoor_lab_puppet::{Credentials, InPuppetdb, Node, Puppet, PuppetdbRecord};

use crate::schedule::{Schedule, address};
use crate::watch::{LAUNCH_HOOK, TERMINATE_HOOK};

/// The Auto Scaling group.
pub(crate) const GROUP: &str = "compilers";
/// The name of the secret.
pub(crate) const SECRET: &str = "stagedoor/puppet";

/// A node that has been in service for some time, with the facts of an instance in this Region.
pub(crate) fn node(name: &str, id: &str, region: &str, age_s: u32) -> Node {
    let metadata = json!({"instance-id": id, "account-id": ACCOUNT, "placement": {"region": region}});
    let facts = [("ec2_metadata".to_owned(), metadata)].into_iter().collect();
    Node {
        certname: name.to_owned(),
        instance_id: Some(id.to_owned()),
        extensions: [("pp_role".to_owned(), "compiler".to_owned())].into(),
        puppetdb: InPuppetdb::Known(PuppetdbRecord { facts, age_s, ..PuppetdbRecord::default() }),
        ..Node::new(name)
    }
}

/// The secret that the functions read.
pub(crate) fn secret(puppet: &Puppet, credentials: &Credentials, challenge: &str, previous: Option<&str>) -> Value {
    let mut secret = json!({
        "ca_cert": puppet.ca_bundle_pem(),
        "client_cert": credentials.cert_pem,
        "client_key": credentials.key_pem,
        "challenge": challenge,
    });
    if let Some(previous) = previous {
        secret["previous_challenge"] = previous.into();
    }
    secret
}

/// The group with its hooks, the instances in service and the secret.
pub(crate) fn scene(schedule: &Schedule, secret: &Value) -> AwsScene {
    let hook = |name: &str, transition, default_result| Hook {
        name: name.to_owned(),
        transition,
        heartbeat_timeout_s: schedule.site.hooks_end_s.unwrap_or(3600),
        default_result,
        metadata: None,
        notification_target: None,
    };
    let in_service = schedule.lives.iter().filter(|life| life.launched_s.is_none());
    let instances = in_service.map(|life| Instance {
        id: life.id(),
        private_ip: Some(address(life.name)),
        private_dns: Some(life.certname()),
        ..Instance::default()
    });
    let group = Group {
        name: GROUP.to_owned(),
        tags: [("stagedoor:profile".to_owned(), "compiler".to_owned())].into(),
        hooks: vec![
            hook(LAUNCH_HOOK, Transition::Launching, ActionResult::Abandon),
            hook(TERMINATE_HOOK, Transition::Terminating, ActionResult::Continue),
        ],
        instances: instances.collect(),
        ..Group::default()
    };
    let throttle = schedule.site.throttled.then_some(Throttle { burst: 8, per_second: 2.0 });
    AwsScene {
        settings: Settings { race_calls: schedule.site.race_calls, throttle, ..Settings::default() },
        groups: vec![group],
        secrets: [(SECRET.to_owned(), secret.to_string().into())].into(),
        ..AwsScene::default()
    }
}
