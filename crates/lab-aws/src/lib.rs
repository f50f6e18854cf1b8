//! The lab's simulated AWS: Auto Scaling, EC2, Secrets Manager and SNS behind one HTTP endpoint, as behind
//! `AWS_ENDPOINT_URL`. No I/O of its own: [`stagedoor_lab_core::server`] hands requests in.

mod autoscaling;
mod bucket;
mod ec2;
mod events;
mod lifecycle;
mod passage;
mod refresh;
pub mod scene;
mod secrets;
mod sns;
#[cfg(test)]
mod tests;
mod wire;
mod world;
mod xml;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};
use stagedoor_lab_core::clock::Clock;
use stagedoor_lab_core::server::{Call, Reply, Request, Service};

use bucket::Bucket;
pub use events::Event;
pub use lifecycle::{Begun, Launch, Terminate};
use scene::{AwsScene, Settings};
pub use wire::error_answer;
use wire::{Ask, AwsError, Target};
use world::World;
pub use world::{ACCOUNT, Message};

/// The simulated AWS. Clones share one world.
#[derive(Clone, Debug)]
pub struct Aws {
    clock: Clock,
    inner: Arc<Mutex<Inner>>,
}

/// An instance as EC2 shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The instance's id.
    pub id: String,
    /// The Auto Scaling group that it is in, or was in.
    pub group: Option<String>,
    /// When it was launched.
    pub launched: Timestamp,
    /// When its termination began.
    pub terminated: Option<Timestamp>,
    /// Its own tags.
    pub tags: BTreeMap<String, String>,
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping` or `stopped`.
    pub state: &'static str,
    /// The private IPv4 address; none in a subnet with IPv6 alone.
    pub private_ip: Option<String>,
    /// The IPv6 address, if it has one.
    pub ipv6: Option<String>,
    /// The private DNS name.
    pub private_dns: String,
    /// How many root volumes it has had, this one included.
    pub root_volumes: u32,
}

#[derive(Debug)]
struct Inner {
    world: World,
    bucket: Bucket,
}

impl Aws {
    /// An AWS in which nothing exists.
    #[must_use]
    pub fn new(region: &str, clock: Clock) -> Self {
        let inner = Inner { world: World::empty(region.to_owned()), bucket: Bucket::default() };
        Self { clock, inner: Arc::new(Mutex::new(inner)) }
    }

    /// Replaces everything by the scene's groups, instances, secrets, topics and settings.
    ///
    /// # Errors
    /// Says what in the scene cannot be; then nothing has changed.
    pub fn set_scene(&self, scene: &AwsScene) -> anyhow::Result<()> {
        let mut inner = self.lock();
        inner.bucket = Bucket::default();
        inner.world.set(scene, self.clock.now())
    }

    /// Changes how the simulated AWS behaves.
    pub fn set(&self, settings: Settings) {
        let mut inner = self.lock();
        inner.bucket = Bucket::default();
        inner.world.settings = settings;
    }

    /// The settings now in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.lock().world.settings.clone()
    }

    /// Launches an instance and answers with the events of the hooks that hold it.
    ///
    /// # Errors
    /// Says what stands against it.
    pub fn launch(&self, group: &str, launch: &Launch) -> anyhow::Result<Begun> {
        self.lock().world.launch(group, launch, self.clock.now())
    }

    /// Terminates an instance and answers with the events of the hooks that hold it.
    ///
    /// # Errors
    /// Says what stands against it.
    pub fn terminate(&self, instance_id: &str, how: &Terminate) -> anyhow::Result<Begun> {
        self.lock().world.terminate(instance_id, how, self.clock.now())
    }

    /// Replaces the root volume of an instance in service, as an instance refresh with the strategy `ReplaceRootVolume`
    /// does: through the terminating hooks (`ReplacingRootVolume:Wait`) and then through the launching ones
    /// (`Pending:Wait`). Answers with the events of the former; [`Aws::events`] has the latter.
    ///
    /// # Errors
    /// Says what stands against it.
    pub fn replace_root_volume(&self, instance_id: &str) -> anyhow::Result<Begun> {
        self.lock().world.replace_root_volume(instance_id, self.clock.now())
    }

    /// EC2 takes back a Spot Instance: it is terminated at once and does not wait for lifecycle hooks, whose actions Auto Scaling still
    /// shows (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-interruptions.html>).
    ///
    /// # Errors
    /// There is no such instance.
    pub fn reclaim(&self, instance_id: &str) -> anyhow::Result<()> {
        self.lock().world.reclaim(instance_id, self.clock.now())
    }

    /// The lifecycle actions that timed out since the scene was set: the instance and the hook of each.
    #[must_use]
    pub fn timed_out(&self) -> Vec<(String, String)> {
        let mut inner = self.lock();
        inner.world.settle(self.clock.now());
        inner.world.timed_out.clone()
    }

    /// The Auto Scaling lifecycle state of an instance, `Terminated` once it is gone; `None`: never heard of.
    #[must_use]
    pub fn lifecycle_state(&self, instance_id: &str) -> Option<String> {
        let mut inner = self.lock();
        inner.world.settle(self.clock.now());
        inner.world.instances.get(instance_id).map(|instance| instance.state.clone())
    }

    /// What EC2 shows of an instance: its state (`running`, `stopped`, …), its private address and DNS name; `None`:
    /// EC2 does not know it.
    #[must_use]
    pub fn machine(&self, instance_id: &str) -> Option<Machine> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        inner.world.instances.get(instance_id).and_then(|instance| shown(instance, now))
    }

    /// Every instance that EC2 shows.
    #[must_use]
    pub fn machines(&self) -> Vec<Machine> {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        inner.world.instances.values().filter_map(|instance| shown(instance, now)).collect()
    }

    /// Every lifecycle event since the scene was set, oldest first; also those that no control call answered with,
    /// as of the termination that follows an abandoned launch.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let mut inner = self.lock();
        inner.world.settle(self.clock.now());
        inner.world.events.clone()
    }

    /// What was published to a topic, oldest first.
    #[must_use]
    pub fn published(&self, topic_arn: &str) -> Vec<Message> {
        self.lock().world.topics.get(topic_arn).cloned().unwrap_or_default()
    }

    /// Makes `text` the current version of a secret, which is created if it does not exist.
    pub fn put_secret(&self, name: &str, text: SecretString) {
        self.lock().world.put_secret(name, text, self.clock.now());
    }

    /// The current text of a secret, as a caller of `GetSecretValue` gets it.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.lock().world.secrets.get(name)?.versions.last().map(|version| version.text.clone())
    }

    /// Everything but the secrets' texts, for people and for assertions.
    #[must_use]
    pub fn snapshot(&self) -> Value {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.world.settle(now);
        snapshot(&inner.world, now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(instance: &world::Instance, now: Timestamp) -> Option<Machine> {
    let (state, _) = instance.ec2_state(now)?;
    Some(Machine {
        id: instance.id.clone(),
        group: instance.group.clone(),
        launched: instance.launched,
        terminated: instance.terminated,
        tags: instance.tags.clone(),
        state,
        private_ip: instance.private_ip.clone(),
        ipv6: instance.ipv6.clone(),
        private_dns: instance.private_dns.clone(),
        root_volumes: instance.root_volumes,
    })
}

fn snapshot(world: &World, now: Timestamp) -> Value {
    let instances = world.instances.values().map(|instance| {
        let actions = instance.passage.iter().flat_map(|passage| &passage.actions).map(|action| {
            json!({
                "hook": action.hook,
                "token": action.token,
                "result": action.result,
                "times_out": action.times_out(),
            })
        });
        let body = json!({
            "group": instance.group,
            "state": instance.state,
            "ec2_state": instance.ec2_state(now).map(|(name, _)| name),
            "private_ip": instance.private_ip,
            "ipv6": instance.ipv6,
            "private_dns": instance.private_dns,
            "tags": instance.tags,
            "actions": actions.collect::<Vec<_>>(),
        });
        (instance.id.clone(), body)
    });
    let activities = world.activities.iter().map(|activity| {
        json!({
            "group": activity.group,
            "description": activity.description,
            "status": activity.status,
            "started": activity.started,
            "ended": activity.ended,
        })
    });
    let groups = world.groups.values().map(|group| {
        let hooks: Vec<_> = group.hooks.iter().map(|hook| &hook.name).collect();
        (group.name.clone(), json!({"tags": group.tags, "hooks": hooks}))
    });
    json!({
        "groups": groups.collect::<serde_json::Map<_, _>>(),
        "instances": instances.collect::<serde_json::Map<_, _>>(),
        "activities": activities.collect::<Vec<_>>(),
        "secrets": world.secrets.iter().map(|(name, secret)| json!({"name": name, "versions": secret.versions.len()})).collect::<Vec<_>>(),
        "topics": world.topics,
        "settings": world.settings,
    })
}

impl Service for Aws {
    fn describe(&self, request: &Request) -> Call {
        let ask = Ask::of(request);
        let token = ask.text("LifecycleActionToken");
        let by_token = || token.and_then(|token| self.lock().world.owner_of(token).map(str::to_owned));
        let single = |list: &str| match ask.texts(list).as_slice() {
            [only] => Some((*only).to_owned()),
            _ => None,
        };
        let named = |name: &str| ask.text(name).map(str::to_owned);
        let subject = match ask.target {
            Target::AutoScaling => named("InstanceId")
                .or_else(by_token)
                .or_else(|| named("AutoScalingGroupName"))
                .or_else(|| single("AutoScalingGroupNames"))
                .or_else(|| single("InstanceIds")),
            Target::Ec2 => single("InstanceId"),
            Target::SecretsManager => named("SecretId"),
            Target::Sns => named("TopicArn"),
            Target::Unknown => None,
        };
        let call =
            if ask.action.is_empty() { format!("{} {}", request.method, request.path) } else { ask.action.clone() };
        Call { service: ask.target.name(), call, subject, caller: None, request: ask.parameters }
    }

    async fn answer(&self, request: &Request) -> Reply {
        let ask = Ask::of(request);
        let outcome = if ask.signed { self.carry_out(&ask) } else { Err(wire::unsigned(ask.target)) };
        wire::reply(&ask, outcome)
    }
}

impl Aws {
    fn carry_out(&self, ask: &Ask) -> Result<wire::Answer, AwsError> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let Inner { world, bucket } = &mut *inner;
        match ask.target {
            Target::AutoScaling => {
                if !bucket.take(world.settings.throttle, now) {
                    return Err(AwsError::new(400, "Throttling", "Rate exceeded"));
                }
                autoscaling::answer(world, ask, now)
            }
            Target::Ec2 => ec2::answer(world, ask, now),
            Target::SecretsManager => secrets::answer(world, ask),
            Target::Sns => sns::answer(world, ask, now),
            Target::Unknown => Err(wire::not_simulated(ask)),
        }
    }
}
