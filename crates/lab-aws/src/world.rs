//! What the simulated AWS holds: groups, instances, activities, secrets, topics. No I/O.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use uuid::Uuid;

use crate::events::Event;
use crate::passage::Passage;
use crate::scene::{self, AwsScene, PoolState, Settings};

/// The account that everything belongs to.
pub const ACCOUNT: &str = "111122223333";

/// EC2 shows a terminated instance for about an hour
/// (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/terminating-instances.html>).
const TERMINATED_VISIBLE: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) region: String,
    pub(crate) settings: Settings,
    pub(crate) groups: BTreeMap<String, Group>,
    pub(crate) instances: BTreeMap<String, Instance>,
    /// Oldest first.
    pub(crate) activities: Vec<Activity>,
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Topics with what was published to them, oldest first.
    pub(crate) topics: BTreeMap<String, Vec<Message>>,
    /// Every lifecycle event since the scene was set, oldest first.
    pub(crate) events: Vec<Event>,
    /// Each lifecycle action that timed out since the scene was set: the instance and the hook.
    pub(crate) timed_out: Vec<(String, String)>,
    /// For instance ids and addresses that the lab makes up.
    pub(crate) made_up: u32,
    /// The second and third byte of made-up loopback addresses: by chance, for labs that run side by side.
    loopback_net: [u8; 2],
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) arn: String,
    pub(crate) created: Timestamp,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) hooks: Vec<scene::Hook>,
    pub(crate) warm_pool: Option<PoolState>,
    pub(crate) reuse_on_scale_in: bool,
    pub(crate) retain_on_abandon: bool,
}

#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    /// `None`: outside every group.
    pub(crate) group: Option<String>,
    /// The Auto Scaling lifecycle state; `Terminated` also for an instance that has left its group that way.
    pub(crate) state: String,
    pub(crate) passage: Option<Passage>,
    pub(crate) ec2_state: Option<String>,
    /// `None`: in a subnet with IPv6 alone.
    pub(crate) private_ip: Option<String>,
    pub(crate) ipv6: Option<String>,
    pub(crate) private_dns: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) launched: Timestamp,
    pub(crate) terminated: Option<Timestamp>,
    /// How many root volumes it has had.
    pub(crate) root_volumes: u32,
}

#[derive(Debug)]
pub(crate) struct Activity {
    pub(crate) id: String,
    pub(crate) group: String,
    pub(crate) description: String,
    pub(crate) cause: String,
    pub(crate) started: Timestamp,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) status: &'static str,
}

#[derive(Debug)]
pub(crate) struct Secret {
    pub(crate) arn: String,
    /// Oldest first; the last is `AWSCURRENT`, the one before it `AWSPREVIOUS`.
    pub(crate) versions: Vec<SecretVersion>,
}

#[derive(Debug)]
pub(crate) struct SecretVersion {
    pub(crate) id: String,
    pub(crate) text: SecretString,
    pub(crate) created: Timestamp,
}

/// A message published to a topic.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Message {
    /// `MessageId`.
    pub id: String,
    /// `Subject`.
    pub subject: Option<String>,
    /// `Message`.
    pub text: String,
    /// `MessageAttributes` that are strings.
    pub attributes: BTreeMap<String, String>,
    /// In the lab's time.
    pub published: Timestamp,
}

impl World {
    pub(crate) fn empty(region: String) -> Self {
        Self {
            region,
            settings: Settings::default(),
            groups: BTreeMap::new(),
            instances: BTreeMap::new(),
            activities: Vec::new(),
            secrets: BTreeMap::new(),
            topics: BTreeMap::new(),
            events: Vec::new(),
            timed_out: Vec::new(),
            made_up: 0,
            loopback_net: loopback_net(),
        }
    }

    /// Replaces everything by `scene`.
    pub(crate) fn set(&mut self, scene: &AwsScene, now: Timestamp) -> anyhow::Result<()> {
        let mut world = Self::empty(self.region.clone());
        world.settings = scene.settings.clone();
        for topic in &scene.topics {
            world.topics.insert(topic.clone(), Vec::new());
        }
        for (name, text) in &scene.secrets {
            world.put_secret(name, text.clone(), now);
        }
        for instance in &scene.instances {
            world.place(instance, None, now)?;
        }
        for group in &scene.groups {
            world.add_group(group, now)?;
        }
        *self = world;
        Ok(())
    }

    fn add_group(&mut self, group: &scene::Group, now: Timestamp) -> anyhow::Result<()> {
        let name = &group.name;
        let (region, id) = (&self.region, Uuid::new_v4());
        let arn = format!("arn:aws:autoscaling:{region}:{ACCOUNT}:autoScalingGroup:{id}:autoScalingGroupName/{name}");
        let made = Group {
            name: name.clone(),
            arn,
            created: now,
            tags: group.tags.clone(),
            hooks: group.hooks.clone(),
            warm_pool: group.warm_pool,
            reuse_on_scale_in: group.reuse_on_scale_in,
            retain_on_abandon: group.retain_on_abandon,
        };
        for hook in &made.hooks {
            anyhow::ensure!(
                (30..=7200).contains(&hook.heartbeat_timeout_s),
                "hook {} of group {name}: heartbeat_timeout_s is {}, AWS takes 30 to 7200",
                hook.name,
                hook.heartbeat_timeout_s
            );
        }
        anyhow::ensure!(self.groups.insert(name.clone(), made).is_none(), "group {name} is in the scene twice");
        for instance in &group.instances {
            self.place(instance, Some(name), now)?;
        }
        Ok(())
    }

    fn place(&mut self, from: &scene::Instance, group: Option<&str>, now: Timestamp) -> anyhow::Result<()> {
        let id = &from.id;
        anyhow::ensure!(is_instance_id(id), "{id:?} is not an instance id (i- and 8 or 17 hexadecimal digits)");
        anyhow::ensure!(!self.instances.contains_key(id), "instance {id} is in the scene twice");
        let default_state = if group.is_some() { "InService" } else { "" };
        let state = from.state.clone().unwrap_or_else(|| default_state.to_owned());
        let gone = state == "Terminated" || from.ec2_state.as_deref() == Some("terminated");
        let mut instance = self.new_instance(from, group);
        instance.launched = from.launch_time.unwrap_or(now - SignedDuration::from_hours(1));
        instance.state = state;
        instance.terminated = gone.then_some(now);
        self.instances.insert(id.clone(), instance);
        if group.is_some() {
            self.resume_passage(from, now)?;
        }
        Ok(())
    }

    /// An instance with what the scene leaves out made up; its state and times still to be set.
    pub(crate) fn new_instance(&mut self, from: &scene::Instance, group: Option<&str>) -> Instance {
        self.made_up += 1;
        let n = self.made_up;
        let private_ip = from.private_ip.clone().unwrap_or_else(|| self.make_up_address(n));
        let private_ip = (!from.ipv6_only).then_some(private_ip);
        let private_dns = from.private_dns.clone().unwrap_or_else(|| self.dns_name(private_ip.as_deref(), &from.id));
        Instance {
            id: from.id.clone(),
            group: group.map(str::to_owned),
            state: String::new(),
            passage: None,
            ec2_state: from.ec2_state.clone(),
            private_ip,
            ipv6: from.ipv6.clone(),
            private_dns,
            tags: from.tags.clone(),
            launched: Timestamp::UNIX_EPOCH,
            terminated: None,
            root_volumes: 1,
        }
    }

    fn make_up_address(&self, n: u32) -> String {
        let (high, low) = (n / 250 % 250, n % 250 + 4);
        if self.settings.loopback_addresses {
            let [second, third] = self.loopback_net;
            format!("127.{second}.{}.{low}", (u32::from(third) + high) % 256)
        } else {
            format!("10.200.{high}.{low}")
        }
    }

    /// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-naming.html>
    /// Without an IPv4 address it is the resource name.
    fn dns_name(&self, ip: Option<&str>, id: &str) -> String {
        let host = ip.map_or_else(|| id.to_owned(), |ip| format!("ip-{}", ip.replace('.', "-")));
        match self.region.as_str() {
            "us-east-1" => format!("{host}.ec2.internal"),
            region => format!("{host}.{region}.compute.internal"),
        }
    }

    /// The first availability zone of the Region; everything is there.
    pub(crate) fn zone(&self) -> String {
        format!("{}a", self.region)
    }

    /// Makes `text` the current version of a secret, which is created if it does not exist.
    pub(crate) fn put_secret(&mut self, name: &str, text: SecretString, now: Timestamp) {
        let region = &self.region;
        let secret = self.secrets.entry(name.to_owned()).or_insert_with(|| {
            let suffix: String = Uuid::new_v4().simple().to_string().chars().take(6).collect();
            let arn = format!("arn:aws:secretsmanager:{region}:{ACCOUNT}:secret:{name}-{suffix}");
            Secret { arn, versions: Vec::new() }
        });
        secret.versions.push(SecretVersion { id: Uuid::new_v4().to_string(), text, created: now });
    }

    /// The instances that `group` shows, in order of id.
    pub(crate) fn members<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances.values().filter(move |instance| instance.group.as_deref() == Some(group) && instance.in_group())
    }
}

impl Instance {
    /// Whether its group still lists it.
    pub(crate) fn in_group(&self) -> bool {
        self.group.is_some() && !matches!(self.state.as_str(), "Terminated" | "Detached")
    }

    /// The instance state and its code as EC2 shows it; `None`: EC2 does not know the instance (any more).
    pub(crate) fn ec2_state(&self, now: Timestamp) -> Option<(&'static str, u16)> {
        if self.terminated.is_some_and(|at| now.duration_since(at) >= TERMINATED_VISIBLE) {
            return None;
        }
        let implied = match self.state.as_str() {
            _ if self.terminated.is_some() => "terminated",
            "Pending" | "Warmed:Pending" => "pending",
            "Warmed:Stopped" | "Warmed:Hibernated" => "stopped",
            "Terminating" | "Terminating:Proceed" | "Warmed:Terminating" | "Warmed:Terminating:Proceed" => {
                "shutting-down"
            }
            _ => "running",
        };
        let shown = match (implied, self.ec2_state.as_deref()) {
            ("terminated", _) | (_, None) => implied,
            (_, Some(other)) => other,
        };
        Some(match shown {
            "pending" => ("pending", 0),
            "running" => ("running", 16),
            "shutting-down" => ("shutting-down", 32),
            "terminated" => ("terminated", 48),
            "stopping" => ("stopping", 64),
            "stopped" => ("stopped", 80),
            _ => return None,
        })
    }
}

/// 127.0 and 127.1 are for people.
fn loopback_net() -> [u8; 2] {
    let [second, third, ..] = *Uuid::new_v4().as_bytes();
    [second.max(2), third]
}

/// An instance id that nothing has had yet.
pub(crate) fn make_up_id() -> String {
    let hex = Uuid::new_v4().simple().to_string();
    format!("i-0{}", &hex[..16])
}

/// Whether this is the form of an instance id.
pub(crate) fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-").is_some_and(|digits| {
        matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A time as the XML protocols write it.
pub(crate) fn iso(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
