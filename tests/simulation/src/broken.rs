//! Deliberately broken rules. A test asserts that the simulation detects each of them.
//!
//! A rule is broken by changing the configuration, by omitting a part, or inside the controller (`stagedoor_types::broken`).

use stagedoor_types::broken::Rule;

/// The rule that is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// No rule is broken.
    #[default]
    Nothing,
    /// A request is signed although its challenge and its extensions were not checked.
    RequestsUnchecked,
    /// A launch does not wait for a Puppet run.
    NoRunAwaited,
    /// No sweep runs, so lost events are never found.
    NoSweep,
    /// No housekeeping runs, so orphans are never found.
    NoHousekeeping,
    /// A launch is abandoned long before it could succeed.
    ShortTimeout,
    /// A profile acts although it should only observe.
    Observing,
    /// A rule inside the controller is broken.
    Inside(Rule),
}

impl Broken {
    /// All rules that can be broken.
    pub const ALL: [Self; 28] = [
        Self::RequestsUnchecked,
        Self::NoRunAwaited,
        Self::NoSweep,
        Self::NoHousekeeping,
        Self::ShortTimeout,
        Self::Observing,
        Self::Inside(Rule::NameCheck),
        Self::Inside(Rule::Confirmation),
        Self::Inside(Rule::Proof),
        Self::Inside(Rule::Unavailable),
        Self::Inside(Rule::Protected),
        Self::Inside(Rule::Pauses),
        Self::Inside(Rule::Budget),
        Self::Inside(Rule::Breaker),
        Self::Inside(Rule::Home),
        Self::Inside(Rule::SameKey),
        Self::Inside(Rule::PinFirst),
        Self::Inside(Rule::FixedChange),
        Self::Inside(Rule::Refresh),
        Self::Inside(Rule::CatalogFirst),
        Self::Inside(Rule::Heartbeats),
        Self::Inside(Rule::SweepsOrder),
        Self::Inside(Rule::BackOff),
        Self::Inside(Rule::Waves),
        Self::Inside(Rule::RefreshTimeout),
        Self::Inside(Rule::LostOrders),
        Self::Inside(Rule::FixedCatalog),
        Self::Inside(Rule::Compilation),
    ];

    /// The rule inside the controller that is broken, if one is.
    pub(crate) fn rule(self) -> Option<Rule> {
        if let Self::Inside(rule) = self { Some(rule) } else { None }
    }

    /// The configuration's top-level keys, and the keys of the profile. `required` are the extensions of each instance.
    pub(crate) fn configuration(self, required: &[(&str, &str)]) -> (&'static str, String) {
        let pairs = |list: bool| {
            let value = |value: &str| if list { format!("[\"{value}\"]") } else { format!("\"{value}\"") };
            let pairs: Vec<String> = required.iter().map(|(name, text)| format!("{name} = {}", value(text))).collect();
            pairs.join(", ")
        };
        let checked = format!("sign.require = {{ {} }}\n", pairs(false));
        match self {
            Self::RequestsUnchecked => ("", format!("sign.allow = {{ {} }}\n", pairs(true))),
            Self::NoRunAwaited => ("", checked + "ready = []\n"),
            Self::NoHousekeeping => ("housekeeping.every = \"never\"\n", checked),
            Self::ShortTimeout => ("", checked + "timeout.launch = \"1m\"\n"),
            _ => ("", checked),
        }
    }
}
