//! The configuration: one TOML text, checked as a whole. Reads no file and no environment by itself.
//!
//! Every error is found at once and named by its key, so that a deployment is mended in one go.

mod reader;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use stagedoor_lifecycle::ProfileName;
use stagedoor_lifecycle::profile::{ActionResult, Profile, Protected};
use stagedoor_puppet::Endpoint;

use reader::{Problems, Reader};

/// What the controller is to do, and with whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether it acts or only observes.
    pub mode: Mode,
    /// How long one invocation looks again at instances that are not done.
    pub budget: Duration,
    /// Name or ARN of the Secrets Manager secret with the Puppet credentials.
    pub secret: String,
    /// The Puppet CA.
    pub ca: Endpoint,
    /// PuppetDB.
    pub puppetdb: Endpoint,
    /// Names that are never purged: the configured ones and the hosts of the services above.
    pub protected: Protected,
    /// ARN of the SNS topic that outcomes are published to.
    pub topic: Option<String>,
    /// The profiles that groups may name in their tag.
    pub profiles: BTreeMap<ProfileName, Profile>,
}

/// Whether anything is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Carry decisions out.
    Act,
    /// Write nothing anywhere; say what would be done.
    Observe,
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

/// How long an invocation goes on by default, in seconds.
const DEFAULT_BUDGET: Duration = Duration::from_secs(50);
/// Lambda's own limit for one invocation.
const MAX_BUDGET: Duration = Duration::from_secs(900);
/// The longest that a lifecycle action can live.
const MAX_PATIENCE: Duration = Duration::from_secs(172_800);

impl Config {
    /// Reads the TOML text, or says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidConfig> {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return Err(InvalidConfig(vec![format!("not TOML: {error}")])),
        };
        let problems = Problems::default();
        let mut root = Reader::new(&table, String::new(), &problems);

        let mode = root.choice("mode", &[("act", Mode::Act), ("observe", Mode::Observe)], Mode::Act);
        let budget = root.duration("budget", Some(DEFAULT_BUDGET), MAX_BUDGET);

        let mut puppet = root.section("puppet");
        let secret = puppet.text("secret");
        let ca: Option<Endpoint> = puppet.parsed("ca", None);
        let puppetdb: Option<Endpoint> = puppet.parsed("puppetdb", None);
        let hosts = [&ca, &puppetdb].into_iter().flatten().map(|endpoint| endpoint.host().to_owned());
        let names = puppet.texts("protected").into_iter().chain(hosts);
        let protected = Protected::new(names).map_err(|error| puppet.problem("protected", error)).ok();
        puppet.finish();

        let mut notify = root.optional_section("notify");
        let topic = notify.as_mut().and_then(|notify| notify.text("topic"));
        notify.into_iter().for_each(Reader::finish);

        let mut profiles = BTreeMap::new();
        for (name, section) in root.named_sections("profile") {
            if let Some(profile) = profile(&name, section) {
                profiles.insert(profile.name.clone(), profile);
            }
        }
        root.finish();

        let built = || {
            let (secret, ca, puppetdb) = (secret?, ca?, puppetdb?);
            Some(Self { mode, budget: budget?, secret, ca, puppetdb, protected: protected?, topic, profiles })
        };
        match (problems.into_inner(), built()) {
            (problems, Some(config)) if problems.is_empty() => Ok(config),
            (problems, _) => Err(InvalidConfig(problems)),
        }
    }
}

fn profile(name: &str, mut section: Reader<'_>) -> Option<Profile> {
    let name: Option<ProfileName> = name.parse().map_err(|error| section.problem("", error)).ok();
    let certname = section.parsed("certname", None);
    let hook_prefix = section.text_or("hooks", "stagedoor-");

    let mut patience = section.optional_section("patience");
    let default_patience = Some(Duration::from_secs(600));
    let purge_patience = match &mut patience {
        Some(patience) => patience.duration("purge", default_patience, MAX_PATIENCE),
        None => default_patience,
    };
    patience.into_iter().for_each(Reader::finish);

    let results = [("continue", ActionResult::Continue), ("abandon", ActionResult::Abandon)];
    let mut on_timeout = section.optional_section("on_timeout");
    let on_terminate_timeout = match &mut on_timeout {
        Some(on_timeout) => on_timeout.choice("terminate", &results, ActionResult::Continue),
        None => ActionResult::Continue,
    };
    on_timeout.into_iter().for_each(Reader::finish);
    section.finish();

    Some(Profile {
        name: name?,
        certname: certname?,
        hook_prefix,
        purge_patience: purge_patience?,
        on_terminate_timeout,
    })
}

#[cfg(test)]
mod tests;
