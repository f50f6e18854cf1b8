//! Onboarding, rule by rule.
