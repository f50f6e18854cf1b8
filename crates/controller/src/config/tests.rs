use stagedoor_lifecycle::orphans::Limits;
use stagedoor_lifecycle::profile::{OnRefreshTimeout, Probe, Refresh, RefreshAfter, Rekey, SignMode};
use stagedoor_types::{ActionResult, Mode};

use super::*;

const WHOLE: &str = r#"
budget = "20s"

[puppet]
secret = "stagedoor/puppet"
ca = "https://ca.example.com:8140"
puppetdb = "https://puppetdb.example.com:8081"
orchestrator = "https://orchestrator.example.com:8143"
classifier = "https://classifier.example.com:4433"
protected = ["replica.example.com", "*.infra.example.com"]

[notify]
topic = "arn:aws:sns:eu-west-1:111122223333:stagedoor"

[housekeeping]
every = "10m"
warn_days = 14

[orphans]
mode = "report"
max_share = 5
grace = "6h"

[profile.compiler]
certname = "{private_dns}"
hooks = "puppet-"
sign.mode = "external"
sign.require = { pp_role = "compiler" }
sign.allow = { "1.3.6.1.4.1.34380.1.1.12" = ["production", "staging"], "1.3.6.1.4.1.34380.1.2.7" = ["yes"] }
sign.alt_names = ["puppet.example.com", "{short_name}"]
pin = ["PE Infrastructure Agent"]
classified = ["PE Master"]
refresh = [["db.example.com"], ["primary.example.com", "replica.example.com"]]
refresh_after = "catalog"
await_refresh = { launch = true, terminate = true }
ready = ["report", "status:8140", "tcp:8142"]
rekey = "refuse"
timeout  = { launch = "20m", terminate = "5m", refresh = "15m" }
on_timeout = { launch = "continue", terminate = "abandon", refresh = "wait" }
"#;

#[test]
fn a_fifo_topic_is_refused_with_the_reason() {
    let fifo = WHOLE.replace(":stagedoor\"", ":stagedoor.fifo\"");
    insta::assert_snapshot!(Config::parse(&fifo).unwrap_err(), @"
    the configuration cannot be used:
      notify.topic: is a FIFO topic, to which people cannot subscribe by email: use a standard topic
    ");
}

/// One error in almost every line.
const WRONG: &str = r#"
mode = "dry"
budget = "20 parsecs"
colour = "red"
[puppet]
ca = "http://puppet.example.com:8140"
puppetdb = 8081
protected = ["*"]
[profile.compiler]
certname = "{host}"
timeout = { terminate = "-5m", forever = true }
on_timeout = { terminate = "explode" }
sign = { mode = "all", require = { pp_instance_id = "i-1", pp_role = 7, pp_rol = "compiler" }, allow = "*" }
pin = ["PE Master"]
refresh = ["Primary"]
await_refresh = "yes"
ready = ["status:99999"]
[profile."no good"]
certname = "{private_dns}"
"#;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).expect_err("should be refused").0
}

/// The keys that problems are about.
fn keys(problems: &[String]) -> Vec<&str> {
    problems.iter().filter_map(|problem| Some(problem.split_once(": ")?.0)).collect()
}

#[test]
fn a_whole_configuration_is_read() {
    let config = Config::parse(WHOLE).unwrap();
    assert_eq!(config.budget, Duration::from_secs(20));
    assert_eq!(config.topic.as_deref(), Some("arn:aws:sns:eu-west-1:111122223333:stagedoor"));
    let limits = Limits { max_share: 5, grace: Duration::from_secs(6 * 3600) };
    let every = Some(Duration::from_secs(600));
    assert_eq!(config.housekeeping, Housekeeping { every, warn_days: 14, orphans: OrphanMode::Report, limits });
    let profile = &config.profiles[&"compiler".parse().unwrap()];
    assert_eq!(profile.hook_prefix, "puppet-");
    assert_eq!(profile.terminate_timeout, Duration::from_secs(300));
    assert_eq!(profile.on_terminate_timeout, ActionResult::Abandon);
    assert_eq!(profile.sign, SignMode::External);
    assert_eq!(profile.rules.require["pp_role"], "compiler");
    let allowed: Vec<(&str, Vec<&str>)> = profile
        .rules
        .allow
        .iter()
        .map(|(name, values)| (name.as_str(), values.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(
        allowed,
        [("1.3.6.1.4.1.34380.1.2.7", vec!["yes"]), ("pp_environment", vec!["production", "staging"])],
        "by short name where there is one, as requests are read"
    );
    assert_eq!(profile.rules.alt_names, ["puppet.example.com".parse().unwrap(), "{short_name}".parse().unwrap()]);
    assert_eq!((&profile.pin[0][..], &profile.classified[0][..]), ("PE Infrastructure Agent", "PE Master"));
    let refresh = Refresh {
        waves: vec![
            vec!["db.example.com".parse().unwrap()],
            vec!["primary.example.com".parse().unwrap(), "replica.example.com".parse().unwrap()],
        ],
        after: RefreshAfter::Catalog,
        timeout: Duration::from_secs(900),
        on_timeout: OnRefreshTimeout::Wait,
        await_launch: true,
        await_terminate: true,
    };
    assert_eq!(profile.refresh, refresh);
    assert_eq!(profile.ready, [Probe::Report, Probe::Status(8140), Probe::Tcp(8142)]);
    assert_eq!(profile.rekey, Rekey::Refuse);
    assert_eq!(profile.launch_timeout, Duration::from_secs(1200));
    assert_eq!(profile.on_launch_timeout, ActionResult::Continue);
}

#[test]
fn a_profile_has_the_mode_at_the_top_unless_it_has_its_own() {
    let config = |top: &str| {
        Config::parse(&format!(
            "{top}\npuppet = {{ secret = 's', ca = 'https://ca:8140', puppetdb = 'https://db:8081' }}\n\
             [profile.one]\ncertname = '{{instance_id}}'\n\
             [profile.two]\ncertname = '{{instance_id}}.two'\nmode = 'observe'"
        ))
        .unwrap()
    };
    let modes = |config: &Config| config.profiles.values().map(|profile| profile.mode).collect::<Vec<_>>();
    let (acting, observing) = (config(""), config("mode = 'observe'"));
    assert_eq!((modes(&acting), acting.acts()), (vec![Mode::Act, Mode::Observe], true));
    assert_eq!((modes(&observing), observing.acts()), (vec![Mode::Observe, Mode::Observe], false));
}

#[test]
fn the_configurations_of_the_readme_and_of_the_example_can_be_used() {
    let readme =
        include_str!("../../../../README.md").split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    for text in [readme.unwrap(), include_str!("../../../../infra/stagedoor.example.toml")] {
        let config = Config::parse(text).unwrap_or_else(|invalid| panic!("{invalid}"));
        assert_eq!(config.profiles.len(), 1);
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = Config::parse(
        "puppet = { secret = 's', ca = 'https://ca:8140', puppetdb = 'https://db:8081' }\nprofile.x.certname = '{instance_id}'",
    )
    .unwrap();
    let profile = &config.profiles[&"x".parse().unwrap()];
    assert_eq!((profile.mode, config.budget.as_secs()), (Mode::Act, 50));
    let limits = Limits { max_share: 20, grace: Duration::from_secs(7200) };
    let every = Some(Duration::from_secs(300));
    assert_eq!(config.housekeeping, Housekeeping { every, warn_days: 30, orphans: OrphanMode::Purge, limits });
    assert_eq!((profile.hook_prefix.as_str(), profile.terminate_timeout.as_secs()), ("stagedoor-", 600));
    assert_eq!(profile.on_terminate_timeout, ActionResult::Continue);
    assert_eq!((profile.sign, profile.rekey), (SignMode::Verify, Rekey::Allow));
    assert_eq!((profile.launch_timeout.as_secs(), profile.on_launch_timeout), (1800, ActionResult::Abandon));
    let refresh = Refresh {
        waves: Vec::new(),
        after: RefreshAfter::SuccessfulRun,
        timeout: Duration::from_secs(1200),
        on_timeout: OnRefreshTimeout::Proceed,
        await_launch: false,
        await_terminate: false,
    };
    assert_eq!(profile.refresh, refresh);
    assert_eq!(profile.ready, [Probe::Report]);
}

#[test]
fn the_hosts_of_puppets_services_are_protected_without_being_named() {
    let config = Config::parse(WHOLE).unwrap();
    for name in [
        "ca.example.com",
        "puppetdb.example.com",
        "replica.example.com",
        "a.infra.example.com",
        "primary.example.com",
        "orchestrator.example.com",
        "classifier.example.com",
    ] {
        assert!(config.protected.protects(&name.parse().unwrap()).is_some(), "{name}");
    }
}

#[test]
fn an_infrastructure_host_is_refused_as_an_alternative_name() {
    let mut found = Vec::new();
    for name in [
        "ca.example.com",
        "CA.example.com",
        "puppetdb.example.com",
        "orchestrator.example.com",
        "classifier.example.com",
        "replica.example.com",
        "a.infra.example.com",
        "primary.example.com",
    ] {
        let text = WHOLE.replace("\"puppet.example.com\"", &format!("\"puppet.example.com\", \"{name}\""));
        found.extend(problems(&text));
    }
    insta::assert_snapshot!(found.join("\n"), @"
    profile.compiler.sign.alt_names: must not hold ca.example.com, which is protected by ca.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold ca.example.com, which is protected by ca.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold puppetdb.example.com, which is protected by puppetdb.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold orchestrator.example.com, which is protected by orchestrator.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold classifier.example.com, which is protected by classifier.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold replica.example.com, which is protected by replica.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold a.infra.example.com, which is protected by *.infra.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    profile.compiler.sign.alt_names: must not hold primary.example.com, which is protected by primary.example.com (the hosts of puppet.*, the refresh targets and puppet.protected are)
    ");
}

#[test]
fn an_alternative_name_is_a_host_name_or_a_template_of_one() {
    for name in ["*.example.com", "IP:10.0.3.7", "{host}", "{tag:Name", "a_b"] {
        let problems = problems(&WHOLE.replace("\"{short_name}\"", &format!("\"{name}\"")));
        assert_eq!(keys(&problems), ["profile.compiler.sign.alt_names"], "{name}: {problems:#?}");
    }
}

#[test]
fn every_error_is_reported_at_once_each_with_its_key() {
    let problems = problems(WRONG);
    for key in [
        "mode",
        "budget",
        "colour",
        "puppet.secret",
        "puppet.ca",
        "puppet.puppetdb",
        "puppet.protected",
        "profile.compiler.certname",
        "profile.compiler.timeout.terminate",
        "profile.compiler.timeout.forever",
        "profile.compiler.on_timeout.terminate",
        "profile.no good",
        "profile.compiler.sign.mode",
        "profile.compiler.sign.require",
        "profile.compiler.sign.require.pp_role",
        "profile.compiler.sign.allow",
        "profile.compiler.pin",
        "profile.compiler.refresh",
        "profile.compiler.await_refresh",
        "profile.compiler.ready",
    ] {
        assert!(keys(&problems).contains(&key), "{key} is not in {problems:#?}");
    }
    assert_eq!(problems.len(), 1 + 20, "{problems:#?}");
}

#[test]
fn an_operator_reads_all_errors_as_one_text() {
    let invalid = Config::parse(WRONG).expect_err("should be refused");
    insta::assert_snapshot!("invalid", invalid.to_string());
}

#[test]
fn an_extension_that_could_not_be_meant_is_refused_in_either_list() {
    let mut found = Vec::new();
    for sign in [
        "allow = { pp_rol = [\"x\"] }",
        "allow = { \"\" = [\"x\"] }",
        "allow = { \".\" = [\"x\"] }",
        "allow = { \"2.5.29.19\" = [\"x\"] }",
        "allow = { \"1.3.6.1.4.1.34380.1.\" = [\"x\"] }",
        "require = { \"2.5.29.19\" = \"x\" }",
        "allow = { pp_instance_id = [\"i-1\"] }",
        "allow = { \"1.3.6.1.4.1.34380.1.1.2\" = [\"i-1\"] }",
        "allow = { pp_zone = [] }",
        "allow = { pp_zone = \"eu-west-1a\" }",
        "allow = { pp_zone = [7] }",
        "allow = { pp_role = [\"web\"] }\nsign.require = { pp_role = \"web\" }",
        "allow = { pp_role = [\"web\"], \"1.3.6.1.4.1.34380.1.1.13\" = [\"db\"] }",
        "require = { pp_role = \"web\", \"1.3.6.1.4.1.34380.1.1.13\" = \"db\" }",
    ] {
        let text = format!(
            "puppet = {{ secret = 's', ca = 'https://ca:8140', puppetdb = 'https://db:8081' }}\n\
             [profile.x]\ncertname = '{{instance_id}}'\nsign.{sign}"
        );
        found.push(problems(&text).join("; "));
    }
    insta::assert_snapshot!(found.join("\n"), @r#"
    profile.x.sign.allow: "pp_rol" is neither the name nor the OID (1.3.6.1.4.1.34380.1.…) of an extension of Puppet
    profile.x.sign.allow: "" is neither the name nor the OID (1.3.6.1.4.1.34380.1.…) of an extension of Puppet
    profile.x.sign.allow: "." is neither the name nor the OID (1.3.6.1.4.1.34380.1.…) of an extension of Puppet
    profile.x.sign.allow: "2.5.29.19" is neither the name nor the OID (1.3.6.1.4.1.34380.1.…) of an extension of Puppet
    profile.x.sign.allow: "1.3.6.1.4.1.34380.1." is neither the name nor the OID (1.3.6.1.4.1.34380.1.…) of an extension of Puppet
    profile.x.sign.require: "2.5.29.19" is neither the name nor the OID (1.3.6.1.4.1.34380.1.…) of an extension of Puppet
    profile.x.sign.allow: must not name pp_instance_id: it always has to be the instance's own
    profile.x.sign.allow: must not name pp_instance_id: it always has to be the instance's own
    profile.x.sign.allow: must list at least one value of "pp_zone"
    profile.x.sign.allow.pp_zone: must be a list of texts, not string; profile.x.sign.allow: must list at least one value of "pp_zone"
    profile.x.sign.allow.pp_zone: must hold nothing but texts; profile.x.sign.allow: must list at least one value of "pp_zone"
    profile.x.sign.allow: must not name "pp_role", which sign.require gives one value
    profile.x.sign.allow: names the extension "pp_role" twice
    profile.x.sign.require: names the extension "pp_role" twice
    "#);
}

/// A profile with these lines.
fn profile_with(lines: &str) -> Result<Arc<Profile>, Vec<String>> {
    let text = format!(
        "puppet = {{ secret = 's', ca = 'https://ca:8140', puppetdb = 'https://db:8081' }}\n\
         [profile.x]\ncertname = '{{instance_id}}'\n{lines}"
    );
    match Config::parse(&text) {
        Ok(config) => Ok(config.profiles[&"x".parse().unwrap()].clone()),
        Err(invalid) => Err(invalid.0),
    }
}

#[test]
fn a_report_may_be_left_out() {
    let ready = |ready: &str| {
        profile_with(&format!("ready = {ready}\nrefresh = ['primary.example.com']\nrefresh_after = 'catalog'"))
            .unwrap()
            .ready
            .clone()
    };
    assert_eq!(ready("[]"), []);
    assert_eq!(ready("['tcp:8142']"), [Probe::Tcp(8142)]);
    assert_eq!(ready("['report:any', 'tcp:8142']"), [Probe::AnyReport, Probe::Tcp(8142)]);
    let both = profile_with("ready = ['report', 'report:any']").expect_err("should be refused");
    assert_eq!(keys(&both), ["profile.x.ready"], "{both:?}");
}

#[test]
fn what_needs_no_successful_run_is_refreshed_after_its_catalog() {
    let any = "ready = ['report:any']\nrefresh = ['primary.example.com']";
    let problems = profile_with(any).expect_err("should be refused");
    assert_eq!(keys(&problems), ["profile.x.refresh_after"], "{problems:?}");
    profile_with(&format!("{any}\nrefresh_after = 'catalog'")).unwrap();
    profile_with("ready = ['report:any']").unwrap();
}

#[test]
fn compilers_of_puppet_enterprise_are_not_made_to_wait_for_targets_that_wait_for_them() {
    for rules in ["sign.require.pp_auth_role = 'pe_compiler'", "sign.allow.pp_auth_role = ['pe_compiler']"] {
        let profile = format!("{rules}\nrefresh = ['primary.example.com']");
        let problems = profile_with(&profile).expect_err("should be refused");
        assert_eq!(keys(&problems), ["profile.x.refresh_after"], "{problems:?}");
        profile_with(&format!("{profile}\nrefresh_after = 'catalog'")).unwrap();
    }
    profile_with("sign.require.pp_auth_role = 'pe_compiler_legacy'\nrefresh = ['primary.example.com']").unwrap();
}

#[test]
fn refresh_targets_are_one_wave_or_a_list_of_waves() {
    let waves = |refresh: &str| {
        profile_with(&format!("refresh = {refresh}")).map(|profile| {
            profile
                .refresh
                .waves
                .iter()
                .map(|wave| wave.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(waves("[]").unwrap(), Vec::<String>::new());
    assert_eq!(waves("['a', 'b']").unwrap(), ["a b"]);
    assert_eq!(waves("[['a'], ['b', 'c']]").unwrap(), ["a", "b c"]);
    for wrong in [
        "'a'",
        "['a', ['b']]",
        "[['a'], 'b']",
        "[['a'], []]",
        "[[]]",
        "['a', 'a']",
        "[['a'], ['a']]",
        "[[['a']]]",
        "[7]",
        "['Primary']",
    ] {
        let problems = waves(wrong).expect_err(wrong);
        assert!(problems.iter().all(|problem| problem.starts_with("profile.x.refresh: ")), "{wrong}: {problems:?}");
    }
}

#[test]
fn the_timeout_of_the_refresh_is_shorter_than_that_of_the_launch() {
    let timeout =
        |timeout: &str| profile_with(&format!("timeout = {timeout}")).map(|profile| profile.refresh.timeout.as_secs());
    assert_eq!(timeout("{ launch = '75m' }").unwrap(), 3000);
    assert_eq!(timeout("{ launch = '75m', refresh = '74m' }").unwrap(), 74 * 60);
    for wrong in ["{ launch = '75m', refresh = '75m' }", "{ refresh = '31m' }", "{ refresh = '0s' }"] {
        let problems = timeout(wrong).expect_err(wrong);
        assert_eq!(keys(&problems), ["profile.x.timeout.refresh"], "{problems:?}");
    }
}

#[test]
fn awaiting_the_refresh_is_one_answer_for_launches_and_terminations_or_one_of_each() {
    let awaits = |lines: &str| {
        profile_with(lines).map(|profile| (profile.refresh.await_launch, profile.refresh.await_terminate))
    };
    assert_eq!(awaits("await_refresh = true").unwrap(), (true, true));
    assert_eq!(awaits("await_refresh = false").unwrap(), (false, false));
    assert_eq!(awaits("await_refresh.terminate = true").unwrap(), (false, true));
    assert_eq!(awaits("await_refresh = { launch = true }").unwrap(), (true, false));
    for wrong in ["await_refresh = 'yes'", "await_refresh.launch = 1", "await_refresh.terminat = true"] {
        let problems = awaits(wrong).expect_err(wrong);
        assert!(problems[0].starts_with("profile.x.await_refresh"), "{problems:?}");
    }
}

#[test]
fn file_sync_needs_puppet_enterprise() {
    let with = |service: &str| {
        Config::parse(&format!(
            "puppet = {{ secret = 's', ca = 'https://ca:8140', puppetdb = 'https://db:8081'{service} }}\n\
             [profile.x]\ncertname = '{{instance_id}}'\nready = ['report', 'status:8140/broker-service', 'file-sync']"
        ))
    };
    for service in [", orchestrator = 'https://ca:8143'", ", classifier = 'https://ca:4433'"] {
        let ready = with(service).unwrap().profiles[&"x".parse().unwrap()].ready.clone();
        assert_eq!(ready, [Probe::Report, "status:8140/broker-service".parse().unwrap(), Probe::FileSync]);
    }
    assert_eq!(keys(&with("").expect_err("should be refused").0), ["profile.x.ready"]);
}

#[test]
fn housekeeping_can_be_switched_off_and_its_keys_are_checked() {
    let never = Config::parse(&WHOLE.replace("\"10m\"", "\"never\"")).unwrap();
    assert_eq!(never.housekeeping.every, None);
    let wrong = problems(
        &WHOLE
            .replace("\"10m\"", "\"now and then\"")
            .replace("warn_days = 14", "warn_days = 0\nwarn = true")
            .replace("max_share = 5", "max_share = 0\nshare = 7")
            .replace("\"report\"\nmax", "\"kill\"\nmax")
            .replace("\"6h\"", "\"0s\""),
    );
    for key in [
        "housekeeping.every",
        "housekeeping.warn_days",
        "housekeeping.warn",
        "orphans.mode",
        "orphans.max_share",
        "orphans.share",
        "orphans.grace",
    ] {
        assert!(keys(&wrong).contains(&key), "{key} is not in {wrong:#?}");
    }
    assert_eq!(wrong.len(), 7, "{wrong:#?}");
}

#[test]
fn an_empty_configuration_names_its_missing_sections_and_nothing_more() {
    assert_eq!(problems(""), ["puppet: is missing", "profile: is missing: there must be at least one profile"]);
}

#[test]
fn text_that_is_not_toml_says_where() {
    insta::assert_snapshot!(problems("puppet = {").join("\n"), @"
    not TOML: TOML parse error at line 1, column 11
      |
    1 | puppet = {
      |           ^
    unclosed inline table, expected `}`
    ");
}
