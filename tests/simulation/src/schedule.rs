//! Describes what happens in one simulation. A schedule is generated from a seed or written manually, and is reduced when an invariant is
//! violated. No I/O.

mod random;

use stagedoor_lab_core::faults::{Fault, FaultKind};
use stagedoor_lab_puppet::RunScript;

use crate::watch::CONTROLLER;

/// The complete description of one simulation: the same schedule produces the same trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The seed of everything that the schedule does not specify: delays and the jitter of retries.
    pub seed: u64,
    /// The instances.
    pub lives: Vec<Life>,
    /// The faults of calls.
    pub faults: Vec<Fault>,
    /// The services that are unavailable for some time.
    pub outages: Vec<Outage>,
    /// The invocations that are killed: the number of each, from 0, and after how many steps of its future.
    pub kills: Vec<(u32, u32)>,
    /// Certificate requests from strangers.
    pub strangers: Vec<Stranger>,
    /// Events that AWS never sent. They say that an instance is terminating.
    pub forged: Vec<Forged>,
    /// The properties of the site.
    pub site: SiteTraits,
    /// How long the simulation runs, in seconds.
    pub horizon_s: u64,
    /// The time from which the simulation may end early, as soon as everything has been dealt with, in seconds; `None`: never.
    pub quiet_from_s: Option<u64>,
}

/// A time in which every call of a service fails in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The service, as the journal names it.
    pub service: String,
    /// How its calls fail.
    pub kind: FaultKind,
    /// When it begins, in seconds.
    pub from_s: u64,
    /// How long it lasts, in seconds.
    pub lasts_s: u64,
}

/// Properties of a site that differ from an ordinary site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent properties of a site")]
pub struct SiteTraits {
    /// How far the controller's clock is ahead of all other clocks, in seconds.
    pub controller_ahead_s: i64,
    /// How far the CA's clock is ahead, in seconds.
    pub ca_ahead_s: i32,
    /// How far PuppetDB's clock is ahead, in seconds. Puppet Server's clock must not differ from it by more than ten.
    pub puppetdb_ahead_s: i32,
    /// Whether the CA accepts requests for names that already have a certificate.
    pub duplicates: bool,
    /// The release of the servers.
    pub servers: Release,
    /// How many nodes of another Region use the same CA.
    pub foreign: u32,
    /// Whether the certificate file of one of these nodes is damaged.
    pub damaged: bool,
    /// When the challenge in the secret is replaced, in seconds.
    pub rotated_s: Option<u64>,
    /// Whether Auto Scaling throttles calls.
    pub throttled: bool,
    /// How many attempts to complete each action fail because the action is not visible yet.
    pub race_calls: u32,
    /// How long PuppetDB's queue holds commands, in milliseconds.
    pub queue_ms: u64,
    /// How long it takes until EC2 shows a new instance, in seconds.
    pub ec2_lag_s: u64,
    /// The heartbeat timeout of the hooks, in seconds; `None`: one hour.
    pub hooks_end_s: Option<u32>,
    /// Whether events reach the functions in batches, over queues as in `infra/`. Otherwise each event is one invocation.
    pub batched: bool,
    /// Whether the profile only observes.
    pub observes: bool,
    /// The services of Puppet Enterprise; `None`: an open source site.
    pub enterprise: Option<Enterprise>,
}

/// Properties of a Puppet Enterprise site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enterprise {
    /// How long the Puppet runs that the orchestrator orders take, in seconds.
    pub run_s: u32,
    /// How the Puppet runs of the primary behave, each from the given time on, in seconds.
    pub primary: Vec<(u64, RunScript)>,
    /// Whether the instances are compilers, which can run only after other hosts have learnt of them, and where PostgreSQL runs.
    pub compilers: Option<Postgresql>,
    /// Whether the hosts run Puppet only when they are ordered to: their daemons are stopped.
    pub only_ordered: bool,
    /// How long the primary's services are unavailable after a run that changed what they read, in seconds.
    pub restart_s: u64,
    /// Whether terminations wait until the refresh targets have learnt of them.
    pub awaits_removal: bool,
    /// Whether agents use the primary's services, so that reports that are sent while these restart are lost.
    pub needs_primary: bool,
    /// How long the run of a compiler waits for its PuppetDB, in seconds.
    pub database_wait_s: u64,
    /// When the RBAC token expires, and how long after that the secret gets a new one, in seconds.
    pub token_expires_s: Option<(u64, u64)>,
}

/// Where the PostgreSQL of the compilers' PuppetDB is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Postgresql {
    /// On the primary.
    OnPrimary,
    /// On a host of its own, which must run before the primary.
    OnItsOwn,
}

/// A release of Puppet's servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// Puppet Server 7.9.
    Puppet7,
    /// Puppet Server 8.7, which considers a name issued while the inventory lists it.
    #[default]
    Puppet8,
}

/// The life of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The number from which the instance id is derived.
    pub number: u32,
    /// The number from which the name is derived. A later instance may have the same name.
    pub name: u32,
    /// Whether the instance is in a second Region, which has a controller of its own.
    pub elsewhere: bool,
    /// When the instance is launched, in seconds; `None`: it is in service from the beginning.
    pub launched_s: Option<u64>,
    /// How long after its launch into the warm pool the instance is needed in the group, in seconds; `None`: it is launched into the
    /// group.
    pub pooled_s: Option<u64>,
    /// How the instance ends.
    pub end: End,
    /// How the event of the launch is delivered.
    pub launch_event: Delivery,
    /// How the event of the termination is delivered.
    pub terminate_event: Delivery,
    /// How the instance's agent behaves.
    pub agent: Habits,
}

/// The number of failing runs of an instance whose runs never succeed.
pub const NEVER: u32 = 1000;

/// How an instance ends; times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The instance stays in service.
    Stays,
    /// Auto Scaling terminates the instance, with its hooks.
    Terminated(u64),
    /// The instance is gone at once, without hooks.
    Killed(u64),
    /// The instance stays, but its root volume is replaced, so its key is lost.
    Replaced(u64),
    /// Auto Scaling terminates the instance, with its hooks, but EC2 reclaims it two minutes later: a Spot Instance.
    Reclaimed(u64),
    /// The instance goes back to the warm pool and stays there.
    Returned(u64),
}

/// How an event is delivered; times in milliseconds after the action began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The event is lost.
    Lost,
    /// The event arrives after this time.
    After(u64),
    /// The event arrives twice, at these times.
    Twice(u64, u64),
}

/// How an agent behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Habits {
    /// How long the instance takes to boot, in seconds.
    pub boot_s: u64,
    /// The pause before the agent submits its request again, in seconds.
    pub wait_for_cert_s: u64,
    /// How long a Puppet run takes, in seconds.
    pub run_s: u64,
    /// How many of the first runs fail. An instance whose runs never succeed is not fit.
    pub failing_runs: u32,
    /// How far the instance's clock is ahead, in seconds.
    pub clock_ahead_s: i64,
    /// How long after receiving its certificate the agent sends its request again, in seconds; `None`: never.
    pub repeats_request_s: Option<u64>,
    /// The pause between runs, in seconds.
    pub interval_s: u64,
    /// After how long the instance boots once more, in seconds; `None`: never.
    pub reboots_s: Option<u64>,
    /// How long after the end of the instance a late report of it arrives, in seconds; `None`: none does.
    pub late_report_s: Option<u64>,
}

/// An event that AWS never sent. It says that an instance is terminating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged {
    /// When the event arrives, in seconds.
    pub at_s: u64,
    /// The number of the instance.
    pub number: u32,
}

/// A certificate request from a stranger who can reach port 8140.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// When the request is sent, in seconds.
    pub at_s: u64,
    /// The number of the requested name.
    pub name: u32,
    /// The number of the instance that the stranger claims to be.
    pub claims: Option<u32>,
}

impl Schedule {
    /// Whether nothing is wrong with the refresh targets, and they have time for two runs before the timeout of a refresh.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        let healthy = |enterprise: &Enterprise| {
            enterprise.primary.is_empty() && enterprise.token_expires_s.is_none() && enterprise.run_s <= 300
        };
        self.faults.is_empty()
            && self.outages.is_empty()
            && self.kills.is_empty()
            && self.site.enterprise.as_ref().is_none_or(healthy)
    }

    /// Smaller schedules: in each, one thing is removed.
    #[must_use]
    pub fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut without = |count: usize, remove: &dyn Fn(&mut Self, usize)| {
            for index in 0..count {
                let mut smaller = self.clone();
                remove(&mut smaller, index);
                all.push(smaller);
            }
        };
        without(self.lives.len(), &|schedule, index| {
            schedule.lives.remove(index);
        });
        without(self.faults.len(), &|schedule, index| {
            schedule.faults.remove(index);
        });
        without(self.outages.len(), &|schedule, index| {
            schedule.outages.remove(index);
        });
        without(self.kills.len(), &|schedule, index| {
            schedule.kills.remove(index);
        });
        without(self.strangers.len(), &|schedule, index| {
            schedule.strangers.remove(index);
        });
        without(self.forged.len(), &|schedule, index| {
            schedule.forged.remove(index);
        });
        without(self.lives.len(), &|schedule, index| schedule.lives[index].elsewhere = false);
        without(self.lives.len(), &|schedule, index| schedule.lives[index].pooled_s = None);
        without(self.lives.len(), &|schedule, index| schedule.lives[index].agent.late_report_s = None);
        without(self.lives.len(), &|schedule, index| schedule.lives[index].agent.reboots_s = None);
        without(self.lives.len(), &|schedule, index| schedule.lives[index].agent.clock_ahead_s = 0);
        let simple: [fn(&mut SiteTraits); 16] = [
            |site| site.controller_ahead_s = 0,
            |site| site.ca_ahead_s = 0,
            |site| site.puppetdb_ahead_s = 0,
            |site| site.duplicates = false,
            |site| site.servers = Release::default(),
            |site| site.foreign = 0,
            |site| site.damaged = false,
            |site| site.rotated_s = None,
            |site| site.throttled = false,
            |site| site.race_calls = 0,
            |site| site.queue_ms = 0,
            |site| site.ec2_lag_s = 0,
            |site| site.hooks_end_s = None,
            |site| site.enterprise = None,
            |site| site.observes = false,
            |site| site.batched = false,
        ];
        without(simple.len(), &|schedule, index| simple[index](&mut schedule.site));
        all.retain(|smaller| smaller != self);
        all
    }
}

impl Life {
    /// An instance that is launched, enrolled and terminated without anything unusual.
    #[must_use]
    pub fn ordinary(number: u32) -> Self {
        Self {
            number,
            name: number,
            elsewhere: false,
            launched_s: Some(10),
            pooled_s: None,
            end: End::Terminated(1200),
            launch_event: Delivery::After(500),
            terminate_event: Delivery::After(500),
            agent: Habits {
                boot_s: 30,
                wait_for_cert_s: 15,
                run_s: 40,
                failing_runs: 0,
                clock_ahead_s: 0,
                repeats_request_s: None,
                interval_s: 1800,
                reboots_s: None,
                late_report_s: None,
            },
        }
    }

    /// Whether the group must have a warm pool for this instance.
    #[must_use]
    pub fn needs_pool(&self) -> bool {
        self.pooled_s.is_some() || matches!(self.end, End::Returned(_))
    }

    /// The instance's id.
    #[must_use]
    pub fn id(&self) -> String {
        instance_id(self.number)
    }

    /// The number of the instance's Region.
    #[must_use]
    pub fn region(&self) -> usize {
        usize::from(self.elsewhere)
    }

    /// Whether nothing on the instance's own side prevents its launch from succeeding.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.agent.failing_runs < NEVER
    }

    /// How many changes refresh targets must learn of: launches and removals.
    #[must_use]
    pub fn changes(&self) -> usize {
        let launches = usize::from(self.launched_s.is_some()) + usize::from(self.pooled_s.is_some());
        let ends = match self.end {
            End::Stays if self.is_fit() => 0,
            End::Stays | End::Returned(_) | End::Terminated(_) | End::Killed(_) | End::Reclaimed(_) => 1,
            End::Replaced(_) => 2,
        };
        launches + ends + usize::from(self.agent.late_report_s.is_some())
    }

    /// Whether the instance is expected to be in service at the end.
    #[must_use]
    pub fn stays(&self) -> bool {
        matches!(self.end, End::Stays | End::Replaced(_) | End::Returned(_))
    }

    /// The instance's name.
    #[must_use]
    pub fn certname(&self) -> String {
        certname(self.name)
    }
}

pub(crate) fn instance_id(number: u32) -> String {
    format!("i-{number:017x}")
}

/// The number of the name of the controller's own certificate.
pub const CONTROLLERS_NAME: u32 = 60_000;

pub(crate) fn certname(number: u32) -> String {
    if number == CONTROLLERS_NAME {
        return CONTROLLER.to_owned();
    }
    format!("ip-10-0-{}-{}.ec2.internal", number / 250, number % 250 + 1)
}

pub(crate) fn address(number: u32) -> String {
    format!("10.0.{}.{}", number / 250, number % 250 + 1)
}

/// The calls that faults can affect.
pub const CALLS: [(&str, &str); 20] = [
    ("autoscaling", "DescribeAutoScalingGroups"),
    ("autoscaling", "DescribeLifecycleHooks"),
    ("autoscaling", "DescribeScalingActivities"),
    ("autoscaling", "DescribeWarmPool"),
    ("autoscaling", "CompleteLifecycleAction"),
    ("autoscaling", "RecordLifecycleActionHeartbeat"),
    ("ec2", "DescribeInstances"),
    ("secretsmanager", "GetSecretValue"),
    ("ca", "GET /puppet-ca/v1/certificate/{certname}"),
    ("ca", "GET /puppet-ca/v1/certificate_request/{certname}"),
    ("ca", "GET /puppet-ca/v1/certificate_revocation_list/ca"),
    ("ca", "GET /puppet-ca/v1/certificate_status/{certname}"),
    ("ca", "GET /puppet-ca/v1/certificate_statuses*"),
    ("ca", "GET /puppet-ca/v1/expirations"),
    ("ca", "PUT /puppet-ca/v1/certificate_status/{certname}"),
    ("ca", "PUT /puppet-ca/v1/clean"),
    ("ca", "DELETE /puppet-ca/v1/certificate_request/{certname}"),
    ("ca", "POST /puppet-ca/v1/sign"),
    ("puppetdb", "POST /pdb/cmd/v1*"),
    ("puppetdb", "*"),
];

/// The calls of agents that faults can affect.
pub const AGENTS_CALLS: [(&str, &str); 3] = [
    ("agent", "PUT /puppet-ca/v1/certificate_request/{certname}"),
    ("agent", "GET /puppet-ca/v1/certificate/{certname}"),
    ("agent", "PUT /puppet/v3/*"),
];

/// The calls of Puppet Enterprise's services that faults can affect.
pub const ENTERPRISE_CALLS: [(&str, &str); 5] = [
    ("orchestrator", "POST /orchestrator/v1/command/deploy"),
    ("orchestrator", "*"),
    ("classifier", "POST /classifier-api/v1/groups/{id}/pin"),
    ("classifier", "POST /classifier-api/v1/commands/unpin-from-all"),
    ("classifier", "*"),
];

/// The ways in which a call can fail. Each is a list of faults that affect the same call.
#[must_use]
pub fn failures() -> Vec<Vec<FaultKind>> {
    let status = |status, body: &str| FaultKind::Status { status, body: body.to_owned(), content_type: None };
    let lock_timeout = status(500, "Internal Server Error: {:kind :lock-acquisition-timeout}");
    vec![
        vec![FaultKind::Reset],
        vec![FaultKind::Cut],
        vec![FaultKind::Delay { ms: 1_000 }],
        vec![FaultKind::Delay { ms: 75_000 }],
        vec![lock_timeout.clone()],
        // The CA waits a minute for its lock before it answers with this status.
        vec![FaultKind::Delay { ms: 60_000 }, lock_timeout],
        vec![status(503, "Service Unavailable")],
        vec![status(429, "Too Many Requests")],
    ]
}
