//! The invocations of the functions: how events reach them, the sweeps, and what becomes of each.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use stagedoor_controller::{Clock as ControllerClock, Context, Function, handle};
use stagedoor_lab_aws::Begun;
use tokio::time::{sleep, timeout};

use super::World;
use super::region::Region;
use crate::kill::Killed;
use crate::schedule::Delivery;
use crate::watch::Invariant;

/// The time limit of the functions, as in `infra/`.
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(150);
/// The interval of sweeps.
pub(super) const SWEEPS: Duration = Duration::from_secs(60);

impl World {
    /// Delivers the events of an action to a function, or drops them.
    pub(super) fn deliver(self: &Rc<Self>, region: usize, function: Function, begun: Begun, delivery: Delivery) {
        let delays = match delivery {
            Delivery::Lost => Vec::new(),
            Delivery::After(ms) => vec![ms],
            Delivery::Twice(first, second) => vec![first, second],
        };
        for event in begun.events {
            for ms in &delays {
                let (world, event, ms) = (Rc::clone(self), event.eventbridge.clone(), *ms);
                self.spawn(async move {
                    sleep(Duration::from_millis(ms)).await;
                    if world.schedule.site.batched {
                        let number = world.sent.replace(world.sent.get() + 1);
                        world.regions[region].queue(function).send(format!("message-{number}"), &event);
                    } else {
                        world.invoke(region, function, &event).await;
                    }
                    Ok(())
                });
            }
        }
    }

    /// Runs a sweep in a Region every minute, one at a time.
    pub(super) async fn sweep(self: Rc<Self>, region: usize) -> anyhow::Result<()> {
        let running = Rc::new(Cell::new(false));
        loop {
            sleep(SWEEPS).await;
            if running.replace(true) {
                continue;
            }
            let (world, running) = (Rc::clone(&self), Rc::clone(&running));
            self.spawn(async move {
                world.invoke(region, Function::Sweep, &json!({})).await;
                running.set(false);
                Ok(())
            });
        }
    }

    /// Invokes a function: its answer, unless it was killed or failed.
    pub(super) async fn invoke(&self, region: usize, function: Function, event: &Value) -> Option<Value> {
        let number = self.invocations.replace(self.invocations.get() + 1);
        self.steps.borrow_mut().push(0);
        let warm = {
            let mut warm = self.regions[region].warm.borrow_mut();
            let place = warm.iter().position(|(of, _)| *of == function);
            place.map(|place| warm.swap_remove(place).1)
        };
        let context = warm.unwrap_or_else(|| self.cold(region));
        let deadline = context.clock.now() + FUNCTION_TIMEOUT;
        let kill = self.schedule.kills.iter().find(|(of, _)| *of == number).map(|(_, steps)| *steps);
        self.note(&format!("#{number} {} begins{}", function.name(), if region == 0 { "" } else { " elsewhere" }));
        let mut invocation = Killed::after(handle(&context, function, event, Some(deadline)), kill);
        let answer = AssertUnwindSafe(timeout(FUNCTION_TIMEOUT, &mut invocation)).catch_unwind().await;
        if let Some(steps) = self.steps.borrow_mut().get_mut(usize::try_from(number).unwrap_or(usize::MAX)) {
            *steps = invocation.polls;
        }
        let fails = |how: &str| {
            self.note(&format!("#{number} {how}"));
            self.watch().violate(Invariant::InvocationFailed, format!("#{number} {} {how}", function.name()));
        };
        let payload = match answer {
            Ok(Ok(Some(answer))) => {
                for receipt in answer.payload["results"].as_array().into_iter().flatten() {
                    let (outcome, code) = (&receipt["outcome"], &receipt["code"]);
                    self.note(&format!("#{number} {} {outcome} {code}", receipt["instance_id"]));
                }
                for result in answer.payload["housekeeping"]["orphans"]["results"].as_array().into_iter().flatten() {
                    self.note(&format!("#{number} {} {} {}", result["certname"], result["outcome"], result["code"]));
                }
                // The answer to a queue has no receipts.
                let timed_out = |line: &Value| line["RefreshTimedOut"].as_i64().is_some_and(|count| count > 0);
                if self.schedule.is_calm() && answer.metrics.iter().any(timed_out) {
                    let what = format!("#{number}: {}", answer.payload);
                    self.watch().violate(Invariant::RefreshStarved, what);
                }
                self.note(&format!("#{number} ends"));
                self.regions[region].warm.borrow_mut().push((function, context.clone()));
                Some(answer.payload)
            }
            Ok(Ok(None)) => {
                self.note(&format!("#{number} is killed"));
                None
            }
            Ok(Err(_)) => {
                fails("exceeds its time limit");
                None
            }
            Err(_) => {
                fails("panics");
                None
            }
        };
        drop(invocation);
        payload
    }

    /// Creates a new execution environment.
    fn cold(&self, region: usize) -> Rc<Context> {
        let Region { sdk, instances, .. } = &self.regions[region];
        let clock = self.site.back.clock.clone();
        let ahead = SignedDuration::from_secs(self.schedule.site.controller_ahead_s);
        let clock = ControllerClock::from(move || clock.now().saturating_add(ahead).unwrap_or_default());
        let context = Context::new(self.config.clone(), sdk, Arc::new(instances.clone()), clock);
        Rc::new(context.over(Arc::new(self.network.clone())))
    }
}
