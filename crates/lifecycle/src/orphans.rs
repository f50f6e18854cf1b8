//! Orphans: what Puppet still holds of instances that are gone although no lifecycle action reported it. Pure.
//!
//! No hook confirms an orphan, so only evidence does. All of it must be there: the name was one of ours, its instance is
//! terminated, and the answers that say so are reliable. In doubt, a name is left alone.

mod cloud;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

pub use cloud::Cloud;
use cloud::Fate;
pub use requests::PendingRequest;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{Certname, InstanceId, Mode, Trouble};

use crate::deadline;
use crate::identity::{Whose, whose};
use crate::observation::NameView;
use crate::profile::{Profile, Protected};
use crate::purge::removal;
use crate::reason::{Code, Fact};
use crate::removal::Removal;

/// So many may be removed at once however small the fleet is.
pub(crate) const ALWAYS_ALLOWED: usize = 5;

/// How long nothing must have been heard under a name after its instance was terminated: an agent runs every 30 minutes by default
/// ([`runinterval`](https://www.puppet.com/docs/puppet/8/configuration.html)), so an instance that was made of the terminated one's
/// image, and lives on with its certificate, is heard of in this time. EC2 shows a terminated instance for about an hour.
pub(crate) const SILENCE: Duration = Duration::from_secs(2400);
/// What is heard for so long after the beginning of its termination may be the terminated instance's own last run.
pub(crate) const LAST_RUN: Duration = Duration::from_secs(600);

/// How orphans are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How much of the fleet may be removed at once, in percent.
    pub max_share: u8,
    /// How long nothing must have been heard of an instance that EC2 does not know, or that was heard of after its termination.
    pub grace: Duration,
}

/// A name as a list shows it: with what its certificate says, or said at its newest run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub certname: Certname,
    /// The extension `pp_instance_id`.
    pub instance: InstanceId,
    /// All extensions with a text, by short name.
    pub extensions: BTreeMap<String, String>,
}

/// A name that may be an orphan's, examined closely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// What the CA and PuppetDB say of it.
    pub view: NameView,
    /// What Puppet Server recorded of the certificate at the node's newest run (the fact `trusted`).
    pub certified: Option<Listed>,
    /// What the instance said of itself at its newest run (the fact `ec2_metadata`).
    pub reported: Reported,
}

/// Where an instance said that it was. It always counts against a removal, and for one only beside all other evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// The instance that said it.
    pub instance: Option<InstanceId>,
    /// Its account.
    pub account: Option<String>,
    /// Its Region.
    pub region: Option<String>,
}

/// What is left of an instance that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The instance.
    pub instance: InstanceId,
    /// What is to be removed.
    pub removal: Removal,
    /// How it is known to be gone.
    pub why: Fact,
    /// Whether it may be removed: not if a profile that it may be of only observes.
    pub mode: Mode,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The orphans.
    pub orphans: Vec<Orphan>,
    /// The suspects that are left alone, and why.
    pub spared: Vec<(Certname, Fact)>,
    /// The suspects of which too little could be found out, and why. They may be orphans.
    pub unclear: Vec<(Certname, Fact)>,
    /// Why nothing may be removed: too much would be removed at once.
    pub breaker: Option<Fact>,
}

/// The rules, and the names that are never touched.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The profiles that groups may name.
    pub profiles: &'a [&'a Profile],
    /// Names that are never purged.
    pub protected: &'a Protected,
    /// How much, how soon.
    pub limits: Limits,
}

impl Rules<'_> {
    /// Whether any profile can identify its nodes: one that requires no extension cannot distinguish them from others.
    #[must_use]
    pub fn can_tell(&self) -> bool {
        self.profiles.iter().any(|profile| !profile.rules.require.is_empty())
    }

    /// Whether a name is worth reading its certificate: some profile could have made it, for an instance not known yet.
    #[must_use]
    pub fn may_be_ours(&self, certname: &Certname) -> bool {
        let telling = || self.profiles.iter().filter(|profile| !profile.rules.require.is_empty());
        self.protected.protects(certname).is_none() && telling().any(|profile| profile.certname.could_be(certname))
    }

    /// The names that are ours: the fleet, with live and with terminated instances.
    #[must_use]
    pub fn fleet<'l>(&self, listed: &'l [Listed]) -> Vec<&'l Listed> {
        let mut seen = BTreeSet::new();
        listed.iter().filter(|listed| self.is_ours(listed)).filter(|listed| seen.insert(&listed.certname)).collect()
    }

    /// Whether a name is of the fleet: it has a name and every extension that a profile asks for.
    #[must_use]
    pub fn is_ours(&self, listed: &Listed) -> bool {
        self.mode(&listed.certname, &listed.instance, &listed.extensions).is_some()
    }

    /// The names of the fleet whose instance EC2 does not know. Of these, only those are known to be of this account and Region
    /// whose facts say so.
    #[must_use]
    pub fn unknown(&self, fleet: &[&Listed], cloud: &Cloud) -> Vec<Certname> {
        let unknown = fleet.iter().filter(|listed| cloud.fate(&listed.instance) == Fate::Unknown);
        unknown.map(|listed| listed.certname.clone()).collect()
    }

    /// Those of the fleet that have to be examined closely: whose instance AWS does not show alive.
    #[must_use]
    pub fn suspects(&self, fleet: &[&Listed], cloud: &Cloud) -> Vec<Certname> {
        let suspect = |listed: &&&Listed| {
            self.protected.protects(&listed.certname).is_none()
                && !matches!(cloud.fate(&listed.instance), Fate::Alive(_))
        };
        fleet.iter().filter(suspect).map(|listed| listed.certname.clone()).collect()
    }

    /// Judges these suspects. `fleet` is how many names are of this account and Region: those of another fleet neither open the
    /// breaker nor keep it closed. `unseen` is how many more suspects there are, which may all be orphans.
    #[must_use]
    pub fn judge(&self, suspects: &[Suspect], fleet: usize, unseen: usize, cloud: &Cloud, now: Timestamp) -> Findings {
        let mut findings = Findings::default();
        for suspect in suspects {
            let name = suspect.view.certname.clone();
            match self.verdict(suspect, cloud, now) {
                Ok(orphan) => findings.orphans.push(orphan),
                Err(Doubt::Spared(why)) => findings.spared.push((name, why)),
                Err(Doubt::Unclear(why)) => findings.unclear.push((name, why)),
            }
        }
        if !findings.orphans.is_empty() {
            findings.breaker = self.limits.breaker(findings.orphans.len() + findings.unclear.len() + unseen, fleet);
        }
        findings
    }

    /// The evidence, top to bottom: was it ours, is it gone, is that to be believed?
    fn verdict(&self, suspect: &Suspect, cloud: &Cloud, now: Timestamp) -> Result<Orphan, Doubt> {
        let view = &suspect.view;
        let certificate = view.certificate.known().map_err(unclear)?;
        let node = view.node.known().map_err(unclear)?;
        let fact_instance = view.fact_instance.known().map_err(unclear)?;
        let active = node.is_some_and(|node| node.active);

        // The certificate decides; where there is none, what Puppet Server recorded of it.
        let certified = suspect.certified.as_ref().filter(|_| active);
        let (instance, extensions) = match (certificate, certified) {
            (Some(certificate), _) => (certificate.instance.as_ref(), &certificate.holds.extensions),
            (None, Some(certified)) => (Some(&certified.instance), &certified.extensions),
            (None, None) => {
                return Err(spared(Code::NotInPuppet, "neither a certificate nor an active node is there any more"));
            }
        };
        let Some(instance) = instance else {
            return Err(spared(Code::OwnerUnknown, "its certificate names no instance"));
        };
        let Some(mode) = self.mode(&view.certname, instance, extensions) else {
            return Err(spared(
                Code::NoProfileMatches,
                "it has not every extension and the name that a profile asks for",
            ));
        };
        let purgeable = match whose(view, instance, self.protected) {
            Whose::Ours(purgeable) => purgeable,
            Whose::Protected(pattern) => {
                return Err(spared(Code::ProtectedName, format!("it is protected by {pattern}")));
            }
            Whose::Unavailable(trouble) => return Err(unclear(&trouble)),
            Whose::Another(owner) => {
                return Err(spared(Code::OwnedByAnotherInstance, format!("it belongs to {owner}")));
            }
            Whose::Nobody | Whose::Unknown => {
                return Err(spared(Code::OwnerUnknown, "nothing says for certain whose it is"));
            }
        };

        for named in [Some(instance), fact_instance, suspect.reported.instance.as_ref()].into_iter().flatten() {
            if let Fate::Alive(how) = cloud.fate(named) {
                return Err(spared(Code::InstanceExists, format!("{named} is {how}")));
            }
        }
        let reported = Some(&suspect.reported).filter(|reported| reported.instance.as_ref() == Some(instance));
        // A certificate is news as well: of what it was issued to.
        let heard = node.and_then(|node| node.newest).max(certificate.map(|certificate| certificate.issued));
        let why = match cloud.fate(instance) {
            Fate::Alive(how) => return Err(spared(Code::InstanceExists, format!("{instance} is {how}"))),
            Fate::Terminated(since) => {
                if let Some(elsewhere) = reported.and_then(|reported| cloud.elsewhere(reported)) {
                    return Err(spared(Code::OtherPlace, elsewhere));
                }
                self.limits.silent_since(since, heard, now).map_err(|until| {
                    let activity = heard
                        .map_or_else(|| "has shown no activity".to_owned(), |at| format!("was last active at {at}"));
                    let text = format!(
                        "EC2 says that {instance} is terminated, and its name {activity}; another instance may use its \
                         certificate, so it is left alone until {until}"
                    );
                    spared(Code::HeardRecently, text)
                })?;
                Fact::new(Code::InstanceTerminated, format!("EC2 says that {instance} is terminated"))
            }
            Fate::Unknown => {
                let home = cloud.believed().map_err(|why| Doubt::Unclear(Fact::new(Code::AwsContradictory, why)))?;
                match reported.map(|reported| (reported, cloud.elsewhere(reported))) {
                    _ if is_broken(Rule::Home) => {}
                    Some((_, Some(elsewhere))) => return Err(spared(Code::OtherPlace, elsewhere)),
                    Some((Reported { account: Some(_), region: Some(_), .. }, None)) => {}
                    _ => {
                        let text = format!(
                            "EC2 does not know {instance}, and no fact ec2_metadata says that it was in account {} and \
                             Region {}; it may be of another account or Region",
                            home.account, home.region
                        );
                        return Err(spared(Code::OtherPlace, text));
                    }
                }
                let Some(heard) = heard else {
                    let text = format!("EC2 does not know {instance}, and nothing shows when it was last active");
                    return Err(spared(Code::OwnerUnknown, text));
                };
                if now < deadline::after(heard, self.limits.grace) {
                    let text = format!("EC2 does not know {instance}, but it was active at {heard}");
                    return Err(spared(Code::HeardRecently, text));
                }
                let text = format!("EC2 does not know {instance}, and it has shown no activity since {heard}");
                Fact::new(Code::InstanceUnknown, text)
            }
        };
        match removal(purgeable, view, instance) {
            (_, Some(trouble)) => Err(unclear(&trouble)),
            (None, None) => Err(spared(Code::NotInPuppet, "nothing is left of it")),
            (Some(removal), None) => Ok(Orphan { instance: instance.clone(), removal, why, mode }),
        }
    }

    /// The mode of the profiles that a name may be of: it is observed if one of them only observes. None if it is of no profile.
    fn mode(&self, certname: &Certname, instance: &InstanceId, extensions: &BTreeMap<String, String>) -> Option<Mode> {
        let of = |profile: &&&Profile| {
            let required = &profile.rules.require;
            !required.is_empty()
                && required.iter().all(|(key, value)| extensions.get(key) == Some(value))
                && profile.certname.could_make(certname, instance)
        };
        Mode::strictest(self.profiles.iter().filter(of).map(|profile| profile.mode))
    }
}

impl Limits {
    /// Whether nothing was heard under the name of a terminated instance for long enough; otherwise until when it is left alone.
    ///
    /// What is heard after the instance's own last run comes from another one, as does, perhaps, what is heard where EC2 does not
    /// say when the termination began: then the whole grace time counts.
    fn silent_since(
        &self,
        terminated: Option<Timestamp>,
        heard: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        let own = terminated.is_some_and(|since| heard.is_none_or(|heard| heard <= deadline::after(since, LAST_RUN)));
        let silence = if own { SILENCE.min(self.grace) } else { self.grace };
        let last = terminated.max(heard).unwrap_or(Timestamp::MIN);
        let until = deadline::after(last, silence);
        if now >= until { Ok(()) } else { Err(until) }
    }

    /// Why so many of the fleet may not be removed at once, if they may not.
    #[must_use]
    pub fn breaker(&self, going: usize, fleet: usize) -> Option<Fact> {
        let share = usize::from(self.max_share);
        let open = !is_broken(Rule::Breaker)
            && going > ALWAYS_ALLOWED
            && going.saturating_mul(100) > share.saturating_mul(fleet);
        open.then(|| {
            let text = format!(
                "{going} of {fleet} nodes would be removed as orphans at once, more than {share} %: nothing was removed. If \
                 they are really gone, raise orphans.max_share until they are removed, or clean them manually"
            );
            Fact::new(Code::BreakerOpen, text)
        })
    }
}

/// Why a suspect is no orphan.
enum Doubt {
    Spared(Fact),
    Unclear(Fact),
}

fn spared(code: Code, why: impl Into<String>) -> Doubt {
    Doubt::Spared(Fact::new(code, why))
}

fn unclear(trouble: &Trouble) -> Doubt {
    Doubt::Unclear(trouble.into())
}

#[cfg(test)]
mod tests;
