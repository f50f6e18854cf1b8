//! Why a lifecycle action is where it is: facts with stable codes, for receipts, logs, metrics and notifications. Pure.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use stagedoor_types::{Service, Trouble, TroubleKind};

macro_rules! codes {
    ($($(#[$meaning:meta])+ $code:ident $(($evidence:ident))? = $name:literal, $remedy:literal;)+) => {
        /// The stable code of a fact. Codes are never renamed; new ones may be added. `docs/codes.md` has the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$meaning])+ $code $(($evidence))?,)+
        }

        impl Code {
            /// All codes.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$code $(($evidence(())))?),+];

            /// The code as it appears in a receipt.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code { .. } => $name,)+ }
            }

            /// What an operator does about it.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$code { .. } => $remedy,)+ }
            }

            /// What it means.
            #[cfg(test)]
            fn meaning(self) -> &'static str {
                match self { $(Self::$code { .. } => meaning(stringify!($(#[$meaning])+)),)+ }
            }
        }
    };
}

codes! {
    /// The instance has its certificate and everything else that its profile requires, such as a successful Puppet run.
    Enrolled = "enrolled", "Nothing.";
    /// What Puppet had under the instance's names is removed, and that is proven.
    Purged(Proven) = "purged", "Nothing.";
    /// Puppet has nothing under the instance's names.
    NotInPuppet = "not_in_puppet", "Nothing.";
    /// The instance goes to the warm pool and stays known to Puppet.
    ReturnsToWarmPool = "returns_to_warm_pool", "Nothing.";
    /// The instance gets a new root volume and stays known to Puppet.
    RootVolumeReplaced = "root_volume_replaced", "Nothing.";
    /// The refresh targets have run Puppet since the change.
    Refreshed = "refreshed", "Nothing.";
    /// There is no orchestrator: the refresh targets pick up the change at their next run.
    RefreshedAtNextRun = "refreshed_at_next_run", "Nothing.";
    /// The refresh targets are ordered to run Puppet, by this function or by the next housekeeping. The action does not wait for that.
    RefreshOrdered = "refresh_ordered", "Nothing.";
    /// The timeout of the refresh has expired: refresh targets have not learnt of the instance. The launch goes on without them, or keeps waiting, as `on_timeout.refresh` says.
    RefreshTimedOut = "refresh_timed_out", "Can the refresh targets that the reason names run Puppet, are their names right, and are they connected to the orchestrator? Raise timeout.refresh if their runs take longer.";

    /// Puppet Enterprise keeps the lines of a purged compiler in the certificate allowlists of PuppetDB and RBAC.
    AllowlistLinesKept = "allowlist_lines_kept", "Nothing while the certificate is revoked and these services read the CRL. If the name is used again, remove the lines first (docs/puppet-enterprise.md).";

    /// The timeout of the profile has expired, and the action is completed as `on_timeout` says. The next fact is what was missing.
    TimeoutExpired = "timeout_expired", "Find the cause in the reason. Raise the timeout if it is too short for your fleet.";

    /// The certificate request has not arrived.
    RequestPending = "request_pending", "Does the agent run, with the CA's address and the certname that the reason names?";
    /// The instance is known to Puppet under another name than its profile expects.
    FoundUnderAnotherName = "found_under_another_name", "Make the agent's certname and the profile's the same. Make images without /etc/puppetlabs/puppet/ssl.";
    /// EC2 launched the instance long before this action began, so its user data may not run again.
    LaunchedBeforeAction = "launched_before_action", "Replace the instance, or enrol it manually.";
    /// The profile leaves signing to others, and nothing is signed yet.
    SignaturePending = "signature_pending", "Check the signer that the profile relies on.";
    /// The instance has not run Puppet since it has its certificate.
    WaitingForRun = "waiting_for_run", "Check that the agent runs. Where an orchestrator is configured, the controller orders a run.";
    /// The newest Puppet run failed, changed nothing by order, or used a cached catalog.
    RunNotSuccessful = "run_not_successful", "Read the report of that run.";
    /// The classifier does not put the node into the groups of `classified`.
    ClassificationPending = "classification_pending", "Check the rules of these node groups against the node's facts.";
    /// The node's certificate contradicts the rules of a node group of `classified`, or those of a group above it.
    ClassificationNeverMatches = "classification_never_matches", "Change the rule, the extensions in csr_attributes.yaml, or `classified`.";
    /// The facts of the node's newest Puppet run contradict the rules of a node group of `classified`, or those of a group above it.
    ClassificationRuleNotMet = "classification_rule_not_met", "Compare the condition that the reason names with the node's facts.";
    /// The refresh targets have not run Puppet since the change.
    WaitingForRefresh = "waiting_for_refresh", "Can these nodes run Puppet, and are they connected to the orchestrator?";
    /// A probe of `ready` does not succeed.
    WaitingForReadiness = "waiting_for_readiness", "Look at the service that the reason names, and at security groups.";
    /// A clock is ahead of the controller's.
    ClockAhead = "clock_ahead", "Synchronize the clocks of the hosts that the reason is about.";
    /// Too little time is left for what would have to be done.
    NoTimeLeft = "no_time_left", "Raise the timeout if it is too short for your fleet.";

    /// The certificate request does not pass the profile's checks. It is deleted, and the launch waits for another.
    RequestRefused = "request_refused", "Correct the user data (csr_attributes.yaml) or the profile; else find out who sent it.";
    /// The certificate holds what the profile forbids: the launch is abandoned. The certificate is revoked when the instance terminates.
    CertificateRefused = "certificate_refused", "Correct the signer, or the profile.";
    /// The CA signed another request than the one that was checked. The certificate is revoked, and the launch keeps waiting.
    RequestReplaced = "request_replaced", "Find out who replaced it. Set allow-duplicate-certs to false.";
    /// The launch is abandoned, and its name could not be unpinned: the name's next owner would inherit the pins.
    PinsLeft = "pins_left", "Unpin the name from the node groups that the reason names.";
    /// The CA refuses to sign the request.
    SignatureRefused = "signature_refused", "Change what the reason names: mostly a setting in ca.conf.";
    /// The instance lost its key, and the profile allows no new certificate.
    RekeyRefused = "rekey_refused", "Clean the old certificate, or set rekey to allow.";
    /// The name belongs to another instance, which is not known to be gone.
    OwnedByAnotherInstance = "owned_by_another_instance", "Two instances cannot share a name: change certname in the profile.";
    /// Nothing says which instance the certificate or node belongs to.
    OwnerUnknown = "owner_unknown", "Find out whose it is. If it is stale, clean it manually.";
    /// The name is protected.
    ProtectedName = "protected_name", "Change certname in the profile, or the list of protected names.";
    /// EC2 does not show what the certname is made of.
    CertnameUnknown = "certname_unknown", "Set what the profile's certname needs, such as the tag that it names.";
    /// The classifier has no such node group, or does not show it.
    NodeGroupUnknown = "node_group_unknown", "Create the group, correct the profile, or let the token's role view it.";
    /// The profile needs a service that is not configured.
    NotConfigured = "not_configured", "Add the service to the configuration, or take the key out of the profile.";

    /// Auto Scaling has no such group in this account and Region.
    GroupNotFound = "group_not_found", "Nothing, unless the event should have come from here.";
    /// The group has no tag `stagedoor:profile`.
    NotOptedIn = "not_opted_in", "Tag the group if it should be handled.";
    /// The group's tag names a profile that the configuration does not have.
    ProfileUnknown = "profile_unknown", "Add the profile, or correct the tag.";
    /// The hook belongs to another tool.
    OtherHook = "other_hook", "Nothing, unless the hook's name should begin as the profile says.";
    /// Auto Scaling does not show the instance as launching.
    NotLaunching = "not_launching", "Nothing: an old or forged event.";
    /// Auto Scaling does not show the instance as terminating.
    NotTerminating = "not_terminating", "Nothing: an old or forged event.";
    /// The lifecycle action is not visible yet.
    NotVisibleYet = "not_visible_yet", "Nothing: the sweep looks again.";
    /// The lifecycle action was completed before.
    CompletedBefore = "completed_before", "Nothing.";
    /// When the action began could not be read.
    StartTimeUnknown = "start_time_unknown", "Is DescribeScalingActivities permitted? The next sweep reads it again.";

    /// Something that was removed is still there.
    StillThere = "still_there", "Read the failed step. The next sweep removes it again.";
    /// What was done is not visible yet.
    NotSeenYet = "not_seen_yet", "Nothing: the sweep looks again.";
    /// The action is decided, and the invocation ended before it was completed.
    CompletionPending = "completion_pending", "Nothing: the event comes again, or the next sweep completes it.";
    /// A lookup was not answered in time.
    LookupUnanswered = "lookup_unanswered", "Nothing: the sweep looks again.";
    /// Other changes came first.
    Postponed = "postponed", "Nothing: it is next.";
    /// The invocation ended before the instance was looked at.
    InvocationEnded = "invocation_ended", "Nothing: the sweep looks again.";
    /// AWS says that the instance is terminated.
    InstanceTerminated = "instance_terminated", "Nothing.";
    /// EC2 does not know the instance, which was in this account and Region and has shown no activity for the grace time.
    InstanceUnknown = "instance_unknown", "Nothing.";
    /// The instance exists, or it belongs to a group whose hooks handle it.
    InstanceExists = "instance_exists", "Nothing.";
    /// The name was active recently: an instance may use the certificate.
    HeardRecently = "heard_recently", "Nothing: it is examined again.";
    /// The instance was in another account or Region, or nothing says that it was in this one.
    OtherPlace = "other_place", "Nothing here: clean it where it belongs, or manually.";
    /// No profile makes such a name with such extensions.
    NoProfileMatches = "no_profile_matches", "Nothing, unless the profile has changed: then clean it manually.";
    /// The answers of EC2 and Auto Scaling contradict each other, so they are not used.
    AwsContradictory = "aws_contradictory", "Check that the account, the Region and the role's permissions match the groups.";
    /// A second check did not confirm what the first one found.
    NotConfirmed = "not_confirmed", "Nothing: it is examined again.";
    /// Too many orphans would be removed at once: nothing is removed.
    BreakerOpen = "breaker_open", "If they are really gone, raise orphans.max_share until they are removed, or clean them manually.";
    /// Orphans are only reported, as `orphans.mode` says.
    ReportMode = "report_mode", "Set orphans.mode to purge.";
    /// Observe mode: nothing is written.
    ObserveMode = "observe_mode", "Set mode to act.";

    /// The event is for another function.
    OtherFunction = "other_function", "Correct the event pattern.";
    /// The message needs no action, such as a test notification.
    NothingToDo = "nothing_to_do", "Nothing.";
    /// The message is not understood.
    NotUnderstood = "not_understood", "Find out what sent it.";

    /// Auto Scaling is unavailable.
    AutoScalingUnavailable = "auto_scaling_unavailable", "Read the reason: network, permission, or throttling.";
    /// EC2 is unavailable.
    Ec2Unavailable = "ec2_unavailable", "Read the reason: network, permission, or throttling.";
    /// Secrets Manager is unavailable.
    SecretsManagerUnavailable = "secrets_manager_unavailable", "Read the reason: network or permission.";
    /// SNS is unavailable.
    SnsUnavailable = "sns_unavailable", "Read the reason: network or permission.";
    /// The secret does not exist, or cannot be used.
    SecretUnusable = "secret_unusable", "Correct the secret's name or field that the reason names, or restore the deleted secret. It is read again at the next invocation.";
    /// The Puppet CA is unavailable.
    CaUnavailable = "ca_unavailable", "Look at Puppet Server on the CA host.";
    /// PuppetDB is unavailable.
    PuppetDbUnavailable = "puppetdb_unavailable", "Look at PuppetDB.";
    /// The orchestrator is unavailable.
    OrchestratorUnavailable = "orchestrator_unavailable", "Look at the orchestrator. It restarts while Puppet runs on its host.";
    /// The classifier is unavailable.
    ClassifierUnavailable = "classifier_unavailable", "Look at the node classifier.";
    /// The RBAC service is unavailable.
    RbacUnavailable = "rbac_unavailable", "Look at the RBAC service.";
    /// A service on the instance is unavailable.
    InstanceUnavailable = "instance_unavailable", "Look at the service on the instance, and at security groups.";
    /// A service of Puppet does not accept the credentials: the certificate or the token.
    NotAuthenticated = "not_authenticated", "The reason names the service. Renew the certificate or the token in the secret; it is read again at once.";
    /// A service does not permit a call, or AWS does not accept the credentials of the function's role.
    NotPermitted = "not_permitted", "The reason names the call and the remedy.";
    /// A service refuses a call.
    Refused = "refused", "The reason holds the service's words.";
}

/// Only a [`Proof`](crate::removal::Proof) makes one, so that no decision can say `purged` without it. A code that was read, from a
/// receipt or from another fact, can be passed on.
///
/// ```compile_fail,E0423
/// use stagedoor_lifecycle::reason::{Code, Fact, Proven};
/// Fact::new(Code::Purged(Proven(())), "it is gone");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proven(pub(crate) ());

/// The text of a doc comment, of which the macro gets the attribute.
#[cfg(test)]
fn meaning(attribute: &'static str) -> &'static str {
    attribute.split('"').nth(1).unwrap_or_else(|| attribute.trim_start_matches("///")).trim()
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let code = Self::ALL.iter().find(|code| code.as_str() == text);
        code.copied().ok_or_else(|| D::Error::custom(format!("there is no code {text:?}")))
    }
}

impl From<&Trouble> for Code {
    fn from(trouble: &Trouble) -> Self {
        match (trouble.kind, trouble.service) {
            (TroubleKind::Unusable, _) | (TroubleKind::Refused, Service::SecretsManager) => Self::SecretUnusable,
            (TroubleKind::Unauthenticated, _) => Self::NotAuthenticated,
            (TroubleKind::NotPermitted, _) => Self::NotPermitted,
            (TroubleKind::Refused, _) => Self::Refused,
            (TroubleKind::NotTried, _) => Self::Postponed,
            (_, Service::AutoScaling) => Self::AutoScalingUnavailable,
            (_, Service::Ec2) => Self::Ec2Unavailable,
            (_, Service::SecretsManager) => Self::SecretsManagerUnavailable,
            (_, Service::Sns) => Self::SnsUnavailable,
            (_, Service::Ca) => Self::CaUnavailable,
            (_, Service::PuppetDb) => Self::PuppetDbUnavailable,
            (_, Service::Orchestrator) => Self::OrchestratorUnavailable,
            (_, Service::Classifier) => Self::ClassifierUnavailable,
            (_, Service::Rbac) => Self::RbacUnavailable,
            (_, Service::Node) => Self::InstanceUnavailable,
        }
    }
}

/// One fact about an action: a code for programs and a sentence for people, which may be improved at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is.
    pub code: Code,
    /// The same for a person, with names, times and numbers. Never holds a secret.
    pub text: String,
}

impl Fact {
    /// A fact.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<&Trouble> for Fact {
    fn from(trouble: &Trouble) -> Self {
        Self::new(trouble.into(), trouble.text.clone())
    }
}

impl From<Trouble> for Fact {
    fn from(trouble: Trouble) -> Self {
        Self::new((&trouble).into(), trouble.text)
    }
}

/// Why an action is where it is: facts, of which the first is the receipt's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    first: Fact,
    more: Vec<Fact>,
}

impl Reason {
    /// A reason of several facts.
    #[must_use]
    pub fn new(first: impl Into<Fact>, more: Vec<Fact>) -> Self {
        Self { first: first.into(), more }
    }

    /// The code of the receipt.
    #[must_use]
    pub fn code(&self) -> Code {
        self.first.code
    }

    /// The codes of all facts, in order.
    #[must_use]
    pub fn codes(&self) -> Vec<Code> {
        self.facts().map(|fact| fact.code).collect()
    }

    /// The facts, the first one first.
    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        std::iter::once(&self.first).chain(&self.more)
    }

    /// With an introduction before the text of the first fact.
    #[must_use]
    pub fn introduced(mut self, introduction: &str) -> Self {
        self.first.text.insert_str(0, introduction);
        self
    }

    /// With another fact before the others, which gives the reason its code.
    #[must_use]
    pub fn led_by(mut self, fact: Fact) -> Self {
        self.more.insert(0, std::mem::replace(&mut self.first, fact));
        self
    }

    /// With one more fact.
    #[must_use]
    pub fn and(mut self, fact: Fact) -> Self {
        self.more.push(fact);
        self
    }
}

impl<F: Into<Fact>> From<F> for Reason {
    fn from(fact: F) -> Self {
        Self::new(fact, Vec::new())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.text)?;
        let mut between = if self.first.code == Code::TimeoutExpired { ": " } else { "; " };
        for fact in &self.more {
            write!(f, "{between}{}", fact.text)?;
            between = "; ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    /// `docs/codes.md` as it must be; with `STAGEDOOR_UPDATE_DOCS` set, the test writes it.
    fn table() -> String {
        let mut text = "# Codes\n\nEach receipt has a `code` beside its `outcome` and `reason`. Codes are stable: they are never renamed, \
                        and new ones may be added. A reason can\nhave several facts; the code is that of the first one. This table is \
                        generated from the source, and a test checks it.\n\nThe results of housekeeping, in the answer of the sweep and in \
                        its notifications, have codes as well: what was done with each orphan and\nrequest, why a name was left alone, and \
                        what could not be read. For an orphan, `evidence` says why it is one (`instance_terminated` \
                        or\n`instance_unknown`), and `code` says what was done with it. Log lines that report a failure also have a \
                        `code`.\n\n| code | meaning | what to do |\n| --- | --- | --- |\n"
            .to_owned();
        for code in Code::ALL {
            writeln!(text, "| `{code}` | {} | {} |", code.meaning(), code.remedy()).unwrap();
        }
        text
    }

    #[test]
    fn the_documentation_has_every_code_with_its_meaning_and_remedy() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/codes.md");
        if std::env::var_os("STAGEDOOR_UPDATE_DOCS").is_some() {
            std::fs::write(&path, table()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == table(), "docs/codes.md is old: run this test with STAGEDOOR_UPDATE_DOCS=1");
    }

    #[test]
    fn codes_are_distinct_words_in_snake_case() {
        let names: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        let is_snake =
            |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        assert!(names.iter().all(is_snake));
        assert!(Code::ALL.iter().all(|code| code.meaning().ends_with('.') && code.remedy().ends_with(['.', '?'])));
    }

    #[test]
    fn a_reason_is_rendered_from_its_facts_and_has_the_code_of_the_first() {
        let missing = Fact::new(Code::WaitingForRun, "waiting for the first Puppet run");
        let reason = Reason::new(Fact::new(Code::TimeoutExpired, "the timeout has expired"), vec![missing.clone()]);
        insta::assert_snapshot!(reason, @"the timeout has expired: waiting for the first Puppet run");
        assert_eq!(
            (reason.code(), reason.codes()),
            (Code::TimeoutExpired, vec![Code::TimeoutExpired, Code::WaitingForRun])
        );
        let reason = Reason::new(Fact::new(Code::Enrolled, "it has its certificate"), vec![missing]);
        insta::assert_snapshot!(reason, @"it has its certificate; waiting for the first Puppet run");
    }

    #[test]
    fn trouble_has_the_code_of_its_service_unless_a_person_has_to_change_something() {
        let trouble = |kind, service| Trouble { kind, service, text: "down".into() };
        assert_eq!(Code::from(&trouble(TroubleKind::Timeout, Service::Ca)), Code::CaUnavailable);
        assert_eq!(Code::from(&trouble(TroubleKind::Busy, Service::PuppetDb)), Code::PuppetDbUnavailable);
        assert_eq!(Code::from(&trouble(TroubleKind::NotPermitted, Service::Ca)), Code::NotPermitted);
        assert_eq!(Code::from(&trouble(TroubleKind::Unusable, Service::SecretsManager)), Code::SecretUnusable);
    }
}
