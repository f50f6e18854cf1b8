//! What AWS says about arriving and leaving instances, rule by rule.
