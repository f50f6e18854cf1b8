//! The shared context of every invocation: configuration, service clients and clock. The clients do the I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use stagedoor_aws::autoscaling::AutoScaling;
use stagedoor_aws::secrets::Secret;
use stagedoor_aws::sns::Topic;
use stagedoor_aws::{Error as AwsError, SdkConfig};
use stagedoor_lifecycle::profile::{Profile, Protected};
use stagedoor_puppet::{
    Ca, CaAdmin, Classifier, ClassifierAdmin, Credentials, FileSync, Network, Orchestrator, OrchestratorAdmin,
    PuppetDb, PuppetDbAdmin, ServerDate, Transport,
};
use stagedoor_types::{GroupName, InstanceId, Machine, ProfileName, Service, Trouble, TroubleKind, WritePermit};
use tokio::sync::Mutex;

use crate::budget::Budget;
use crate::config::Config;
use crate::memory::Memory;

/// Shared context of every invocation: configuration, service clients and clock.
#[derive(Debug)]
pub struct Context {
    /// What it is to do.
    pub(crate) config: Arc<Config>,
    /// EC2 Auto Scaling.
    pub(crate) autoscaling: AutoScaling,
    /// EC2.
    pub(crate) machines: Arc<dyn Instances>,
    /// The Puppet services.
    pub(crate) puppet: PuppetSite,
    /// The topic that outcomes are published to, if there is one; none where every profile only observes.
    pub(crate) topic: Option<Topic>,
    /// The deployed function's name: the value of the dimension `Function` of its metrics.
    pub deployed_as: Option<String>,
    /// What is remembered between invocations.
    pub(crate) memory: Memory,
    /// The time.
    pub clock: Clock,
}

impl Context {
    /// A context with the clients that this configuration names. Makes no call yet.
    #[must_use]
    pub fn new(config: Config, aws: &SdkConfig, machines: Arc<dyn Instances>, clock: Clock) -> Self {
        let config = Arc::new(config);
        Self {
            autoscaling: AutoScaling::new(aws),
            machines,
            puppet: PuppetSite::new(&config, aws),
            topic: config.topic.as_ref().filter(|_| config.acts()).map(|arn| Topic::new(aws, arn)),
            config,
            deployed_as: None,
            memory: Memory::default(),
            clock,
        }
    }

    /// The same over another network to Puppet and the nodes than sockets. (That to AWS is the
    /// [`http_client`](SdkConfig::http_client) of the SDK's configuration.)
    #[must_use]
    pub fn over(mut self, network: Arc<dyn Network>) -> Self {
        self.puppet.network = Some(network);
        self
    }

    /// The profile with this name.
    pub(crate) fn profile(&self, name: &ProfileName) -> Option<Arc<Profile>> {
        self.config.profiles.get(name).cloned()
    }
}

/// One invocation: the shared context, and until when it may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) context: &'a Context,
    pub(crate) budget: Budget,
    /// Whether it is a sweep, of which one runs at a time.
    pub(crate) sweeps: bool,
}

impl Run<'_> {
    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        self.context.clock.now()
    }
}

/// EC2, behind a trait because its SDK takes minutes to compile: only the functions, which bring the real client, wait
/// for it.
pub trait Instances: Send + Sync + std::fmt::Debug {
    /// The instances with these ids; unknown ones are missing from the answer.
    fn machines<'a>(&'a self, instances: &'a [InstanceId]) -> BoxFuture<'a, Result<Vec<Machine>, AwsError>>;

    /// All instances of these Auto Scaling groups, a thousand in one call.
    fn machines_of<'a>(&'a self, groups: &'a [GroupName]) -> BoxFuture<'a, Result<Vec<Machine>, AwsError>>;
}

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where the time comes in")]
    pub fn system() -> Self {
        Self::from(Timestamp::now)
    }

    /// A clock that asks this function.
    pub fn from(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// How long ago that was.
    pub(crate) fn since(&self, start: Timestamp) -> Duration {
        Duration::try_from(self.now().duration_since(start)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// By how much the clocks of Puppet's services are ahead of ours, as last measured. They outlive the clients, and an invocation.
#[derive(Debug, Default)]
pub(crate) struct Clocks(std::sync::Mutex<BTreeMap<Service, SignedDuration>>);

/// A difference that is smaller is none: the header `Date` has whole seconds, and an answer takes its time.
const EXACT: SignedDuration = SignedDuration::from_secs(5);
/// A greater difference is logged.
const TOO_MUCH: SignedDuration = SignedDuration::from_secs(60);

impl Clocks {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Service, SignedDuration>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// By how much the clock of this service is ahead of ours; `None` if it was never measured.
    pub(crate) fn ahead(&self, service: Service) -> Option<SignedDuration> {
        self.lock().get(&service).copied()
    }

    /// Takes in a measurement. One that does not differ from the last one changes nothing, so that times stay as they are.
    pub(crate) fn measured(&self, service: Service, ahead: SignedDuration) {
        let ahead = if ahead.abs() < EXACT { SignedDuration::ZERO } else { ahead };
        let mut clocks = self.lock();
        if clocks.get(&service).is_some_and(|known| known.saturating_sub(ahead).abs() < EXACT) {
            return;
        }
        clocks.insert(service, ahead);
        if ahead.abs() > TOO_MUCH {
            let (seconds, way) = (ahead.abs().as_secs(), if ahead.is_negative() { "behind" } else { "ahead of" });
            tracing::warn!(
                clock_skew_s = ahead.as_secs(),
                "the clock of {service} is {seconds} s {way} the controller's: synchronize it"
            );
        }
    }

    /// The greatest difference, in seconds: the metric `ClockSkewSeconds`. `None` if nothing was measured.
    pub(crate) fn greatest(&self) -> Option<i64> {
        self.lock().values().map(|ahead| ahead.abs().as_secs()).max()
    }
}

/// The Puppet services of one site, whose clients are made of a secret that may be rotated at any time.
pub(crate) struct PuppetSite {
    secret: Secret,
    config: Arc<Config>,
    /// What is in the place of sockets.
    network: Option<Arc<dyn Network>>,
    pub(crate) clocks: Arc<Clocks>,
    made: Mutex<Option<Arc<Puppet>>>,
}

impl std::fmt::Debug for PuppetSite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PuppetSite").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// Clients made of one reading of the secret.
#[derive(Debug)]
pub(crate) struct Puppet {
    /// Reads of the CA.
    pub(crate) ca: Ca,
    /// Reads of PuppetDB.
    pub(crate) puppetdb: PuppetDb,
    /// Reads of the orchestrator, where there is one.
    pub(crate) orchestrator: Option<Orchestrator>,
    /// Reads of the node classifier, where there is one.
    pub(crate) classifier: Option<Classifier>,
    /// Reads of file sync on the CA's host, which is Puppet Enterprise's primary. Where there is none, it says so.
    pub(crate) file_sync: FileSync,
    /// What connections to the nodes' own services are made of.
    pub(crate) transport: Transport,
    /// The `challengePassword` that instances are given, if they are given one.
    pub(crate) challenges: Challenges,
    /// Names that are never purged, the controller's own certificate among them.
    pub(crate) protected: Protected,
    /// The clocks of these services.
    pub(crate) clocks: Arc<Clocks>,
    /// The reading of the secret that these were made of.
    reading: u64,
}

/// The `challengePassword` of requests, if the secret has one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Challenges {
    /// The one that instances are given.
    pub(crate) current: Option<SecretString>,
    /// The one that they were given before a rotation.
    pub(crate) previous: Option<SecretString>,
}

/// The clients that change something. Only [`Puppet::writer`] makes them, for a permit of the mode of an item's profile.
#[derive(Debug)]
pub(crate) struct PuppetWriter {
    /// Writes of the CA.
    pub(crate) ca: CaAdmin,
    /// Writes of PuppetDB.
    pub(crate) puppetdb: PuppetDbAdmin,
    /// Orders to the orchestrator.
    pub(crate) orchestrator: Option<OrchestratorAdmin>,
    /// Writes of the node classifier.
    pub(crate) classifier: Option<ClassifierAdmin>,
}

impl Puppet {
    /// Compares the CA's clock with ours, by the newest of its answers after the one of `before`; `now` is our time.
    pub(crate) fn compare_clock(&self, before: Option<ServerDate>, now: Timestamp) {
        if let Some(date) = self.ca.date().filter(|date| before.is_none_or(|before| date.came > before.came)) {
            self.clocks.measured(Service::Ca, date.ahead(now));
        }
    }

    /// Whether it is Puppet Enterprise, which gives agents the CRL of the infrastructure alone: only it has an orchestrator and a
    /// node classifier. (Only there is `enable-infra-crl` on by default.)
    pub(crate) fn is_enterprise(&self) -> bool {
        self.orchestrator.is_some() || self.classifier.is_some()
    }

    /// The clients that change something.
    pub(crate) fn writer(&self, permit: WritePermit) -> PuppetWriter {
        let orchestrator = self.orchestrator.clone();
        let classifier = self.classifier.clone();
        PuppetWriter {
            ca: CaAdmin::new(self.ca.clone(), permit),
            puppetdb: PuppetDbAdmin::new(self.puppetdb.clone(), permit),
            orchestrator: orchestrator.map(|orchestrator| OrchestratorAdmin::new(orchestrator, permit)),
            classifier: classifier.map(|classifier| ClassifierAdmin::new(classifier, permit)),
        }
    }
}

impl PuppetSite {
    fn new(config: &Arc<Config>, aws: &SdkConfig) -> Self {
        Self {
            secret: Secret::new(aws, &config.secret),
            config: config.clone(),
            network: None,
            clocks: Arc::default(),
            made: Mutex::new(None),
        }
    }

    /// The clients, made of the secret as it was at most five minutes ago; or why there are none.
    pub(crate) async fn open(&self, now: Timestamp) -> Result<Arc<Puppet>, Trouble> {
        let reading = self.secret.read(now).await.map_err(|error| Trouble::of(Service::SecretsManager, &error))?;
        let number = reading.number;
        if let Ok(puppet) = self.make(reading).await {
            return Ok(puppet);
        }
        // It may have been corrected since it was read.
        self.read_again(number, now).await
    }

    /// Why the secret in use is older than it should be, if it is.
    pub(crate) async fn outdated(&self) -> Option<Trouble> {
        Some(Trouble::of(Service::SecretsManager, &self.secret.outdated().await?))
    }

    /// The clients made of a new reading of the secret, after those of `refused` were refused by Puppet, or a request had another
    /// challenge.
    pub(crate) async fn reopen(&self, refused: &Puppet, now: Timestamp) -> Result<Arc<Puppet>, Trouble> {
        self.read_again(refused.reading, now).await
    }

    async fn read_again(&self, number: u64, now: Timestamp) -> Result<Arc<Puppet>, Trouble> {
        let reading = self.secret.read_again(number, now).await;
        self.make(reading.map_err(|error| Trouble::of(Service::SecretsManager, &error))?).await
    }

    async fn make(&self, reading: stagedoor_aws::secrets::Reading) -> Result<Arc<Puppet>, Trouble> {
        let mut made = self.made.lock().await;
        if let Some(made) = made.as_ref().filter(|made| made.reading == reading.number) {
            return Ok(made.clone());
        }
        let name = &self.config.secret;
        let unusable = |error: &dyn std::fmt::Display| Trouble {
            kind: TroubleKind::Unusable,
            service: Service::SecretsManager,
            text: format!("the secret {name} cannot be used: {error}"),
        };
        let credentials = Credentials::from_json(&reading.text).map_err(|error| unusable(&error))?;
        let mut transport = credentials.transport().map_err(|error| unusable(&error))?;
        if let Some(network) = &self.network {
            transport = transport.over(network.clone());
        }
        let ca = Ca::new(&transport, &self.config.ca);
        let puppetdb = PuppetDb::new(&transport, &self.config.puppetdb);
        let orchestrator = self.config.orchestrator.as_ref().map(|url| Orchestrator::new(&transport, url));
        let classifier = self.config.classifier.as_ref().map(|url| Classifier::new(&transport, url));
        let file_sync = FileSync::new(&transport, &self.config.ca);
        let protected = self.config.protected.clone().and(transport.certname());
        let challenges = Challenges { current: credentials.challenge, previous: credentials.previous_challenge };
        let (clocks, reading) = (self.clocks.clone(), reading.number);
        let puppet = Puppet {
            ca,
            puppetdb,
            orchestrator,
            classifier,
            file_sync,
            transport,
            challenges,
            protected,
            clocks,
            reading,
        };
        let puppet = Arc::new(puppet);
        *made = Some(puppet.clone());
        Ok(puppet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_difference_of_clocks_is_none_and_a_measurement_that_is_as_good_as_the_last_changes_nothing() {
        let clocks = Clocks::default();
        assert_eq!((clocks.ahead(Service::Ca), clocks.greatest()), (None, None));
        for (measured, known) in [(2, 0), (-4, 0), (-150, -150), (-147, -150), (-144, -144), (1, 0)] {
            clocks.measured(Service::Ca, SignedDuration::from_secs(measured));
            assert_eq!(clocks.ahead(Service::Ca), Some(SignedDuration::from_secs(known)), "{measured}");
        }
        clocks.measured(Service::PuppetDb, SignedDuration::from_secs(-90));
        assert_eq!(clocks.greatest(), Some(90));
    }
}
