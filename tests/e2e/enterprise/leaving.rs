//! Compilers that terminate: the hosts drop their names when they run Puppet, however that run ends.

use stagedoor_lifecycle::receipt::Outcome;

use super::stage::{Enterprise, Topology, every_right, lines_kept};

#[tokio::test]
async fn a_termination_is_completed_before_the_hosts_have_dropped_the_name() {
    let mut site = Enterprise::new(Topology::ExtraLarge).await;
    let agents = ["A", "B"].map(|letter| site.launch(letter));
    site.sweep_until_in_service(&agents).await;
    let [leaving, staying] = &agents;
    let receipt = site.terminate(leaving).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert_eq!(site.rights(leaving), every_right(), "no host has run yet");
    // A resource that fails does not keep a host from dropping the name.
    site.hosts_run("failed");
    assert_eq!((site.rights(leaving), site.rights(staying)), (lines_kept(), every_right()));
}
