//! Onboarding, when nothing comes: what was found instead of the certificate request that a launch waits for, and what to change. Pure.
//!
//! What is found is only reported. A request under another name may be a stranger's, whatever it says of itself.

use std::time::Duration;

use stagedoor_types::{Certname, Place};

use super::{NotYet, Rules};
use crate::deadline;
use crate::decision::{Decision, Missing, Question};
use crate::reason::{Code, Fact, Reason};

/// An instance under another name than its profile gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Elsewhere {
    /// PuppetDB has facts of it under this name: it runs Puppet with a certificate of this name.
    Facts(Certname),
    /// A certificate request with its instance id is pending under this name.
    Request(Certname),
}

/// How long a launch has waited before its instance is looked for under other names.
const LOOK_AFTER: Duration = Duration::from_secs(120);
/// An instance that EC2 launched this long before the action began was not launched for it.
const LONG_BEFORE: Duration = Duration::from_secs(600);
/// The most names in a reason.
const NAMES: usize = 3;

impl Rules<'_> {
    /// Neither a certificate nor a request is under its name: why that may be, if it has been so for a while.
    pub(super) fn nothing_came(&self, waiting: Fact) -> NotYet {
        let began = self.action.began.time();
        if began.is_none_or(|began| self.now < deadline::after(began, LOOK_AFTER)) {
            return NotYet::Missing(Missing::NotYet(waiting.into()));
        }
        let Some(found) = &self.seen.elsewhere else { return Decision::Ask(Question::Elsewhere).into() };
        let elsewhere = found.iter().take(NAMES).map(|found| self.under_another_name(found));
        let facts = elsewhere.chain(self.launched_before_action()).collect();
        NotYet::Missing(Missing::NotYet(Reason::new(waiting, facts)))
    }

    fn under_another_name(&self, found: &Elsewhere) -> Fact {
        let instance = &self.action.instance;
        let text = match found {
            Elsewhere::Facts(name) => format!(
                "PuppetDB has facts of {instance} under the name {name}: it runs Puppet with another certificate, perhaps one that its \
                 image was made with; make the image without /etc/puppetlabs/puppet/ssl and without a certname in puppet.conf, or \
                 change certname in the profile"
            ),
            Elsewhere::Request(name) => format!(
                "a certificate request with pp_instance_id {instance} is pending under the name {name}: set certname in its \
                 puppet.conf, or change certname in the profile (a domain name of its DHCP options is not part of its private DNS \
                 name at EC2)"
            ),
        };
        Fact::new(Code::FoundUnderAnotherName, text)
    }

    /// User data runs only at the first boot of a root volume. So an instance that was launched long before this action may not request a
    /// certificate. One that comes from the warm pool was started for this action.
    fn launched_before_action(&self) -> Option<Fact> {
        let (launched, began) = (self.launching.launched?, self.action.began.time()?);
        let may_have_rested = match self.action.origin {
            Some(origin) => origin == Place::WarmPool,
            None => self.launching.has_pool,
        };
        if may_have_rested || deadline::after(launched, LONG_BEFORE) >= began {
            return None;
        }
        let text = format!(
            "EC2 launched {} at {launched}, long before this action began; user data, which requests a certificate, runs only at the first \
             boot of a root volume",
            self.action.instance
        );
        Some(Fact::new(Code::LaunchedBeforeAction, text))
    }
}
