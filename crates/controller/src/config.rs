//! The configuration: one TOML text, checked as a whole. Reads no file and no environment by itself.
//!
//! All errors are reported at once, each with its key, so that a configuration can be corrected in one go.

mod housekeeping;
mod profile;
mod reader;
mod refresh;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use stagedoor_lifecycle::profile::{Profile, Protected};
use stagedoor_puppet::Endpoint;
use stagedoor_types::{Certname, Mode, ProfileName};

pub use housekeeping::{Housekeeping, OrphanMode};

use housekeeping::housekeeping;
use profile::{Site, check_alt_names, profile};
use reader::{Problems, Reader};

/// What the controller is to do, and with which services.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long one invocation begins further passes for actions that are not finished.
    pub budget: Duration,
    /// Name or ARN of the Secrets Manager secret with the Puppet credentials.
    pub secret: String,
    /// The Puppet CA.
    pub ca: Endpoint,
    /// PuppetDB.
    pub puppetdb: Endpoint,
    /// Puppet Enterprise's orchestrator.
    pub orchestrator: Option<Endpoint>,
    /// Puppet Enterprise's node classifier.
    pub classifier: Option<Endpoint>,
    /// Names that are never purged: the configured ones, the hosts of the services above, the refresh targets.
    pub protected: Protected,
    /// ARN of the SNS topic that outcomes are published to.
    pub topic: Option<String>,
    /// What the sweep does besides handling waiting actions.
    pub housekeeping: Housekeeping,
    /// The profiles that groups may name in their tag.
    pub profiles: BTreeMap<ProfileName, Arc<Profile>>,
}

/// Everything that is wrong with a configuration, each with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidConfig(pub Vec<String>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration cannot be used:")?;
        self.0.iter().try_for_each(|problem| writeln!(f, "  {problem}"))
    }
}

impl std::error::Error for InvalidConfig {}

/// How long an invocation goes on by default.
const DEFAULT_BUDGET: Duration = Duration::from_secs(50);
/// Lambda's own limit for one invocation.
const MAX_BUDGET: Duration = Duration::from_secs(900);

/// The words for a mode.
const MODES: [(&str, Mode); 2] = [("act", Mode::Act), ("observe", Mode::Observe)];

impl Config {
    /// Whether any profile is in act mode.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.profiles.values().any(|profile| profile.mode == Mode::Act)
    }

    /// Reads the TOML text, or says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidConfig> {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return Err(InvalidConfig(vec![format!("not TOML: {error}")])),
        };
        let problems = Problems::default();
        let mut root = Reader::new(&table, String::new(), &problems);

        // What the profiles have that do not say otherwise.
        let mode = root.choice("mode", &MODES, Mode::Act);
        let budget = root.duration("budget", Some(DEFAULT_BUDGET), MAX_BUDGET);

        let mut puppet = root.section("puppet");
        let secret = puppet.text("secret");
        let ca: Option<Endpoint> = puppet.parsed("ca", None);
        let puppetdb: Option<Endpoint> = puppet.parsed("puppetdb", None);
        let orchestrator: Option<Endpoint> = puppet.optional("orchestrator");
        let classifier: Option<Endpoint> = puppet.optional("classifier");
        let configured = puppet.texts("protected");
        let protected = Protected::new(configured).map_err(|error| puppet.problem("protected", error)).ok();
        puppet.finish();

        let mut notify = root.optional_section("notify");
        let topic = notify.as_mut().and_then(topic);
        notify.into_iter().for_each(Reader::finish);

        let housekeeping = housekeeping(&mut root);

        let mut profiles = BTreeMap::new();
        for (name, section) in root.named_sections("profile") {
            let site = Site { has_orchestrator: orchestrator.is_some(), has_classifier: classifier.is_some() };
            if let Some(profile) = profile(&name, section, mode, site) {
                profiles.insert(profile.name.clone(), Arc::new(profile));
            }
        }
        root.finish();

        let hosts = [&ca, &puppetdb, &orchestrator, &classifier].into_iter().flatten();
        let hosts = hosts.filter_map(|endpoint| endpoint.host().parse::<Certname>().ok());
        let targets = profiles.values().flat_map(|profile| profile.refresh.targets());
        let protected =
            protected.map(|protected| hosts.chain(targets.cloned()).fold(protected, |all, name| all.and(&name)));
        if let Some(protected) = &protected {
            for profile in profiles.values() {
                check_alt_names(profile, protected, &problems);
            }
        }

        let built = || {
            let (secret, ca, puppetdb) = (secret?, ca?, puppetdb?);
            let (budget, protected, housekeeping) = (budget?, protected?, housekeeping?);
            Some(Self {
                budget,
                secret,
                ca,
                puppetdb,
                orchestrator,
                classifier,
                protected,
                topic,
                housekeeping,
                profiles,
            })
        };
        match (problems.into_inner(), built()) {
            (problems, Some(config)) if problems.is_empty() => Ok(config),
            (problems, _) => Err(InvalidConfig(problems)),
        }
    }
}

/// The ARN of a standard topic. A FIFO topic takes no message without a group, and neither email nor an HTTPS endpoint may subscribe
/// to it. See [FIFO topics](https://docs.aws.amazon.com/sns/latest/dg/sns-fifo-topics.html).
fn topic(notify: &mut Reader<'_>) -> Option<String> {
    let topic = notify.text("topic")?;
    if topic.strip_suffix(".fifo").is_some() {
        notify.problem("topic", "is a FIFO topic, to which people cannot subscribe by email: use a standard topic");
        return None;
    }
    Some(topic)
}

#[cfg(test)]
mod tests;
