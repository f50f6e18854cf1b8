//! What AWS says about launching and terminating instances, rule by rule.

use super::*;
use crate::reason::Code;
use crate::world::{Aws, NAME, down, hook};

// Both transitions.

#[test]
fn a_group_that_auto_scaling_does_not_have_is_refused() {
    for mut aws in [Aws::launching(), Aws::terminating()] {
        aws.cloud.group = Lookup::Absent;
        assert!(matches!(aws.admit(), Admission::Refuse(reason) if reason.code == Code::GroupNotFound));
    }
}

#[test]
fn a_group_without_the_tag_is_none_of_our_business() {
    for mut aws in [Aws::launching(), Aws::terminating()] {
        aws.group().tags.clear();
        assert!(matches!(aws.admit(), Admission::Ignore(reason) if reason.code == Code::NotOptedIn));
    }
}

#[test]
fn a_profile_that_is_not_configured_fails_and_says_so() {
    let reasons = ["databases", "", "no profile name"].map(|tag| {
        let mut aws = Aws::terminating();
        aws.group().tags.insert(PROFILE_TAG.into(), tag.into());
        match aws.admit() {
            Admission::Fail(reason) if reason.code == Code::ProfileUnknown => reason.text,
            other => panic!("{other:?}"),
        }
    });
    insta::assert_snapshot!(reasons.join("\n"), @r#"
    the tag stagedoor:profile of group compilers names the profile "databases", which the configuration does not have: add [profile.databases] there, or correct the tag
    the tag stagedoor:profile of group compilers names the profile "", which the configuration does not have: correct the tag
    the tag stagedoor:profile of group compilers names the profile "no profile name", which the configuration does not have: correct the tag
    "#);
}

#[test]
fn another_tools_hook_is_left_to_it() {
    for mut aws in [Aws::launching(), Aws::terminating()] {
        aws.action.hook = "drain-logs".parse().unwrap();
        assert!(matches!(aws.admit(), Admission::Ignore(reason) if reason.code == Code::OtherHook));
    }
}

#[test]
fn an_unreachable_group_is_never_read_as_no_group() {
    for mut aws in [Aws::launching(), Aws::terminating()] {
        aws.cloud.group = down();
        assert!(matches!(aws.admit(), Admission::Fail(_)));
    }
}

#[test]
fn the_name_is_made_of_what_ec2_shows() {
    for mut aws in [Aws::launching(), Aws::terminating()] {
        assert_eq!(aws.admitted().expected.unwrap().as_str(), NAME);
        aws.machine().private_dns = None;
        assert!(matches!(aws.admitted().expected, Err(Nameless::Unknown(_))));
        aws.cloud.machine = Lookup::Absent;
        assert!(matches!(aws.admitted().expected, Err(Nameless::Unknown(_))));
        aws.cloud.machine = down();
        assert_eq!(aws.admitted().expected, Err(Nameless::Unavailable(crate::world::trouble())));
    }
}

#[test]
fn ec2_is_not_needed_where_the_name_is_made_of_the_instance_id() {
    for mut aws in [Aws::launching(), Aws::terminating()] {
        aws.profile.certname = "{instance_id}.nodes.example.com".parse().unwrap();
        aws.cloud.machine = down();
        assert_eq!(aws.admitted().expected.unwrap().as_str(), "i-0a1b2c3d4e5f60718.nodes.example.com");
    }
}

#[test]
fn each_transition_has_its_own_timeout_and_its_own_result_when_it_expires() {
    let (launching, terminating) = (Aws::launching().admitted(), Aws::terminating().admitted());
    assert_eq!((launching.allowed, launching.on_timeout), (Duration::from_secs(1800), ActionResult::Abandon));
    assert_eq!((terminating.allowed, terminating.on_timeout), (Duration::from_secs(600), ActionResult::Continue));
}

#[test]
fn a_heartbeat_is_needed_only_where_the_hook_times_out_before_the_profile_does() {
    let mut aws = Aws::launching();
    assert_eq!(aws.admitted().heartbeat, None);
    aws.hooks()[0].heartbeat_timeout = Duration::from_secs(300);
    assert_eq!(aws.admitted().heartbeat, Some(Duration::from_secs(300)));
    aws.hooks()[0].name = "stagedoor-another".parse().unwrap();
    assert_eq!(aws.admitted().heartbeat, None, "it is this hook's own timeout that counts");
}

#[test]
fn the_hooks_global_timeout_comes_before_a_longer_timeout() {
    let mut aws = Aws::launching();
    aws.hooks()[0].global_timeout = Duration::from_secs(600);
    assert_eq!(aws.admitted().allowed, Duration::from_secs(450));
    aws.cloud.hooks = down();
    assert_eq!(aws.admitted().allowed, Duration::from_secs(1800), "the profile's timeout alone");
}

#[test]
fn another_hook_of_the_same_transition_is_noticed() {
    for (mut aws, same, opposite) in [
        (Aws::launching(), Transition::Launching, Transition::Terminating),
        (Aws::terminating(), Transition::Terminating, Transition::Launching),
    ] {
        assert!(!aws.admitted().other_hooks);
        aws.hooks().push(hook("other-way", opposite));
        assert!(!aws.admitted().other_hooks);
        aws.hooks().push(hook("drain-logs", same));
        assert!(aws.admitted().other_hooks);
        aws.hooks().truncate(1);
        aws.hooks().push(Hook { transition: None, ..hook("something-new", same) });
        assert!(aws.admitted().other_hooks, "it may be");
    }
}

// Launches.

#[test]
fn an_instance_that_a_launch_hook_holds_is_arriving() {
    for state in ["Pending:Wait", "Warmed:Pending:Wait"] {
        let launching = Aws::launching().in_state(state).admitted();
        assert!(launching.waits, "{state}");
    }
}

#[test]
fn an_instance_that_no_hook_holds_yet_is_tried_again() {
    for state in ["Pending", "Warmed:Pending"] {
        let admission = Aws::launching().in_state(state).admit();
        assert!(
            matches!(&admission, Admission::Fail(reason) if reason.code == Code::NotVisibleYet),
            "{state}: {admission:?}"
        );
    }
}

#[test]
fn an_instance_that_has_passed_the_door_is_none_of_our_business() {
    for state in
        ["InService", "Pending:Proceed", "Warmed:Stopped", "Warmed:Running", "Standby", "ReplacingRootVolume", "New"]
    {
        let admission = Aws::launching().in_state(state).admit();
        assert!(
            matches!(&admission, Admission::Ignore(reason) if reason.code == Code::NotLaunching),
            "{state}: {admission:?}"
        );
    }
}

#[test]
fn an_instance_that_is_terminating_is_refused_as_arriving() {
    for state in [
        "Terminating",
        "Terminating:Wait",
        "Terminating:Proceed",
        "Terminating:Retained",
        "Terminated",
        "Warmed:Terminating:Wait",
    ] {
        let admission = Aws::launching().in_state(state).admit();
        assert!(
            matches!(&admission, Admission::Refuse(why) if why.code == Code::NotLaunching),
            "{state}: {admission:?}"
        );
    }
}

#[test]
fn an_instance_that_is_not_in_the_group_is_refused_as_arriving_whatever_ec2_says() {
    let mut aws = Aws::launching().not_in_the_group();
    aws.machine().tags.insert("aws:autoscaling:groupName".into(), "compilers".into());
    assert!(matches!(aws.admit(), Admission::Refuse(_)));
    aws.machine().state = "terminated".into();
    assert!(matches!(aws.admit(), Admission::Refuse(_)));
    aws.cloud.machine = down();
    assert!(matches!(aws.admit(), Admission::Refuse(_)));
}

#[test]
fn an_arriving_instance_is_reached_at_the_addresses_that_ec2_shows_ipv4_first() {
    let mut aws = Aws::launching();
    let (v4, v6) = (IpAddr::from([10, 0, 3, 7]), "2001:db8::7".parse::<IpAddr>().unwrap());
    assert_eq!(aws.admitted().addresses, [v4]);
    aws.machine().ipv6 = Some(v6);
    assert_eq!(aws.admitted().addresses, [v4, v6]);
    aws.machine().private_ip = None;
    assert_eq!(aws.admitted().addresses, [v6], "a subnet with IPv6 alone");
    aws.machine().ipv6 = None;
    assert!(aws.admitted().addresses.is_empty());
    aws.cloud.machine = down();
    assert!(aws.admitted().addresses.is_empty());
}

// Terminations.

#[test]
fn a_waiting_instance_of_an_opted_in_group_is_leaving() {
    let terminating = Aws::terminating().admitted();
    assert!(terminating.waits && !terminating.other_hooks);
}

#[test]
fn a_replayed_event_for_an_instance_in_service_is_refused() {
    for state in ["InService", "Pending", "Pending:Wait", "Standby", "Warmed:Stopped", "Detached", "SomethingNew"] {
        assert!(matches!(Aws::terminating().in_state(state).admit(), Admission::Refuse(_)), "{state}");
    }
}

#[test]
fn an_instance_that_ec2_says_is_gone_from_the_group_is_leaving_though_nothing_holds_it() {
    let mut aws = Aws::terminating().not_in_the_group();
    aws.machine().state = "terminated".into();
    assert!(matches!(aws.admit(), Admission::Refuse(_)), "it may have been of another group");
    aws.machine().tags.insert("aws:autoscaling:groupName".into(), "compilers".into());
    assert!(!aws.admitted().waits);
    aws.machine().state = "stopped".into();
    assert!(matches!(aws.admit(), Admission::Refuse(_)), "it may come back");
}

#[test]
fn an_instance_that_auto_scaling_does_not_show_is_refused() {
    let mut aws = Aws::terminating().not_in_the_group();
    assert!(matches!(aws.admit(), Admission::Refuse(_)));
    aws.cloud.machine = Lookup::Absent;
    assert!(matches!(aws.admit(), Admission::Refuse(_)));
    aws.cloud.machine = down();
    assert!(matches!(aws.admit(), Admission::Fail(_)), "EC2 is unavailable");
}

#[test]
fn an_instance_on_its_way_to_the_warm_pool_is_not_purged() {
    let mut aws = Aws::terminating().with_warm_pool();
    aws.action.destination = Some(Place::WarmPool);
    assert!(matches!(aws.in_state("Warmed:Pending:Wait").admit(), Admission::Pass(_)));
}

#[test]
fn an_instance_that_terminates_is_purged_even_if_an_old_event_says_that_it_returns_to_the_warm_pool() {
    let mut aws = Aws::terminating().with_warm_pool();
    aws.action.destination = Some(Place::WarmPool);
    assert!(aws.in_state("Terminating:Wait").admitted().waits);
}

#[test]
fn a_claimed_warm_pool_that_the_group_does_not_have_is_not_believed() {
    let mut aws = Aws::terminating();
    aws.action.destination = Some(Place::WarmPool);
    assert!(aws.admitted().waits);
}

#[test]
fn an_instance_that_leaves_the_warm_pool_is_purged_whatever_an_old_event_says() {
    let mut aws = Aws::terminating().with_warm_pool().in_state("Warmed:Terminating:Wait");
    assert!(aws.admitted().waits);
    aws.action.destination = Some(Place::WarmPool);
    assert!(aws.admitted().waits);
}

#[test]
fn where_instances_are_reused_one_that_waits_to_terminate_is_final_even_if_its_event_is_lost() {
    let mut aws = Aws::terminating().with_warm_pool();
    aws.action.destination = None;
    assert!(aws.admitted().waits);
    assert!(!aws.in_state("Terminating:Proceed").admitted().waits);
}

#[test]
fn an_instance_that_is_about_to_wait_is_not_taken_for_gone() {
    assert!(Aws::terminating().in_state("Terminating").admitted().waits);
}

#[test]
fn an_instance_that_auto_scaling_no_longer_holds_is_leaving_all_the_same() {
    assert!(!Aws::terminating().in_state("Terminating:Proceed").admitted().waits);
}

#[test]
fn the_mode_is_known_as_soon_as_the_profile_is_whatever_becomes_of_the_action() {
    let admit = |aws: &Aws| {
        let profile = Arc::new(aws.profile.clone());
        admit(&aws.action, &aws.cloud, &|name| (*name == profile.name).then(|| profile.clone()))
    };
    let mut observing = Aws::terminating();
    observing.profile.mode = Mode::Observe;
    assert!(matches!(admit(&observing), (Some(Mode::Observe), Admission::Ours(_))));
    let refused = observing.clone().in_state("InService");
    assert!(matches!(admit(&refused), (Some(Mode::Observe), Admission::Refuse(_))));
    let mut untagged = observing;
    untagged.group().tags.clear();
    assert!(matches!(admit(&untagged), (None, Admission::Ignore(_))));
}
