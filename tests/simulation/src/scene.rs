//! The scene of a simulation: the group, the secret and the nodes that exist before anything happens. No I/O.

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lab_aws::ACCOUNT;
use stagedoor_lab_aws::scene::{
    ActionResult, AwsScene, Group, Hook, Instance, PoolState, Settings, Throttle, Transition,
};
use stagedoor_lab_puppet::{
    Credentials, InPuppetdb, Node, NodeGroup, Puppet, PuppetOptions, PuppetdbRecord, QueueDelay, ServerVersion,
    TokenState,
};

use crate::agent::CHALLENGE;
use crate::broken::Broken;
use crate::network::{CA, CONSOLE, ORCHESTRATOR, PUPPETDB};
use crate::schedule::{Life, Postgresql, Release, Schedule, SiteTraits, address};
use crate::watch::{CONTROLLER, DATABASE, LAUNCH_HOOK, PINNED_TO, PRIMARY, TERMINATE_HOOK};

/// The Auto Scaling group.
pub(crate) const GROUP: &str = "compilers";
/// The RBAC token of the secret.
pub(crate) const TOKEN: &str = "the token of the first secret";
/// The name of the secret.
pub(crate) const SECRET: &str = "stagedoor/puppet";

/// The fact `ec2_metadata` of an instance in this Region.
pub(crate) fn metadata(id: &str, region: &str) -> Value {
    json!({"instance-id": id, "account-id": ACCOUNT, "placement": {"region": region}})
}

/// A node that has been in service for some time, with the facts of an instance in this Region.
pub(crate) fn node(name: &str, id: &str, region: &str, age_s: u32, required: &[(&str, &str)]) -> Node {
    let facts = [("ec2_metadata".to_owned(), metadata(id, region))].into_iter().collect();
    Node {
        certname: name.to_owned(),
        instance_id: Some(id.to_owned()),
        extensions: required.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        puppetdb: InPuppetdb::Known(PuppetdbRecord { facts, age_s, ..PuppetdbRecord::default() }),
        ..Node::new(name)
    }
}

/// The extensions that each instance's request must have.
pub(crate) fn required(site: &SiteTraits) -> &'static [(&'static str, &'static str)] {
    let compilers = site.enterprise.as_ref().is_some_and(|enterprise| enterprise.compilers.is_some());
    if compilers { &[("pp_role", "compiler"), ("pp_auth_role", "pe_compiler")] } else { &[("pp_role", "compiler")] }
}

/// The configuration of the functions.
pub(crate) fn configuration(site: &SiteTraits, broken: Broken) -> String {
    let (top, profile) = broken.configuration(required(site));
    let observe = if site.observes && broken != Broken::Observing { "mode = \"observe\"\n" } else { "" };
    let host = "https://primary.example.com";
    let services = format!("ca = \"{host}:{CA}\"\npuppetdb = \"{host}:{PUPPETDB}\"\n");
    let (more, refresh) = match &site.enterprise {
        None => (String::new(), String::new()),
        Some(enterprise) => {
            let after_catalog = "refresh_after = \"catalog\"\ntimeout = { launch = \"75m\", refresh = \"45m\" }\n";
            let awaits = if enterprise.awaits_removal { "await_refresh.terminate = true\n" } else { "" };
            let refresh = match enterprise.compilers {
                None => "refresh = [\"puppet\"]\n".to_owned(),
                Some(Postgresql::OnPrimary) => format!("refresh = [\"puppet\"]\n{after_catalog}"),
                Some(Postgresql::OnItsOwn) => format!("refresh = [[\"{DATABASE}\"], [\"puppet\"]]\n{after_catalog}"),
            };
            (
                format!("orchestrator = \"{host}:{ORCHESTRATOR}\"\nclassifier = \"{host}:{CONSOLE}\"\n"),
                format!("pin = [\"{PINNED_TO}\"]\n{refresh}{awaits}"),
            )
        }
    };
    format!(
        "{observe}{top}[puppet]\nsecret = \"{SECRET}\"\n{services}{more}\
         [profile.compiler]\ncertname = \"{{private_dns}}\"\n{refresh}{profile}"
    )
}

/// Sets up the node groups for compilers with PuppetDB, and the host of their database.
pub(crate) fn compilers_need(puppet: &Puppet, postgresql: Postgresql) -> anyhow::Result<()> {
    let classes = |names: &[&str], parameters: Value| {
        names.iter().map(|name| (format!("puppet_enterprise::profile::{name}"), parameters.clone())).collect()
    };
    let host = match postgresql {
        Postgresql::OnPrimary => PRIMARY,
        Postgresql::OnItsOwn => {
            puppet.place_node(&Node::new(DATABASE))?;
            puppet.connect(DATABASE);
            DATABASE
        }
    };
    puppet.put_node_group(&NodeGroup {
        name: "PE Database".to_owned(),
        pinned: vec![host.to_owned()],
        classes: classes(&["database"], json!({})),
        ..NodeGroup::default()
    })?;
    puppet.put_node_group(&NodeGroup {
        name: "PE Compiler".to_owned(),
        rule: Some(json!(["and", ["=", ["trusted", "extensions", "pp_auth_role"], "pe_compiler"]])),
        classes: classes(&["master", "puppetdb"], json!({"database_host": host})),
        ..NodeGroup::default()
    })
}

/// The servers of a site.
pub(crate) fn puppet_options(traits: &SiteTraits) -> PuppetOptions {
    let base = match &traits.enterprise {
        None => PuppetOptions::default(),
        Some(enterprise) => PuppetOptions {
            run_ms: u64::from(enterprise.run_s) * 1000,
            primary: enterprise.compilers.map(|_| PRIMARY.to_owned()),
            services_restart_ms: enterprise.restart_s * 1000,
            agents_need_services: enterprise.needs_primary,
            puppetdb_start_limit_ms: enterprise.database_wait_s * 1000,
            allow_authorization_extensions: true,
            rbac_tokens: Some([(TOKEN.to_owned(), TokenState::for_controller())].into()),
            ..PuppetOptions::enterprise()
        },
    };
    let mut options = PuppetOptions {
        challenge: Some(CHALLENGE.to_owned().into()),
        controller: CONTROLLER.to_owned(),
        allow_duplicate_certs: traits.duplicates,
        ca_clock_ahead_s: traits.ca_ahead_s,
        puppetdb_clock_ahead_s: traits.puppetdb_ahead_s,
        puppetdb_queue: if traits.queue_ms == 0 { QueueDelay::None } else { QueueDelay::Ms(traits.queue_ms) },
        ..base
    };
    if traits.servers == Release::Puppet7 {
        options.server_version = ServerVersion::new(7, 9, 5);
    }
    options
}

/// The secret that the functions read.
pub(crate) fn secret(puppet: &Puppet, credentials: &Credentials, challenge: &str, token: &str) -> Value {
    json!({
        "ca_cert": puppet.ca_bundle_pem(),
        "client_cert": credentials.cert_pem,
        "client_key": credentials.key_pem,
        "challenge": challenge,
        "rbac_token": token,
    })
}

/// What a Region has: the group with its hooks, the instances in service and the secret.
pub(crate) fn scene(schedule: &Schedule, region: usize, secret: &Value) -> AwsScene {
    let hook = |name: &str, transition, default_result| Hook {
        name: name.to_owned(),
        transition,
        heartbeat_timeout_s: schedule.site.hooks_end_s.unwrap_or(3600),
        default_result,
        metadata: None,
        notification_target: None,
    };
    let in_service = schedule.lives.iter().filter(|life| life.region() == region && life.launched_s.is_none());
    let instances = in_service.map(|life| Instance {
        id: life.id(),
        private_ip: Some(address(life.name)),
        private_dns: Some(life.certname()),
        ..Instance::default()
    });
    let has_pool = schedule.lives.iter().any(Life::needs_pool);
    let group = Group {
        name: GROUP.to_owned(),
        tags: [("stagedoor:profile".to_owned(), "compiler".to_owned())].into(),
        warm_pool: has_pool.then_some(PoolState::Stopped),
        reuse_on_scale_in: has_pool,
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

/// An event that says that an instance terminates, as EventBridge delivers it
/// (<https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-event-reference.html>).
pub(crate) fn terminate_event(region: &str, instance: &str, now: Timestamp) -> Value {
    json!({
        "version": "0",
        "id": "12345678-1234-1234-1234-123456789012",
        "detail-type": "EC2 Instance-terminate Lifecycle Action",
        "source": "aws.autoscaling",
        "account": ACCOUNT,
        "time": now,
        "region": region,
        "resources": [],
        "detail": {
            "LifecycleActionToken": "87654321-4321-4321-4321-210987654321",
            "AutoScalingGroupName": GROUP,
            "LifecycleHookName": TERMINATE_HOOK,
            "EC2InstanceId": instance,
            "LifecycleTransition": "autoscaling:EC2_INSTANCE_TERMINATING",
            "Origin": "AutoScalingGroup",
            "Destination": "EC2",
        },
    })
}
