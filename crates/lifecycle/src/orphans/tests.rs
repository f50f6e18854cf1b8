mod place;
mod properties;
use stagedoor_types::{Group, LifecycleState, Location, Lookup, Machine, PROFILE_TAG};

use super::cloud::Abroad;
use super::doubt::Unclear;
use super::*;
use crate::world::{NAME, OTHER, OURS, at, certificate, down, machine, node, request};

/// A member of the group, alive.
const MEMBER: &str = "i-0c3d4e5f60718293a";
const GRACE: Duration = Duration::from_secs(7200);
/// Long after everything was last heard of.
const LATER: i64 = 100_000;

/// A dead instance's name, with all evidence; each test takes one thing away.
struct Scene {
    suspect: Suspect,
    cloud: Cloud,
    profile: Profile,
    protected: Protected,
    now: Timestamp,
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn extensions() -> BTreeMap<String, String> {
    BTreeMap::from([("pp_instance_id".into(), OURS.into()), ("pp_role".into(), "compiler".into())])
}

fn listed(instance: &str) -> Listed {
    Listed { certname: NAME.parse().unwrap(), instance: id(instance), extensions: extensions() }
}

impl Scene {
    /// EC2 does not know the instance, and nothing was heard of it for long.
    fn forgotten() -> Self {
        let mut certificate = certificate(Some(OURS), at(0));
        certificate.holds.extensions = extensions();
        let view = NameView {
            certname: NAME.parse().unwrap(),
            certificate: Lookup::Found(certificate),
            request: Lookup::Absent,
            node: Lookup::Found(node(true, at(600))),
            fact_instance: Lookup::Found(id(OURS)),
            pins: Lookup::Absent,
        };
        let reported = Reported {
            instance: Some(id(OURS)),
            account: Some("111122223333".into()),
            region: Some("eu-west-1".into()),
        };
        let group = Group {
            has_pool: false,
            name: "compilers".parse().unwrap(),
            tags: BTreeMap::from([(PROFILE_TAG.into(), "compiler".into())]),
            members: BTreeMap::from([(id(MEMBER), LifecycleState::parse("InService"))]),
            reuses: false,
            location: Location::of_arn("arn:aws:autoscaling:eu-west-1:111122223333:autoScalingGroup:x:y"),
        };
        let mut profile = Profile::example();
        profile.rules.require = BTreeMap::from([("pp_role".into(), "compiler".into())]);
        Self {
            suspect: Suspect { view, certified: Some(listed(OURS)), reported },
            cloud: Cloud { groups: vec![group], machines: BTreeMap::from([(id(MEMBER), machine(MEMBER, "running"))]) },
            profile,
            protected: Protected::default(),
            now: at(LATER),
        }
    }

    /// EC2 says that the instance is terminated.
    fn terminated() -> Self {
        let mut scene = Self::forgotten();
        scene.ec2_knows(OURS, "terminated");
        scene.terminated_at(700);
        scene.now = at(700 + 2400);
        scene
    }

    fn terminated_at(&mut self, second: i64) {
        self.cloud.machines.get_mut(&id(OURS)).unwrap().terminated = Some(at(second));
    }

    fn heard_at(&mut self, second: i64) {
        self.suspect.view.node = Lookup::Found(node(true, at(second)));
    }

    fn ec2_knows(&mut self, instance: &str, state: &str) {
        self.cloud.machines.insert(id(instance), Machine { private_dns: None, ..machine(instance, state) });
    }

    fn judge(&self) -> Findings {
        self.with_rules(|rules| rules.judge(std::slice::from_ref(&self.suspect), 10, 0, &self.cloud, self.now))
    }

    fn with_rules<T>(&self, ask: impl FnOnce(&Rules<'_>) -> T) -> T {
        let profiles = [&self.profile];
        let limits = Limits { max_share: 20, grace: GRACE };
        ask(&Rules { profiles: &profiles, protected: &self.protected, limits })
    }

    fn orphan(&self) -> Orphan {
        let findings = self.judge();
        assert_eq!((findings.orphans.len(), &findings.breaker), (1, &None), "{findings:#?}");
        findings.orphans[0].clone()
    }

    fn verdict(&self) -> Result<Orphan, Doubt> {
        self.with_rules(|rules| rules.verdict(&self.suspect, &self.cloud, self.now))
    }

    /// Why it is left alone.
    fn spared(&self) -> Spared {
        let findings = self.judge();
        assert_eq!((findings.orphans.len(), findings.spared.len()), (0, 1), "{findings:#?}");
        match self.verdict() {
            Err(Doubt::Spared(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// Why it is not known whether it is an orphan.
    fn unclear(&self) -> Unclear {
        let findings = self.judge();
        assert_eq!((findings.orphans.len(), findings.unclear.len()), (0, 1), "{findings:#?}");
        match self.verdict() {
            Err(Doubt::Unclear(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    fn without_certificate(mut self) -> Self {
        self.suspect.view.certificate = Lookup::Absent;
        self
    }

    fn extension(&mut self, name: &str, value: Option<&str>) {
        let Lookup::Found(certificate) = &mut self.suspect.view.certificate else { panic!("no certificate") };
        certificate.holds.extensions.remove(name);
        if let Some(value) = value {
            certificate.holds.extensions.insert(name.into(), value.into());
        }
    }
}

#[test]
fn an_orphan_of_a_profile_that_only_observes_may_not_be_removed() {
    let mut scene = Scene::forgotten();
    assert_eq!(scene.orphan().mode, Mode::Act);
    scene.profile.mode = Mode::Observe;
    assert_eq!(scene.orphan().mode, Mode::Observe);
}

/// Our instance is terminated, its name was last heard of at this second, and it is left alone until then.
fn heard_of_since_termination(heard: i64, until: i64) -> Spared {
    Spared::HeardOfSinceTermination { instance: id(OURS), heard: Some(at(heard)), until: at(until) }
}

/// EC2 does not know our instance, which was last heard of at this second.
fn heard_of(heard: i64) -> Spared {
    Spared::HeardOf { instance: id(OURS), heard: at(heard) }
}

/// This instance lives: EC2 shows it in this state.
fn alive(instance: &str, state: &str) -> Spared {
    Spared::Alive { instance: id(instance), life: Life::State(state.into()) }
}

/// The certificate that is to be removed, and whether the node is; nothing else is to be.
fn parts(removal: &Removal) -> (Option<&str>, bool) {
    assert_eq!(removal.name.certname().as_str(), NAME);
    assert!(!removal.request && removal.pins.is_empty(), "{removal:?}");
    (removal.certificate.as_deref(), removal.node.is_some())
}

#[test]
fn what_is_left_of_a_terminated_instance_is_removed_after_a_short_silence() {
    let mut scene = Scene::terminated();
    scene.now = at(700 + 2399);
    assert_eq!(scene.spared(), heard_of_since_termination(600, 700 + 2400));
    scene.now = at(700 + 2400);
    let orphan = scene.orphan();
    assert_eq!(orphan.instance, id(OURS));
    assert_eq!(parts(&orphan.removal), (Some("01A1"), true));
    insta::assert_snapshot!(orphan.why, @"EC2 says that i-0a1b2c3d4e5f60718 is terminated");
}

#[test]
fn what_is_left_alone_is_reported_with_the_instance_and_the_times() {
    let mut scene = Scene::terminated();
    scene.now = at(700 + 2399);
    insta::assert_snapshot!(
        scene.judge().spared[0].1,
        @"EC2 says that i-0a1b2c3d4e5f60718 is terminated, and its name was last heard of at 2027-01-15T08:10:00Z; another instance may use its certificate, so it is left alone until 2027-01-15T08:51:40Z"
    );
}

#[test]
fn what_is_left_of_a_forgotten_instance_is_removed_after_its_grace_time() {
    let mut scene = Scene::forgotten();
    let why = scene.orphan().why;
    insta::assert_snapshot!(why, @"EC2 does not know i-0a1b2c3d4e5f60718, and nothing was heard of it since 2027-01-15T08:10:00Z");
    scene.now = at(600 + 7200);
    scene.orphan();
    scene.now = at(600 + 7199);
    assert_eq!(scene.spared(), heard_of(600));
}

#[test]
fn a_name_that_is_heard_of_after_its_instance_was_terminated_is_left_alone() {
    // An image of the instance lives on with its certificate, and runs Puppet every half hour.
    let mut scene = Scene::terminated();
    for heard in [700 + 601, 700 + 1800, 700 + 3600] {
        scene.heard_at(heard);
        scene.now = at(heard + 2400);
        assert_eq!(scene.spared(), heard_of_since_termination(heard, heard + 7200));
    }
    // If it stops, the whole grace time counts.
    scene.now = at(700 + 3600 + 7199);
    scene.spared();
    scene.now = at(700 + 3600 + 7200);
    scene.orphan();
}

#[test]
fn the_last_run_of_the_terminated_instance_itself_is_not_taken_for_anothers() {
    let mut scene = Scene::terminated();
    scene.heard_at(700 + 600);
    scene.now = at(700 + 600 + 2399);
    scene.spared();
    scene.now = at(700 + 600 + 2400);
    scene.orphan();
}

#[test]
fn where_ec2_does_not_say_when_the_termination_began_the_whole_grace_time_counts() {
    let mut scene = Scene::terminated();
    scene.ec2_knows(OURS, "terminated");
    scene.now = at(600 + 7199);
    assert_eq!(scene.spared(), heard_of_since_termination(600, 600 + 7200));
    scene.now = at(600 + 7200);
    scene.orphan();
}

#[test]
fn a_new_certificate_is_news_as_well() {
    let mut scene = Scene::forgotten();
    let Lookup::Found(certificate) = &mut scene.suspect.view.certificate else { unreachable!() };
    certificate.issued = at(LATER - 7199);
    assert_eq!(scene.spared(), heard_of(LATER - 7199));
}

#[test]
fn a_node_that_a_late_report_has_brought_back_is_removed_though_its_certificate_is_gone() {
    for scene in [Scene::terminated(), Scene::forgotten()] {
        let orphan = scene.without_certificate().orphan();
        assert_eq!(parts(&orphan.removal), (None, true));
    }
}

#[test]
fn a_certificate_whose_node_is_inactive_is_removed() {
    let mut scene = Scene::terminated();
    scene.suspect.view.node = Lookup::Found(node(false, at(600)));
    assert_eq!(parts(&scene.orphan().removal), (Some("01A1"), false));
    scene.suspect.view.certificate = Lookup::Absent;
    assert_eq!(scene.spared(), Spared::NothingThere);
}

#[test]
fn the_request_of_a_successor_stays() {
    let mut scene = Scene::terminated();
    scene.suspect.view.request = Lookup::Found(request(Some(OTHER)));
    assert!(!scene.orphan().removal.request);
}

#[test]
fn an_instance_that_lives_or_may_live_again_is_left_alone() {
    for state in ["pending", "running", "stopping", "stopped", "shutting-down", "a-new-word"] {
        let mut scene = Scene::forgotten();
        scene.ec2_knows(OURS, state);
        assert_eq!(scene.spared(), alive(OURS, state));
    }
}

#[test]
fn an_instance_in_a_group_is_left_to_its_hooks_whatever_ec2_says() {
    for mut scene in [Scene::terminated(), Scene::forgotten()] {
        scene.cloud.groups[0].members.insert(id(OURS), LifecycleState::parse("Terminating:Proceed"));
        let life = Life::InGroup("compilers".parse().unwrap());
        assert_eq!(scene.spared(), Spared::Alive { instance: id(OURS), life });
    }
}

#[test]
fn a_certificate_needs_every_extension_that_its_profile_requires() {
    for wrong in [None, Some("database")] {
        for mut scene in [Scene::terminated(), Scene::forgotten()] {
            scene.extension("pp_role", wrong);
            assert_eq!(scene.spared(), Spared::OfNoProfile, "{wrong:?}");
        }
    }
}

#[test]
fn one_extension_of_two_is_not_enough() {
    let mut scene = Scene::terminated();
    scene.profile.rules.require.insert("pp_environment".into(), "production".into());
    assert_eq!(scene.spared(), Spared::OfNoProfile);
    scene.extension("pp_environment", Some("production"));
    scene.orphan();
}

#[test]
fn the_certificate_has_the_word_and_not_what_was_written_down_of_an_older_one() {
    let mut scene = Scene::terminated();
    scene.extension("pp_role", Some("database"));
    assert_eq!(scene.suspect.certified.as_ref().unwrap().extensions["pp_role"], "compiler");
    assert_eq!(scene.spared(), Spared::OfNoProfile);
}

#[test]
fn a_profile_that_requires_nothing_can_call_nothing_its_own() {
    for mut scene in [Scene::terminated(), Scene::forgotten(), Scene::terminated().without_certificate()] {
        scene.profile.rules.require.clear();
        scene.spared();
        assert!(!scene.with_rules(|rules| -> bool { rules.can_tell() }));
        assert_eq!(scene.with_rules(|rules| rules.fleet(&[listed(OURS)]).len()), 0);
    }
}

#[test]
fn a_name_that_the_profile_cannot_have_made_is_not_ours() {
    let mut scene = Scene::terminated();
    scene.profile.certname = "{instance_id}.nodes.example.com".parse().unwrap();
    assert_eq!(scene.spared(), Spared::OfNoProfile);
}

#[test]
fn a_certificate_that_names_no_instance_is_left_alone() {
    let mut scene = Scene::terminated();
    let Lookup::Found(certificate) = &mut scene.suspect.view.certificate else { unreachable!() };
    certificate.instance = None;
    assert_eq!(scene.spared(), Spared::NoInstance);
}

#[test]
fn a_protected_name_is_left_alone() {
    let mut scene = Scene::terminated();
    scene.protected = Protected::new(["*.ec2.internal"]).unwrap();
    assert_eq!(scene.spared(), Spared::Protected("*.ec2.internal".into()));
    assert_eq!(scene.with_rules(|rules| rules.suspects(&[&listed(OURS)], &scene.cloud)), []);
    assert!(!scene.with_rules(|rules| rules.may_be_ours(&NAME.parse().unwrap())));
}

#[test]
fn a_name_that_a_living_instance_has_now_is_left_alone() {
    let mut scene = Scene::terminated();
    scene.ec2_knows(OTHER, "running");
    let Lookup::Found(certificate) = &mut scene.suspect.view.certificate else { unreachable!() };
    certificate.instance = Some(id(OTHER));
    assert_eq!(scene.spared(), alive(OTHER, "running"));
}

#[test]
fn a_living_instance_that_runs_with_a_dead_ones_certificate_is_left_alone() {
    let mut scene = Scene::terminated();
    scene.ec2_knows(OTHER, "running");
    scene.suspect.reported.instance = Some(id(OTHER));
    scene.suspect.view.fact_instance = Lookup::Absent;
    assert_eq!(scene.spared(), alive(OTHER, "running"));
}

#[test]
fn facts_that_contradict_each_other_spare_a_node_without_a_certificate() {
    let mut scene = Scene::terminated().without_certificate();
    scene.suspect.view.fact_instance = Lookup::Absent;
    assert_eq!(scene.spared(), Spared::OwnerUnknown);
}

#[test]
fn an_instance_of_another_account_or_region_is_left_alone() {
    for mut scene in [Scene::terminated(), Scene::forgotten()] {
        scene.suspect.reported.region = Some("us-east-1".into());
        assert_eq!(scene.spared(), Spared::Abroad(Abroad::Region("us-east-1".into())));
    }
    for mut scene in [Scene::terminated(), Scene::forgotten()] {
        scene.suspect.reported.account = Some("999988887777".into());
        assert_eq!(scene.spared(), Spared::Abroad(Abroad::Account("999988887777".into())));
    }
}

#[test]
fn a_forgotten_instance_must_have_said_that_it_was_here() {
    let told = Scene::forgotten().suspect.reported;
    let silent = [
        Reported { account: None, ..told.clone() },
        Reported { region: None, ..told.clone() },
        Reported { instance: None, ..told.clone() },
        Reported { instance: Some(id(OTHER)), ..told.clone() },
    ];
    for reported in silent {
        let mut scene = Scene::forgotten();
        scene.suspect.reported = reported.clone();
        let home = Location { account: "111122223333".into(), region: "eu-west-1".into() };
        assert_eq!(scene.spared(), Spared::NotKnownToBeHere { instance: id(OURS), home }, "{reported:?}");
        // EC2's own word needs no such witness.
        scene.ec2_knows(OURS, "terminated");
        scene.terminated_at(700);
        scene.orphan();
    }
}

#[test]
fn an_unavailable_service_means_that_it_is_left_alone() {
    let terminated = || [Scene::terminated(), Scene::forgotten()];
    for mut scene in terminated() {
        scene.suspect.view.certificate = down();
        assert_eq!(scene.unclear(), Unclear::Unavailable(crate::world::trouble()));
    }
    for mut scene in terminated() {
        scene.suspect.view.node = down();
        assert_eq!(scene.unclear(), Unclear::Unavailable(crate::world::trouble()));
    }
    for mut scene in terminated() {
        scene.suspect.view.fact_instance = down();
        assert_eq!(scene.unclear(), Unclear::Unavailable(crate::world::trouble()));
    }
    for mut scene in terminated() {
        scene.suspect.view.pins = down();
        assert_eq!(scene.unclear(), Unclear::Unavailable(crate::world::trouble()));
    }
    for mut scene in terminated() {
        scene.suspect.view.request = down();
        assert_eq!(scene.unclear(), Unclear::Unavailable(crate::world::trouble()));
    }
}

#[test]
fn the_breaker_opens_above_a_share_of_the_fleet_and_never_for_a_few() {
    let limits = Limits { max_share: 20, grace: GRACE };
    assert_eq!(limits.breaker(5, 5), None);
    assert!(limits.breaker(6, 6).is_some());
    assert_eq!(limits.breaker(6, 30), None);
    insta::assert_snapshot!(
        limits.breaker(7, 30).unwrap(),
        @"7 of 30 nodes would be removed as orphans at once, more than 20 %: nothing was removed. If they are really gone, raise orphans.max_share until they are removed, or clean them manually"
    );
    assert_eq!(Limits { max_share: 100, ..limits }.breaker(1000, 1000), None);
    assert!(Limits { max_share: 0, ..limits }.breaker(6, 1_000_000).is_some());
}

#[test]
fn what_could_not_be_judged_counts_for_the_breaker_as_well() {
    let scene = Scene::terminated();
    let mut unclear = scene.suspect.clone();
    unclear.view.node = down();
    let suspects = |count: usize| -> Vec<Suspect> {
        std::iter::once(scene.suspect.clone()).chain(std::iter::repeat_n(unclear.clone(), count)).collect()
    };
    let judge = |count| scene.with_rules(|rules| rules.judge(&suspects(count), 10, 0, &scene.cloud, scene.now));
    assert_eq!((judge(4).orphans.len(), judge(4).breaker), (1, None));
    assert!(judge(5).breaker.is_some());
    // And so does what was not looked at.
    let unseen = |count| scene.with_rules(|rules| rules.judge(&suspects(0), 10, count, &scene.cloud, scene.now));
    assert_eq!((unseen(4).orphans.len(), unseen(4).breaker), (1, None));
    assert!(unseen(5).breaker.is_some());
}

#[test]
fn only_those_whose_instance_is_not_seen_alive_are_looked_at_closely() {
    let scene = Scene::terminated();
    let living = Listed { certname: "ip-10-0-3-8.ec2.internal".parse().unwrap(), ..listed(MEMBER) };
    let foreign = Listed { extensions: BTreeMap::new(), ..listed(OTHER) };
    let all = [listed(OURS), living, foreign, listed(OURS)];
    scene.with_rules(|rules| {
        let fleet = rules.fleet(&all);
        assert_eq!(fleet.len(), 2, "a name counts once, and a foreign one not at all");
        assert_eq!(rules.suspects(&fleet, &scene.cloud), [NAME.parse().unwrap()]);
        assert_eq!(rules.unknown(&fleet, &scene.cloud), [], "EC2 knows both");
    });
}
