//! What holds for every observation there can be.

use proptest::prelude::*;

use super::*;
use crate::observation::{NodeView, RequestView};
use crate::profile::{AwaitedRun, OnRefreshTimeout, Probe};
use crate::refresh::CatalogView;
use crate::signing::{Expected, approve, objections};
use crate::world::reachable;

/// Times before, in and after what matters, the silence of a dead instance among them.
fn time() -> impl Strategy<Value = Timestamp> {
    prop::sample::select(vec![-100_000, -7100, -61, 0, 60, 140, 199]).prop_map(at)
}

fn owner() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![1 => Just(None), 4 => Just(Some(OURS)), 2 => Just(Some(OTHER))]
}

fn flawed(mut says: Request, flaw: Option<&'static str>) -> Request {
    match flaw {
        Some("signature") => says.signature = Signature::Wrong,
        Some(extension) => drop(says.extensions.insert(extension.into(), "compiler".into())),
        None => {}
    }
    says
}

/// Nothing wrong; a bad signature, an authorization, or the extension that the profile may require.
fn flaw() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![3 => Just(None), 1 => Just(Some("signature")), 1 => Just(Some("pp_auth_role")), 2 => Just(Some("pp_role"))]
}

fn a_certificate() -> impl Strategy<Value = CertificateView> {
    (owner(), time(), flaw()).prop_map(|(owner, issued, flaw)| {
        let view = certificate(owner, issued);
        CertificateView { holds: flawed(view.holds.clone(), flaw), ..view }
    })
}

fn a_request() -> impl Strategy<Value = RequestView> {
    // Half of them with the key that certificates have here.
    (owner(), flaw(), any::<bool>()).prop_map(|(owner, flaw, another_key)| {
        let mut view = request(owner);
        if another_key {
            view.asks.key_print = "another key".into();
        }
        RequestView { asks: flawed(view.asks.clone(), flaw), ..view }
    })
}

fn a_run() -> impl Strategy<Value = RunView> {
    let rarely = || prop::bool::weighted(0.1);
    (time(), prop_oneof![3 => Just("changed"), 1 => Just("failed")], rarely(), rarely())
        .prop_map(|(start, status, noop, cached)| RunView { noop, cached, ..run(start, status) })
}

fn a_name() -> impl Strategy<Value = NameView> {
    let a_node = (any::<bool>(), time()).prop_map(|(active, newest)| node(active, newest));
    let facts = prop_oneof![Just(OURS), Just(OTHER)].prop_map(|id| id.parse().unwrap());
    (
        reachable(a_certificate()),
        reachable(a_request()),
        reachable::<NodeView>(a_node),
        reachable(facts),
        reachable(prop::collection::vec(Just("Canaries".to_owned()), 0..2)),
    )
        .prop_map(|(certificate, request, node, fact_instance, pins)| NameView {
            certname: NAME.parse().unwrap(),
            certificate,
            request,
            node,
            fact_instance,
            pins,
        })
}

fn polls() -> impl Strategy<Value = SuccessfulPolls> {
    (1..5_u32, prop::sample::select(vec![0, 9, 10, 60])).prop_map(|(count, seconds)| SuccessfulPolls {
        count,
        since: at(140),
        newest: at(140 + seconds),
    })
}

fn an_arrival() -> impl Strategy<Value = LaunchView> {
    let states = prop::sample::select(vec!["running", "stopped", "terminated"]);
    let other = reachable(states.prop_map(|state| machine(OTHER, state)));
    let orders = || {
        let ended = prop::option::of(time());
        reachable(prop::collection::vec((time(), ended).prop_map(|(began, ended)| order("7", began, ended)), 0..2))
    };
    let runs = || reachable(prop::collection::vec(a_run(), 0..3));
    let a_target = (runs(), orders())
        .prop_map(|(runs, orders)| vec![TargetView { runs, orders: Some(orders), ..target(None, None) }]);
    let catalog = || time().prop_map(|produced| CatalogView { id: Some("its catalog".into()), produced, stored: None });
    let history = (runs(), reachable(catalog())).prop_map(|(runs, catalog)| History { runs, catalog });
    let groups = || prop::collection::btree_set(Just("Canaries".to_owned()), 0..2);
    let mismatch = prop_oneof![
        Just(Mismatch::Certificate(vec!["pp_role".into()])),
        Just(Mismatch::Facts(vec!["os".into()])),
        Just(Mismatch::FactsNeeded),
        Just(Mismatch::Unexplained),
    ];
    let classified = (groups(), groups(), mismatch, any::<bool>()).prop_map(|(groups, known, mismatch, with_facts)| {
        Classified { groups, known, mismatches: [("Canaries".to_owned(), mismatch)].into(), with_facts }
    });
    let probe = prop_oneof![3 => Just(Ok(())), 1 => Just(Err("it says starting".to_owned()))];
    let node_groups = prop::option::weighted(0.9, reachable(groups()));
    (
        a_name(),
        (prop::option::of(other.prop_map(|machine| (OTHER.parse().unwrap(), machine))), node_groups, any::<bool>()),
        prop::option::of(reachable(classified)),
        (prop::option::weighted(0.9, reachable(a_run())), prop::option::weighted(0.9, history)),
        prop::option::of(
            (reachable(Just(())), orders()).prop_map(|(connected, orders)| Connection { connected, orders }),
        ),
        prop::option::weighted(0.9, a_target),
        prop::option::weighted(0.9, (probe, prop::option::weighted(0.9, polls()))),
    )
        .prop_map(
            |(name, (owner, node_groups, located), classification, (run, history), connection, targets, polled)| {
                let poll = polled.clone().map(|(says, _)| Poll { said: vec![(Probe::Tcp(8142), says)], code: None });
                LaunchView {
                    puppetdb_ahead: Some(SignedDuration::ZERO),
                    name: Some(name),
                    refused: None,
                    owner,
                    located: located.then(|| (OTHER.parse().unwrap(), home())),
                    node_groups,
                    classification,
                    run,
                    run_of_another: None,
                    connection,
                    history,
                    targets,
                    poll,
                    successful_polls: polled.and_then(|(_, polls)| polls),
                    elsewhere: None,
                }
            },
        )
}

fn a_beginning() -> impl Strategy<Value = Began> {
    prop_oneof![
        1 => Just(Began::Unknown),
        2 => time().prop_map(Began::Said),
        3 => (prop::option::of(time()), prop::option::of(time()), prop::option::of(time()))
            .prop_map(|(recorded, launched, said)| Began::Confirmed { recorded, launched, said }),
    ]
}

fn any_world() -> impl Strategy<Value = World> {
    let wishes = prop::array::uniform8(any::<bool>());
    let origin = prop::sample::select(vec![None, Some(Place::Ec2), Some(Place::WarmPool)]);
    let time = prop_oneof![3 => Just(200), 1 => Just(2001)];
    // Half of them are through with their certificate, so that the rules that come after it are reached.
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let report = prop_oneof![3 => Just(Some(Probe::Report)), 1 => Just(Some(Probe::AnyReport)), 1 => Just(None)];
    (an_arrival(), a_beginning(), origin, wishes, (flags, report), time).prop_map(
        |(puppet, began, origin, wishes, ((orchestrated, signed, sweeps, proceed), report), now)| {
            let mut world = World { puppet, orchestrated, sweeps, now: at(now), ..world() };
            if signed {
                let own = certificate(Some(OURS), at(ISSUED));
                let holds = flawed(own.holds.clone(), Some("pp_role"));
                world.view().certificate = Lookup::Found(CertificateView { holds, ..own });
                world.view().request = Lookup::Absent;
            }
            world.aws.group().location = Some(home());
            world.aws.action.began = began;
            world.aws.action.origin = origin;
            let profile = &mut world.aws.profile;
            let [pin, classified, refresh, await_refresh, ready, refuse, external, require] = wishes;
            profile.pin = pin.then(|| "Canaries".to_owned()).into_iter().collect();
            profile.classified = classified.then(|| "Canaries".to_owned()).into_iter().collect();
            profile.refresh.waves = if refresh { primary() } else { Vec::new() };
            profile.refresh.await_launch = await_refresh;
            profile.refresh.on_timeout = if proceed { OnRefreshTimeout::Proceed } else { OnRefreshTimeout::Wait };
            // What the configuration's parser requires.
            if report == Some(Probe::AnyReport) {
                profile.refresh.after = RefreshAfter::Catalog;
            }
            profile.ready = ready.then_some(Probe::Tcp(8142)).into_iter().chain(report).collect();
            profile.rekey = if refuse { Rekey::Refuse } else { Rekey::Allow };
            profile.sign = if external { SignMode::External } else { SignMode::Verify };
            profile.rules.require = require.then(|| ("pp_role".into(), "compiler".into())).into_iter().collect();
            world
        },
    )
}

impl World {
    fn objects_to(&self, says: &Request) -> bool {
        self.compared(|expected| !objections(says, expected).is_empty())
    }

    fn would_sign(&self, says: &Request) -> bool {
        self.compared(|expected| approve(says, expected).is_ok())
    }

    fn compared(&self, check: impl FnOnce(&Expected<'_>) -> bool) -> bool {
        check(&Expected {
            certname: &NAME.parse().unwrap(),
            instance: &self.aws.action.instance,
            rules: &self.aws.profile.rules,
            alt_names: &[],
            protected: &self.protected,
        })
    }

    fn seen(&self) -> &NameView {
        self.puppet.name.as_ref().unwrap()
    }

    /// Whether it is known that the other instance is gone.
    fn other_is_gone(&self, its: &CertificateView) -> bool {
        match &self.puppet.owner {
            Some((_, Lookup::Found(machine))) => machine.state == "terminated",
            Some((_, Lookup::Absent)) => {
                let node = self.seen().node.known().unwrap();
                let silent = |last: Timestamp| self.now.as_second() - last.as_second() >= 7200;
                silent(its.issued)
                    && node.is_none_or(|node| silent(node.newest.unwrap()))
                    && !self.aws.profile.rules.require.is_empty()
                    && self.puppet.located.is_some()
                    && its.holds.extensions.contains_key("pp_role")
            }
            _ => false,
        }
    }

    /// Whether the certificate is the instance's own, of an earlier launch, not used in this one, and no request shows that its
    /// key is still there.
    fn may_lose_its_own(&self, its: &CertificateView) -> bool {
        let origin = self.aws.action.origin;
        let recorded = match self.aws.action.began {
            Began::Confirmed { recorded, said, .. } if said.is_some() || origin.is_none() => recorded,
            _ => None,
        };
        let same_key =
            matches!(&self.seen().request, Lookup::Found(pending) if pending.asks.key_print == its.holds.key_print);
        let old = recorded.is_some_and(|recorded| its.issued < recorded) && matches!(origin, None | Some(Place::Ec2));
        let unused = |run: &RunView| recorded.is_some_and(|recorded| run.end < recorded);
        let old = old && self.puppet.run.as_ref().is_none_or(|run| run.known().is_ok_and(|run| run.is_none_or(unused)));
        self.aws.profile.rekey == Rekey::Allow && old && !same_key
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn nothing_is_signed_that_anything_speaks_against(world in any_world()) {
        if let Decision::Apply(Effect::Sign(signable)) = world.decide() {
            let seen = world.seen();
            prop_assert_eq!(signable.certname(), &seen.certname);
            prop_assert_eq!(&seen.certificate, &Lookup::Absent);
            prop_assert!(matches!(&seen.request, Lookup::Found(pending) if world.would_sign(&pending.asks)));
            prop_assert!(world.aws.profile.sign == SignMode::Verify);
            let pins = seen.pins.known().ok().flatten();
            prop_assert!(world.aws.profile.pin.is_empty() || pins.is_some_and(|pins| !pins.is_empty()), "pinned first");
        }
    }

    #[test]
    fn no_certificate_is_removed_unless_its_owner_is_known_to_be_gone_or_wants_another(world in any_world()) {
        let seen = world.seen();
        match world.decide() {
            Decision::Apply(Effect::Remove(removals)) => for removal in removals {
                prop_assert!(removal.node.is_none() && removal.pins.is_empty());
                if let Lookup::Found(its) = &seen.certificate {
                    let facts = || seen.fact_instance.known().ok().flatten();
                    let owner = its.instance.as_ref().or_else(facts).expect("an owner");
                    let may = if owner.as_str() == OURS { world.may_lose_its_own(its) } else { world.other_is_gone(its) };
                    prop_assert!(may, "{removal:?}");
                } else {
                    prop_assert!(false, "{removal:?} of no certificate");
                }
            },
            Decision::Apply(Effect::Delete(refused)) => {
                prop_assert_eq!(&seen.certificate, &Lookup::Absent);
                let Lookup::Found(pending) = &seen.request else { panic!("{refused:?}") };
                prop_assert!(!world.would_sign(&pending.asks) && refused.key_print == pending.asks.key_print);
            }
            Decision::Complete(ActionResult::Abandon, reason) if reason.code() == Code::CertificateRefused => {
                let Lookup::Found(its) = &seen.certificate else { panic!("{reason}") };
                prop_assert!(its.instance.as_ref().is_none_or(|owner| owner.as_str() == OURS));
                prop_assert!(world.objects_to(&its.holds));
            }
            _ => {}
        }
    }

    #[test]
    fn continue_is_earned(world in any_world()) {
        let decision = world.decide();
        if let Decision::Complete(ActionResult::Continue, story) = &decision {
            let (seen, profile) = (world.seen(), &world.aws.profile);
            let Lookup::Found(its) = &seen.certificate else { panic!("{story}") };
            prop_assert!(its.instance.as_ref().is_some_and(|owner| owner.as_str() == OURS) && !world.objects_to(&its.holds));
            let awaited = profile.awaited_run();
            if awaited != AwaitedRun::None {
                let Some(Lookup::Found(run)) = &world.puppet.run else { panic!("{story}") };
                prop_assert!(run.is_good() || awaited == AwaitedRun::WithCatalog && run.has_own_catalog());
                prop_assert!(run.end.as_second() + 60 >= its.issued.as_second());
                prop_assert!(seen.fact_instance.known().is_ok_and(|ran| ran.is_none_or(|ran| ran.as_str() == OURS)));
            }
            let poll = world.puppet.poll.clone().unwrap_or_default();
            let services = profile.ready.iter().any(|probe| !probe.is_report());
            prop_assert!(!services || poll.said.iter().any(|(_, says)| says.is_ok()));
            let enough = world.puppet.successful_polls.is_some_and(|polls| polls.count >= 3);
            prop_assert!(!services || enough, "several polls in a row");
            let groups = world.puppet.classification.as_ref().and_then(|says| says.known().ok().flatten());
            prop_assert!(profile.classified.is_empty() || groups.is_some_and(|says| says.groups.contains("Canaries")));
            let pins = seen.pins.known().ok().flatten();
            prop_assert!(profile.pin.is_empty() || pins.is_some_and(|pins| !pins.is_empty()));
            let refreshes = world.orchestrated || profile.refresh.await_launch;
            let without = story.codes().contains(&Code::RefreshTimedOut);
            prop_assert!(!without || profile.refresh.on_timeout == OnRefreshTimeout::Proceed);
            if refreshes && !profile.refresh.is_empty() && awaited != AwaitedRun::None && !without {
                // It learnt of something of this launch: of what exactly is tested where the change is.
                let targets = world.puppet.targets.as_deref().unwrap_or_default();
                let since = its.issued.as_second() - 60;
                let knows = |its: &RunView| !its.noop && !its.cached && its.start.as_second() >= since;
                let knows = |target: &TargetView| target.runs.known().is_ok_and(|runs| runs.is_some_and(|runs| runs.iter().any(knows)));
                prop_assert!(!targets.is_empty() && targets.iter().all(knows));
            }
        }
    }

    #[test]
    fn once_the_timeout_has_expired_the_decision_is_never_to_wait(world in any_world()) {
        let mut world = world;
        world.now = at(2001);
        if matches!(world.aws.action.began, Began::Confirmed { .. }) && world.aws.action.began.time().is_some() {
            let decision = world.decide();
            let answer = matches!(decision, Decision::Complete(..) | Decision::Ask(_));
            prop_assert!(answer, "{decision:?}");
            prop_assert!(decision != Decision::Ask(Question::Began));
        }
    }

    #[test]
    fn under_a_protected_name_nothing_is_ever_done(world in any_world()) {
        let mut world = world;
        world.protected = Protected::new([NAME]).unwrap();
        let decision = world.decide();
        prop_assert!(!matches!(decision, Decision::Apply(_) | Decision::Complete(ActionResult::Continue, _)), "{decision:?}");
    }
}
