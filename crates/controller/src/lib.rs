//! The controller: from events to receipts.
//!
//! ```text
//! event ─► which instances? ─► observe ─► plan ─► apply ─► observe again … ─► complete ─► receipt
//!          invocation          AWS, Puppet  pure    Puppet    (the proof)      Auto Scaling  telemetry
//! ```
//!
//! It keeps no state: what there is to know is at AWS and Puppet, and any invocation may be killed anywhere.
//! An invocation begins and ends in `invocation.rs`. Its loop is `reconcile.rs`: read that first. Its stages are the modules `observe`,
//! `apply` and `complete`; the rules are in [`stagedoor_lifecycle::onboard`] and [`stagedoor_lifecycle::purge`]. A removal takes two
//! passes: the first removes, the second observes that nothing is left and completes. `telemetry.rs` logs and publishes the receipts.

mod apply;
mod batch;
mod budget;
mod call;
mod complete;
pub mod config;
mod context;
mod function;
mod health;
mod heartbeat;
mod housekeeping;
mod invocation;
mod memory;
mod observe;
mod reconcile;
mod renew;
mod resolve;
mod size;
mod snapshot;
mod sweep;
mod telemetry;

pub use context::{Clock, Context, Instances};
pub use function::Function;
pub use invocation::{Answer, handle};

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// From the bottom up: a module may import only those that stand before it.
    const ORDER: [&str; 22] = [
        "config",
        "function",
        "budget",
        "size",
        "memory",
        "context",
        "call",
        "snapshot",
        "batch",
        "observe",
        "complete",
        "apply",
        "heartbeat",
        "health",
        "renew",
        "resolve",
        "reconcile",
        "housekeeping",
        "sweep",
        "telemetry",
        "invocation",
        "lib",
    ];

    fn rank(module: &str) -> usize {
        let known = ORDER.iter().position(|known| *known == module);
        known.unwrap_or_else(|| panic!("give the module {module} its place in ORDER"))
    }

    fn files(directory: &Path) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn modules_import_only_what_stands_below_them() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for file in files(&source) {
            let relative = file.strip_prefix(&source).unwrap();
            let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if module == "lib" {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains("crate::{"), "import each module by itself: {}", relative.display());
            let imported = text.split("crate::").skip(1).map(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
                &rest[..end]
            });
            for imported in imported.filter(|imported| *imported != module) {
                assert!(!imported.is_empty(), "import from a module, not from the root: {}", relative.display());
                assert!(rank(imported) < rank(module), "{module} imports {imported}: {}", relative.display());
            }
        }
    }
}
