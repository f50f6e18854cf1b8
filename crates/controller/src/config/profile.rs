//! Reads the section of one profile. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stagedoor_lifecycle::profile::{
    AltNameTemplate, Probe, Profile, Protected, Refresh, RefreshAfter, Rekey, SignMode,
};
use stagedoor_lifecycle::signing::SigningRules;
use stagedoor_puppet::{long_name, short_name};
use stagedoor_types::{ActionResult, Mode, ProfileName};

use super::MODES;
use super::reader::{Problems, Reader};
use super::refresh::refresh;

/// The longest that a lifecycle action can live.
const MAX_TIMEOUT: Duration = Duration::from_secs(172_800);
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(1800);
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(600);
const RESULTS: [(&str, ActionResult); 2] = [("continue", ActionResult::Continue), ("abandon", ActionResult::Abandon)];

/// The arc of Puppet's extensions.
const PUPPET_ARC: &str = "1.3.6.1.4.1.34380.1.";

/// The rules for certificate requests.
fn signing_rules(sign: &mut Reader<'_>) -> SigningRules {
    let (mut require, mut allow) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in sign.text_table("require") {
        if let Some(name) = extension(sign, "require", &key)
            && require.insert(name, value).is_some()
        {
            sign.problem("require", format_args!("names the extension {key:?} twice"));
        }
    }
    for (key, values) in sign.list_table("allow") {
        let Some(name) = extension(sign, "allow", &key) else { continue };
        if require.contains_key(&name) {
            sign.problem("allow", format_args!("must not name {key:?}, which sign.require gives one value"));
        }
        let values: BTreeSet<String> = values.into_iter().collect();
        if values.is_empty() {
            sign.problem("allow", format_args!("must list at least one value of {key:?}"));
        }
        if allow.insert(name, values).is_some() {
            sign.problem("allow", format_args!("names the extension {key:?} twice"));
        }
    }
    SigningRules { require, allow, alt_names: sign.parsed_list("alt_names") }
}

/// Says which alternative names of a profile are protected: a certificate with one of them could impersonate that host. What a template
/// gives for an instance is checked when its request is.
pub(super) fn check_alt_names(profile: &Profile, protected: &Protected, problems: &Problems) {
    for name in profile.rules.alt_names.iter().filter_map(AltNameTemplate::literal) {
        if let Some(pattern) = protected.protects_host(name) {
            let key = format!("profile.{}.sign.alt_names", profile.name);
            let why = "the hosts of puppet.*, the refresh targets and puppet.protected are";
            problems.add(&key, format_args!("must not hold {name}, which is protected by {pattern} ({why})"));
        }
    }
}

/// An extension by its short name, if it has one, else by its OID.
fn extension(sign: &Reader<'_>, list: &str, key: &str) -> Option<String> {
    // What has no OID, or one of another arc, is never accepted in a request.
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_oid = key.strip_prefix(PUPPET_ARC).is_some_and(|rest| rest.split('.').all(number));
    let name = match short_name(key) {
        Some(name) => name,
        None if is_oid || long_name(key).is_some() => key,
        None => {
            sign.problem(
                list,
                format_args!("{key:?} is neither the name nor the OID ({PUPPET_ARC}…) of an extension of Puppet"),
            );
            return None;
        }
    };
    if name == "pp_instance_id" {
        sign.problem(list, "must not name pp_instance_id: it always has to be the instance's own");
        return None;
    }
    Some(name.to_owned())
}

/// At most one kind of Puppet run is awaited.
fn check_reports(section: &Reader<'_>, ready: &[Probe]) {
    let [report, any] = [Probe::Report, Probe::AnyReport].map(|probe| ready.contains(&probe));
    if report && any {
        section.problem("ready", "has both \"report\" and \"report:any\": leave one out");
    }
}

/// Whether these compilers would wait for their refresh targets, and the targets for them. Legacy compilers have no PuppetDB that must be
/// admitted first.
fn is_deadlocked(rules: &SigningRules, refresh: &Refresh) -> bool {
    let of_compilers = rules.permitted("pp_auth_role").any(|role| role == "pe_compiler");
    of_compilers && !refresh.is_empty() && refresh.after == RefreshAfter::SuccessfulRun
}

/// What else `ready` requires.
fn check_ready(section: &Reader<'_>, ready: &[Probe], site: Site) {
    if ready.contains(&Probe::FileSync) && !site.is_enterprise() {
        let needs =
            "\"file-sync\" needs puppet.orchestrator or puppet.classifier: only Puppet Enterprise has file sync";
        section.problem("ready", needs);
    }
}

/// Which services of Puppet Enterprise are configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site {
    pub(super) has_orchestrator: bool,
    pub(super) has_classifier: bool,
}

impl Site {
    /// Whether it is Puppet Enterprise: only it has either.
    fn is_enterprise(self) -> bool {
        self.has_orchestrator || self.has_classifier
    }
}

/// The profile, unless something in it is wrong; `mode` is what it has if it does not say.
pub(super) fn profile(name: &str, mut section: Reader<'_>, mode: Mode, site: Site) -> Option<Profile> {
    let name: Option<ProfileName> = name.parse().map_err(|error| section.problem("", error)).ok();
    let mode = section.choice("mode", &MODES, mode);
    let certname = section.parsed("certname", None);
    let hook_prefix = section.text_or("hooks", "stagedoor-");

    let mut sign = section.below("sign");
    let signers = [("verify", SignMode::Verify), ("external", SignMode::External)];
    let signer = sign.choice("mode", &signers, SignMode::Verify);
    let rules = signing_rules(&mut sign);
    sign.finish();

    let (pin, classified) = (section.texts("pin"), section.texts("classified"));
    for (key, groups) in [("pin", &pin), ("classified", &classified)] {
        if !groups.is_empty() && !site.has_classifier {
            section.problem(key, "needs puppet.classifier");
        }
    }
    let ready = section.parsed_list_or("ready", vec![Probe::Report]);
    check_reports(&section, &ready);
    check_ready(&section, &ready, site);
    let rekey = section.choice("rekey", &[("allow", Rekey::Allow), ("refuse", Rekey::Refuse)], Rekey::Allow);

    let mut timeout = section.below("timeout");
    let launch_timeout = timeout.duration("launch", Some(LAUNCH_TIMEOUT), MAX_TIMEOUT);
    let terminate_timeout = timeout.duration("terminate", Some(TERMINATE_TIMEOUT), MAX_TIMEOUT);
    let mut on_timeout = section.below("on_timeout");
    let on_launch_timeout = on_timeout.choice("launch", &RESULTS, ActionResult::Abandon);
    let on_terminate_timeout = on_timeout.choice("terminate", &RESULTS, ActionResult::Continue);
    let longest = launch_timeout.unwrap_or(LAUNCH_TIMEOUT);
    let refresh = refresh(&mut section, &mut timeout, &mut on_timeout, &ready, longest, MAX_TIMEOUT);
    if refresh.as_ref().is_some_and(|refresh| is_deadlocked(&rules, refresh)) {
        let needs = "must be \"catalog\" for compilers of Puppet Enterprise (pp_auth_role is pe_compiler): they cannot run Puppet \
                     successfully before the nodes of refresh have learnt of them";
        section.problem("refresh_after", needs);
    }
    timeout.finish();
    on_timeout.finish();
    section.finish();

    Some(Profile {
        name: name?,
        mode,
        certname: certname?,
        hook_prefix,
        sign: signer,
        rules,
        pin,
        classified,
        refresh: refresh?,
        ready,
        rekey,
        launch_timeout: launch_timeout?,
        on_launch_timeout,
        terminate_timeout: terminate_timeout?,
        on_terminate_timeout,
    })
}
