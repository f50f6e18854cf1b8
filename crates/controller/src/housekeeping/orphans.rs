//! Finds orphans and removes them as a set, as far as the mode, the breaker and the time allow. I/O.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};
use stagedoor_lifecycle::orphans::{Cloud, Listed, Orphan, Rules, Suspect};
use stagedoor_lifecycle::profile::Profile;
use stagedoor_lifecycle::purge::allowlist_lines_kept;
use stagedoor_lifecycle::reason::{Code, Fact};
use stagedoor_lifecycle::removal::Removal;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{Certname, Group, InstanceId, Machine, Mode, Service, Trouble};

use super::{Outcome, observe_mode, report_mode};
use crate::apply::{Removed, carry_out};
use crate::call::{call, in_turn};
use crate::config::OrphanMode;
use crate::context::{Context, Puppet, PuppetWriter, Run};
use crate::observe::by_id;
use crate::observe::orphans::{Closely, Lists, closely, lists};
use crate::size::{cut, messages};
use crate::snapshot::revocation;

/// How many names are removed at a time; the CA takes a list of them at the price of one.
const REMOVED_AT_ONCE: usize = 100;
/// How many suspects are looked at closely in one housekeeping; the selection rotates with the time.
const EXAMINED: usize = 200;
/// The most names that an answer shows with their results, and of those that were left alone.
const RESULTS_SHOWN: usize = 1000;
const LEFT_ALONE_SHOWN: usize = 100;
/// The longest reason in a message or an answer, in characters.
const LONGEST_REASON: usize = 1000;

/// The result of looking for orphans.
#[derive(Debug, Default)]
pub(crate) struct Check {
    /// How many names are of this account and Region, of live and of terminated instances.
    fleet: usize,
    /// How many suspects were not looked at this time.
    unseen: usize,
    /// Why certificates without an active node were not looked at, if they were not.
    pub(crate) unlisted: Option<Trouble>,
    results: Vec<Dealt>,
    /// Those whose instance AWS does not show alive and that are no orphans all the same, or may not be; and why.
    left_alone: Vec<(Certname, Fact)>,
    /// Why nothing was removed, where too much would have gone at once.
    pub(crate) breaker: Option<Fact>,
}

/// An orphan, and the result of its removal.
#[derive(Debug)]
struct Dealt {
    orphan: Orphan,
    outcome: Outcome,
    /// What was done, or went wrong.
    result: Fact,
}

/// Looks for orphans among all nodes and certificates, and removes them. An error means that nothing was touched.
pub(super) async fn check(run: Run<'_>, puppet: &Puppet, groups: Vec<Group>, turn: i64) -> Result<Check, Trouble> {
    let config = &run.context.config.housekeeping;
    let profiles: Vec<&Profile> = run.context.config.profiles.values().map(AsRef::as_ref).collect();
    let rules = Rules { profiles: &profiles, protected: &puppet.protected, limits: config.limits };
    if !rules.can_tell() {
        tracing::debug!("no profile has sign.require: nothing could distinguish its orphans from other nodes");
        return Ok(Check::default());
    }
    let home = Cloud::home(&groups).ok().cloned();
    let Lists { listed, unlisted } = lists(run, puppet, &rules, home.as_ref(), turn).await?;
    let fleet = rules.fleet(&listed);
    if fleet.is_empty() {
        return Ok(Check { unlisted, ..Check::default() });
    }
    let instances: BTreeSet<&InstanceId> =
        fleet.iter().map(|listed| &listed.instance).chain(Cloud::witnesses(&groups)).collect();
    let instances: Vec<InstanceId> = instances.into_iter().cloned().collect();
    let mut cloud = Cloud { groups, machines: machines(run, &instances).await? };
    let (fleet, mut left_alone) = located(run, puppet, &rules, fleet, &cloud).await?;
    let suspects = rules.suspects(&fleet, &cloud);
    let names = in_turn(&suspects, EXAMINED, turn);
    let unseen = suspects.len() - names.len();
    if names.is_empty() {
        return Ok(Check { fleet: fleet.len(), unlisted, left_alone, ..Check::default() });
    }

    let seen = Box::pin(closely(run, puppet, names)).await;
    // A name may belong to an instance that EC2 was not asked about yet.
    let more: BTreeSet<&InstanceId> = seen.suspects.iter().flat_map(named).collect();
    let more: Vec<InstanceId> = more.into_iter().filter(|id| !instances.contains(id)).cloned().collect();
    if !more.is_empty() {
        cloud.machines.extend(machines(run, &more).await?);
    }
    let findings = rules.judge(&seen.suspects, fleet.len(), unseen, &cloud, run.now());
    for (name, why) in &findings.spared {
        tracing::debug!(certname = %name, code = why.code.as_str(), "no orphan: {}", why.text);
    }
    if let Some((name, why)) = findings.unclear.first() {
        tracing::warn!(
            unclear = findings.unclear.len(),
            certname = %name,
            code = why.code.as_str(),
            "could not determine whether it is an orphan: {}",
            why.text
        );
    }
    left_alone.extend(findings.unclear.into_iter().chain(findings.spared));
    let may_go = findings.breaker.is_none() && config.orphans == OrphanMode::Purge;
    let (mut orphans, observed): (Vec<_>, Vec<_>) =
        findings.orphans.into_iter().partition(|orphan| orphan.mode == Mode::Act);
    let mut results = alike(observed, Outcome::Found, &observe_mode());
    match orphans.first().and_then(|orphan| orphan.mode.write_permit()) {
        Some(permit) if may_go => {
            let writer = &puppet.writer(permit);
            let mut fresh = true;
            while !orphans.is_empty() {
                if run.now() >= run.budget.passes {
                    let no_time = Fact::new(Code::Postponed, "there was no time left; the next housekeeping goes on");
                    results.extend(alike(orphans, Outcome::Failed, &no_time));
                    break;
                }
                let rest = orphans.split_off(orphans.len().min(REMOVED_AT_ONCE));
                if !fresh {
                    let (confirmed, others) = Box::pin(still(run, puppet, &rules, &orphans, fleet.len(), &cloud)).await;
                    left_alone.extend(others);
                    orphans = confirmed;
                }
                fresh = false;
                results.extend(Box::pin(remove(run, puppet, writer, orphans, &seen)).await);
                orphans = rest;
            }
        }
        _ => match &findings.breaker {
            Some(_) => {
                results.extend(alike(orphans, Outcome::Held, &Fact::new(Code::BreakerOpen, "the breaker is open")));
            }
            None => results.extend(alike(orphans, Outcome::Found, &report_mode())),
        },
    }
    Ok(Check { fleet: fleet.len(), unseen, unlisted, results, left_alone, breaker: findings.breaker })
}

/// Those of the fleet that are known to be of this account and Region; the others are left alone, with the reason. What EC2 knows is
/// here. Where EC2 does not know an instance, only its facts say where it was, and one query of all of them is enough.
async fn located<'l>(
    run: Run<'_>,
    puppet: &Puppet,
    rules: &Rules<'_>,
    fleet: Vec<&'l Listed>,
    cloud: &Cloud,
) -> Result<(Vec<&'l Listed>, Vec<(Certname, Fact)>), Trouble> {
    let unknown: BTreeSet<Certname> = rules.unknown(&fleet, cloud).into_iter().collect();
    let here = match Cloud::home(&cloud.groups) {
        Ok(home) if !unknown.is_empty() => {
            call(run.context, run.budget.work, Service::PuppetDb, puppet.puppetdb.located_in(home)).await?
        }
        _ => BTreeSet::new(),
    };
    let known = |listed: &&Listed| {
        !unknown.contains(&listed.certname) || here.contains(&listed.certname) || is_broken(Rule::Home)
    };
    let (fleet, others): (Vec<&Listed>, Vec<&Listed>) = fleet.into_iter().partition(known);
    let why = |listed: &Listed| {
        let instance = &listed.instance;
        let why = format!(
            "EC2 does not know {instance}, and no fact ec2_metadata says that it was in this account and Region"
        );
        (listed.certname.clone(), Fact::new(Code::OtherPlace, why))
    };
    Ok((fleet, others.into_iter().map(why).collect()))
}

/// The same for all of these.
fn alike(orphans: Vec<Orphan>, outcome: Outcome, result: &Fact) -> Vec<Dealt> {
    orphans.into_iter().map(|orphan| Dealt { orphan, outcome, result: result.clone() }).collect()
}

/// What EC2 knows of these instances.
async fn machines(run: Run<'_>, instances: &[InstanceId]) -> Result<BTreeMap<InstanceId, Machine>, Trouble> {
    by_id(call(run.context, run.budget.work, Service::Ec2, run.context.machines.machines(instances)).await)
}

/// Those that are orphans still, and why the others are not. Removing takes its time, in which a name may come to a new instance.
async fn still(
    run: Run<'_>,
    puppet: &Puppet,
    rules: &Rules<'_>,
    orphans: &[Orphan],
    fleet: usize,
    cloud: &Cloud,
) -> (Vec<Orphan>, Vec<(Certname, Fact)>) {
    let names: Vec<Certname> = orphans.iter().map(|orphan| orphan.removal.name.certname().clone()).collect();
    let seen = Box::pin(closely(run, puppet, &names)).await;
    let now = rules.judge(&seen.suspects, fleet, 0, cloud, run.now());
    // By serial number: a certificate that was renewed meanwhile has the same key, which shows that the key is in use.
    let same = |orphan: &&Orphan| {
        orphans.iter().any(|before| {
            before.removal.certificate == orphan.removal.certificate && before.instance == orphan.instance
        })
    };
    let (confirmed, changed): (Vec<Orphan>, Vec<Orphan>) = now.orphans.into_iter().partition(|orphan| same(&orphan));
    let not_confirmed = |orphan: Orphan| {
        let why = "it was an orphan at first, and a second check shows another certificate or instance";
        (orphan.removal.name.certname().clone(), Fact::new(Code::NotConfirmed, why))
    };
    (confirmed, changed.into_iter().map(not_confirmed).chain(now.unclear).chain(now.spared).collect())
}

/// Every instance that something says of this name.
fn named(suspect: &Suspect) -> impl Iterator<Item = &InstanceId> {
    let certificate = suspect.view.certificate.known().ok().flatten();
    let facts = suspect.view.fact_instance.known().ok().flatten();
    let certified = suspect.certified.as_ref().map(|listed| &listed.instance);
    let certificate = certificate.and_then(|certificate| certificate.instance.as_ref());
    [certificate, facts, certified, suspect.reported.instance.as_ref()].into_iter().flatten()
}

/// Removes one set, and checks whether it is gone.
async fn remove(
    run: Run<'_>,
    puppet: &Puppet,
    writer: &PuppetWriter,
    orphans: Vec<Orphan>,
    before: &Closely,
) -> Vec<Dealt> {
    let removals: Vec<&Removal> = orphans.iter().map(|orphan| &orphan.removal).collect();
    let removed = carry_out(run, writer, &removals, before.at, before.puppetdb_ahead, true).await;
    let names: Vec<Certname> = removals.iter().map(|removal| removal.name.certname().clone()).collect();
    let applied = run.now();
    let seen = Box::pin(closely(run, puppet, &names)).await;
    let certificates: Vec<_> = names.iter().filter_map(|name| before.certificates.get(name)).collect();
    let crl = call(run.context, run.budget.work, Service::Ca, puppet.ca.revocations(&certificates)).await.ok();
    let dealt = orphans.into_iter().zip(&seen.suspects).map(|(orphan, now)| {
        let (outcome, mut result) = judge(&orphan.removal, &removed, now, (applied, seen.at));
        let name = orphan.removal.name.certname();
        if outcome == Outcome::Removed && orphan.removal.certificate.is_some() {
            let revoked =
                revocation(crl.as_ref(), before.certificates.get(name), removed.cleaned(name), puppet.is_enterprise());
            result.text = format!("{}; {revoked}", result.text);
        }
        if outcome == Outcome::Removed && orphan.removal.compiler && orphan.removal.node.is_some() {
            result.text = format!("{}; {}", result.text, allowlist_lines_kept(name.as_str()));
        }
        Dealt { orphan, outcome, result }
    });
    dealt.collect()
}

/// What an observation after the removal shows no more is gone.
fn judge(
    removal: &Removal,
    removed: &Removed,
    now: &Suspect,
    (applied, observed): (Timestamp, Timestamp),
) -> (Outcome, Fact) {
    let name = removal.name.certname();
    let done: Vec<_> = removed.of(name).collect();
    if let Some(trouble) = done.iter().find_map(|(result, _)| result.as_ref().err()) {
        return (Outcome::Failed, trouble.into());
    }
    let applied = removal.clone().applied(applied, removed.cleaned(name));
    let view = &now.view;
    let unknown =
        [view.certificate.known().err(), view.node.known().err(), view.request.known().err(), view.pins.known().err()];
    let unknown = unknown.into_iter().flatten().next();
    match (applied.proof(&now.view, observed), unknown) {
        (Some(proof), _) => {
            let done: Vec<_> = done.iter().filter_map(|(result, _)| result.as_deref().ok()).collect();
            (Outcome::Removed, Fact { text: done.join("; "), ..proof.fact() })
        }
        (None, Some(trouble)) => {
            (Outcome::Failed, Fact::new(trouble.into(), format!("it is not proven gone: {trouble}")))
        }
        (None, None) => {
            let left = "Puppet said that it was done, and something of it is still there";
            (Outcome::Failed, Fact::new(Code::StillThere, left))
        }
    }
}

impl Check {
    /// How many are gone.
    pub(crate) fn removed(&self) -> usize {
        self.results.iter().filter(|dealt| dealt.outcome == Outcome::Removed).count()
    }

    /// Logs it, and returns the messages to publish: what was done, at once; what cannot be removed, and that the breaker is open,
    /// at once and then as a reminder; what the mode only reports, as a reminder.
    pub(super) fn tell(&self, context: &Context, remind: bool) -> Vec<(String, Value)> {
        for Dealt { orphan: Orphan { instance, removal, why, .. }, outcome, result } in &self.results {
            let (certname, removal) = (removal.name.certname(), removal.describe());
            let (word, code, why, result) = (outcome.as_str(), result.code.as_str(), &why.text, &result.text);
            if *outcome == Outcome::Failed {
                tracing::error!(%instance, %certname, outcome = word, code, removal, "orphan: {why}; {result}");
            } else {
                tracing::info!(%instance, %certname, outcome = word, code, removal, "orphan: {why}; {result}");
            }
        }
        let mut news = Vec::new();
        if let Some(breaker) = &self.breaker {
            tracing::error!(code = breaker.code.as_str(), "{}", breaker.text);
            let due = context.memory.to_report(BTreeSet::from(["breaker".to_owned()]), remind);
            let names = messages(self.results.iter().map(Dealt::payload)).into_iter().next();
            let message = json!({"function": "sweep", "alert": "orphans", "code": breaker.code, "reason": breaker.text, "orphans": names});
            news.extend(due.into_iter().map(|_| ("Stagedoor: too many orphans at once".to_owned(), message.clone())));
            return news;
        }
        let failed = self.results.iter().filter(|dealt| dealt.outcome == Outcome::Failed).map(Dealt::name);
        let due = context.memory.to_report(failed.collect(), remind);
        let is_news = |dealt: &&Dealt| match dealt.outcome {
            Outcome::Removed | Outcome::Held => true,
            Outcome::Found => remind,
            Outcome::Failed => due.contains(&dealt.name()),
        };
        for orphans in messages(self.results.iter().filter(is_news).map(Dealt::payload)) {
            let subject = format!("Stagedoor sweep: {} orphans", orphans.len());
            news.push((subject, json!({"function": "sweep", "orphans": orphans})));
        }
        if !context.config.acts() && !self.results.is_empty() {
            tracing::info!("observe mode: nothing was removed");
        }
        news
    }

    pub(super) fn payload(&self) -> Value {
        let results: Vec<_> = self.results.iter().take(RESULTS_SHOWN).map(Dealt::payload).collect();
        let left_alone = self.left_alone.iter().take(LEFT_ALONE_SHOWN);
        let left_alone: Vec<_> = left_alone
            .map(|(name, why)| json!({"certname": name, "code": why.code, "reason": cut(&why.text, LONGEST_REASON)}))
            .collect();
        let unlisted = self
            .unlisted
            .as_ref()
            .map(|trouble| json!({"code": Code::from(trouble), "error": cut(&trouble.text, LONGEST_REASON)}));
        json!({
            "fleet": self.fleet,
            "results": results,
            "left_alone": left_alone,
            "breaker": self.breaker.as_ref().map(|breaker| json!({"code": breaker.code, "reason": breaker.text})),
            // How many there are, where not all are shown; and what was not looked at this time.
            "found": self.results.len(),
            "left_alone_count": self.left_alone.len(),
            "not_examined": self.unseen,
            "certificates": unlisted,
        })
    }
}

impl Dealt {
    fn name(&self) -> String {
        self.orphan.removal.name.certname().to_string()
    }

    fn payload(&self) -> Value {
        let Orphan { instance, removal, why, .. } = &self.orphan;
        json!({
            "certname": removal.name.certname(),
            "instance_id": instance,
            "outcome": self.outcome.as_str(),
            "code": self.result.code,
            "evidence": why.code,
            "reason": cut(&format!("{}; {}: {}", why.text, removal.describe(), self.result.text), LONGEST_REASON),
        })
    }
}
