//! The rehearsal stage: AWS and Puppet simulated on their real wire protocols, in one process.

pub mod aws;
pub mod clock;
pub mod faults;
pub mod journal;
/// Not here yet.
pub mod puppet {
    /// Not here yet.
    #[derive(Clone, Debug, serde::Deserialize)]
    pub struct Node {}
}
pub mod scene;
pub mod server;
