//! Compilers that launch: their first run needs a database that does not know them yet, and their services need the primary.

use stagedoor_lab::agent::RunningAgent;
use stagedoor_lab_aws::Launch;
use stagedoor_lab_puppet::{Right, RunScript};
use stagedoor_lifecycle::reason::Code;
use stagedoor_lifecycle::receipt::{Outcome, Receipt};

use super::stage::{DATABASE_A, DATABASE_B, Enterprise, PRIMARY, Topology, every_right, lines_kept};

/// Three compilers launch together, and one of them terminates.
async fn scale_out_and_in(topology: Topology) {
    let mut site = Enterprise::new(topology).await;
    let agents = ["A", "B", "A"].map(|letter| site.launch(letter));
    site.sweep_until_in_service(&agents).await;
    for agent in &agents {
        assert_eq!(site.rights(agent), every_right(), "{}", agent.certname());
        assert_eq!(agent.state().status.as_deref(), Some("changed"), "its run was successful");
    }
    for (host, orders) in site.orders() {
        assert!((1..=2).contains(&orders), "{orders} runs of {host} were ordered");
    }
    let serial = site.rehearsal.serial_of(agents[0].certname());

    let receipt = site.terminate(&agents[0]).await;
    assert_eq!(receipt.outcome, Outcome::Continued, "{receipt:#?}");
    assert!(matches!(receipt.code, Code::Purged(_)), "{receipt:#?}");
    site.hosts_run("unchanged");
    assert_eq!(site.rights(&agents[0]), lines_kept());
    // The name was in the inventory when it was revoked, so agents learn of it by the CRL that they are given.
    let revoked = site.rehearsal.lab.puppet.snapshot()["infra_revoked_serials"].clone();
    assert!(revoked.as_array().expect("a list").contains(&serial.into()), "{revoked}");
    for agent in &agents[1..] {
        assert_eq!(site.rights(agent), every_right(), "{} stays", agent.certname());
        assert!(site.is_in_service(agent));
    }
}

#[tokio::test]
async fn on_a_standard_site_the_first_compilers_come_up_and_one_goes_again() {
    scale_out_and_in(Topology::Standard).await;
}

#[tokio::test]
async fn on_a_large_site_compilers_of_both_letters_come_up_and_one_goes_again() {
    scale_out_and_in(Topology::Large).await;
}

#[tokio::test]
async fn on_an_extra_large_site_compilers_of_both_letters_come_up_and_one_goes_again() {
    scale_out_and_in(Topology::ExtraLarge).await;
}

#[tokio::test]
async fn the_database_hosts_run_before_the_primary() {
    let mut site = Enterprise::new(Topology::ExtraLarge).await;
    site.rehearsal.lab.puppet.configure(|options| options.run_ms = 1_200);
    let agent = site.launch("A");
    site.sweep_until_in_service(&[agent]).await;
    let (primary, _) = site.first_job(PRIMARY);
    for host in [DATABASE_A, DATABASE_B] {
        let (_, ended) = site.first_job(host);
        assert!(ended <= primary, "{host} ended at {ended}, {PRIMARY} was ordered at {primary}");
    }
}

/// The receipt of an instance that must still wait.
fn waiting<'a>(receipts: &'a [Receipt], agent: &RunningAgent) -> &'a Receipt {
    let is_of = |receipt: &&Receipt| receipt.instance_id.as_ref().is_some_and(|id| id.as_str() == agent.name());
    let receipt = receipts.iter().find(is_of).unwrap_or_else(|| panic!("no receipt: {receipts:#?}"));
    assert_eq!(receipt.outcome, Outcome::Waiting, "{receipt:#?}");
    receipt
}

#[tokio::test]
async fn a_first_run_that_fails_for_want_of_its_database_is_repeated_once_the_hosts_have_run() {
    let mut site = Enterprise::with(Topology::ExtraLarge, |options| options.puppetdb_start_limit_ms = 20).await;
    site.rehearsal.configure(|config| config.replace("budget = \"25s\"", "budget = \"4s\""));
    for host in [DATABASE_A, DATABASE_B, PRIMARY] {
        site.rehearsal.lab.puppet.script(host, RunScript::Hang);
    }
    let agent = site.launch("A");
    let receipts = site.sweep().await;
    assert_eq!(waiting(&receipts, &agent).code, Code::WaitingForRefresh, "{receipts:#?}");
    assert_eq!(agent.state().status.as_deref(), Some("failed"));
    assert_eq!(site.rights(&agent), [].into());
    for host in [DATABASE_A, DATABASE_B, PRIMARY] {
        site.rehearsal.lab.puppet.script(host, RunScript::Ok);
    }
    site.rehearsal.end("sweep").await;
    site.rehearsal.configure(|config| config.replace("budget = \"4s\"", "budget = \"25s\""));
    site.sweep_until_in_service(std::slice::from_ref(&agent)).await;
    assert_eq!((site.rights(&agent), agent.state().status.as_deref()), (every_right(), Some("changed")));
}

#[tokio::test]
async fn a_first_run_that_hangs_goes_on_by_itself_once_its_database_admits_it() {
    let mut site = Enterprise::new(Topology::Standard).await;
    let agent = site.launch("A");
    site.sweep_until_in_service(std::slice::from_ref(&agent)).await;
    let state = agent.state();
    // One run: it had its catalog before any host knew of it, and its report after.
    assert_eq!((state.catalogs, state.reports), (1, 1), "{state:?}");
}

#[tokio::test]
async fn until_the_primary_has_run_a_compiler_has_no_code_and_no_broker() {
    let mut site = Enterprise::new(Topology::ExtraLarge).await;
    site.rehearsal.configure(|config| config.replace("budget = \"25s\"", "budget = \"6s\""));
    site.rehearsal.lab.puppet.script(PRIMARY, RunScript::Hang);
    let agent = site.launch("B");
    let receipts = site.sweep().await;
    assert_eq!(waiting(&receipts, &agent).code, Code::WaitingForRefresh, "{receipts:#?}");
    // The database admits it, so its run was successful; that alone is not enough.
    assert_eq!(agent.state().status.as_deref(), Some("changed"));
    assert_eq!(site.rights(&agent), [Right::Database].into());
    assert!(!site.rehearsal.lab.puppet.check_in(agent.certname(), None), "403 from file sync");
    site.rehearsal.lab.puppet.script(PRIMARY, RunScript::Ok);
    site.rehearsal.end("sweep").await;
    site.rehearsal.configure(|config| config.replace("budget = \"6s\"", "budget = \"25s\""));
    site.sweep_until_in_service(std::slice::from_ref(&agent)).await;
    assert_eq!(site.rights(&agent), every_right());
}

#[tokio::test]
async fn services_that_restart_after_the_primarys_run_delay_a_launch_and_do_not_end_it() {
    let mut site = Enterprise::with(Topology::Large, |options| options.services_restart_ms = 3_000).await;
    site.rehearsal.lab.puppet.script(PRIMARY, RunScript::Restart { down_ms: 2_000 });
    let agents = ["A", "B"].map(|letter| site.launch(letter));
    site.sweep_until_in_service(&agents).await;
    for agent in &agents {
        assert_eq!(site.rights(agent), every_right());
    }
    let primary = site.rehearsal.lab.puppet.times_ordered(PRIMARY);
    assert!((1..=2).contains(&primary), "{primary}: the job that was cut off is judged by its report");
}

#[tokio::test]
async fn a_name_that_is_used_again_must_be_learnt_of_again() {
    let mut site = Enterprise::new(Topology::Standard).await;
    let named = Launch { private_dns: Some("compiler-1.example.com".to_owned()), ..Launch::default() };
    let first = site.launch_as("A", &named);
    site.sweep_until_in_service(std::slice::from_ref(&first)).await;
    site.terminate(&first).await;
    site.hosts_run("unchanged");
    assert_eq!(site.rights(&first), lines_kept());
    let before = site.rehearsal.lab.puppet.times_ordered(PRIMARY);
    let second = site.launch_as("A", &named);
    site.sweep_until_in_service(std::slice::from_ref(&second)).await;
    assert_eq!(site.rights(&second), every_right());
    assert!(site.rehearsal.lab.puppet.times_ordered(PRIMARY) > before, "the primary has run for the new one");
}
