//! Onboarding, its first half: whose is the certificate or request under the name, and may it be? Pure.

use std::time::Duration;

use jiff::Timestamp;
use stagedoor_types::broken::{Rule, is_broken};
use stagedoor_types::{ActionResult, Certname, InstanceId, Place};

use super::{NotYet, Rules, SILENCE, ask, news, trouble, wrong};
use crate::decision::{Decision, Effect, Missing, Question, RefusedRequest};
use crate::identity::{Whose, whose};
use crate::observation::{Began, CertificateView, NameView};
use crate::profile::{Rekey, SignMode};
use crate::reason::{Code, Fact, Reason};
use crate::refresh::RunView;
use crate::removal::Removal;
use crate::signing::{Expected, Objection, Request};
use crate::{deadline, signing};

/// So long before the timeout expires, a refused request is left where it is: so its reason is at hand when the launch is
/// abandoned. Agents send their request every two minutes by default (`waitforcert`), and what comes later is too late to be
/// signed and to run Puppet.
const LAST_REQUEST: Duration = Duration::from_secs(120);

/// So long after a launch began, an instance that has its key has run Puppet with it: agents do at boot.
const BOOTED: Duration = Duration::from_secs(600);

/// When an instance last used its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    /// Since the launch began.
    Since,
    /// So shortly before it that this may have been since, by clocks that differ, or in a run that was under way. Until an instance
    /// that has its key would have run Puppet again, nothing follows from it.
    Perhaps,
    /// Before the launch, or never.
    Before,
}

impl Rules<'_> {
    /// The certificate under its name is its own, and holds nothing but what it may.
    pub(super) fn signed<'a>(&self, name: &'a NameView) -> Result<&'a CertificateView, NotYet> {
        let certname = &name.certname;
        let instance = &self.action.instance;
        let certificate = match name.certificate.known() {
            Err(why) => return Err(trouble(why)),
            Ok(None) => return Err(self.request(name)),
            Ok(Some(certificate)) => certificate,
        };
        // An event may be old: the instance may have been launched again since, on another root volume. But a certificate that was seen to
        // appear is of the launch that waits now.
        if !certificate.appeared && !matches!(self.action.began, Began::Confirmed { .. }) {
            return ask(Question::Began);
        }
        let purgeable = match whose(name, instance, self.protected) {
            Whose::Ours(purgeable) => purgeable,
            Whose::Unavailable(why) => return Err(trouble(&why)),
            _ => return Err(self.of_another(name, certificate)),
        };
        if self.is_rekeyed(name, certificate)? {
            if self.launching.profile.rekey == Rekey::Refuse {
                return Err(wrong(
                    Code::RekeyRefused,
                    format!(
                        "{certname} needs a new certificate in place of {}, and the profile allows none; clean the old one \
                         manually",
                        certificate.serial
                    ),
                ));
            }
            let removal = Removal::of_certificate(purgeable, certificate);
            return Err(Decision::Apply(Effect::Remove(vec![removal])).into());
        }
        let expected = self.expected(certname, &certificate.holds)?;
        let objections = signing::objections(&certificate.holds, &expected);
        if !objections.is_empty() {
            let reason = format!(
                "the certificate {} of {certname} is refused: {}",
                certificate.serial,
                Objection::list(&objections)
            );
            let reason = Fact::new(Code::CertificateRefused, reason);
            // No launch is abandoned because a tag is now missing from which one of the certificate's names was made when it was signed.
            let with_its_names = Expected { alt_names: &certificate.holds.alt_names, ..expected };
            if self.launching.alt_names.is_incomplete()
                && signing::objections(&certificate.holds, &with_its_names).is_empty()
            {
                return Err(NotYet::Missing(Missing::NotYet(reason.into())));
            }
            // The instance may use it, so it is removed when the instance terminates, and not before (ADR 18).
            return Err(Decision::Complete(ActionResult::Abandon, reason.into()).into());
        }
        Ok(certificate)
    }

    /// What a request or certificate of this instance is compared with; trouble if EC2 is unavailable, and an alternative name
    /// in it may be one that a template of the profile allows.
    fn expected<'a>(&'a self, certname: &'a Certname, asked: &Request) -> Result<Expected<'a>, NotYet> {
        Ok(Expected {
            certname,
            instance: &self.action.instance,
            rules: &self.launching.profile.rules,
            alt_names: self.launching.alt_names.known_for(asked, certname).map_err(trouble)?,
            protected: self.protected,
        })
    }

    /// Whether the instance lost the key of its own old certificate: the certificate was issued before this launch began,
    /// no run has used it since, and the instance does not come from a warm pool.
    ///
    /// A request that is pending beside the certificate is no evidence of that. A CA with `allow-duplicate-certs` accepts one
    /// from any client, and an agent that waits for its certificate sends its request again and again. A request with the
    /// certificate's own key shows that the key is not lost.
    ///
    /// A certificate that was seen to appear is of this launch, whatever the CA's clock says; and where that could not be compared
    /// with ours, one that is only a little too old may be.
    ///
    /// Only Auto Scaling says when the launch began. EC2's time shows that the newest record may not be visible yet, but also changes when
    /// an operator stops and starts the instance. What an event says about the origin only counts for the launch that
    /// it announced. Otherwise a replayed event could cost an instance its certificate.
    fn is_rekeyed(&self, name: &NameView, certificate: &CertificateView) -> Result<bool, NotYet> {
        let old = |began: Timestamp| {
            !certificate.appeared && deadline::after(certificate.issued, certificate.tolerance) < began
        };
        if is_broken(Rule::SameKey) && name.request.known().is_ok_and(|request| request.is_some()) {
            return Ok(true);
        }
        let used = self.used(name, self.action.began.time())?;
        let lost = match (self.action.began, self.action.origin) {
            (Began::Said(began), Some(Place::Ec2 | Place::AutoScalingGroup)) if old(began) && used != Used::Since => {
                return ask(Question::Began);
            }
            (Began::Unknown, None) if !self.launching.has_pool => return ask(Question::Began),
            (Began::Confirmed { recorded, launched, said }, origin) if used != Used::Since => {
                let Some(began) = recorded.max(launched).filter(|began| old(*began)) else { return Ok(false) };
                match (origin, said) {
                    (Some(Place::Ec2 | Place::AutoScalingGroup), Some(said)) if said >= began => true,
                    (Some(_), Some(said)) if said < began => {
                        let old = format!(
                            "the event belongs to an earlier launch of {}; the next sweep decides",
                            self.action.instance
                        );
                        return Err(news(Code::NotSeenYet, old));
                    }
                    // Found by the sweep: without a warm pool it cannot come from one.
                    (None, _) => !self.launching.has_pool,
                    _ => false,
                }
            }
            _ => false,
        };
        if !lost {
            return Ok(false);
        }
        if used == Used::Perhaps {
            let waits = format!(
                "{} was last heard of shortly before or after this launch began; waiting for a Puppet run that shows that it still has \
                 the key of its certificate {}",
                name.certname, certificate.serial
            );
            return Err(NotYet::Missing(Missing::NotYet(Fact::new(Code::WaitingForRun, waits).into())));
        }
        let Began::Confirmed { recorded, said, .. } = self.action.began else { return Ok(false) };
        if !recorded.is_some_and(old) || self.used(name, said.max(recorded))? == Used::Since {
            let waits = format!(
                "EC2 started {} after Auto Scaling's record of this launch, or the newest record is not visible yet; waiting for a \
                 Puppet run that shows that it still has the key of its certificate {}",
                self.action.instance, certificate.serial
            );
            return Err(NotYet::Missing(Missing::NotYet(Fact::new(Code::WaitingForRun, waits).into())));
        }
        let request = name.request.known().map_err(trouble)?;
        Ok(request.is_none_or(|request| request.asks.key_print != certificate.holds.key_print))
    }

    /// Whether the instance has run Puppet since the launch, which began at this time, and therefore has its certificate's key. A run that
    /// began earlier shows nothing, even if it ended later: the root volume may have been replaced in between.
    fn used(&self, name: &NameView, launched: Option<Timestamp>) -> Result<Used, NotYet> {
        let run = match &self.seen.run {
            Some(run) => run.known().map_err(trouble)?,
            None => None,
        };
        let Some(launched) = launched else { return Ok(Used::Before) };
        // A run that is under way has sent facts and has no report yet. PuppetDB dates them when it stores them.
        let sent = name.node.known().map_err(trouble)?.and_then(|node| node.facts.max(node.catalog));
        let under_way = sent.filter(|sent| run.is_none_or(|run| *sent > run.received));
        let heard = run.map(|run| run.received).max(sent);
        let is_late = |heard: Timestamp| deadline::after(heard, super::CLOCKS_DIFFER) >= launched;
        let surely_since = |sent: Timestamp| sent >= deadline::after(launched, super::CLOCKS_DIFFER);
        let began = run.map(RunView::began_by_server);
        Ok(if began.is_some_and(|began| began >= launched) || under_way.is_some_and(surely_since) {
            Used::Since
        } else if heard.is_some_and(is_late) && self.now < deadline::after(launched, BOOTED) {
            Used::Perhaps
        } else {
            Used::Before
        })
    }

    /// What to do about the certificate of another instance: a terminated one's is cleaned, a live one's is left alone.
    fn of_another(&self, name: &NameView, certificate: &CertificateView) -> NotYet {
        let certname = &name.certname;
        let owner = match self.owner_of(name, certificate) {
            Err(not_yet) => return not_yet,
            Ok(Some(owner)) => owner,
            Ok(None) => {
                return wrong(
                    Code::OwnerUnknown,
                    format!(
                        "nothing says whose the certificate {} of {certname} is: it has no pp_instance_id and PuppetDB no \
                     ec2_metadata for it; if it is stale, clean it manually",
                        certificate.serial
                    ),
                );
            }
        };
        match self.dead(&owner, name, certificate) {
            Err(not_yet) => not_yet,
            Ok(false) => wrong(
                Code::OwnedByAnotherInstance,
                format!(
                    "{certname} belongs to {owner}, which is not known to be gone: two instances cannot have one name"
                ),
            ),
            Ok(true) => match whose(name, &owner, self.protected) {
                Whose::Ours(purgeable) => {
                    let removal = Removal::of_certificate(purgeable, certificate);
                    Decision::Apply(Effect::Remove(vec![removal])).into()
                }
                _ => wrong(
                    Code::OwnerUnknown,
                    format!("nothing says for certain whose {certname} is; if it is stale, clean it manually"),
                ),
            },
        }
    }

    fn owner_of(&self, name: &NameView, certificate: &CertificateView) -> Result<Option<InstanceId>, NotYet> {
        let owner = match &certificate.instance {
            Some(owner) => Some(owner),
            None => name.fact_instance.known().map_err(trouble)?,
        };
        Ok(owner.filter(|owner| **owner != self.action.instance).cloned())
    }

    /// Whether the former owner of the name is known to be gone: EC2 says so; or EC2 does not know it any more, its certificate
    /// has the extensions that this profile requires, its facts say that it was in the group's account and Region, and PuppetDB
    /// has had no news of it for long. (An instance that EC2 does not know may live in another account. So where the profile
    /// requires none, or its facts do not say where it was, nothing shows that it was one of ours.)
    fn dead(&self, owner: &InstanceId, name: &NameView, certificate: &CertificateView) -> Result<bool, NotYet> {
        let Some((_, machine)) = self.seen.owner.as_ref().filter(|(asked, _)| asked == owner) else {
            return ask(Question::Owner(owner.clone()));
        };
        match machine.known() {
            Err(why) => Err(trouble(why)),
            Ok(Some(machine)) => Ok(machine.is_gone()),
            Ok(None) => {
                // It may live in another account or Region, with the same private name: only its facts say that it was here.
                name.fact_instance.known().map_err(trouble)?;
                let located = self.seen.located.as_ref().filter(|(instance, _)| instance == owner);
                let here = located.is_some_and(|(_, location)| Some(location) == self.launching.home.as_ref());
                // News counts even of a node that has been deactivated since.
                let newest = name.node.known().map_err(trouble)?.and_then(|node| node.newest);
                let required = &self.launching.profile.rules.require;
                let holds = |(key, value)| certificate.holds.extensions.get(key) == Some(value);
                let of_this_profile = !required.is_empty() && required.iter().all(holds);
                let since = newest.map_or(certificate.issued, |newest| newest.max(certificate.issued));
                Ok(here && of_this_profile && self.now >= deadline::after(since, SILENCE))
            }
        }
    }

    /// There is no certificate: what to do about the request, or about there being none.
    fn request(&self, name: &NameView) -> NotYet {
        let certname = &name.certname;
        let external = self.launching.profile.sign == SignMode::External;
        let request = match name.request.known() {
            Err(why) => return trouble(why),
            Ok(request) if external => {
                let signed = format!("waiting until the certificate of {certname} is signed by other means");
                let waiting = Fact::new(Code::SignaturePending, signed);
                return if request.is_some() {
                    NotYet::Missing(Missing::NotYet(waiting.into()))
                } else {
                    self.nothing_came(waiting)
                };
            }
            Ok(None) => {
                let requested = format!("waiting for the certificate request of {certname}");
                let awaited = Fact::new(Code::RequestPending, requested);
                return match &self.seen.refused {
                    None => self.nothing_came(awaited),
                    Some(refused) => {
                        NotYet::Missing(Missing::NotYet(Reason::new(refused.reason.clone(), vec![awaited])))
                    }
                };
            }
            Ok(Some(request)) => request,
        };
        let expected = match self.expected(certname, &request.asks) {
            Ok(expected) => expected,
            Err(not_yet) => return not_yet,
        };
        match signing::approve(&request.asks, &expected) {
            // Pinned first: a Puppet run that began before the pin would prove nothing.
            Ok(signable) if is_broken(Rule::PinFirst) => Decision::Apply(Effect::Sign(signable)).into(),
            Ok(signable) => self.pinned(name).err().unwrap_or_else(|| Decision::Apply(Effect::Sign(signable)).into()),
            Err(objections) => self.refuse(certname, &request.asks, &objections),
        }
    }

    /// Nothing shows that a request which is refused is the instance's own: it may be early, a predecessor's or a stranger's, even
    /// with the right challenge. So it is deleted, and the launch waits for another one until its timeout expires.
    fn refuse(&self, certname: &Certname, asks: &Request, objections: &[Objection]) -> NotYet {
        let reason = format!("the certificate request of {certname} is refused: {}", Objection::list(objections));
        let reason = Fact::new(Code::RequestRefused, reason);
        let left = self.seen.refused.as_ref().and_then(|refused| refused.left.as_ref());
        let is_left = left == Some(&asks.key_print);
        if is_left || self.launching.is_over_in(LAST_REQUEST, self.action.began, self.now) {
            return NotYet::Missing(Missing::NotYet(reason.into()));
        }
        let key_print = asks.key_print.clone();
        Decision::Apply(Effect::Delete(RefusedRequest { certname: certname.clone(), key_print, reason })).into()
    }
}
